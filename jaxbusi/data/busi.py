"""Reads a set of labelled images: from a folder, a CSV file, or prepared as array_record."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jaxbusi.data.folders import HOW_TO_GET_BUSI, find_records
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.data.tables import read_table
from jaxbusi.errors import UserError

PUBLISHED_COUNTS: tuple[int, ...] = (437, 210, 133)
"""Images per class of the published BUSI, in the order of `CLASSES`."""

PREPARED = Path("busi", "1.0.0")
"""Where `prepared.prepare` writes, in the folder that it is given."""


def read_records(
    root: str | Path, *, require_all: bool = True, key: str = "config.data.root"
) -> list[Record]:
    """Reads a set in whichever form it is.

    That is, by `prepared.read_prepared`, `tables.read_table` or `read_folder`.
    A prepared set may be given as the folder with `dataset_info.json`, or as the folder that
    `prepared.prepare` was told to write to; a table is told by its name, which ends in `.csv`.
    """
    try:
        Path(root).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass  # Said below, with what to do.
    except OSError as error:
        raise UserError(f"{key}={root} cannot be looked at ({error.strerror})") from error
    for directory in (Path(root), Path(root) / PREPARED):
        if (directory / "dataset_info.json").is_file():
            from jaxbusi.data.prepared import read_prepared  # half a second that few need

            return read_prepared(directory, require_all=require_all, key=key)
    if Path(root).suffix.lower() == ".csv" and not Path(root).is_dir():
        records = read_table(root, require_all=require_all, key=key)
        log_counts(records, root)
        return records
    return read_folder(root, require_all=require_all, key=key)


def read_folder(
    root: str | Path, *, require_all: bool = True, key: str = "config.data.root"
) -> list[Record]:
    """Lists the images of a folder with their classes and masks; opens none of them.

    Takes Kaggle's layout (`benign/benign (1).png` beside `benign (1)_mask.png`), `images/<class>/`
    beside `masks/<class>/`, and any folder of class sub-folders; see `folders.find_records`.
    Logs the counts, and how they compare with the published BUSI.

    Args:
      root: the folder.
      require_all: False accepts a set that lacks whole classes, as a hospital's may.
      key: the setting that named the folder, for errors.

    Returns:
      Records by class, then by name with numbers in numeric order.

    Raises:
      UserError: nothing usable there; says what was found and what to do.
    """
    if not str(root):
        raise UserError(
            f"{key} is empty; give a folder with sub-folders {', '.join(CLASSES)}. "
            f"{HOW_TO_GET_BUSI}"
        )
    records = find_records(Path(root), require_all=require_all, key=key)
    log_counts(records, root)
    return records


def log_counts(records: Sequence[Record], where: str | Path) -> None:
    """Logs how many images of each class there are, and whether as in the published BUSI."""
    counts = tuple(sum(record.label == label for record in records) for label in range(3))
    listed = ", ".join(f"{n} {name}" for n, name in zip(counts, CLASSES, strict=True))
    published = "/".join(map(str, PUBLISHED_COUNTS))
    verdict = "as" if counts == PUBLISHED_COUNTS else "not"
    logging.info(
        "%s: %d images (%s), %d masks; %s the published BUSI (%s)",
        *(where, len(records), listed, sum(len(record.masks) for record in records)),
        *(verdict, published),
    )
