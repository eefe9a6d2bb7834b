"""PyTorch's checkpoint files without PyTorch, and without executing what they ask for.

A `.pth` is a pickle, that is a program. This reader lets it build dictionaries, lists, numbers and
tensors and refuses by name every other object that it asks for.
"""

import collections
import dataclasses
import io
import pickle
import types
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxbusi.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""How files begin that `torch.save` wrote before version 1.6, and torchvision's still do."""

_STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage whose bytes may follow later in the file.

    Attributes:
      storage: number or name of the storage in the file.
      dtype: of its elements.
      offset: of the first element.
      shape: of the view.
      strides: in elements.
    """

    storage: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytes) -> np.ndarray:
        flat = np.frombuffer(data, self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        if min(self.offset, *self.shape, *self.strides, 0) < 0 or last >= len(flat):
            raise ValueError("a tensor reaches beyond its storage")
        steps = [stride * self.dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps)
        return view.copy()


def _rebuild_tensor(
    storage: tuple[str, _StorageType],
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *_: Any,
) -> _Tensor:
    key, kind = storage
    return _Tensor(key, kind.dtype, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    # Settings that training scripts store beside the weights.
    ("argparse", "Namespace"): types.SimpleNamespace,
    **{("torch", name): _StorageType(np.dtype(kind)) for name, kind in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UserError(
                f"it asks for {module}.{name}, which weights have no need of; nothing was "
                "executed. Save the state dict alone, or as safetensors"
            ) from None

    def persistent_load(self, pid: Any) -> tuple[str, _StorageType]:
        kind, storage, key, *_ = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise UserError("it holds something else than tensors; save the state dict alone")
        return str(key), storage


def read_torch(file: BinaryIO) -> Any:
    """Reads what `torch.save` wrote, in its zip format or the one before.

    Args:
      file: opened for reading bytes.

    Returns:
      The saved object, its tensors as NumPy arrays.

    Raises:
      UserError: it asks for anything but tensors and plain containers.
      Exception: of many kinds, where the file is damaged.
    """
    if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
        with zipfile.ZipFile(file) as archive:
            return _read_zip(archive)
    file.seek(0)
    return _read_legacy(file)


def _read_zip(archive: zipfile.ZipFile) -> Any:
    (path,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    folder = path.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
        _check_order(archive.read(f"{folder}byteorder") == b"little")
    tree = _Unpickler(io.BytesIO(archive.read(path))).load()
    # Read per tensor and checked against the archive's CRC; public files share no storages.
    return _materialise(tree, lambda key: archive.read(f"{folder}data/{key}"))


def _read_legacy(file: BinaryIO) -> Any:
    _Unpickler(file).load()  # the magic number
    _Unpickler(file).load()  # the protocol
    _check_order(_Unpickler(file).load()["little_endian"])
    recorder = _Sizes(file)
    tree = recorder.load()
    storages: dict[str, bytes] = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        needed = count * recorder.itemsizes[key]
        storages[key] = file.read(needed)
        if len(storages[key]) != needed:
            raise EOFError("it ends within a tensor")
    return _materialise(tree, storages.__getitem__)


class _Sizes(_Unpickler):
    """Notes the width of each storage's elements, which the file's end does not repeat."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.itemsizes: dict[str, int] = {}

    def persistent_load(self, pid: Any) -> tuple[str, _StorageType]:
        key, storage = super().persistent_load(pid)
        self.itemsizes[key] = storage.dtype.itemsize
        return key, storage


def _check_order(little: bool) -> None:
    if not little:
        raise UserError("it was written on a big-endian machine; save it again as safetensors")


def _materialise(tree: Any, read: Callable[[str], bytes]) -> Any:
    """Replaces every tensor of nested dictionaries and lists by its array."""
    if isinstance(tree, _Tensor):
        return tree.array(read(tree.storage))
    if isinstance(tree, dict):
        return {key: _materialise(value, read) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_materialise(value, read) for value in tree]
    return tree
