"""Altered copies of images, as they turn up in collections; drawn from a generator."""

import dataclasses
import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from jaxbusi.data.records import Record


@dataclasses.dataclass(frozen=True)
class Memory:
    """A file that is not on disk."""

    data: bytes

    def read_bytes(self):
        return self.data


def encode(image: np.ndarray, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def record(name: str, data: bytes | np.ndarray, label: int = 0) -> Record:
    return Record(name, label, Memory(data if isinstance(data, bytes) else encode(data)))


def crop(rng: np.random.Generator, image: np.ndarray) -> bytes:
    """Keeps 75 to 95 % of either side, from anywhere."""
    size = np.array(image.shape[:2])
    kept = np.round(size * rng.uniform(0.75, 0.95, 2)).astype(int)
    top, left = rng.integers(0, size - kept + 1)
    return encode(image[top : top + kept[0], left : left + kept[1]])


def mirror(rng: np.random.Generator, image: np.ndarray) -> bytes:
    return encode(np.ascontiguousarray(image[:, ::-1]))


def caliper(rng: np.random.Generator, image: np.ndarray) -> bytes:
    """Two measured lines with crosses at their ends, and the distance as text."""
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(2):
        ends = [tuple(int(x) for x in rng.uniform(0.15, 0.85, 2) * (width, height)) for _ in "ab"]
        for end in ends:
            cv2.drawMarker(image, end, (255, 255, 255), cv2.MARKER_CROSS, 14, 2)
        cv2.line(image, *ends, (200, 200, 200), 1)
    place = round(0.05 * width), round(0.9 * height)
    cv2.putText(image, "L 12.3 mm", place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
    return encode(image)


def jpeg(rng: np.random.Generator, image: np.ndarray) -> bytes:
    return encode(image, "JPEG", quality=int(rng.integers(20, 60)))


def brightness(rng: np.random.Generator, image: np.ndarray) -> bytes:
    gain, offset = rng.uniform(0.6, 1.5), rng.uniform(-25, 25)
    return encode(np.clip(gain * image + offset, 0, 255).astype(np.uint8))


def resize(rng: np.random.Generator, image: np.ndarray) -> bytes:
    """Other width and height, each on its own."""
    height, width = image.shape[:2]
    size = round(width * rng.uniform(0.4, 1.4)), round(height * rng.uniform(0.4, 1.4))
    return encode(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


WAYS: dict[str, Callable[[np.random.Generator, np.ndarray], bytes]] = {
    way.__name__: way for way in (crop, mirror, caliper, jpeg, brightness, resize)
}
