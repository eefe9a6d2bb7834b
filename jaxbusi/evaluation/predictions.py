"""Class probabilities of a part of the data, in memory and as predictions_<part>.csv."""

import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from jaxbusi import atomic
from jaxbusi.data.csv_files import open_csv
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError

COLUMNS = ("image", "copy", "label", *CLASSES)
"""Header of the file; `label` holds the class name, the last columns its probability."""

PARTS = ("test", "external", "validation")
"""The parts that are predicted, first the one that the images were divided for."""

_SUM_TOLERANCE = 1e-3  # Far above float32 softmax rounding, far below a forgotten softmax.


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """One row per image or augmented copy of an image.

    Attributes:
      image: names of the source images, N strings.
      copy: int64[N]; 0 is the image itself, 1.. are its augmented copies.
      label: int64[N], the true class as an index into `CLASSES`.
      probabilities: float64[N, 3] in 0..1, rows summing to 1, in the order of `CLASSES`.
      unit: names of what is independent of each other, N strings: of the group of near-copies that
        an image is in, or of the image, which is the default.

    Raises:
      UserError: there are no rows; a probability is not a number or out of range; an image and
        copy occur twice (as padding that was not masked would); copies of one image carry
        different labels. The message names the image.
      ValueError: the arrays do not fit together.
    """

    image: list[str]
    copy: np.ndarray
    label: np.ndarray
    probabilities: np.ndarray
    unit: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.unit:
            object.__setattr__(self, "unit", list(self.image))
        for name, dtype in (("copy", np.int64), ("label", np.int64), ("probabilities", np.float64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
        count = len(self.image)
        shapes = (self.copy.shape, self.label.shape, self.probabilities.shape)
        if shapes != ((count,), (count,), (count, len(CLASSES))) or len(self.unit) != count:
            raise ValueError(f"{count} images do not fit copy, label, probabilities of {shapes}")
        if count == 0:
            raise UserError("no predictions to evaluate: the part holds no readable image")
        if self.label.min() < 0 or self.label.max() >= len(CLASSES):
            raise ValueError(f"labels must be 0..{len(CLASSES) - 1}")
        self._check_probabilities()
        self._check_rows()

    def _check_probabilities(self) -> None:
        inside = ((self.probabilities >= 0) & (self.probabilities <= 1)).all(axis=1)
        summed = np.abs(self.probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE
        bad = np.flatnonzero(~(inside & summed))  # NaN compares false, so that it ends up here.
        if bad.size:
            row = int(bad[0])
            values = ", ".join(f"{value:g}" for value in self.probabilities[row])
            raise UserError(
                f"{self._row_name(row)}: the probabilities {values} are not numbers from 0 to 1 "
                "that sum to 1; the model or the file they come from is broken"
            )

    def _check_rows(self) -> None:
        seen: set[tuple[str, int]] = set()
        labels: dict[str, int] = {}
        for row, key in enumerate(zip(self.image, self.copy.tolist(), strict=True)):
            if key in seen:
                raise UserError(f"{self._row_name(row)}: predicted twice; each row counts once")
            seen.add(key)
            if labels.setdefault(key[0], int(self.label[row])) != self.label[row]:
                raise UserError(f"{self._row_name(row)}: copies of one image carry two labels")

    def _row_name(self, row: int) -> str:
        return f"{self.image[row]} (copy {self.copy[row]})"

    def __len__(self) -> int:
        return len(self.image)

    @property
    def predicted(self) -> np.ndarray:
        """int64[N], the most probable class; of equal ones the first in `CLASSES`."""
        return self.probabilities.argmax(axis=1)

    @property
    def source(self) -> np.ndarray:
        """int64[N], 0..S-1: rows with the same number are of the same unit."""
        return sources([self])

    def in_units(self, units: Mapping[str, str]) -> Self:
        """The same rows, each of the unit that its image has; an image without one is its own."""
        return dataclasses.replace(self, unit=[units.get(name, name) for name in self.image])

    def originals(self) -> Self:
        """The rows of the images themselves (copy 0).

        Raises:
          UserError: an image has copies only.
        """
        keep = np.flatnonzero(self.copy == 0)
        lost = sorted(set(self.image) - {self.image[row] for row in keep})
        if lost:
            raise UserError(f"{lost[0]}: has augmented copies but no row for the image itself")
        return self.take(keep)

    def take(self, rows: np.ndarray) -> Self:
        """The rows with these numbers, int[M], in this order."""
        return dataclasses.replace(
            self,
            image=[self.image[row] for row in rows],
            unit=[self.unit[row] for row in rows],
            copy=self.copy[rows],
            label=self.label[rows],
            probabilities=self.probabilities[rows],
        )

    def mean_of_views(self) -> Self:
        """One row an image, with the mean of its copies' probabilities: test-time augmentation.

        The images come in the order of their first rows and carry the copy number 0.
        """
        _, first, source = np.unique(
            np.array(self.image, dtype=object), return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        sums = np.zeros((len(first), len(CLASSES)))
        np.add.at(sums, source, self.probabilities)
        means = sums / np.bincount(source)[:, None]
        return dataclasses.replace(
            self,
            image=[self.image[row] for row in first[order]],
            unit=[self.unit[row] for row in first[order]],
            copy=np.zeros(len(first), np.int64),
            label=self.label[first[order]],
            probabilities=means[order],
        )

    def write_csv(self, path: Path | str) -> None:
        """Writes `COLUMNS`; floats in the shortest form that reads back to the same bits."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        rows = zip(
            self.image,
            self.copy.tolist(),
            self.label.tolist(),
            self.probabilities.tolist(),
            strict=True,
        )
        for image, copy, label, probabilities in rows:
            writer.writerow([image, copy, CLASSES[label], *map(repr, probabilities)])
        # File names are bytes on Linux: surrogateescape carries those that are not UTF-8.
        atomic.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))

    @classmethod
    def read_csv(cls, path: Path | str) -> Self:
        """Reads what `write_csv` wrote.

        Raises:
          UserError: the file is missing or malformed; names the file and the line.
        """
        columns: list[tuple[str, int, int, list[float]]] = []
        try:
            with open_csv(path, encoding="utf-8", errors="surrogateescape") as reader:
                header: list[str] = next(reader, [])
                if tuple(header) != COLUMNS:
                    raise UserError(f"{path}: line 1: the columns must be {','.join(COLUMNS)}")
                for cells in reader:
                    columns.append(_parse(cells, f"{path}: line {reader.line_num}"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}") from error
        if not columns:
            raise UserError(f"{path}: line 2: no predictions follow the header")
        image, copy, label, probabilities = zip(*columns, strict=True)
        try:
            return cls(list(image), np.array(copy), np.array(label), np.array(probabilities))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _parse(cells: list[str], where: str) -> tuple[str, int, int, list[float]]:
    """One line of the file, each cell checked; `where` opens the error message."""
    if len(cells) != len(COLUMNS):
        raise UserError(f"{where}: {len(cells)} cells instead of {len(COLUMNS)}")
    image, copy, label, *numbers = cells
    if not image:
        raise UserError(f"{where}: the image has no name")
    if not re.fullmatch("[0-9]{1,9}", copy):
        raise UserError(f"{where}: copy {copy!r} is not a whole number from 0 on")
    if label not in CLASSES:
        raise UserError(f"{where}: label {label!r} is none of {', '.join(CLASSES)}")
    try:
        probabilities = [float(number) for number in numbers]
    except ValueError:
        raise UserError(f"{where}: {', '.join(numbers)} are not three numbers") from None
    # The same test as in Predictions, here because the line number is known.
    total_is_one = abs(sum(probabilities) - 1) <= _SUM_TOLERANCE
    if not (total_is_one and all(0 <= value <= 1 for value in probabilities)):
        raise UserError(
            f"{where}: {image} (copy {copy}): the probabilities {', '.join(numbers)} are not "
            "numbers from 0 to 1 that sum to 1"
        )
    return image, int(copy), CLASSES.index(label), probabilities


def sources(runs: Sequence[Predictions]) -> np.ndarray:
    """int64[N], 0..S-1, run after run: rows with the same number are of the same unit."""
    names = np.array([name for run in runs for name in run.unit], dtype=object)
    return np.unique(names, return_inverse=True)[1]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image given the wrong class; `probability` is that of the wrong class, 0..1."""

    image: str
    truth: str
    predicted: str
    probability: float


def confident_mistakes(predictions: Predictions) -> list[Mistake]:
    """The wrongly classified images themselves (copy 0), the most confident first."""
    rows = predictions.originals()
    wrong = np.flatnonzero(rows.predicted != rows.label)
    mistakes = [
        Mistake(
            image=rows.image[row],
            truth=CLASSES[rows.label[row]],
            predicted=CLASSES[rows.predicted[row]],
            probability=float(rows.probabilities[row].max()),
        )
        for row in wrong
    ]
    return sorted(mistakes, key=lambda mistake: (-mistake.probability, mistake.image))
