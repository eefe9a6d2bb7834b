"""Sets that come as a table: a CSV file with a line for each image, as hospitals keep labels."""

import csv
import dataclasses
import difflib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from jaxbusi.data.csv_files import open_csv
from jaxbusi.data.folders import UNPRINTABLE, natural_key
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.errors import UserError

_COLUMNS = ("image", "label", "patient")


@dataclasses.dataclass(frozen=True)
class Table:
    """What was read of a CSV file.

    Attributes:
      header: names of all its columns, trimmed, in lower case.
      lines: number in the file, from 2, and trimmed cells by column, of the columns asked for.
    """

    header: tuple[str, ...]
    lines: list[tuple[int, dict[str, str]]]


def read_csv(path: str | Path, columns: Sequence[str], *, where: str) -> Table:
    """Reads columns of a CSV file in UTF-8, with or without a byte order mark.

    Args:
      path: the file; its first line names the columns.
      columns: those to read; that one is not there is no error, and others are passed over.
      where: opens error messages: the setting and the file.

    Raises:
      UserError: the file cannot be read, names a column twice, or has a line that is too long.
    """
    header, rows = _open(path, where, limited=True)
    places = _places(header, columns, where)
    lines = [(number, _trimmed(cells, places)) for number, cells in rows]
    return Table(header, lines)


def read_table(
    path: str | Path, *, require_all: bool = True, key: str = "config.data.root"
) -> list[Record]:
    """Reads which images are of which class, and of which patient, from a CSV file; opens none.

    Args:
      path: a file with the columns `image` (a path relative to the file's own folder, with forward
        slashes), `label` (a class name in any case) and, where known, `patient` (empty: not known);
        others are not read.
      require_all: False accepts a set that lacks whole classes.
      key: the setting that named the file, for errors.

    Returns:
      Records by class, then by name with numbers in numeric order, whatever the order of the lines;
      they are named as the file names them and have no masks.

    Raises:
      UserError: the file cannot be read, lacks a column or lists nothing; by line, an unknown
        label, an image that is not named, not there, not below the file's folder (symbolic links
        are followed) or listed twice; or a class has no image.
    """
    where, folder = f"{key}={path}", Path(path).parent
    table = read_csv(path, _COLUMNS, where=where)
    missing = [name for name in ("image", "label") if name not in table.header]
    if missing:
        raise UserError(
            f"{where} has no column {' and '.join(missing)} (found {','.join(table.header)!r}); "
            "its first line must name image and label, separated by commas"
        )
    records: list[Record] = []
    lines: dict[Path, int] = {}
    for number, cells in table.lines:
        at = f"{where}, line {number}"
        name = _name(cells["image"], at)
        first = lines.setdefault(_file(folder, name, at), number)
        if first != number:
            raise UserError(
                f"{at}: {name!r} is listed a second time, first in line {first}; remove one"
            )
        label = _label(cells["label"], at)
        records.append(Record(name, label, folder / name, patient=cells.get("patient", "")))
    _check_classes(records, require_all, where)
    return sorted(records, key=lambda record: (record.label, *natural_key(record.name)))


def iterate_images(path: str | Path, *, key: str) -> Iterator[str]:
    """Yields what the column `image` of a CSV file names, line by line: it may have millions.

    Args:
      path: a file with the column `image`, as `read_table` takes it; others are not read.
      key: what named the file, for errors.

    Yields:
      The file's folder joined with the name. Whether there is such a file is not looked at.

    Raises:
      UserError: the file cannot be read or lacks the column; by line, an image that is not named,
        or not below the file's folder (symbolic links are followed).
    """
    where, folder = f"{key} {path}", os.path.dirname(path)
    header, rows = _open(path, where, limited=False)
    places = _places(header, ("image",), where)
    if not places:
        raise UserError(
            f"{where} has no column image (found {','.join(header)!r}); its first line must name "
            "the columns, separated by commas"
        )
    # Most images share a few folders: the links in a path are followed once for each of those.
    resolve = functools.lru_cache(1024)(os.path.realpath)
    base = os.path.join(resolve(folder), "")
    for number, cells in rows:
        at = f"{where}, line {number}"
        name = _name(_trimmed(cells, places)["image"], at)
        found = os.path.join(folder, name)
        parent, last = os.path.split(found)
        plain = last not in ("", ".", "..") and not os.path.islink(found)
        real = os.path.join(resolve(parent), last) if plain else os.path.realpath(found)
        if not real.startswith(base):
            raise UserError(_leads_out(name, at))
        yield found


def _open(
    path: str | Path, where: str, *, limited: bool
) -> tuple[tuple[str, ...], Iterator[tuple[int, list[str]]]]:
    """The names of the columns, and an iterator over numbers and cells of the lines below."""
    rows = _rows(path, where, limited)
    _, names = next(rows, (1, []))
    header = tuple(name.strip().lower() for name in names)
    return header, _full(rows, header, where)


def _rows(path: str | Path, where: str, limited: bool) -> Iterator[tuple[int, list[str]]]:
    """All lines, the first one even where it is empty."""
    try:
        with open_csv(path, encoding="utf-8-sig", limited=limited) as reader:
            for cells in reader:
                if cells or reader.line_num == 1:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(
            f"{where} cannot be read as CSV ({reason}); give a file in UTF-8, separated by commas"
        ) from error


def _full(
    rows: Iterator[tuple[int, list[str]]], header: Sequence[str], where: str
) -> Iterator[tuple[int, list[str]]]:
    """Gives every line a cell for each column."""
    for number, cells in rows:
        if any(cells[len(header) :]):
            raise UserError(
                f"{where}, line {number} has {len(cells)} cells for {len(header)} columns; put a "
                "name that holds a comma in double quotes"
            )
        yield number, cells + [""] * (len(header) - len(cells))


def _places(header: Sequence[str], columns: Sequence[str], where: str) -> dict[str, int]:
    """Where those of `columns` are that there are."""
    places = {name: header.index(name) for name in columns if name in header}
    for name in places:
        if header.count(name) > 1:
            raise UserError(f"{where} has two columns {name}; rename one of them")
    return places


def _trimmed(cells: Sequence[str], places: Mapping[str, int]) -> dict[str, str]:
    return {name: cells[place].strip() for name, place in places.items()}


def _name(text: str, at: str) -> str:
    if not text:
        raise UserError(f"{at} names no image; fill in its path or remove the line")
    if UNPRINTABLE.search(text):
        raise UserError(f"{at}: the file name {text!r} cannot be written in a table; rename it")
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        raise UserError(
            f"{at}: {text!r} is an absolute path; write it relative to the folder of the CSV file"
        )
    return PurePosixPath(text).as_posix()


def _file(folder: Path, name: str, at: str) -> Path:
    """The image file that `name` leads to, links followed, which has to lie below `folder`."""
    try:
        found = (folder / name).resolve()
        is_file = found.is_file()
    except (OSError, RuntimeError) as error:  # no permission; a link that leads to itself
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{at}: {name!r} cannot be looked at ({reason}); check it") from error
    if not found.is_relative_to(folder.resolve()):
        raise UserError(_leads_out(name, at))
    if not is_file:
        slashes = " (folders are separated by forward slashes)" if "\\" in name else ""
        raise UserError(f"{at}: there is no file {folder / name}; correct the path{slashes}")
    return found


def _leads_out(name: str, at: str) -> str:
    return f"{at}: {name!r} leads out of the folder of the CSV file; put the images below it"


def _label(text: str, at: str) -> int:
    if text.lower() in CLASSES:
        return CLASSES.index(text.lower())
    near = difflib.get_close_matches(text.lower(), CLASSES, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; write one of them"
    raise UserError(f"{at}: label {text!r} is none of {', '.join(CLASSES)}{hint}")


def _check_classes(records: Sequence[Record], require_all: bool, where: str) -> None:
    if not records:
        raise UserError(f"{where} lists no image; add a line for each")
    present = {record.label for record in records}
    missing = [name for label, name in enumerate(CLASSES) if label not in present]
    if missing and require_all:
        raise UserError(
            f"{where} has no image of class {', '.join(missing)}; every class needs some to train "
            "on"
        )
