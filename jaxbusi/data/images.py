"""One encoded image file to uint8 RGB, one mask file to bool, or an error that names the file.

DICOM files are recognised here and decoded in `dicom`.
"""

import errno
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from jaxbusi.data.records import Blob
from jaxbusi.errors import UserError, one_line

DICOM_SUFFIXES: tuple[str, ...] = (".dcm", ".dicom")

IMAGE_SUFFIXES: tuple[str, ...] = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    *DICOM_SUFFIXES,
)
"""File name endings that are read as images; compared in lower case. See `is_image` too."""

DICOM_HEAD = 132
"""Bytes of a file that `is_dicom` looks at."""

MAX_PIXELS = 64_000_000
"""Largest image accepted, in pixels (BUSI's largest has under one million).

A file of a few kilobytes can claim gigabytes of pixels; it is refused before it is decoded.
"""

MAX_BYTES = 256 * 2**20
"""Largest image file accepted: `MAX_PIXELS` of RGB and transparency, uncompressed."""

MAX_RUN_LENGTH_PIXELS = 4_000_000
"""Largest BMP accepted that is stored as run lengths, in pixels: Pillow decodes it in Python."""

MAX_TILE_PIXELS = 16_000_000
"""Largest tile of a TIFF accepted: one tile is held whole, however small the image."""

MAX_SCANNED_PIXELS = 40 * MAX_PIXELS
"""Most pixels times scans of a JPEG: each scan, of a hundred bytes, may pass over all pixels."""

_NO_ENDING = re.compile(r"[^.]*|[0-9.]+")  # Archives name files by number: 1.2.840.113619.2.55.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_RUN_LENGTHS = (1, 2)  # BI_RLE8, BI_RLE4
_TILE_SIDES = (322, 323)  # TileWidth, TileLength
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class ImageError(UserError):
    """An image or mask file that cannot be used.

    Attributes:
      name: the file, as the caller calls it.
      reason: what is wrong with it, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = one_line(reason)

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # Survives the way back from a worker process.


def is_image(path: str) -> bool:
    """Whether a file counts as an image in a folder: by its name's ending, one of `IMAGE_SUFFIXES`.

    DICOM often has none (`IM000001`, `1.2.840.113619.2.55`): such files, but for `DICOMDIR`, which
    is a table, are opened and count where they begin as DICOM does.
    """
    name = os.path.basename(path)
    if name.lower().endswith(IMAGE_SUFFIXES):
        return True
    if name == "DICOMDIR" or not _NO_ENDING.fullmatch(name):
        return False
    try:
        with open_regular(path) as file:
            return is_dicom(file.read(DICOM_HEAD))
    except OSError:  # none that is read; a folder
        return False


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file for reading; any other would be waited for.

    Raises:
      OSError: it is none, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file")
    return open(descriptor, "rb")


def read_file(blob: Blob, name: str) -> bytes:
    """Reads an encoded image.

    Args:
      blob: where it is.
      name: what to call it in an error.

    Raises:
      ImageError: it cannot be read, is no regular file (a pipe would never end), or is larger than
        `MAX_BYTES`.
    """
    try:
        if isinstance(blob, Path):
            about = blob.stat()
            if not stat.S_ISREG(about.st_mode):
                raise ImageError(name, "is no regular file; put the image itself there")
            if about.st_size > MAX_BYTES:
                reason = f"is larger than the {MAX_BYTES >> 20} MiB that are accepted"
                raise ImageError(name, f"{reason}; scale it down or save it as PNG")
        return blob.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error}); check the file and its permissions"
        raise ImageError(name, reason) from error


def is_dicom(data: bytes) -> bool:
    """Whether an encoded file begins as DICOM does."""
    return data[128:DICOM_HEAD] == b"DICM"


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a PNG, JPEG, BMP or TIFF file, or a DICOM file of one frame.

    * Gray, palette, 1-bit, CMYK and YCbCr pixels become RGB; gray is repeated in three channels.
    * Transparent pixels are composited on black, the background of an ultrasound image.
    * Gray of 16 or 32 bits is taken to have 8, 10, 12, 14 or 16 significant bits, the fewest that
      hold the largest value, and that range is scaled linearly to 0..255: 12-bit pixels in a
      16-bit file keep their contrast. Of colour at 16 bits a channel, the upper 8 are kept.
    * The orientation that EXIF asks for is applied.
    * Of a file with several pages, the first is read; of DICOM with several frames none.
    * For DICOM see `dicom.Clip.read`.

    Args:
      data: the whole encoded file.
      name: what to call the file in an error.

    Returns:
      uint8[H, W, 3], values 0..255.

    Raises:
      ImageError: not one of the five formats, damaged, truncated, over `MAX_PIXELS`, negative or
        over 65535 in a gray value, or floating-point pixels (their range is not in the file).
    """
    if is_dicom(data):
        from jaxbusi.data import dicom  # which takes what is above from here

        return dicom.decode(data, name)
    image = _open(data, name)
    if image.mode.startswith("I"):
        gray = _to_8_bits(np.asarray(image), name)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.array(_to_rgb(image, name))


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """Decodes a lesion mask of any pixel mode that `decode_image` takes.

    A pixel is inside where its brightest channel reaches half of the largest value in the file, so
    that 0/1, 0/255, 16-bit and coloured masks all work; an all-black mask has no inside. JPEG
    leaves faint noise on black, hence there the limit is 128 of 255 whatever the largest value.

    Returns:
      bool[H, W].

    Raises:
      ImageError: as `decode_image`.
    """
    if is_dicom(data):
        raise ImageError(name, "is DICOM, as which masks are not read; save it as PNG")
    image = _open(data, name)
    is_jpeg = image.format in ("JPEG", "MPO")
    if image.mode not in ("1", "L") and not image.mode.startswith("I"):
        image = _to_rgb(image, name)
    values = np.asarray(image)
    if values.ndim == 3:
        values = values.max(axis=2)
    limit = 128 if is_jpeg else values.max() / 2
    return (values > 0) & (values >= limit)


def lesion_mask(masks: Sequence[bytes], name: str, size: tuple[int, int]) -> np.ndarray:
    """Unites the masks of one image.

    Args:
      masks: the encoded mask files; none gives an empty mask.
      name: the image's name, for errors.
      size: height and width of the image in pixels.

    Returns:
      bool[H, W].

    Raises:
      ImageError: a mask that cannot be decoded, or whose size is not the image's. It is not
        stretched to fit: a mask of another size belongs to another version of the image.
    """
    union = np.zeros(size, bool)
    for number, data in enumerate(masks, 1):
        mask = decode_mask(data, f"mask {number} of {name}")
        if mask.shape != size:
            raise ImageError(
                f"mask {number} of {name}",
                f"measures {mask.shape[1]}x{mask.shape[0]} pixels, the image {size[1]}x{size[0]}; "
                "export the mask at the size of the image",
            )
        union |= mask
    return union


def resize(image: np.ndarray, height_width: int) -> np.ndarray:
    """Resizes to a square without keeping the aspect, bilinear with antialiasing.

    Matches `torchvision.transforms.Resize((s, s))` on a PIL image.

    Args:
      image: uint8[H, W, C] with C 1 or 3.
      height_width: the side s of the result in pixels.

    Returns:
      uint8[s, s, C].
    """
    channels = image.shape[2]
    source = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    resized = source.resize((height_width, height_width), Image.Resampling.BILINEAR)
    return np.array(resized).reshape(height_width, height_width, channels)


def probe(data: bytes, name: str, formats: tuple[str, ...]) -> Image.Image:
    """Opens an encoded image and decodes none of it, so that it can be refused.

    Args:
      data: the whole encoded file.
      name: what to call it in an error.
      formats: that Pillow may take it for.

    Raises:
      ImageError: it is small and takes minutes to decode.
      Image.DecompressionBombError: it has more than `MAX_PIXELS`.
      Exception: a dozen others, of Pillow.
    """
    _silence_pillow()
    image = Image.open(io.BytesIO(data), formats=formats)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    _check_effort(image, data, name)
    return image


def _open(data: bytes, name: str) -> Image.Image:
    """Loads the first frame, upright."""
    if not data:
        raise ImageError(name, "is empty (0 bytes); fetch the file again")
    try:
        with probe(data, name, _FORMATS) as first:
            first.verify()  # Check sums of PNG chunks; 40 µs.
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        reason = f"has more than the {MAX_PIXELS:,} pixels that are accepted; scale it down"
        raise ImageError(name, reason) from None
    except UnidentifiedImageError:
        raise ImageError(name, "is not a PNG, JPEG, BMP, TIFF or DICOM image") from None
    except Exception as error:  # Pillow raises a dozen types on damaged files.
        reason = " ".join(f"is damaged or truncated ({error}); fetch the file again".split())
        raise ImageError(name, reason) from error
    if image.mode == "F":
        reason = "holds floating-point pixels of unknown range; save it with 8 or 16 bits"
        raise ImageError(name, reason)
    return image


def _check_effort(image: Image.Image, data: bytes, name: str) -> None:
    """Refuses what is small and takes minutes to decode."""
    pixels, compression = image.width * image.height, image.info.get("compression")
    if image.format == "BMP" and compression in _RUN_LENGTHS and pixels > MAX_RUN_LENGTH_PIXELS:
        reason = f"is a BMP of run lengths with more than {MAX_RUN_LENGTH_PIXELS:,} pixels"
        raise ImageError(name, f"{reason}; save it as PNG")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        sides = [image.tag_v2.get(tag) for tag in _TILE_SIDES]
        # What is no whole number, Pillow refuses.
        if math.prod(side for side in sides if isinstance(side, int)) > MAX_TILE_PIXELS:
            reason = f"is a TIFF of tiles of more than {MAX_TILE_PIXELS:,} pixels"
            raise ImageError(name, f"{reason}; save it as PNG")
    if image.format in ("JPEG", "MPO") or compression == "jpeg":
        scans = data.count(b"\xff\xda")  # Occurs nowhere else in a JPEG's pixels.
        if scans * pixels > MAX_SCANNED_PIXELS:
            most = MAX_SCANNED_PIXELS // pixels
            reason = f"is a JPEG of {scans} scans, at its size at most {most} are accepted"
            raise ImageError(name, f"{reason}; save it as PNG")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    except ValueError:
        reason = f"has pixels of mode {image.mode}, which do not convert to RGB; save it as RGB"
        raise ImageError(name, reason) from None


def _to_8_bits(values: np.ndarray, name: str) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        reason = f"holds gray values {low} to {high}; 0 to 65535 are accepted, rescale them"
        raise ImageError(name, reason)
    bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
    return np.round(values * (255 / ((1 << bits) - 1))).astype(np.uint8)


def _silence_pillow() -> None:
    """Keeps Pillow's remarks on odd but readable metadata from the user's screen.

    `warnings.catch_warnings` swaps process-wide state and is not safe in the threads that decode,
    so that the filter is added once and stays.
    """
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
