"""One file of weights to named arrays, whichever of the known containers it is."""

import dataclasses
import hashlib
import math
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors

from jaxbusi.errors import UserError
from jaxbusi.weights.pickles import LEGACY_MAGIC, ZIP_MAGIC, read_torch

CONTAINERS = "safetensors, PyTorch's .pth, NumPy's .npz"

MAX_FILE_BYTES = 2 * 2**30
"""Largest file accepted: a ViT-B/16 with its optimizer's state takes 1.03 GB."""

MAX_TENSOR_BYTES = 768 * 2**20
"""Most that the tensors of a model may take, each number as float32 or wider.

ViT-B/16 with a head of 21,843 classes takes 410 MB. Small files can claim more: compressed ones,
and tensors that repeat one number.
"""

MAX_TENSORS = 10_000
"""Most tensors accepted; ViT-B/16 has 150."""

MAX_CONTENTS_BYTES = 4 * 2**20
"""Longest list of an archive's parts accepted; 10,000 of them take about 1 MB."""

_MOST_COMPRESSED = 20
"""Least share, as 1 : 20, that compressed arrays of more than 20 MiB may take."""

_BESIDE = re.compile(r"(opt|opt_state|extra)/")
"""What big_vision keeps in the file beside the weights."""


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
      UserError: the file is missing, damaged, larger than is accepted, asks to execute something,
        or is none of these.
    """
    path = Path(path)
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise UserError(f"{path} is a folder; name the file of weights in it")
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is no regular file; name the file of weights")
        if about.st_size > MAX_FILE_BYTES:
            raise UserError(f"{path} is larger than the {MAX_FILE_BYTES >> 30} GiB accepted")
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise UserError(f"the file of weights {path} does not exist") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        content, metadata, wrapper = _read(path, head)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes make readers fail in every way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} is damaged or truncated ({reason}); fetch it again") from error
    if not content:
        raise UserError(f"{path} holds no tensors; wanted is a state dict in one of: {CONTAINERS}")
    for prefix in ("module.", "model.", "backbone."):
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): array for name, array in content.items()}
    with path.open("rb") as file:  # after all refusals, as gigabytes take seconds
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Tensors(content, metadata, wrapper, digest)


def _read(path: Path, head: bytes) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """Arrays of a file whose first bytes are `head`, its metadata, and what the names were in."""
    if head[8:9] == b"{":  # after the length of the header
        return *_read_safetensors(path), ""
    if head.startswith(ZIP_MAGIC):
        with path.open("rb") as file:
            _check_contents(file)
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return _read_npz(archive), {}, ""
    elif not head.startswith(LEGACY_MAGIC):
        shown = head[:8].hex(" ") or "nothing: the file is empty"
        raise UserError(f"no file of weights: known are {CONTAINERS}; it begins with {shown}")
    wrappers: list[str] = []
    with path.open("rb") as file:
        arrays = read_torch(file, lambda content: _unwrap(content, wrappers), _check_amount)
    return arrays, {}, wrappers[-1] if wrappers else ""


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        _check_amount(len(names), max(4 * numbers, path.stat().st_size))
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def _read_npz(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    members = [
        member
        for member in archive.infolist()
        if member.filename.endswith(".npy") and not _BESIDE.match(member.filename)
    ]
    size = sum(member.file_size for member in members)
    if size > _MOST_COMPRESSED * max(2**20, sum(member.compress_size for member in members)):
        raise UserError(
            f"its {size >> 20} MiB are compressed to less than a {_MOST_COMPRESSED}th, as numbers "
            "of a trained model never are"
        )
    _check_amount(len(members), size)
    arrays = {
        member.filename.removesuffix(".npy"): _read_npy(archive, member) for member in members
    }
    _check_amount(len(arrays), sum(4 * array.size for array in arrays.values()))
    return arrays


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array; `np.load` would reserve whatever memory the header asks for."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, in_columns, dtype = read_header(file)
        needed = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or needed > member.file_size:
            raise ValueError(f"{member.filename} holds {dtype}{list(shape)}")
        data = file.read(needed)
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if in_columns else "C")
    # numpy writes bfloat16 as two bytes of no type.
    return array.view(ml_dtypes.bfloat16) if dtype == "V2" else array


def _check_contents(file: BinaryIO) -> None:
    """Refuses an archive of millions of names before they are read."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end and end[zipfile._ECD_SIZE] > MAX_CONTENTS_BYTES:  # type: ignore[attr-defined]
        raise UserError(f"its list of parts has more than {MAX_CONTENTS_BYTES >> 20} MiB")


def _check_amount(count: int, size: int) -> None:
    if count > MAX_TENSORS:
        raise UserError(f"it holds {count:,} tensors; {MAX_TENSORS:,} are accepted")
    if size > MAX_TENSOR_BYTES:
        raise UserError(
            f"its tensors take {size / 2**20:,.0f} MiB as float32 or wider; "
            f"{MAX_TENSOR_BYTES >> 20} are accepted"
        )


def _unwrap(content: Any, wrappers: list[str]) -> Mapping[str, Any]:
    """Takes the state dict out of what training scripts put around it, and notes its key there."""
    while isinstance(content, Mapping) and len(wrappers) < 4:  # one may hold itself
        inner = [key for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        wrappers.append(inner[0])
        content = content[inner[0]]
    return content if isinstance(content, Mapping) else {}
