"""Files that are either the old one or the whole new one, never a part."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxbusi.errors import UserError


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replaces `path` by `data` in one rename; makes its folder where absent.

    Raises:
      UserError: the folder or the disk refuses; a previous file is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); check the disk space and the "
            "permissions of its folder"
        ) from error


def write_json(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes strict JSON, in one rename; a NaN left anywhere is an error, not a broken file."""
    text = json.dumps(content, indent=2, allow_nan=False)
    write_bytes(path, text.encode("ascii") + b"\n")
