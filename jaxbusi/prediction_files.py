"""The files of predictions: CSV, JSON lines or Parquet, and folders of Parquet parts.

Every format has the same columns. A row is an image: of a file that cannot be used, `error` says
why and the probabilities are empty, so that every input is accounted for exactly once.
"""

import contextlib
import csv
import dataclasses
import glob
import io
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

import numpy as np

from jaxbusi import atomic
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError

COLUMNS: tuple[str, ...] = ("image", *CLASSES, "predicted", "distance", "unfamiliar", "error")

Kind = Literal["folder", ".csv", ".jsonl", ".parquet"]

_ROW_GROUP = 4096  # Rows that Parquet compresses together, and the most that wait in memory.


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some predictions.

    Attributes:
      image: paths, N strings.
      probabilities: float32[N, 3] in the order of `CLASSES`; anything where there is an error.
      error: N, what is wrong with the file, or None.
      distance: float32[N] from the training data, 1 at the limit (see `familiarity`); None where it
        is not known.
    """

    image: list[str]
    probabilities: np.ndarray
    error: list[str | None]
    distance: np.ndarray | None = None

    def count_unfamiliar(self) -> int:
        """Returns how many images are beyond the limit."""
        return self.columns()["unfamiliar"].count(True)

    def columns(self) -> dict[str, list[Any]]:
        """Returns the cells by the names of `COLUMNS`, None where empty."""
        best = self.probabilities.argmax(axis=1).tolist()
        values = [_decimal(column) for column in self.probabilities.T]
        good = [error is None for error in self.error]
        cells: dict[str, list[Any]] = {"image": self.image}
        for name, column in zip(CLASSES, values, strict=True):
            cells[name] = [value if ok else None for value, ok in zip(column, good, strict=True)]
        cells["predicted"] = [CLASSES[i] if ok else None for i, ok in zip(best, good, strict=True)]
        far = [None] * len(good) if self.distance is None else _decimal(self.distance)
        cells["distance"] = [value if ok else None for value, ok in zip(far, good, strict=True)]
        cells["unfamiliar"] = [None if value is None else value > 1 for value in cells["distance"]]
        cells["error"] = self.error
        return cells


def _decimal(values: np.ndarray) -> list[float]:
    """The shortest decimal numbers that are these float32, not the float64 nearest to them."""
    return [float(f"{value:.9g}") for value in values.tolist()]


class Writer:
    """Takes the rows of one file."""

    def write(self, rows: Rows) -> None:
        """Adds rows."""
        raise NotImplementedError

    def close(self) -> None:
        """Writes what is left."""

    def abandon(self) -> None:
        """Lets go of the file, which is removed."""


def kind_of(out: str) -> Kind:
    """Tells what `--out` names.

    Raises:
      UserError: neither a folder nor a name of one of the formats.
    """
    suffix = Path(out).suffix.lower()
    if out and (out.endswith("/") or Path(out).is_dir()):
        return "folder"
    if suffix in (".csv", ".jsonl", ".parquet"):
        return suffix  # type: ignore[return-value]
    raise UserError(
        f"--out {out!r} is of no known format; name a file .csv, .jsonl or .parquet, or a folder "
        "with a slash at its end"
    )


def require_pyarrow(out: str) -> ModuleType:
    """Returns pyarrow's Parquet module.

    Raises:
      UserError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"--out {out} is Parquet, which needs pyarrow; pip install 'jaxbusi[parquet]', or name "
            "a file .csv or .jsonl"
        ) from error
    return pyarrow.parquet


@contextlib.contextmanager
def open_file(path: Path, about: Mapping[str, Any]) -> Generator[Writer]:
    """Opens a file of predictions that is there, whole, when the block ends without an error.

    Args:
      path: its suffix decides the format. What dead processes left of it is removed.
      about: JSON values that Parquet keeps in its schema, under the key `jaxbusi`.

    Raises:
      UserError: the folder or the disk refuses; a previous file is left as it was.
    """
    with contextlib.suppress(OSError):
        for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            stale.unlink()
    with atomic.replacing(path) as file:
        writer = _writer(path, file, about)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


def _writer(path: Path, file: BinaryIO, about: Mapping[str, Any]) -> Writer:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _CsvWriter(file)
    return _JsonWriter(file) if suffix == ".jsonl" else _ParquetWriter(file, path, about)


class _CsvWriter(Writer):
    def __init__(self, file: BinaryIO):
        self._file = file
        self._put([COLUMNS])

    def write(self, rows: Rows) -> None:
        cells = rows.columns()
        words = {None: None, False: "false", True: "true"}
        cells["unfamiliar"] = [words[value] for value in cells["unfamiliar"]]
        self._put(zip(*cells.values(), strict=True))

    def _put(self, lines: Any) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        self._file.write(text.getvalue().encode())


class _JsonWriter(Writer):
    def __init__(self, file: BinaryIO):
        self._file = file

    def write(self, rows: Rows) -> None:
        for cells in zip(*rows.columns().values(), strict=True):
            line = json.dumps(dict(zip(COLUMNS, cells, strict=True)), ensure_ascii=False)
            self._file.write(f"{line}\n".encode())


class _ParquetWriter(Writer):
    def __init__(self, file: BinaryIO, path: Path, about: Mapping[str, Any]):
        parquet = require_pyarrow(str(path))
        import pyarrow

        types = dict.fromkeys((*CLASSES, "distance"), pyarrow.float32())
        types["unfamiliar"] = pyarrow.bool_()
        fields = [(name, types.get(name, pyarrow.string())) for name in COLUMNS]
        self._schema = pyarrow.schema(fields, {"jaxbusi": json.dumps(about, sort_keys=True)})
        self._batch = pyarrow.RecordBatch.from_pydict
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._cells: dict[str, list[Any]] = {name: [] for name in COLUMNS}

    def write(self, rows: Rows) -> None:
        for name, cells in rows.columns().items():
            self._cells[name] += cells
        while len(self._cells["image"]) >= _ROW_GROUP:
            self._put(_ROW_GROUP)

    def close(self) -> None:
        if self._cells["image"]:
            self._put(_ROW_GROUP)
        self._writer.close()

    def abandon(self) -> None:
        with contextlib.suppress(Exception):  # the reason is already known
            self._writer.close()

    def _put(self, count: int) -> None:
        first = {name: cells[:count] for name, cells in self._cells.items()}
        self._cells = {name: cells[count:] for name, cells in self._cells.items()}
        self._writer.write_batch(self._batch(first, schema=self._schema))
