"""CSV files of users, opened so that no file hangs the program or fills its memory."""

import contextlib
import csv
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_BYTES = 128 * 2**20
"""Largest file accepted; a line for each of 100,000 images takes about 10 MB."""

MAX_LINES = 1_000_000
"""Most lines accepted. Python's csv takes 131,072 characters a cell at most."""


@contextlib.contextmanager
def open_csv(
    path: str | Path, *, encoding: str, errors: str = "strict", limited: bool = True
) -> Iterator[Any]:
    """Opens a file and yields its `csv.reader`, strict.

    Args:
      path: the file.
      encoding: of its text.
      errors: as `open` takes it.
      limited: whether it may have no more than `MAX_BYTES` and `MAX_LINES`; False for whoever keeps
        no lines.

    Raises:
      OSError: it cannot be opened, is no regular file, or is larger than is accepted.
      csv.Error: in reading: it has more lines than are accepted, or is no CSV.
    """
    # The reading end of a pipe would wait for a writer that may never come.
    with open(path, encoding=encoding, errors=errors, newline="", opener=_without_waiting) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        if limited and about.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"more than the {MAX_BYTES >> 20} MiB that are accepted")
        yield csv.reader(_lines(file) if limited else file, strict=True)


def _lines(file: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(file):
        if number == MAX_LINES:
            raise csv.Error(f"more than the {MAX_LINES:,} lines that are accepted")
        yield line


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
