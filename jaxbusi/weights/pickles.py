"""PyTorch's checkpoint files without PyTorch, and without executing what they ask for.

A `.pth` is a pickle, that is a program. This reader lets it build dictionaries, lists, numbers and
tensors and refuses by name every other object that it asks for. Nothing that it builds is entered
or called: neither a structure that holds itself nor one that doubles at every level costs anything.
"""

import dataclasses
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any, BinaryIO, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from jaxbusi.errors import UserError

MAX_PICKLE_BYTES = 2 * 2**20
"""Longest program accepted; that of a model of 1,000 tensors takes about 200 KB.

Each byte can cost a microsecond and a hundred bytes.
"""

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


class _StorageType(NamedTuple):
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage whose bytes may follow later in the file.

    Attributes:
      storage: number or name of the storage in the file.
      dtype: of its elements.
      offset: of the first element.
      shape: of the view.
      strides: in elements.

    Raises:
      ValueError: a number is none, or below 0.
    """

    storage: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if not all(type(number) is int and 0 <= number < 2**40 for number in numbers):
            raise ValueError(f"a tensor of offset, shape, strides {numbers}")
        if len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor of shape {self.shape} and strides {self.strides}")

    @property
    def count(self) -> int:
        """How many numbers it has, which may be more than its storage has."""
        return math.prod(self.shape)

    def array(self, data: bytes) -> np.ndarray:
        """The view as an array of its own, of the bytes of its storage."""
        if self.count == 0:
            return np.empty(self.shape, self.dtype)
        flat = np.frombuffer(data, self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if last >= len(flat):
            raise ValueError("a tensor reaches beyond its storage")
        steps = [stride * self.dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps)
        return view.copy()


Select = Callable[[Any], Mapping[str, Any]]
"""Finds, in what was saved, the mapping whose tensors are wanted."""


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in pairs:
        made[_checked_key(key)] = value
    return made


def _checked_key(key: Any) -> Any:
    """Keys of which no choice makes a dictionary slow: a nested tuple is hashed for ever."""
    if type(key) is str or (type(key) in (int, bool) and abs(key) < 2**60):
        return key
    raise UserError("it holds a dictionary with other keys than names; save the state dict alone")


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    key, kind = storage
    if not isinstance(kind, _StorageType):
        raise ValueError("a tensor without a storage")
    return Tensor(key, kind.dtype, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Settings:
    """In place of what training scripts store beside the weights; its content is not kept."""

    __slots__ = ()


_CALLED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("argparse", "Namespace"): _Settings,
}
_ALLOWED: dict[tuple[str, str], Any] = _CALLED | {
    ("torch", name): _StorageType(np.dtype(kind)) for name, kind in _STORAGES.items()
}


class _Limited:
    """A file of which only so many bytes may be read as a program: each may cost a hundred."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_PICKLE_BYTES

    def read(self, count: int) -> bytes:
        return self._count(self._file.read(min(count, self._left + 1)))

    def readline(self) -> bytes:
        return self._count(self._file.readline(self._left + 1))

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise UserError(
                f"beside its tensors it holds more than the {MAX_PICKLE_BYTES >> 20} MiB that are "
                "accepted; save the state dict alone"
            )
        return data


_NEEDLESS = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
"""Steps that build classes' instances, sets, and views of bytes."""


# Python's own, as its C twin reserves memory for whatever number of objects a file announces, and
# lets no step be replaced.
class _Unpickler(pickle._Unpickler):
    """Builds plain data and `Tensor`s.

    Attributes:
      itemsizes: width of each storage's elements, which the old format's end does not repeat.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: _Limited) -> None:
        super().__init__(file)
        self.itemsizes: dict[str, int] = {}

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
        key = str(_checked_key(key))
        self.itemsizes[key] = storage.dtype.itemsize
        return key, storage

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self._call(self.stack.pop(), arguments)

    def _call(self, function: Any, arguments: Any) -> None:
        if not any(function is allowed for allowed in _CALLED.values()):
            raise UserError("it calls what is no function; nothing was executed. Fetch it again")
        self.append(function(*arguments))

    def _build(self) -> None:
        self.stack.pop()  # Attributes, which neither a dictionary of tensors nor settings need.

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(self.stack[-1], items)

    def _fill(self, filled: Any, items: list[Any]) -> None:
        if type(filled) is not dict:
            raise ValueError("items of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            filled[_checked_key(key)] = value

    def _refuse(self) -> None:
        raise UserError("it holds what weights have no need of; save the state dict alone")

    dispatch: ClassVar[dict[int, Callable[..., None]]] = pickle._Unpickler.dispatch | {
        **dict.fromkeys((code[0] for code in _NEEDLESS), _refuse),
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
    }


def read_torch(file: BinaryIO, select: Select, check: Callable[[int, int], None]) -> dict[str, Any]:
    """Reads what `torch.save` wrote, in its zip format or the one before.

    Args:
      file: opened for reading bytes.
      select: of what was saved, the mapping whose tensors are read; those beside it are passed by.
      check: raises where so many tensors, or so many bytes in float32 or their own type, are too
        many.

    Returns:
      NumPy arrays by name.

    Raises:
      UserError: it asks for anything but tensors and plain containers.
      Exception: of many kinds, where the file is damaged.
    """
    if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
        with zipfile.ZipFile(file) as archive:
            return _read_zip(archive, select, check)
    file.seek(0)
    return _read_legacy(file, select, check)


def _chosen(tree: Any, select: Select, check: Callable[[int, int], None]) -> dict[str, Tensor]:
    found = select(tree)
    tensors = {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    check(len(tensors), sum(t.count * max(t.dtype.itemsize, 4) for t in tensors.values()))
    return tensors


def _read_zip(
    archive: zipfile.ZipFile, select: Select, check: Callable[[int, int], None]
) -> dict[str, Any]:
    members = {member.filename: member for member in archive.infolist()}
    (path,) = [name for name in members if name.endswith("/data.pkl")]
    folder = path.removesuffix("data.pkl")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise UserError("its parts are compressed, as torch.save leaves none; save it again")
    if f"{folder}byteorder" in members:
        with archive.open(f"{folder}byteorder") as member:
            _check_order(member.read(16) == b"little")
    with archive.open(path) as member:
        tree = _Unpickler(_Limited(member)).load()
    # Read per tensor and checked against the archive's CRC; public files share no storages.
    return {
        name: tensor.array(archive.read(f"{folder}data/{tensor.storage}"))
        for name, tensor in _chosen(tree, select, check).items()
    }


def _read_legacy(
    file: BinaryIO, select: Select, check: Callable[[int, int], None]
) -> dict[str, Any]:
    limited = _Limited(file)
    _Unpickler(limited).load()  # the magic number
    _Unpickler(limited).load()  # the protocol
    _check_order(_Unpickler(limited).load()["little_endian"])
    unpickler = _Unpickler(limited)
    tensors = _chosen(unpickler.load(), select, check)
    needed = {tensor.storage for tensor in tensors.values()}
    storages: dict[str, bytes] = {}
    for key in _Unpickler(limited).load():
        count = int.from_bytes(file.read(8), "little") * unpickler.itemsizes[key]
        if key not in needed:
            file.seek(count, io.SEEK_CUR)
            continue
        check(0, count)
        storages[key] = file.read(count)
        if len(storages[key]) != count:
            raise EOFError("it ends within a tensor")
    return {name: tensor.array(storages[tensor.storage]) for name, tensor in tensors.items()}


def _check_order(little: bool) -> None:
    if not little:
        raise UserError("it was written on a big-endian machine; save it again as safetensors")
