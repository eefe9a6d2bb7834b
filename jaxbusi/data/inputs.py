"""Which files are to be predicted: named, in folders, by patterns or in CSV lists; maybe millions.

No labels and no classes here: any folder will do. A path is kept as bytes, about 50 more than its
length, because a list of a million `Path` objects would take a gigabyte.
"""

import glob
import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxbusi.data.folders import is_mask, is_mask_folder, is_visible
from jaxbusi.data.images import IMAGE_SUFFIXES
from jaxbusi.data.tables import iterate_images
from jaxbusi.errors import UserError

KEY = "INPUT"
"""What opens error messages: the argument of the command."""


def find_inputs(given: Sequence[str]) -> list[bytes]:
    """Lists the files to predict; opens no image.

    * A folder is searched with all folders in it, but for hidden ones and those of masks, for the
      suffixes of `IMAGE_SUFFIXES`. Links to folders are not followed.
    * A name with `*`, `?` or `[` that no file has is a pattern; `**` stands for folders at any
      depth. Folders that it fits are searched.
    * A `.csv` file lists images in its column `image`, relative to its own folder. These may have
      any name, and need not be there: what is missing is for the predictions to say.
    * Any other file is taken for an image, whatever its suffix.

    Masks (`…_mask.png`, `…_mask_1.png`) are left aside and counted in the log, but for CSV lists.

    Args:
      given: the arguments of the command.

    Returns:
      Paths as the file system has them (`os.fsencode`), each once, sorted by their bytes. They
      begin as the argument does that led to them.

    Raises:
      UserError: an argument leads to no image, a folder cannot be searched, or a list is broken.
    """
    paths: list[bytes] = []
    masks = 0
    for text in given:
        listed = _is_list(text)
        before, aside = len(paths), masks
        for path in iterate_images(text, key=KEY) if listed else _search(text):
            if not listed and is_mask(os.path.basename(path)):
                masks += 1
            else:
                paths.append(os.fsencode(path))
        if len(paths) == before:
            raise UserError(f"{KEY} {text} {_nothing(listed, masks - aside)}")
    if masks:
        logging.info("masks (…_mask.png) that are left aside: %d", masks)
    paths.sort()
    return [path for path, _ in itertools.groupby(paths)]


def digest(paths: Iterable[bytes]) -> str:
    """Returns the hexadecimal sha256 of a list of paths."""
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(path + b"\0")
    return hashed.hexdigest()


def shown(path: bytes) -> str:
    r"""Returns a path as text for a table: bytes that are no UTF-8 become `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def _is_list(text: str) -> bool:
    return text.lower().endswith(".csv") and os.path.isfile(text)


def _search(text: str) -> Iterator[str]:
    path = str(Path(text)) if text else ""  # without a slash at its end or `./` before it
    if os.path.isdir(path):
        yield from _walk(path)
    elif os.path.lexists(path):
        yield path
    elif glob.has_magic(path):
        yield from _matches(path)
    else:
        raise UserError(
            f"{KEY} {text!r} does not exist; give image files, folders, patterns or CSV lists"
        )


def _matches(pattern: str) -> Iterator[str]:
    meant = set(pattern.split(os.sep))
    for path in glob.iglob(pattern, recursive=True):
        # A folder of masks counts where the pattern names it.
        if any(map(is_mask_folder, set(path.split(os.sep)) - meant)):
            continue
        if path.lower().endswith(IMAGE_SUFFIXES):
            yield path
        elif "**" not in meant and os.path.isdir(path):
            yield from _walk(path)


def _walk(folder: str) -> Iterator[str]:
    folders = [folder]
    while folders:
        parent = folders.pop()
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    if not is_visible(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if not is_mask_folder(entry.name):
                            folders.append(entry.path)
                    elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                        yield entry.path.removeprefix("./")
        except OSError as error:
            raise UserError(
                f"{KEY}: cannot read the folder {parent} ({error.strerror}); check its permissions"
            ) from error


def _nothing(listed: bool, masks: int) -> str:
    if listed:
        return "lists no image; add a line for each"
    suffixes = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
    remark = f"only {masks} masks" if masks else "no image"
    return f"holds {remark} ({suffixes}; hidden files and …_mask files do not count)"
