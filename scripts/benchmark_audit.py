"""Measures how the search for copies grows with the number of images.

    python scripts/benchmark_audit.py                  # 5,000, 20,000 and 100,000 thumbnails
    python scripts/benchmark_audit.py --images 20000

The images are synthetic thumbnails of 128 x 96 pixels, layered tissue with lesions and speckle,
made when they are read; each hundredth is a copy of another one, cropped, mirrored, brightened or
recompressed. Printed are the seconds of processor and clock without the making, the memory at its
highest, and how many of the copies were found. Every size runs in a process of its own.

Measured on two cores that other programs kept busy (load 6 to 7, so that the clock says little):
20,000 images 92 s of processor and 0.51 GiB, 196 of 200 copies; 100,000 images 574 s of processor
and 2.29 GiB, 974 of 1,000 copies, and 137 s for the making.
"""

import argparse
import dataclasses
import functools
import io
import json
import logging
import resource
import subprocess
import sys
import time

import cv2
import numpy as np
from PIL import Image

from jaxbusi.data import duplicates
from jaxbusi.data.records import Record

WIDTH, HEIGHT = 128, 96
EVERY = 100
MAKING = [0.0]  # Seconds of processor that went into making images.


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A `Blob` that is drawn when it is read; each hundredth is a copy of the one before."""

    number: int

    def read_bytes(self) -> bytes:
        """Makes the file."""
        start = time.thread_time()
        data = encode(self.number)
        MAKING[0] += time.thread_time() - start
        return data


def encode(number: int) -> bytes:
    """A PNG or JPEG file of image `number`."""
    is_copy = number % EVERY == EVERY - 1
    pixels = draw(number - is_copy)
    kind = number // EVERY % 4 if is_copy else None
    if kind == 0:
        pixels = pixels[5:-8, 12:-6]
    elif kind == 1:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    elif kind == 2:
        pixels = cv2.convertScaleAbs(pixels, alpha=0.8, beta=20)
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if kind == 3:
        image.save(file, "JPEG", quality=50)
    else:
        image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def draw(number: int) -> np.ndarray:
    """Layers that sag, a lesion with its shadow or enhancement, speckle: uint8[96, 128]."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    sag = cv2.resize(rng.normal(0, 6, (2, 4)).astype(np.float32), (WIDTH, HEIGHT))
    depths = np.cumsum(rng.uniform(6, 22, 14))
    echo = rng.uniform(40, 150, 15).astype(np.float32)
    image = echo[np.searchsorted(depths, np.maximum(y + sag, 0)).clip(0, 14)]
    image *= np.exp(-y / rng.uniform(60, 160))
    center, radii = rng.uniform((20, 20), (108, 70)), rng.uniform(6, 24, 2)
    inside = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 < 1
    image[inside] *= rng.uniform(0.1, 0.6)
    below = (abs(x - center[0]) < radii[0]) & (y > center[1] + radii[1])
    image[below] *= rng.uniform(0.4, 1.6)
    speckle = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 1.2)
    return np.clip(image * (1 + 1.2 * speckle), 0, 255).astype(np.uint8)


def measure(count: int) -> dict[str, float]:
    """Searches `count` images; returns what was measured."""
    records = [Record(f"benign/{n:07d}.png", 0, Thumbnail(n)) for n in range(count)]
    clock, processor = time.perf_counter(), time.process_time()
    groups = duplicates.find_groups(records, progress=True)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    of = groups.of()
    copies = range(EVERY - 1, count, EVERY)
    name = functools.partial("benign/{:07d}.png".format)
    found = sum(of[name(n)] != "" and of[name(n)] == of[name(n - 1)] for n in copies)
    planted = {name(n) for n in copies} | {name(n - 1) for n in copies}
    return {
        "images": count,
        "clock": clock,
        "processor": processor - MAKING[0],
        "making": MAKING[0],
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,  # KiB on Linux.
        "planted": len(copies),
        "found": found,
        "others": sum(group != "" for image, group in of.items() if image not in planted),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 20_000, 100_000])
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    if options.alone:
        print(json.dumps(measure(options.images[0])))
        return
    print(
        "  images   clock s   processor s   (making s)   peak GiB   copies found   others grouped"
    )
    for count in options.images:
        command = [sys.executable, __file__, "--images", str(count), "--alone"]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        m = json.loads(result.stdout)
        print(
            f"{m['images']:8d} {m['clock']:9.1f} {m['processor']:13.1f} {m['making']:12.1f} "
            f"{m['gib']:10.2f} {m['found']:9.0f}/{m['planted']:<4.0f} {m['others']:12.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
