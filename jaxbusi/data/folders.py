"""Which files under a folder are images, of which class, and which are their lesion masks."""

import collections
import contextlib
import dataclasses
import difflib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from jaxbusi.data.images import IMAGE_SUFFIXES, is_image
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.errors import UserError

HOW_TO_GET_BUSI = (
    "BUSI is Dataset_BUSI_with_GT by Al-Dhabyani et al. 2020, e.g. on Kaggle; "
    "to try without it: python -m jaxbusi.main --config configs/demo.py --workdir runs/demo"
)

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Line ends and controls, which no table or terminal shows as they are, and bytes not in UTF-8."""

_IMAGE_FOLDERS = frozenset({"images", "image"})
_MASK_FOLDERS = frozenset({"masks", "mask"})
_MASK_STEM = re.compile(r"(?P<image>.+)_mask(_\d+)?", re.IGNORECASE)

_Place = tuple[int, tuple[str, ...], str]
"""Label, sub-folders below the class, stem: what an image and its masks share."""


@dataclasses.dataclass(frozen=True)
class _ClassFolder:
    label: int
    path: Path
    only_masks: bool


def find_records(root: Path, *, require_all: bool, key: str) -> list[Record]:
    """Finds the labelled images of a set; reads no file.

    The class folders (names compared without case) may lie in `root` or in `root/images`, with
    masks in `root/masks`; and all of this may lie one folder deeper, as an unpacked archive does.
    Images may lie anywhere inside a class folder. A mask is a file whose name ends in `_mask` or
    `_mask_<number>`, or that lies in a folder `masks`; `masks` and `images` also go as singular.
    It belongs to the image of the same class, sub-folder and stem. Hidden files are passed over.

    Symbolic links: `root`, and the folders down to the class folders, may be links to anywhere, and
    the log warns of those that lead out of `root`. Below a class folder nothing may: a file that is
    a link has to lead to one below its class folder or `root`, as a set that was downloaded must
    not bring private files into a report. Links to folders are not followed there, with a warning.

    Args:
      root: the folder.
      require_all: whether a class without a folder is an error.
      key: the setting that named the folder, for errors.

    Returns:
      Records by class, then by name with numbers in numeric order; names are relative to the folder
      that holds the class folders (or `images`).

    Raises:
      UserError: no such folder, nothing in it, no folder of a class, a class folder without
        images, a mask that fits two images, a file that is a link out of the set.
    """
    base = _find_base(root, key)
    folders = _class_folders(base)
    _check_classes(base, folders, require_all, key)
    _warn_of_linked(root, folders)
    images: dict[_Place, list[Path]] = collections.defaultdict(list)
    masks: dict[_Place, list[Path]] = collections.defaultdict(list)
    for folder in folders:
        for path in _image_files(folder.path, root, key):
            is_mask, place, stem = _classify(path.relative_to(folder.path), folder.only_masks)
            (masks if is_mask else images)[folder.label, place, stem].append(path)
    _check_pairs(base, images, masks, key)
    _check_not_empty(folders, {label for label, _, _ in images}, key)
    records = [
        Record(_name(path, base, key), place[0], path, tuple(_sorted(masks.get(place, ()))))
        for place, paths in images.items()
        for path in paths
    ]
    return sorted(records, key=lambda record: (record.label, *natural_key(record.name)))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts `b (2)` before `b (10)`; ties of case fall to the name itself."""
    pieces = re.split(r"(\d+)", name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def is_visible(name: str) -> bool:
    """False for hidden files, and for the side files of macOS (`._x.png`) and Synology."""
    return not name.startswith((".", "@", "__MACOSX"))


def is_mask(name: str) -> bool:
    """Whether a file is a mask by its own name: it ends in `_mask` or `_mask_<number>`."""
    return _MASK_STEM.fullmatch(os.path.splitext(name)[0]) is not None


def is_mask_folder(name: str) -> bool:
    """Whether all images in a folder of this name are masks."""
    return name.lower() in _MASK_FOLDERS


def _find_base(root: Path, key: str) -> Path:
    """The folder that holds the class folders: `root`, or the one folder in it that does."""
    try:
        exists = root.exists()
    except OSError as error:  # a name too long, a folder without permission
        _refuse(error)
    if not exists:
        raise UserError(f"{key}: the folder {root} does not exist; {HOW_TO_GET_BUSI}")
    if not root.is_dir():
        raise UserError(f"{key}: {root} is a file; unpack it and give the folder, or a .csv file")
    entries = _visible(root)
    if not entries:
        raise UserError(f"{key}: the folder {root} is empty; {HOW_TO_GET_BUSI}")
    if _class_folders(root):
        return root
    folders = _folders(root)
    inner = [
        folder
        for folder in folders
        if folder.name.lower() not in _MASK_FOLDERS and _class_folders(folder)
    ]
    if len(inner) == 1:
        return inner[0]
    if inner:
        sets = _listing(folder.name for folder in inner)
        raise UserError(f"{key}: {root} holds several sets ({sets}); give one of them")
    names = [folder.name for folder in folders]
    found = f"folders {_listing(names)}" if names else f"{len(entries)} files and no folders"
    raise UserError(
        f"{key}: {root} has no folder of a class: expected {', '.join(CLASSES)}, found {found}"
        f"{_near(CLASSES, names)}; {HOW_TO_GET_BUSI}"
    )


def _class_folders(base: Path) -> list[_ClassFolder]:
    """Class folders in `base`, `base/images` and `base/masks`; none where only masks are there."""
    found = []
    for entry in _folders(base):
        if entry.name.lower() in CLASSES:
            found.append(_ClassFolder(CLASSES.index(entry.name.lower()), entry, False))
        elif entry.name.lower() in _IMAGE_FOLDERS | _MASK_FOLDERS:
            only_masks = entry.name.lower() in _MASK_FOLDERS
            found += [
                _ClassFolder(CLASSES.index(inner.name.lower()), inner, only_masks)
                for inner in _folders(entry)
                if inner.name.lower() in CLASSES
            ]
    return found if any(not folder.only_masks for folder in found) else []


def _check_classes(base: Path, folders: list[_ClassFolder], require_all: bool, key: str) -> None:
    present = {folder.label for folder in folders if not folder.only_masks}
    missing = [name for label, name in enumerate(CLASSES) if label not in present]
    parents = {folder.path.parent for folder in folders} | {base}
    known = frozenset(CLASSES) | _IMAGE_FOLDERS | _MASK_FOLDERS
    others = sorted(
        entry.name
        for parent in parents
        for entry in _folders(parent)
        if entry.name.lower() not in known
    )
    if missing and require_all:
        found = _listing(sorted(folder.path.name for folder in folders if not folder.only_masks))
        raise UserError(
            f"{key}: {base} has no folder of class {', '.join(missing)}: found {found}"
            f"{f' and {_listing(others)}' if others else ''}{_near(missing, others)}; "
            f"every class needs a folder of its name with images"
        )
    if others:
        logging.warning("%s: folders of no known class are ignored: %s", base, _listing(others))


def _check_pairs(
    base: Path, images: dict[_Place, list[Path]], masks: dict[_Place, list[Path]], key: str
) -> None:
    orphans = []
    for place, paths in masks.items():
        owners = images.get(place, [])
        if len(owners) > 1:
            raise UserError(
                f"{key}: the mask {paths[0]} fits both {owners[0].name} and {owners[1].name}; "
                "give the images different names"
            )
        if not owners:
            orphans += paths
    if orphans:
        names = _listing(path.relative_to(base).as_posix() for path in _sorted(orphans))
        logging.warning("%s: masks without an image are ignored: %s", base, names)


def _check_not_empty(folders: list[_ClassFolder], labels: set[int], key: str) -> None:
    for folder in folders:
        if folder.label not in labels:
            raise UserError(
                f"{key}: the class folder {folder.path} has no images "
                f"({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)}; masks do not count); "
                "put images there or give another folder"
            )


def _classify(relative: Path, only_masks: bool) -> tuple[bool, tuple[str, ...], str]:
    """Whether a file is a mask; the sub-folder and stem that image and mask share."""
    folders = [part.lower() for part in relative.parts[:-1]]
    is_mask = only_masks or any(part in _MASK_FOLDERS for part in folders)
    stem = relative.stem
    if match := _MASK_STEM.fullmatch(stem):
        is_mask, stem = True, match["image"]
    place = tuple(part for part in folders if part not in _IMAGE_FOLDERS | _MASK_FOLDERS)
    return is_mask, place, stem


def _image_files(folder: Path, root: Path, key: str) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        with _scan(waiting.pop()) as entries:
            for entry in entries:
                if not is_visible(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif is_image(entry.path):
                    if entry.is_symlink():
                        _check_link(Path(entry.path), (folder, root), key)
                    yield Path(entry.path)
                elif entry.is_symlink() and Path(entry.path).is_dir():
                    logging.warning("%r is a link to a folder and not followed", entry.path)


def _scan(folder: Path) -> "contextlib.AbstractContextManager[Iterator[os.DirEntry[str]]]":
    try:
        return os.scandir(folder)
    except OSError as error:
        _refuse(error)


def _check_link(link: Path, inside: Iterable[Path], key: str) -> None:
    """Refuses a file that is a link to one outside all of these folders."""
    try:
        target = link.resolve()
    except (OSError, RuntimeError):  # it leads to itself; that it cannot be read is said later
        return
    if not any(target.is_relative_to(folder.resolve()) for folder in inside):
        raise UserError(
            f"{key}: {link} is a link that leads out of the set, to {target}; put the file itself "
            "there, or link its whole class folder"
        )


def _warn_of_linked(root: Path, folders: list[_ClassFolder]) -> None:
    for folder in folders:
        target = folder.path.resolve()
        if not target.is_relative_to(root.resolve()):
            logging.warning("%s is a link out of %s, to %s", folder.path, root, target)


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if is_visible(entry.name))
    except OSError as error:
        _refuse(error)


def _folders(folder: Path) -> list[Path]:
    try:
        return [entry for entry in _visible(folder) if entry.is_dir()]
    except OSError as error:  # a link to where one may not look
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(
        f"cannot read the folder {error.filename} ({error.strerror}); check its permissions"
    )


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(path.as_posix()))


def _name(path: Path, base: Path, key: str) -> str:
    name = path.relative_to(base).as_posix()
    if UNPRINTABLE.search(name):
        raise UserError(f"{key}: the file name {name!r} cannot be written in a table; rename it")
    return name


def _listing(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(repr(name) for name in listed[:most]) + more


def _near(wanted: Iterable[str], found: list[str]) -> str:
    """A remark on the first found name that is nearly a wanted one, or nothing."""
    for name in found:
        if close := difflib.get_close_matches(name.lower(), list(wanted), n=1):
            return f" (is {name!r} meant to be {close[0]!r}?)"
    return ""
