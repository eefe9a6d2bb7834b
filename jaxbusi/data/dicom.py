"""DICOM files of ultrasound, one frame at a time: the pixels, and nothing of the patient.

pydicom reads the header, of which only the elements of `_WANTED` are kept. What it says of a file
goes nowhere, since it may quote any element: errors here name the file and what is wrong, numbers
of pixels and frames, and names that the standard itself has. Frames are decoded by Pillow, which
images need anyway, so that the extra `dicom` is pydicom alone.
"""

import contextlib
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import numpy as np

from jaxbusi.data.dicom_layout import (
    BIG_ENDIAN,
    IMPLICIT,
    SYNTAXES,
    Layout,
    Undecodable,
    read_layout,
)
from jaxbusi.data.dicom_pixels import show
from jaxbusi.data.images import DICOM_HEAD, MAX_PIXELS, ImageError, is_dicom, open_regular

_T = TypeVar("_T")

MAX_FRAMES = 10_000
"""Most frames of a file: minutes of ultrasound."""

MAX_CLIP_BYTES = 4 * 2**30
"""Largest file accepted that is read frame by frame; no more than a frame of it is in memory."""

_Places = list[tuple[int, int]]
"""Where pieces of a file begin, and their lengths, in bytes."""

_LONGEST_HEADER = 2 * 2**20  # What is read of it; a table of 65,536 colours takes 128 KiB.
_MOST_FRAGMENTS = 100_000
_SYNTAX = 0x00020010
_PYDICOM_FILTER = ("ignore", None, Warning, re.compile(r"pydicom\."), 0)
_WANTED = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleIntercept", "RescaleSlope", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("ModalityLUTSequence", "VOILUTSequence", "SequenceOfUltrasoundRegions"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue")
      for part in ("Descriptor", "Data")),
)  # fmt: skip


def count_frames(path: str) -> int:
    """Returns how many frames a file has; 1 for what is no DICOM or cannot be read."""
    with contextlib.suppress(OSError, ImageError), open_regular(path) as file:
        if is_dicom(file.read(DICOM_HEAD)):
            return _Source(file, path).layout.frames
    return 1


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes a file of one frame, as `Clip.read` does.

    Raises:
      ImageError: it cannot be decoded, or has several frames: which of them the label is for is
        not known.
    """
    source = _Source(io.BytesIO(data), name)
    frames = source.layout.frames
    if frames > 1:
        reason = f"is a clip of {frames} frames where one image is needed"
        raise ImageError(name, f"{reason}; save the frames that count as images of their own")
    return Clip(source).read(1)


class Clip:
    """The frames of an open DICOM file.

    Attributes:
      frames: how many there are.
    """

    def __init__(self, source: "_Source"):
        """Takes the file; `open_clip` makes one."""
        self._source = source
        self.frames = source.layout.frames

    def read(self, number: int) -> np.ndarray:
        """Decodes one frame.

        * MONOCHROME1 is inverted; palettes and YBR become RGB; gray is repeated in three channels.
        * Gray of more than 8 bits is rescaled, by slope and intercept or a table, and shown as its
          table or first window says; without one, over the whole range of its bits. Of enhanced
          files what all frames share is applied, and what each has of its own is refused.
        * Where the file lists regions of tissue (`SequenceOfUltrasoundRegions` with a spatial
          format of 2D and a data type of tissue), the frame is cropped to what holds them all, and
          what is in none of them is black.

        Args:
          number: of the frame, from 1.

        Returns:
          uint8[H, W, 3].

        Raises:
          ImageError: there is no such frame, it is damaged, or it is stored in a way that is not
            read; the message names the way.
        """
        source = self._source
        if not 1 <= number <= self.frames:
            raise ImageError(source.name, f"has no frame {number}; it has {self.frames}")
        what = f"frame {number} " if self.frames > 1 else ""
        return _guarded(source.name, what, lambda: show(source.frame(number - 1), source.layout))


@contextlib.contextmanager
def open_clip(source: str | Path | bytes, name: str) -> Generator[Clip]:
    """Opens a DICOM file of any number of frames.

    Args:
      source: the path of the file, or what is in it.
      name: what to call it in an error.

    Raises:
      ImageError: it cannot be read, or is no DICOM file that is understood.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error}); check the file and its permissions"
        raise ImageError(name, reason) from error
    with file:
        yield Clip(_Source(file, name))


class _Source:
    """The header of a file, and where its frames are."""

    def __init__(self, file: BinaryIO, name: str):
        self.name = name
        self._file = file
        self._places: list[_Places] | None = None
        _guarded(name, "", self._read_header)

    def _read_header(self) -> None:
        if self._file.seek(0, os.SEEK_END) > MAX_CLIP_BYTES:
            most = MAX_CLIP_BYTES >> 30
            raise Undecodable(f"is larger than the {most} GiB that are accepted; divide it")
        self.layout = _read_header(self._file)
        self._begin, self._length = _find_pixels(self._file, self.layout)
        self._check_length()

    def frame(self, index: int) -> bytes:
        """The stored bytes of a frame."""
        if not self.layout.encapsulated:
            size = self.layout.native_bytes
            return self._read(self._begin + index * size, size)
        if self._places is None:
            self._places = _frame_places(self._file, self._begin, self.layout.frames)
        places = self._places[index]
        if sum(size for _, size in places) > 2 * self.layout.native_bytes + 2**16:
            raise Undecodable("is damaged: it takes more than its pixels would")
        return b"".join(self._read(place, size) for place, size in places)

    def _read(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        data = self._file.read(size)
        if len(data) < size:
            raise Undecodable("is truncated; fetch the file again")
        return data

    def _check_length(self) -> None:
        layout, left = self.layout, self._file.seek(0, os.SEEK_END) - self._begin
        least = layout.frames * (8 if layout.encapsulated else layout.native_bytes)
        if least > min(left, self._length):
            raise Undecodable(
                f"is truncated: it should hold {layout.frames} frames of "
                f"{layout.columns}x{layout.rows} pixels and holds fewer; fetch it again"
            )


def _guarded(name: str, what: str, work: Callable[[], _T]) -> _T:
    """Does what may fail in any way; what it says then quotes nothing of the file."""
    try:
        return work()
    except (Undecodable, ImageError) as error:  # our own
        reason = f"{what}{getattr(error, 'reason', error)}"
    except Exception as error:  # pydicom and Pillow raise dozens, which quote what they read
        reason = f"{what}is damaged ({type(error).__name__}); fetch the file again"
    # Outside of the handlers: this error would carry the other one, to be shown in a traceback.
    raise ImageError(name, reason)


def _read_header(file: BinaryIO) -> Layout:
    dcmread, data_elements = _pydicom()
    file.seek(DICOM_HEAD)
    # Read first: pydicom would unpack what is deflated, to any size.
    meta = data_elements(_Counted(file), False, True, _is_beyond_meta, specific_tags=[_SYNTAX])
    found = [element.value for element in meta if element.tag == _SYNTAX]
    if len(found) != 1:
        raise Undecodable("is damaged: its transfer syntax is missing or said twice")
    syntax = bytes(found[0]).decode("ascii", "replace").rstrip("\0 ")
    if syntax not in SYNTAXES:
        _refuse_syntax(syntax)
    file.seek(0)
    counted = _Counted(file)
    try:
        dataset = dcmread(
            counted,
            stop_before_pixels=True,
            specific_tags=list(_WANTED),
            defer_size=_LONGEST_HEADER,  # What is longer is read when it is asked for, and refused.
        )
        layout = read_layout(dataset, syntax)
    except Exception:
        if counted.left < 0:  # pydicom makes errors of its own of those of a file
            most = _LONGEST_HEADER >> 20
            raise Undecodable(f"has more than {most} MiB in its header; save it as PNG") from None
        raise
    if layout.rows * layout.columns > MAX_PIXELS:
        raise Undecodable(f"has more than the {MAX_PIXELS:,} pixels that are accepted; scale it")
    if layout.frames > MAX_FRAMES:
        raise Undecodable(f"has more than the {MAX_FRAMES:,} frames that are accepted; divide it")
    return layout


class _Counted:
    """A file of whose header only so much is read.

    pydicom makes an object of each item of a sequence, of a thousand bytes where the file has 8.

    Attributes:
      left: how many bytes may still be read; below 0 where more were asked for.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.left = _LONGEST_HEADER
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Reads as the file does; ValueError where it is too much."""
        data = self._file.read(size if 0 <= size <= self.left else self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError
        return data


def _is_beyond_meta(tag: int, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _refuse_syntax(syntax: str) -> NoReturn:
    from pydicom.uid import UID_dictionary

    # What is not in the dictionary may be anything, and is not quoted.
    named = UID_dictionary[syntax][0] if syntax in UID_dictionary else "a syntax that is unknown"
    raise Undecodable(
        f"is stored as {named}, which is not read; convert it to an uncompressed transfer syntax, "
        "or save the frames as PNG"
    )


def _find_pixels(file: BinaryIO, layout: Layout) -> tuple[int, int]:
    """Place and length of the pixel data; the header has been read up to it."""
    order = ">" if layout.syntax == BIG_ENDIAN else "<"
    group, element = struct.unpack(f"{order}HH", file.read(4))
    if (group, element) != (0x7FE0, 0x0010):
        raise Undecodable("has no pixels of whole numbers; save it as PNG")
    if layout.syntax != IMPLICIT:
        file.read(4)  # VR and two empty bytes
    (length,) = struct.unpack(f"{order}L", file.read(4))
    return file.tell(), length


def _frame_places(file: BinaryIO, begin: int, frames: int) -> list[_Places]:
    """Places and lengths of the fragments of each frame of encapsulated pixel data."""
    items: _Places = []
    place = begin
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[:4] == b"\xfe\xff\xdd\xe0":
            break
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) != (0xFFFE, 0xE000) or len(items) > _MOST_FRAGMENTS:
            raise Undecodable("is damaged: its fragments are broken")
        items.append((place + 8, length))
        place += 8 + length
    if not items:
        raise Undecodable("is damaged: its fragments are broken")
    fragments = items[1:]  # the first one is the table of offsets
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    file.seek(items[0][0])
    if items[0][1] != 4 * frames:
        raise Undecodable("is damaged: where its frames begin is not said")
    table = struct.unpack(f"<{frames}L", file.read(4 * frames))
    begins = [fragment[0] - fragments[0][0] for fragment in fragments]
    firsts = [begins.index(offset) for offset in table]
    return [fragments[i:j] for i, j in zip(firsts, [*firsts[1:], len(fragments)], strict=True)]


def _pydicom() -> tuple[Any, Any]:
    """Its two functions, silenced: what it logs and warns of may quote any element.

    `warnings.catch_warnings` swaps process-wide state and is not safe in the threads that decode.
    """
    try:
        from pydicom import config, dcmread
        from pydicom.filereader import data_element_generator
    except ImportError:
        raise Undecodable("is DICOM, which needs pydicom; pip install 'jaxbusi[dicom]'") from None
    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").disabled = True
    if _PYDICOM_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"pydicom\.")
    return dcmread, data_element_generator
