"""Filling a small disk."""

import contextlib
import shutil
from pathlib import Path


def fill(folder: Path) -> Path:
    """Writes until the disk is full, and returns the file that fills it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return ballast
