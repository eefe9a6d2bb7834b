"""Synthetic images in BUSI's layout, so that everything runs without the real set."""

import json
import logging
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxbusi.data import sonography
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError

_MANIFEST = "phantoms.json"
_VERSION = 1  # To be raised when the same seed gives other pictures.
_BUSI_COUNTS = np.array([437, 210, 133])


def write_phantoms(directory: str | Path, *, count: int, seed: int, size: int = 288) -> None:
    """Writes a set of synthetic images as BUSI is laid out, with masks.

    `benign/benign (1).png` beside `benign/benign (1)_mask.png`, and so on; normal images have
    all-black masks. A picture depends on `seed`, `size`, its class and its number alone, so that a
    larger set contains the smaller ones, and with the same versions of the libraries its file is
    the same byte for byte. The set is written beside `directory` and renamed at the end, so that
    half a set is never taken for a whole one. A whole one of the same settings is kept as it is.

    Args:
      directory: the folder to make; it may be there if it is empty.
      count: number of images, 3 or more; 56, 27 and 17 % of them by class, as BUSI.
      seed: 0 or more.
      size: typical width in pixels; widths are 0.9 to 1.1 times, heights 0.7 to 1.0 times that.

    Raises:
      UserError: `directory` holds something else, or cannot be written.
    """
    if count < len(CLASSES) or seed < 0 or size < 64:
        raise ValueError(f"need count >= 3, seed >= 0, size >= 64; not {count}, {seed}, {size}")
    directory = Path(directory)
    manifest = {"version": _VERSION, "count": count, "seed": seed, "size": size}
    if _is_whole(directory, manifest):
        return
    unfinished = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    try:
        for label, number_of in enumerate(class_counts(count)):
            _write_class(unfinished / CLASSES[label], label, number_of, seed, size)
        (unfinished / _MANIFEST).write_text(json.dumps(manifest) + "\n")
        unfinished.replace(directory)
    except OSError as error:
        # Another process that makes the same set may have been first.
        if not _is_whole(directory, manifest):
            raise UserError(
                f"cannot write phantoms to {directory} ({error.strerror}); "
                "free space or choose another folder"
            ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    logging.info("made %d synthetic images in %s", count, directory)


def class_counts(count: int) -> tuple[int, ...]:
    """Divides `count` as BUSI is divided, by largest remainders; one or more of each class."""
    shares = count * _BUSI_COUNTS / _BUSI_COUNTS.sum()
    counts = np.maximum(shares.astype(int), 1)
    while counts.sum() != count:
        missing = np.sign(count - counts.sum())
        counts[np.argmax(missing * (shares - counts))] += missing
    return tuple(counts.tolist())


def draw_phantom(rng: np.random.Generator, label: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one picture.

    Args:
      rng: decides everything but the class.
      label: index into `CLASSES`.
      size: typical width in pixels.

    Returns:
      The image, uint8[H, W], and its lesion mask, bool[H, W].
    """
    width = round(size * rng.uniform(0.9, 1.1))
    height = round(size * rng.uniform(0.7, 1.0))
    grid = sonography.Grid(height, width, mm=rng.uniform(38, 52) / width)
    tissue = sonography.draw_tissue(rng, grid)
    if CLASSES[label] == "normal":
        return sonography.scan(rng, grid, tissue), np.zeros((height, width), bool)
    malignant = CLASSES[label] == "malignant"
    lesion = sonography.draw_lesion(rng, grid, tissue, malignant=malignant)
    with_lesion = sonography.paint(rng, grid, tissue, lesion)
    return sonography.scan(rng, grid, with_lesion), lesion.distance < 0


def _write_class(folder: Path, label: int, number_of: int, seed: int, size: int) -> None:
    folder.mkdir(parents=True)
    for number in range(1, number_of + 1):
        rng = np.random.default_rng([seed, label, number])
        image, mask = draw_phantom(rng, label, size)
        stem = f"{CLASSES[label]} ({number})"
        Image.fromarray(image).save(folder / f"{stem}.png", compress_level=1)
        Image.fromarray(mask).save(folder / f"{stem}_mask.png")


def _is_whole(directory: Path, manifest: dict[str, Any]) -> bool:
    """Whether the set is there; False where there is room for it.

    Raises:
      UserError: something else is there.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        found = json.loads((directory / _MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        found = None
    if found != manifest:
        raise UserError(
            f"{directory} holds something else than {manifest['count']} phantoms of seed "
            f"{manifest['seed']} and size {manifest['size']}; delete it or choose another folder"
        )
    if len(list(directory.glob("*/*.png"))) != 2 * manifest["count"]:
        raise UserError(f"{directory} has lost some of its phantoms; delete it and run again")
    return True
