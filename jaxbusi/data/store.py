"""The images of a set, decoded once and kept where they fit, decoded at every use where not."""

import concurrent.futures
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from jaxbusi.data.images import ImageError, decode_image, read_file, resize
from jaxbusi.data.records import Record
from jaxbusi.errors import UserError

_T = TypeVar("_T")

_GIB = 2**30
_SECONDS_BETWEEN_REPORTS = 10.0


def usable_cores() -> int:
    """Returns how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Loaded(NamedTuple):
    """What reading one image gave."""

    sha256: str
    shape: tuple[int, int, int]
    squares: tuple[np.ndarray, np.ndarray] | None  # base and view; None where not kept


class ImageStore:
    """Random access to the images of a set, each as two small squares.

    Every file is read and decoded once when the store is made, which finds the broken ones. The
    squares are kept if all of them fit `cache_gib`; otherwise they are made again at every use, to
    the same bytes, and memory stays flat. Safe to use from several threads; a pickled store takes
    what it keeps along.

    Attributes:
      records: the readable images.
      sha256: hexadecimal digest of each record's encoded bytes.
      sizes: height and width of each image, pixels.
      skipped: name and reason of each image that was left out (`on_bad='skip'`).
      resize: side of `base` in pixels.
      crop: side of `view` in pixels.
      cached: whether the squares are kept.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        resize: int,
        crop: int,
        cache_gib: float,
        on_bad: Literal["error", "skip"],
        progress: bool = True,
    ):
        """Reads and checks all images.

        Args:
          records: the set.
          resize: side of `base` in pixels.
          crop: side of `view` in pixels.
          cache_gib: the most memory to keep images in, in GiB; 0 keeps none.
          on_bad: what to do about an image that cannot be read: raise, or leave it out.
          progress: draw a progress bar where the standard error stream is a terminal.

        Raises:
          ImageError: an image cannot be read and `on_bad` is 'error'.
          UserError: no image at all can be read.
        """
        self.resize = resize
        self.crop = crop
        self.records: list[Record] = []
        self.sha256: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.skipped: list[tuple[str, str]] = []
        self.cached = True
        self._squares: list[tuple[np.ndarray, np.ndarray]] = []
        self._read_all(records, cache_gib, on_bad, progress)

    def __len__(self) -> int:
        return len(self.records)

    def base(self, row: int) -> np.ndarray:
        """Returns what the augmentation starts from: the whole image as a square.

        Returns:
          uint8[resize, resize, C], not to be written to; C is 1 if the three channels of the file
          are equal, else 3.

        Raises:
          UserError: the file is no longer what it was when the store was made.
        """
        return self._squares[row][0] if self.cached else resize(self._again(row), self.resize)

    def view(self, row: int) -> np.ndarray:
        """Returns the image itself: the whole of it, resized straight to the model's size.

        Returns:
          uint8[crop, crop, 3].

        Raises:
          UserError: the file is no longer what it was when the store was made.
        """
        view = self._squares[row][1] if self.cached else resize(self._again(row), self.crop)
        return cv2.cvtColor(view, cv2.COLOR_GRAY2RGB) if view.shape[2] == 1 else view.copy()

    def _again(self, row: int) -> np.ndarray:
        record = self.records[row]
        data = read_file(record.image, record.name)
        if hashlib.sha256(data).hexdigest() != self.sha256[row]:
            raise UserError(
                f"{record.name}: the file changed while it was in use; start again, and leave the "
                "images alone while the program runs"
            )
        return _decode(data, record.name)

    def _read_all(
        self,
        records: Sequence[Record],
        cache_gib: float,
        on_bad: Literal["error", "skip"],
        progress: bool,
    ) -> None:
        """Fills the attributes, reading several files at a time: decoding releases the GIL."""
        start = time.monotonic()
        pixels = self.resize**2 + self.crop**2
        # Whether images are gray shows only in their pixels; not even as gray ones may they fit.
        streaming = threading.Event()
        if len(records) * pixels > cache_gib * _GIB:
            streaming.set()

        def load(record: Record) -> _Loaded | ImageError:
            try:
                data = read_file(record.image, record.name)
                image = _decode(data, record.name)
            except ImageError as error:
                return error
            digest = hashlib.sha256(data).hexdigest()
            if streaming.is_set():
                return _Loaded(digest, image.shape, None)
            squares = resize(image, self.resize), resize(image, self.crop)
            for square in squares:
                square.flags.writeable = False
            return _Loaded(digest, image.shape, squares)

        size = 0
        pool = concurrent.futures.ThreadPoolExecutor(usable_cores(), "decode")
        try:
            results = _watched(pool.map(load, records), len(records), progress)
            for record, result in zip(records, results, strict=True):
                if isinstance(result, ImageError):
                    if on_bad == "error":
                        hint = "or leave such images out with config.data.on_bad_image='skip'"
                        raise ImageError(record.name, f"{result.reason}; {hint}") from result
                    self.skipped.append((record.name, result.reason))
                    continue
                self.records.append(record)
                self.sha256.append(result.sha256)
                self.sizes.append(result.shape[:2])
                size += result.shape[2] * pixels
                if size > cache_gib * _GIB:
                    streaming.set()
                    self._squares.clear()
                elif result.squares is not None:
                    self._squares.append(result.squares)
        finally:
            pool.shutdown(cancel_futures=True)
        self.cached = not streaming.is_set()
        self._report(size, cache_gib, time.monotonic() - start)

    def _report(self, size: int, cache_gib: float, seconds: float) -> None:
        if self.skipped:
            listing = "; ".join(f"{name} {reason}" for name, reason in self.skipped)
            logging.warning("%d images cannot be read: %s", len(self.skipped), listing)
            if not self.records:
                name, reason = self.skipped[0]
                raise UserError(f"none of the images can be read; the first: {name} {reason}")
        logging.info(
            "%d images read in %.1f s; decoded they take %.3g GiB: %s config.data.cache_gib=%g",
            len(self.records),
            seconds,
            size / _GIB,
            "kept in memory, within" if self.cached else "decoded anew at every use, more than",
            cache_gib,
        )


def _watched(results: Iterable[_T], total: int, progress: bool) -> Iterator[_T]:
    """Passes `results` on, with a progress bar on a terminal and lines in the log elsewhere."""
    bar = tqdm(total=total, desc="reading images", unit="image", disable=None if progress else True)
    reported = time.monotonic()
    with bar:
        for number, result in enumerate(results, 1):
            yield result
            bar.update()
            if bar.disable and time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                logging.info("%d of %d images read", number, total)


def _decode(data: bytes, name: str) -> np.ndarray:
    """Decodes to uint8[H, W, C], in one channel if the three are equal."""
    image = decode_image(data, name)
    red, green, blue = np.moveaxis(image, 2, 0)
    is_gray = np.array_equal(red, green) and np.array_equal(red, blue)
    return image[..., :1] if is_gray else image
