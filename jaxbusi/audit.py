"""The command that looks for copies, wrong labels and shortcuts before anything is trained.

    python -m jaxbusi.audit Dataset_BUSI_with_GT --out audit
    python -m jaxbusi.audit Dataset_BUSI_with_GT second_hospital --out audit

With several folders, copies across them are found too, as between training and external images.
"""

import csv
import dataclasses
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxbusi import atomic
from jaxbusi.data import busi
from jaxbusi.data.duplicates import group_fingerprints
from jaxbusi.data.fingerprints import read_fingerprints
from jaxbusi.data.grouping import Groups
from jaxbusi.data.splits import EXTERNAL_PREFIX
from jaxbusi.errors import Parser, UserError, fail
from jaxbusi.evaluation.audit_page import write_page
from jaxbusi.evaluation.findings import Folder, assemble

COLUMNS: tuple[str, ...] = ("image", "group", "role")


def main() -> None:
    """Runs the command."""
    parser = Parser(
        prog="python -m jaxbusi.audit",
        description="Find exact and near copies (also cropped, mirrored, recompressed, with other "
        "calipers), labels that contradict each other, copies across folders, unreadable files, "
        "burnt-in text and colour, and what image size gives away. Trains nothing, changes no "
        "image. Writes audit.html to look at, groups.csv and audit.json.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="a folder of class sub-folders, a CSV file with image and label, or a prepared set, "
        "as training takes it",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="OUT", help="the folder to write to"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="jaxbusi: %(message)s")
    try:
        document = audit(arguments.folders, arguments.out, progress=True)
    except UserError as error:
        fail(str(error))
    print(_summary(document, arguments.out))


def audit(directories: Sequence[str], out: Path, *, progress: bool = False) -> dict[str, Any]:
    """Examines folders and writes groups.csv, audit.json and audit.html into `out`.

    Args:
      directories: folders; the names of all but the first one's images begin with `external/`, as
        in split.csv, from the third folder on with `external-2/` and so on.
      out: made where absent; files of an earlier audit are replaced.
      progress: draw progress bars where the standard error stream is a terminal.

    Returns:
      What audit.json holds.

    Raises:
      UserError: a folder is not what it should be, none of the images can be read, or `out` cannot
        be written.
    """
    folders = _open(directories)
    records = [record for folder in folders for record in folder.records]
    found = read_fingerprints(records, progress=progress)
    groups = group_fingerprints([record.name for record in records], found, progress=progress)
    if len(groups.unreadable) == len(records):
        raise UserError(f"none of the images can be read; the first: {groups.unreadable[0]}")
    document = assemble(folders, found, groups)
    _write_groups(out / "groups.csv", groups)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    # The name of a folder may be no UTF-8, as on the page.
    atomic.write_bytes(out / "audit.json", f"{text}\n".encode("utf-8", "replace"))
    write_page(out / "audit.html", document, records, progress=progress)
    return document


def _open(directories: Sequence[str]) -> list[Folder]:
    folders: list[Folder] = []
    seen: set[Path] = set()
    for number, directory in enumerate(directories):
        place = Path(directory).resolve()
        if place in seen:
            raise UserError(f"DIR: {directory} is given twice; give each folder once")
        seen.add(place)
        prefix = ("", EXTERNAL_PREFIX)[number] if number < 2 else f"external-{number}/"
        records = [
            dataclasses.replace(record, name=prefix + record.name)
            for record in busi.read_records(directory, require_all=False, key="DIR")
        ]
        folders.append(Folder(directory, prefix, records))
    return folders


def _write_groups(path: Path, groups: Groups) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(groups.rows())
    atomic.write_bytes(path, text.getvalue().encode())


def _summary(document: dict[str, Any], out: Path) -> str:
    counts, folders = document["counts"], document["folders"]
    within = f" in {folders[0]['name']}" if len(folders) > 1 else ""
    lines = [
        f"{counts['readable']} images, {counts['in_groups']} of them in {counts['groups']} groups "
        f"of copies and near-copies, the largest of {counts['largest']}",
        f"groups with more than one label: {counts['conflicts']}; across folders: "
        f"{counts['across']}; with exact copies: {counts['exact']}",
        f"images with burnt-in text or calipers: {document['marks']['count']}; with colour: "
        f"{document['colour']['count']}",
    ]
    leak = document["random_split_leak"]
    if leak is not None:
        lines.append(
            f"in a random 8:2 split{within}, {100 * leak:.0f} % of the test images would have a "
            "relative in the training part"
        )
    if size := document["shortcuts"]["size"]:
        lines.append(
            f"width and height alone{within}: {100 * size['accuracy']:.1f} % right, the commonest "
            f"class {100 * size['majority']:.1f} %"
        )
    if document["unreadable"]:
        lines.append(f"files that cannot be read: {len(document['unreadable'])}, listed there")
    return "\n".join([*lines, f"open {out / 'audit.html'}"])


if __name__ == "__main__":
    main()
