"""Files that are either the old one or the whole new one, never a part."""

import contextlib
import json
import os
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
