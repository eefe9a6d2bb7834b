"""The bytes of an uploaded file to the pixels of one image; nothing is written to a disk."""

import dataclasses
import hashlib

import numpy as np

from jaxbusi.data import dicom
from jaxbusi.data.augment import AugmentSettings
from jaxbusi.data.images import ImageError, decode_image, is_dicom
from jaxbusi.serve import pictures
from jaxbusi.serve.analyst import Question, ask
from jaxbusi.serve.refusal import Refusal

TYPES = ("PNG", "JPEG", "BMP", "TIFF", "DICOM")

_BEGINNINGS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF and BigTIFF, in both byte orders
)


@dataclasses.dataclass(frozen=True)
class Upload:
    """One image of a file, without its pixels, which may be many.

    Attributes:
      width: pixels.
      height: pixels.
      frame: its number in the file, from 1.
      frames: how many the file has.
      sha256: of the file, hexadecimal.
      shown: the image as it is sent back, see `pictures.shown`; empty where nobody asks for it.
    """

    width: int
    height: int
    frame: int
    frames: int
    sha256: str
    shown: str


def prepare(
    data: bytes, frame: int, views: AugmentSettings, *, explain: bool
) -> tuple[Upload, Question]:
    """Decodes an image file, or a frame of a DICOM file; safe to call from any thread.

    Args:
      data: the whole file.
      frame: from 1.
      views: how the image's changed copies are made.
      explain: whether the answer is to be explained.

    Returns:
      What the file holds, and what is to be asked about it.

    Raises:
      Refusal: it cannot be used.
    """
    try:
        image, frames = _decode(data, frame)
    except ImageError as error:
        raise Refusal(422, f"the file {error.reason}") from error
    height, width = image.shape[:2]
    shown = pictures.shown(image) if explain else ""
    upload = Upload(width, height, frame, frames, hashlib.sha256(data).hexdigest(), shown)
    return upload, ask(image, views, explain=explain)


def _decode(data: bytes, frame: int) -> tuple[np.ndarray, int]:
    """uint8[H, W, 3], and how many frames there are."""
    if not data:
        raise Refusal(400, "the request has no body; send the bytes of an image file")
    if is_dicom(data):
        with dicom.open_clip(data, "") as clip:
            return clip.read(frame), clip.frames
    if not data.startswith(_BEGINNINGS):
        raise Refusal(415, f"the file is no image that is read: {', '.join(TYPES)}")
    if frame != 1:
        raise Refusal(422, "the file has one image; leave frame out")
    return decode_image(data, ""), 1
