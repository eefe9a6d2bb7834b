"""Which image belongs to which part: split.csv, and its check when it is reused."""

import collections
import csv
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxbusi.data.csv_files import open_csv
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.errors import UserError

PARTS: tuple[str, ...] = ("train", "validation", "test", "external")
EXCLUDED = "excluded"
"""Stands in the place of a part for an image that is in none: its group carries two labels."""

EXTERNAL_PREFIX = "external/"


@dataclasses.dataclass(frozen=True)
class SplitRow:
    """One line of split.csv: an image, or those of its copies that are in one part.

    Attributes:
      image: the record's name.
      sha256: of the encoded image file, 64 hexadecimal digits.
      label: class name.
      group: images that must stay together share it; empty for an image on its own.
      part: one of `PARTS`, or `EXCLUDED`.
      copies: how many versions of the image count in the part; 1 or more. Where all of them are in
        one part, the image itself is one of them; else see `first_copies`.
    """

    image: str
    sha256: str
    label: str
    group: str
    part: str
    copies: int


_COLUMNS = tuple(field.name for field in dataclasses.fields(SplitRow))


def external_records(records: Iterable[Record]) -> list[Record]:
    """Puts `external/` before the names of a second set.

    Both sets have images called `benign/benign (1).png`. With the prefix a name means one image
    everywhere: in split.csv, in predictions, in the random numbers of augmentation. Patient 7 of
    one hospital is not patient 7 of another either.
    """
    return [
        dataclasses.replace(
            record,
            name=EXTERNAL_PREFIX + record.name,
            patient=record.patient and EXTERNAL_PREFIX + record.patient,
        )
        for record in records
    ]


def first_copies(rows: Iterable[SplitRow]) -> list[int]:
    """Numbers the copies of images that have several lines.

    The copies of an image are numbered from 0 through its lines: first those of the parts that are
    evaluated, of which number 0 is the image itself, then those that are trained on.

    Returns:
      The number of the first copy of each line, in the order of `rows`.
    """
    rows = list(rows)
    first = [0] * len(rows)
    used: collections.Counter[str] = collections.Counter()
    for row in sorted(range(len(rows)), key=lambda row: rows[row].part == "train"):
        first[row] = used[rows[row].image]
        used[rows[row].image] += rows[row].copies
    return first


def units(rows: Iterable[SplitRow]) -> dict[str, str]:
    """The unit of each image that is in a group; an image on its own is one by itself."""
    return {row.image: f"group {row.group}" for row in rows if row.group}


def leakage(rows: Sequence[SplitRow]) -> dict[str, tuple[int, int]]:
    """Counts the images that have a near-copy in the training part.

    Returns:
      For each other part: the number of such images, and of all its images.
    """
    trained = {row.image for row in rows if row.part == "train"}
    groups = {row.group for row in rows if row.part == "train" and row.group}
    found = {}
    for part in PARTS[1:]:
        here = [row for row in rows if row.part == part]
        if here:
            leaked = sum(row.group in groups or row.image in trained for row in here)
            found[part] = (leaked, len(here))
    return found


def describe_leakage(leakage: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    """Says it as results.json does.

    Images of one group or patient count as near-copies where groups or patients are given.

    Args:
      leakage: of `leakage`.

    Returns:
      {part: {near_copy_in_training: images that have one, images: all of the part}}.
    """
    return {
        part: {"near_copy_in_training": leaked, "images": images}
        for part, (leaked, images) in leakage.items()
    }


def write_split(path: str | Path, rows: Iterable[SplitRow]) -> None:
    """Writes split.csv; an interrupted write leaves the old file, if any, whole."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(dataclasses.astuple(row) for row in rows)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space") from error


def read_split(
    path: str | Path, records: Sequence[Record], sha256s: Sequence[str]
) -> list[SplitRow]:
    """Reads split.csv and checks it against the images at hand.

    Args:
      path: the file, as `write_split` wrote it; a spreadsheet's byte order mark and line ends pass.
      records: every image at hand, the external ones included.
      sha256s: of their encoded files, aligned to `records`.

    Returns:
      Rows in the order of `records`; most images have one.

    Raises:
      UserError: no such file; not these columns; a malformed line (with its number); an image
        listed twice in a part; and by name, an image that is only in the file or only at hand,
        that has another content, or that lies in another class folder.
    """
    rows: dict[str, list[SplitRow]] = collections.defaultdict(list)
    for row in read_rows(Path(path)):
        rows[row.image].append(row)
    at_hand = {record.name for record in records}
    gone = [name for name in rows if name not in at_hand]
    hint = ""
    if any(name.startswith(EXTERNAL_PREFIX) for name in gone):
        hint = " or set config.data.external"
    _refuse(path, gone, f"listed but not in the folder; restore the image{hint}")
    extra = [name for name in at_hand if name not in rows]
    _refuse(path, sorted(extra), "in the folder but not listed; remove it or make a new split")
    relabelled = [
        record.name
        for record in records
        if any(row.label != CLASSES[record.label] for row in rows[record.name])
    ]
    _refuse(path, relabelled, "in the folder of another class than listed; move it back")
    changed = [
        record.name
        for record, sha256 in zip(records, sha256s, strict=True)
        if any(row.sha256 != sha256 for row in rows[record.name])
    ]
    _refuse(path, changed, "not the file that was listed (SHA-256 differs); restore it")
    return [row for record in records for row in rows[record.name]]


def part_counts(rows: Iterable[SplitRow]) -> dict[str, dict[str, tuple[int, int]]]:
    """Counts images, and images after expansion, by part and class: the paper's Table 3.

    Returns:
      For each part that has rows, in the order of `PARTS`, `EXCLUDED` last, and each class:
      (images, copies).
    """
    counts: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for row in rows:
        counts[row.part, row.label].append(row.copies)
    return {
        part: {name: (len(counts[part, name]), sum(counts[part, name])) for name in CLASSES}
        for part in (*PARTS, EXCLUDED)
        if any(counts[part, name] for name in CLASSES)
    }


def read_rows(path: Path) -> list[SplitRow]:
    """Reads split.csv as it is, without the images at hand.

    Raises:
      UserError: no such file; not these columns; a malformed line (with its number); an image
        listed twice in a part.
    """
    try:
        with open_csv(path, encoding="utf-8-sig") as reader:
            lines = list(reader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the split.csv of a run") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as CSV ({reason})") from error
    if not lines or tuple(lines[0]) != _COLUMNS:
        found = ",".join(lines[0]) if lines else "an empty file"
        raise UserError(f"{path}: the first line must be {','.join(_COLUMNS)}, found {found!r}")
    rows: list[SplitRow] = []
    seen = set()
    for number, line in enumerate(lines[1:], 2):
        row = _parse_line(f"{path}, line {number}", line)
        if (row.image, row.part) in seen:
            raise UserError(f"{path}, line {number}: {row.image!r} is listed a second time")
        seen.add((row.image, row.part))
        rows.append(row)
    return rows


def _parse_line(where: str, line: list[str]) -> SplitRow:
    if len(line) != len(_COLUMNS):
        raise UserError(f"{where}: expected {len(_COLUMNS)} fields, found {len(line)}")
    image, sha256, label, group, part, copies = line
    if label not in CLASSES:
        raise UserError(f"{where}: label {label!r} is none of {', '.join(CLASSES)}")
    if part not in (*PARTS, EXCLUDED):
        raise UserError(f"{where}: part {part!r} is none of {', '.join((*PARTS, EXCLUDED))}")
    if (part == "external") != image.startswith(EXTERNAL_PREFIX):
        raise UserError(f"{where}: part {part!r} does not go with the image name {image!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UserError(f"{where}: sha256 {sha256!r} is not 64 hexadecimal digits")
    if not re.fullmatch(r"[1-9][0-9]{0,5}", copies):
        raise UserError(f"{where}: copies {copies!r} is not a whole number above 0")
    return SplitRow(image, sha256, label, group, part, int(copies))


def _refuse(path: str | Path, names: list[str], problem: str) -> None:
    if names:
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise UserError(f"{path}: {names[0]!r}{others} is {problem}")
