"""Which image belongs to which part: drawn from a seed, kept in split.csv, checked when reused."""

import collections
import csv
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxbusi.data.records import CLASSES, Record
from jaxbusi.errors import UserError

PARTS: tuple[str, ...] = ("train", "validation", "test", "external")
EXTERNAL_PREFIX = "external/"


@dataclasses.dataclass(frozen=True)
class SplitRow:
    """One line of split.csv.

    Attributes:
      image: the record's name.
      sha256: of the encoded image file, 64 hexadecimal digits.
      label: class name.
      group: images that must stay together share it; empty for an image on its own.
      part: one of `PARTS`.
      copies: how many versions of the image count, the image itself included; 1 or more.
    """

    image: str
    sha256: str
    label: str
    group: str
    part: str
    copies: int


_COLUMNS = tuple(field.name for field in dataclasses.fields(SplitRow))


def paper_split(
    names: Sequence[str],
    labels: Sequence[int],
    *,
    seed: int,
    train_fraction: float = 0.8,
    validation_fraction: float = 0.0,
) -> dict[str, str]:
    """Draws the paper's split (section 2.1): 8:2 by class, before any expansion.

    Of the n images of a class, round(`train_fraction` x n) go to the training part: on BUSI
    350/168/106 and 87/42/27 to the test part. A validation part takes round(`validation_fraction`
    x m) of the m training images of each class, and leaves the test part as it is. Both parts of
    a class get at least one image.

    An image's place in its class is the SHA-256 of seed and name, so that the split depends on
    nothing else: not on the order of the files, not on the version of a random generator.

    Args:
      names: image names, all different.
      labels: indices into `CLASSES`, aligned to `names`.
      seed: any integer.
      train_fraction: in (0, 1).
      validation_fraction: in [0, 1).

    Returns:
      Part by name, in the order of `names`.

    Raises:
      UserError: a class has fewer images than there are parts.
    """
    if len(set(names)) != len(names):
        raise ValueError("names are not unique")
    by_class: dict[int, list[str]] = collections.defaultdict(list)
    for name, label in zip(names, labels, strict=True):
        by_class[label].append(name)
    parts = {}
    for label, members in by_class.items():
        needed = 3 if validation_fraction else 2
        if len(members) < needed:
            raise UserError(
                f"class {CLASSES[label]} has {len(members)} image(s), a split into {needed} parts "
                f"needs {needed} or more; add images"
            )
        members.sort(key=lambda name: _place(seed, name))
        fitted = min(max(round(train_fraction * len(members)), needed - 1), len(members) - 1)
        held = round(validation_fraction * fitted)
        held = min(max(held, 1), fitted - 1) if validation_fraction else 0
        for position, name in enumerate(members):
            part = "validation" if position < held else "train" if position < fitted else "test"
            parts[name] = part
    return {name: parts[name] for name in names}


def external_records(records: Iterable[Record]) -> list[Record]:
    """Puts `external/` before the names of a second set.

    Both sets have images called `benign/benign (1).png`. With the prefix a name means one image
    everywhere: in split.csv, in predictions, in the random numbers of augmentation.
    """
    return [dataclasses.replace(record, name=EXTERNAL_PREFIX + record.name) for record in records]


def make_rows(
    records: Sequence[Record], sha256s: Sequence[str], parts: Mapping[str, str], copies: int
) -> list[SplitRow]:
    """Makes the lines of split.csv.

    Args:
      records: the images.
      sha256s: of the encoded files, aligned to `records`.
      parts: part by name.
      copies: for every image; the paper's expansion is 5.

    Returns:
      Rows aligned to `records`.
    """
    return [
        SplitRow(record.name, sha256, CLASSES[record.label], "", parts[record.name], copies)
        for record, sha256 in zip(records, sha256s, strict=True)
    ]


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
      Rows aligned to `records`.

    Raises:
      UserError: no such file; not these columns; a malformed line (with its number); an image
        listed twice; and by name, an image that is only in the file or only at hand, that has
        another content, or that lies in another class folder.
    """
    rows = {row.image: row for row in _parse(Path(path))}
    at_hand = {record.name for record in records}
    gone = [name for name in rows if name not in at_hand]
    hint = ""
    if any(name.startswith(EXTERNAL_PREFIX) for name in gone):
        hint = " or set config.data.external"
    _refuse(path, gone, f"listed but not in the folder; restore the image{hint}")
    extra = [name for name in at_hand if name not in rows]
    _refuse(path, sorted(extra), "in the folder but not listed; remove it or make a new split")
    relabelled = [r.name for r in records if rows[r.name].label != CLASSES[r.label]]
    _refuse(path, relabelled, "in the folder of another class than listed; move it back")
    changed = [
        record.name
        for record, sha256 in zip(records, sha256s, strict=True)
        if rows[record.name].sha256 != sha256
    ]
    _refuse(path, changed, "not the file that was listed (SHA-256 differs); restore it")
    return [rows[record.name] for record in records]


def part_counts(rows: Iterable[SplitRow]) -> dict[str, dict[str, tuple[int, int]]]:
    """Counts images, and images after expansion, by part and class: the paper's Table 3.

    Returns:
      For each part that has rows, in the order of `PARTS`, and each class: (images, copies).
    """
    counts: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for row in rows:
        counts[row.part, row.label].append(row.copies)
    return {
        part: {name: (len(counts[part, name]), sum(counts[part, name])) for name in CLASSES}
        for part in PARTS
        if any(counts[part, name] for name in CLASSES)
    }


def _place(seed: int, name: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"{seed} {name}".encode()).digest(), name


def _parse(path: Path) -> list[SplitRow]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the split.csv of a run") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as CSV ({reason})") from error
    if not lines or tuple(lines[0]) != _COLUMNS:
        found = ",".join(lines[0]) if lines else "an empty file"
        raise UserError(f"{path}: the first line must be {','.join(_COLUMNS)}, found {found!r}")
    rows: list[SplitRow] = []
    seen = set()
    for number, line in enumerate(lines[1:], 2):
        row = _parse_line(f"{path}, line {number}", line)
        if row.image in seen:
            raise UserError(f"{path}, line {number}: {row.image!r} is listed a second time")
        seen.add(row.image)
        rows.append(row)
    return rows


def _parse_line(where: str, line: list[str]) -> SplitRow:
    if len(line) != len(_COLUMNS):
        raise UserError(f"{where}: expected {len(_COLUMNS)} fields, found {len(line)}")
    image, sha256, label, group, part, copies = line
    if label not in CLASSES:
        raise UserError(f"{where}: label {label!r} is none of {', '.join(CLASSES)}")
    if part not in PARTS:
        raise UserError(f"{where}: part {part!r} is none of {', '.join(PARTS)}")
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
