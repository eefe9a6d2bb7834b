"""What an audit found, as the document that audit.json holds and audit.html shows."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxbusi.data import duplicates
from jaxbusi.data.fingerprints import Fingerprint
from jaxbusi.data.grouping import EXACT, Group, Groups, Link
from jaxbusi.data.images import ImageError
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.evaluation.shortcuts import measure_shortcut

TRAIN_SHARE = 0.8
"""Of the random split for which the share of leaking test images is worked out."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """One of the folders that were examined.

    Attributes:
      path: as the user named it.
      prefix: what its image names begin with, to tell them from another folder's.
      records: its images, named with the prefix.
    """

    path: str
    prefix: str
    records: Sequence[Record]


def assemble(
    folders: Sequence[Folder], found: Sequence[Fingerprint | ImageError], groups: Groups
) -> dict[str, Any]:
    """Puts the findings together, groups worst first.

    Args:
      folders: what was examined.
      found: of `read_fingerprints`, aligned to the records of all folders, one after the other.
      groups: of `group_fingerprints`, over the same.

    Returns:
      JSON values.
    """
    records = [record for folder in folders for record in folder.records]
    homes = [number for number, folder in enumerate(folders) for _ in folder.records]
    described = [_group(group, groups, records, homes, found) for group in groups.groups]
    described.sort(key=_severity)
    readable = [row for row, f in enumerate(found) if isinstance(f, Fingerprint)]
    return {
        "folders": [_folder(number, folders, found, homes) for number in range(len(folders))],
        "counts": _counts(described, len(records), len(readable)),
        "random_split_leak": _leak(groups, [row for row in readable if homes[row] == 0]),
        "groups": described,
        "refused_links": [_link(link, groups) for link in groups.refused],
        "unreadable": [
            {"image": records[row].name, "reason": error.reason}
            for row, error in sorted(groups.unreadable.items())
        ],
        "marks": _overlays(records, found, "marks"),
        "colour": _overlays(records, found, "colour"),
        "shortcuts": _shortcuts(records, found, groups, homes),
        "limits": {
            "near_copy": duplicates.COPY_SCORE,
            "part_or_mirrored": [duplicates.PART_SCORE, duplicates.PART_TYPICAL],
            "whole": [duplicates.WHOLE_SCORE, duplicates.WHOLE_TYPICAL],
            "candidates": duplicates.CANDIDATES,
            "hash": duplicates.LEAST_HASH,
        },
    }


def _group(
    group: Group,
    groups: Groups,
    records: Sequence[Record],
    homes: Sequence[int],
    found: Sequence[Fingerprint | ImageError],
) -> dict[str, Any]:
    images = []
    for row, role in zip(group.rows, group.roles, strict=True):
        fingerprint = found[row]
        assert isinstance(fingerprint, Fingerprint)
        images.append(
            {
                "image": records[row].name,
                "row": row,
                "label": CLASSES[records[row].label],
                "folder": homes[row],
                "role": role,
                "width": fingerprint.width,
                "height": fingerprint.height,
            }
        )
    return {
        "name": group.name,
        "conflict": len({records[row].label for row in group.rows}) > 1,
        "across": len({homes[row] for row in group.rows}) > 1,
        "exact": any(link.kind == EXACT for link in group.links),
        "weakest": min(link.score for link in group.links),
        "images": images,
        "links": [_link(link, groups) for link in group.links],
    }


def _severity(group: dict[str, Any]) -> tuple[bool, bool, bool, int, str]:
    """Label conflicts, then copies across folders, then exact copies; larger groups first."""
    return (
        not group["conflict"],
        not group["across"],
        not group["exact"],
        -len(group["images"]),
        group["name"],
    )


def _link(link: Link, groups: Groups) -> dict[str, Any]:
    return {
        "first": groups.names[link.first],
        "second": groups.names[link.second],
        "kind": link.kind,
        "score": link.score,
        "mirrored": link.mirrored,
    }


def _folder(
    number: int,
    folders: Sequence[Folder],
    found: Sequence[Fingerprint | ImageError],
    homes: Sequence[int],
) -> dict[str, Any]:
    folder = folders[number]
    labels = collections.Counter(CLASSES[record.label] for record in folder.records)
    bad = sum(isinstance(f, ImageError) for f, home in zip(found, homes, strict=True)
              if home == number)  # fmt: skip
    return {
        "path": folder.path,
        "name": Path(folder.path).resolve().name or folder.path,
        "prefix": folder.prefix,
        "images": len(folder.records),
        "unreadable": bad,
        "labels": {name: labels[name] for name in CLASSES},
    }


def _counts(described: Sequence[dict[str, Any]], images: int, readable: int) -> dict[str, int]:
    sizes = [len(group["images"]) for group in described]
    return {
        "images": images,
        "readable": readable,
        "groups": len(sizes),
        "in_groups": sum(sizes),
        "largest": max(sizes, default=0),
        "conflicts": sum(group["conflict"] for group in described),
        "across": sum(group["across"] for group in described),
        "exact": sum(group["exact"] for group in described),
    }


def _leak(groups: Groups, rows: Sequence[int]) -> float | None:
    """Expected share of test images with a relative in the training part of a random 8:2 split.

    Only of `rows`, as a split divides one folder; None where there are none.
    """
    here = set(rows)
    sizes = [len(here.intersection(group.rows)) for group in groups.groups]
    leaking = sum(size * (1 - (1 - TRAIN_SHARE) ** (size - 1)) for size in sizes if size)
    return leaking / len(here) if here else None


def _overlays(
    records: Sequence[Record], found: Sequence[Fingerprint | ImageError], kind: str
) -> dict[str, Any]:
    """The images with marks or with colour, by name and counted by class."""
    totals, hits = collections.Counter[str](), collections.Counter[str]()
    names = []
    for record, fingerprint in zip(records, found, strict=True):
        if isinstance(fingerprint, Fingerprint):
            totals[CLASSES[record.label]] += 1
            if getattr(fingerprint.overlay, kind):
                hits[CLASSES[record.label]] += 1
                names.append(record.name)
    return {
        "count": len(names),
        "classes": {name: [hits[name], totals[name]] for name in CLASSES},
        "images": names,
    }


def _shortcuts(
    records: Sequence[Record],
    found: Sequence[Fingerprint | ImageError],
    groups: Groups,
    homes: Sequence[int],
) -> dict[str, dict[str, float] | None]:
    """What width and height alone, and burnt-in marks and colour alone, say about the class.

    In the first folder: what tells two hospitals apart is no shortcut within either.
    """
    of = groups.of()
    pairs = zip(records, found, homes, strict=True)
    first = [(r, f) for r, f, home in pairs if isinstance(f, Fingerprint) and home == 0]
    prints = [f for _, f in first]
    labels = [record.label for record, _ in first]
    together = [of[record.name] for record, _ in first]
    features = {
        "size": np.array([[f.width, f.height] for f in prints], float),
        "overlays": np.array([[f.overlay.marks, f.overlay.colour] for f in prints], float),
    }
    measured = {name: measure_shortcut(x, labels, together) for name, x in features.items()}
    return {name: dataclasses.asdict(m) if m else None for name, m in measured.items()}
