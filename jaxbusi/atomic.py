"""Files that are either the old one or the whole new one, and folders that are whole."""

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jaxbusi.errors import UserError


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replaces `path` by `data` in one rename; makes its folder where absent.

    Raises:
      UserError: the folder or the disk refuses; a previous file is left as it was.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` in one rename when the block ends without an error.

    Its folder is made where absent. Until then the file is a hidden one beside `path`, on the disk
    when it is renamed; an error in the block removes it.

    Raises:
      UserError: the folder or the disk refuses; a previous file is left as it was.
    """
    path = Path(path)
    # Random, because hosts that share a folder may give their processes the same number.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); check the disk space and the "
            "permissions of its folder"
        ) from error


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes strict JSON, in one rename; a NaN left anywhere is an error, not a broken file."""
    text = json.dumps(content, indent=2, allow_nan=False)
    write_bytes(path, text.encode("ascii") + b"\n")


@contextlib.contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Makes a folder that is there, with all its files, when the block ends without an error.

    The block fills another one beside it, which is renamed; an error removes that.

    Args:
      path: is not there, or is an empty folder. Its parents are made.

    Raises:
      UserError: `path` is something else, or the disk refuses.
    """
    path = Path(os.path.realpath(path))  # a link to an empty folder cannot be renamed over
    check_free(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.iterdir():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); check the disk space and the "
            "permissions of its folder"
        ) from error


def check_free(path: Path | str) -> None:
    """Checks that a folder can be made, before any work goes into what it is for.

    Raises:
      UserError: something other than an empty folder is there, or nothing can be written there.
    """
    path = Path(path)
    try:
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there and is not an empty folder; name a new one")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); name another folder"
        ) from error
    check_writable(path)


def check_writable(path: Path | str) -> None:
    """Checks that files can be written in a folder, which need not be there yet.

    Raises:
      UserError: they cannot.
    """
    path = Path(os.path.abspath(path))
    nearest = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".jaxbusi"):
            pass  # Permissions alone do not tell: the file system may be read-only.
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); check the permissions, or "
            "name another folder"
        ) from error
