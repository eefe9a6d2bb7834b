"""The stored bytes of one DICOM frame to uint8 RGB."""

import itertools
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from jaxbusi.data.dicom_layout import (
    BIG_ENDIAN,
    JPEG,
    JPEG_2000,
    JPEG_LOSSLESS,
    RLE,
    Layout,
    Undecodable,
)
from jaxbusi.data.images import probe

MAX_JPEG_2000_PIXELS = 16_000_000
"""Largest frame accepted in JPEG 2000, whose decoder takes 32 bits a value, several times over."""

_J2K_PRECISION = 42  # Where a codestream has the bits of its first component, and their sign.


def show(data: bytes, layout: Layout) -> np.ndarray:
    """Decodes a frame.

    Args:
      data: as it is stored, `Layout.native_bytes` of it where it is not compressed.
      layout: what the header says.

    Returns:
      uint8[H, W, 3], of the regions of tissue where the header has some.

    Raises:
      Undecodable: it is damaged, or stored in a way that is not read.
      Exception: any, of damaged data.
    """
    if layout.syntax in JPEG or layout.syntax in JPEG_LOSSLESS:
        values, is_rgb = _jpeg(data, layout)
    elif layout.syntax in JPEG_2000:
        values, is_rgb = _jpeg_2000(data, layout)
    else:
        is_rgb = False
        values = _rle(data, layout) if layout.syntax == RLE else _native(data, layout)
    shape = (layout.rows, layout.columns) + ((3,) if layout.samples == 3 else ())
    if values.shape != shape:
        _refuse_size(values.shape[1], values.shape[0], layout)
    return _crop(_colours(values, layout, is_rgb), layout)


def _colours(values: np.ndarray, layout: Layout, is_rgb: bool) -> np.ndarray:
    """Decoded values to uint8[H, W, 3]."""
    if layout.meaning == "PALETTE COLOR":
        return np.stack([_look_up(values, *colour) for colour in layout.palette], axis=2)
    if layout.samples == 1:
        gray = _gray(_signed(values, layout), layout)
        return np.repeat((~gray if layout.meaning == "MONOCHROME1" else gray)[:, :, None], 3, 2)
    if values.dtype != np.uint8:
        values = (values >> max(layout.used - 8, 0)).astype(np.uint8)
    if is_rgb or layout.meaning in ("RGB", "YBR_RCT", "YBR_ICT"):
        return values
    # The full-range YCbCr of JPEG, which DICOM calls YBR_FULL.
    return np.array(Image.frombytes("YCbCr", values.shape[1::-1], values.tobytes()).convert("RGB"))


def _signed(values: np.ndarray, layout: Layout) -> np.ndarray:
    """The bits that are used, as numbers; others may hold annotations."""
    if layout.used == 8 == layout.bits and not layout.signed:
        return values
    used = values.astype(np.int32) & ((1 << layout.used) - 1)
    half = 1 << (layout.used - 1)
    return (used ^ half) - half if layout.signed else used


def _gray(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Numbers to uint8 gray, the lowest dark."""
    if values.dtype == np.uint8:
        return values
    low = -(1 << (layout.used - 1)) if layout.signed else 0
    high = low + (1 << layout.used) - 1
    if layout.used <= 8:
        return np.round((values - low) * np.float32(255 / (high - low))).astype(np.uint8)
    if layout.modality is not None:
        table, highest = _entries(*layout.modality)
        scaled = table.astype(np.float32)[_places(values, layout.modality[0])]
        ends = [0.0, float(highest)]
    else:
        slope, intercept = layout.rescale
        scaled = values.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        ends = sorted((low * slope + intercept, high * slope + intercept))
    if layout.table is not None:
        return _look_up(scaled, *layout.table)
    if layout.window is None:
        gray = (scaled - np.float32(ends[0])) / np.float32(ends[1] - ends[0])
    else:
        gray = _window(scaled, *layout.window)
    if not np.isfinite(gray).all():
        raise Undecodable("has a window or scale that gives no numbers; save it as PNG")
    return np.round(255 * np.clip(gray, 0, 1)).astype(np.uint8)


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """The functions of the standard's part 3, C.11.2.1; float32 on 0 … 1 and beyond."""
    if not width > 0 or (function == "LINEAR" and width < 1):
        raise Undecodable("has a window without a width; save it as PNG")
    if function == "LINEAR":
        if width == 1:
            return (values > centre - 0.5).astype(np.float32)
        return (values - np.float32(centre - 0.5)) / np.float32(width - 1) + np.float32(0.5)
    along = (values - np.float32(centre)) / np.float32(width)
    if function == "LINEAR_EXACT":
        return along + np.float32(0.5)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * np.clip(along, -20, 20)))
    raise Undecodable("has a window of an unknown function; save it as PNG")


def _look_up(values: np.ndarray, descriptor: Sequence[int], content: Any) -> np.ndarray:
    """Numbers to uint8 by a table."""
    table, highest = _entries(descriptor, content)
    shown = np.round(table * (255 / highest)).astype(np.uint8)
    return shown[_places(values, descriptor)]


def _entries(descriptor: Sequence[int], content: Any) -> tuple[np.ndarray, int]:
    """What a table holds, int64, and the most that its bits could."""
    entries, _, bits = (int(number) for number in descriptor)
    entries = entries or 1 << 16
    if isinstance(content, bytes):
        # Of 8 bits an entry may take a byte or two.
        content = np.frombuffer(content, np.uint8 if len(content) < 2 * entries else "<u2")
    table = np.asarray(content, np.int64)[:entries]
    if len(table) < entries or bits not in range(8, 17):
        raise Undecodable("is damaged: a table of colours or values is too short")
    highest = (1 << bits) - 1
    return table & highest, highest


def _places(values: np.ndarray, descriptor: Sequence[int]) -> np.ndarray:
    """Where in a table numbers are: its ends for those beyond them."""
    entries, first = int(descriptor[0]), int(descriptor[1])
    return np.clip(values.astype(np.int64) - first, 0, (entries or 1 << 16) - 1)


def _crop(image: np.ndarray, layout: Layout) -> np.ndarray:
    """The rectangle around the regions; black where it holds what is in none."""
    if not layout.regions:
        return image
    seen = np.zeros(image.shape[:2], bool)
    for left, top, right, bottom in layout.regions:
        seen[top : bottom + 1, left : right + 1] = True
    lefts, tops, rights, bottoms = zip(*layout.regions, strict=True)
    box = np.s_[min(tops) : max(bottoms) + 1, min(lefts) : max(rights) + 1]
    return np.where(seen[box][:, :, None], image[box], np.uint8(0))


def _native(data: bytes, layout: Layout) -> np.ndarray:
    order = ">" if layout.syntax == BIG_ENDIAN else "<"
    values = np.frombuffer(data, np.uint8 if layout.bits == 8 else f"{order}u2")
    if layout.bits == 16:
        values = values.astype(np.uint16)  # in the order of this machine
    rows, columns = layout.rows, layout.columns
    if layout.is_subsampled:
        pairs = values.reshape(rows, -1, 4)  # two of brightness, one of each colour
        colours = np.repeat(pairs[:, :, None, 2:], 2, axis=2)
        return np.concatenate([pairs[:, :, :2, None], colours], axis=3).reshape(rows, columns, 3)
    return _planes(values, layout) if layout.planar else values.reshape(_shape(layout))


def _shape(layout: Layout) -> tuple[int, ...]:
    size = (layout.rows, layout.columns)
    return size if layout.samples == 1 else (*size, layout.samples)


def _planes(values: np.ndarray, layout: Layout) -> np.ndarray:
    return np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, 2)


def _rle(data: bytes, layout: Layout) -> np.ndarray:
    """A segment for each byte of a value, the highest first; each is run lengths as in TIFF."""
    count, *offsets = struct.unpack("<16L", data[:64])
    depth = layout.bits // 8
    if count != layout.samples * depth:
        raise Undecodable("is damaged: it has another number of segments than its header says")
    begins = [*offsets[:count], len(data)]
    # Taken for one long line: some encoders let runs cross from row to row.
    size = (layout.rows * layout.columns, 1)
    segments = [
        np.frombuffer(Image.frombytes("L", size, data[i:j], "packbits", "L").tobytes(), np.uint8)
        for i, j in itertools.pairwise(begins)
    ]
    planes = np.stack(segments).reshape(layout.samples, depth, -1)
    values = planes[:, 0] if depth == 1 else planes[:, 0] * np.uint16(256) + planes[:, 1]
    return values[0].reshape(_shape(layout)) if layout.samples == 1 else _planes(values, layout)


def _jpeg(data: bytes, layout: Layout) -> tuple[np.ndarray, bool]:
    """Values, and whether they are RGB whatever the header says."""
    if layout.used > 8:
        raise Undecodable("is a JPEG of more than 8 bits, which is not read; save it as PNG")
    image = _open(data, "JPEG", layout)
    # Pillow's decoder takes three values for YCbCr, or of a lossless image for RGB, where no marker
    # says which they are; the header knows. As a draft in YCbCr they come out as they are.
    if layout.syntax in JPEG_LOSSLESS:
        if layout.samples == 3 and ("jfif" in image.info or image.info.get("adobe_transform")):
            image.draft("YCbCr", image.size)
        return np.array(image), False
    if layout.samples == 3 and "adobe" not in image.info and "jfif" not in image.info:
        image.draft("YCbCr", image.size)
        return np.array(image), False
    return np.array(image), True


def _jpeg_2000(data: bytes, layout: Layout) -> tuple[np.ndarray, bool]:
    if layout.rows * layout.columns > MAX_JPEG_2000_PIXELS:
        most = f"{MAX_JPEG_2000_PIXELS:,}"
        raise Undecodable(f"is JPEG 2000 with more than the {most} pixels that are accepted")
    if data[:2] != b"\xff\x4f":
        raise Undecodable("is damaged: its JPEG 2000 begins with no codestream")
    image = _open(data, "JPEG2000", layout)
    values = np.array(image)
    stated = data[_J2K_PRECISION]
    # Pillow widens to 8 or 16 bits, and lifts numbers with a sign above 0.
    precision = (stated & 127) + 1
    values = values >> max(8 * values.itemsize - precision, 0)
    if stated & 128 and layout.signed:
        values = values ^ values.dtype.type(1 << (precision - 1))
    return values, False


def _open(data: bytes, kind: str, layout: Layout) -> Image.Image:
    image = probe(data, "", (kind,))
    if image.size != (layout.columns, layout.rows):
        _refuse_size(*image.size, layout)
    return image


def _refuse_size(width: int, height: int, layout: Layout) -> NoReturn:
    raise Undecodable(
        f"is damaged: it holds {width}x{height} pixels of another kind or size than the "
        f"{layout.columns}x{layout.rows} that its header says"
    )
