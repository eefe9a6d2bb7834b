"""Which files are to be predicted: named, in folders, by patterns or in CSV lists; maybe millions.

No labels and no classes here: any folder will do. A path is kept as bytes, about 50 more than its
length, because a list of a million `Path` objects would take a gigabyte. A DICOM file of several
frames has a place in the list for each: its path, a zero byte, which no path has, and the number of
the frame, from 1.
"""

import contextlib
import glob
import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxbusi.data import dicom
from jaxbusi.data.folders import is_mask, is_mask_folder, is_visible
from jaxbusi.data.images import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    decode_image,
    is_image,
    read_file,
)
from jaxbusi.data.tables import iterate_images
from jaxbusi.errors import UserError

_OF_ONE_FRAME = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES if suffix not in DICOM_SUFFIXES)

KEY = "INPUT"
"""What opens error messages: the argument of the command."""


def find_inputs(given: Sequence[str]) -> list[bytes]:
    """Lists the images to predict; of all files, only those that may be DICOM are opened.

    * A folder is searched with all folders in it, but for hidden ones and those of masks, for what
      `images.is_image` takes. Links to folders are not followed.
    * A name with `*`, `?` or `[` that no file has is a pattern; `**` stands for folders at any
      depth. Folders that it fits are searched.
    * A `.csv` file lists images in its column `image`, relative to its own folder. These may have
      any name, and need not be there: what is missing is for the predictions to say.
    * Any other file is taken for an image, whatever its suffix.
    * Of a DICOM file of several frames, each is an image.

    Masks (`…_mask.png`, `…_mask_1.png`) are left aside and counted in the log, but for CSV lists.

    Args:
      given: the arguments of the command.

    Returns:
      Paths as the file system has them (`os.fsencode`), each once, sorted by their bytes, frames by
      their numbers. They begin as the argument does that led to them.

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
    return [image for path, _ in itertools.groupby(paths) for image in _frames(path)]


def _frames(path: bytes) -> Iterable[bytes]:
    """The places in the list of what is in a file."""
    if path.lower().endswith(_OF_ONE_FRAME):
        return (path,)
    frames = dicom.count_frames(os.fsdecode(path))
    return (path,) if frames == 1 else (b"%b\0%d" % (path, n) for n in range(1, frames + 1))


class Reader:
    """Reads the images of a list; a DICOM file stays open while it is the turn of its frames."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._path = ""
        self._clip: dicom.Clip | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, image: bytes, name: str) -> np.ndarray:
        """Reads and decodes an image of `find_inputs`.

        Args:
          image: as the list has it.
          name: what to call it in an error.

        Returns:
          uint8[H, W, 3], RGB.

        Raises:
          ImageError: it cannot be used.
        """
        file, _, frame = image.partition(b"\0")
        path = os.fsdecode(file)
        if not frame:
            return decode_image(read_file(Path(path), name), name)
        if self._clip is None or path != self._path:
            self._open.close()
            self._clip = self._open.enter_context(dicom.open_clip(path, name))
            self._path = path
        return self._clip.read(int(frame))


def digest(paths: Iterable[bytes]) -> str:
    """Returns the hexadecimal sha256 of a list of paths."""
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(path + b"\0")
    return hashed.hexdigest()


def shown(path: bytes) -> str:
    r"""Returns an image's name for a table: its path, and of several frames `#` and the number.

    Bytes that are no UTF-8 become `\xNN`.
    """
    return path.replace(b"\0", b"#").decode("utf-8", "backslashreplace")


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
        if is_image(path):
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
                    elif is_image(entry.path):
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
