"""One file of weights to named arrays, whichever of the known containers it is."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxbusi.errors import UserError
from jaxbusi.weights.pickles import LEGACY_MAGIC, ZIP_MAGIC, read_torch

CONTAINERS = "safetensors, PyTorch's .pth, NumPy's .npz"


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The content of a file.

    Attributes:
      arrays: by name; numbers that are no tensors are left out.
      metadata: texts that a safetensors file carries beside them.
      wrapper: the key under which the names were nested, such as `state_dict`, or ''.
      sha256: hexadecimal digest of the file.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]
    wrapper: str
    sha256: str


def read_tensors(path: str | Path) -> Tensors:
    """Reads a file of weights; its kind is told by its content, not by its name.

    Raises:
      UserError: the file is missing, damaged, asks to execute something, or is none of these.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file of weights in it")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            head = file.read(64)
    except FileNotFoundError as error:
        raise UserError(f"the file of weights {path} does not exist") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        content, metadata = _read(path, head)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes make readers fail in every way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} is damaged or truncated ({reason}); fetch it again") from error
    arrays, wrapper = _unwrap(content)
    if not arrays:
        raise UserError(f"{path} holds no tensors; wanted is a state dict in one of: {CONTAINERS}")
    return Tensors(arrays, metadata, wrapper, digest)


def _read(path: Path, head: bytes) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Nested content of a file whose first bytes are `head`, and its metadata."""
    if head[8:9] == b"{":  # after the length of the header
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    if head.startswith(ZIP_MAGIC):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            with np.load(path, allow_pickle=False) as file:
                # numpy writes bfloat16 as two bytes of no type.
                return {
                    name: array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array
                    for name, array in file.items()
                }, {}
    elif not head.startswith(LEGACY_MAGIC):
        shown = head[:8].hex(" ") or "nothing: the file is empty"
        raise UserError(f"no file of weights: known are {CONTAINERS}; it begins with {shown}")
    with path.open("rb") as file:
        return read_torch(file), {}


def _unwrap(content: Any) -> tuple[dict[str, np.ndarray], str]:
    """Takes the state dict out of what training scripts put around it."""
    wrapper = ""
    while isinstance(content, Mapping):
        inner = [key for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        wrapper = inner[0]
        content = content[wrapper]
    if not isinstance(content, Mapping):
        return {}, wrapper
    arrays = {str(k): v for k, v in content.items() if isinstance(v, np.ndarray)}
    for prefix in ("module.", "model.", "backbone."):
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays, wrapper
