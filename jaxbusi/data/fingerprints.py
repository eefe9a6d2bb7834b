"""What an image leaves behind to be compared by: a digest of its pixels and a small texture."""

import dataclasses
import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
from tqdm import tqdm

from jaxbusi.data import overlays
from jaxbusi.data.images import ImageError, decode_image, read_file
from jaxbusi.data.overlays import Overlay
from jaxbusi.data.records import Record
from jaxbusi.data.threads import in_threads

SIDE = 96
"""Side of a texture in pixels: the speckle of one frame survives, that of the next one differs."""

TEXTURE_SCALE = 31.0
"""Steps of a texture's values to one local standard deviation; four of them fill int8."""

_DETAIL, _SURROUNDINGS = 6.0, 9.0  # Standard deviations of the two blurs, in pixels of a texture.
_FAINT = 3.0  # Gray levels of contrast below which there is noise or nothing.

# OpenCV would split each call over threads of its own; images are already read by one a core.
cv2.setNumThreads(1)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What is kept of one image: about 10 KB, whatever its size.

    Attributes:
      sha256: hexadecimal digest of the decoded pixels, their height and width; not of the file.
      width: in pixels.
      height: in pixels.
      texture: int8[96, 96] of `texture`.
      overlay: what was burnt in, of `overlays.find_overlay`.
    """

    sha256: str
    width: int
    height: int
    texture: np.ndarray
    overlay: Overlay


def take_fingerprint(image: np.ndarray) -> Fingerprint:
    """Takes the fingerprint of one image, uint8[H, W, 3] in RGB."""
    height, width = image.shape[:2]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # Of three equal channels one says it all, and hashing is a good part of the work.
    is_gray = all(np.array_equal(gray, image[..., channel]) for channel in range(3))
    pixels = gray if is_gray else np.ascontiguousarray(image)
    digest = hashlib.sha256(f"{height} {width} {pixels.ndim} ".encode())
    digest.update(pixels.tobytes())
    overlay = overlays.find_overlay(image, gray)
    return Fingerprint(digest.hexdigest(), width, height, texture(gray), overlay)


def texture(gray: np.ndarray) -> np.ndarray:
    """The image without its brightness and contrast: what is left is structure.

    The whole image, squeezed into a square, less its blur (which takes gain, depth compensation
    and the large dark areas that all cysts share), over the local standard deviation (so that one
    bright line or caliper weighs no more than the speckle beside it).

    Args:
      gray: uint8[H, W].

    Returns:
      int8[96, 96] in steps of 1/31 local standard deviation; 0 where there is no structure.
    """
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = small - cv2.GaussianBlur(small, (0, 0), _DETAIL)
    local = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), _SURROUNDINGS))
    steps = np.rint(detail * (TEXTURE_SCALE / (local + _FAINT)))
    return np.clip(steps, -127, 127).astype(np.int8)


def read_fingerprints(
    records: Sequence[Record], *, progress: bool = False
) -> list[Fingerprint | ImageError]:
    """Reads every image once, several at a time, and keeps its fingerprint.

    Args:
      records: the images.
      progress: draw a progress bar where the standard error stream is a terminal.

    Returns:
      Aligned to `records`: the fingerprint, or for a file that cannot be read the error.
    """
    found = in_threads(_read, records)
    bar = tqdm(
        found,
        total=len(records),
        desc="reading images",
        unit="image",
        disable=None if progress else True,
    )
    return list(bar)


def _read(record: Record) -> Fingerprint | ImageError:
    try:
        return take_fingerprint(decode_image(read_file(record.image, record.name), record.name))
    except ImageError as error:
        return error
