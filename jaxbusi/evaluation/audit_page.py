"""audit.html: what an audit found, every group side by side, for a person to judge in minutes."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from jaxbusi.data.images import ImageError, decode_image, read_file
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.data.threads import in_threads
from jaxbusi.errors import UserError
from jaxbusi.evaluation import page

MOST_GROUPS = 400
"""Groups shown; a page with more is slow to open, and nobody reads it to the end."""

MOST_IMAGES = 30
"""Images shown of a group."""

MOST_NAMES = 500
"""Names listed of images with marks, with colour, or unreadable."""

DOUBTFUL = 0.6
"""Score of a link below which unrelated images are sometimes found: cysts resemble each other."""

_WIDTH, _HEIGHT = 240, 180  # Of a thumbnail in pixels, at most; twice what a phone shows in points.
_QUALITY = 72

_SECTIONS = (
    (
        "conflicts",
        "Labels that contradict each other",
        "Images of one thing that lie in folders of different classes. One of the labels is wrong, "
        "or the two pictures are not of the same lesion: look at the case, correct it, or leave "
        "the group out.",
    ),
    (
        "across",
        "Copies across folders",
        "Images that lie in more than one of the folders. If one folder is trained on and the "
        "other is meant to test, these images test nothing.",
    ),
    (
        "exact",
        "Exact copies",
        "Equal pixel for pixel, whatever the file's name and format.",
    ),
    (
        "near",
        "Near-copies and other frames of one place",
        "One picture cropped, scaled, mirrored, recompressed, or with and without calipers; and "
        "frames so alike that they show the same lesion. A split has to keep them on one side.",
    ),
)

_ROLES = {
    "reference": "largest",
    "exact": "exact copy",
    "copy": "near-copy",
    "mirrored": "mirrored",
    "scene": "same place",
}


def write_page(
    path: Path | str,
    document: Mapping[str, Any],
    records: Sequence[Record],
    *,
    progress: bool = False,
) -> None:
    """Writes the page, in one rename.

    Args:
      path: the file.
      document: of `findings.assemble`.
      records: the images, by the rows that `document` names; those shown are read again.
      progress: draw a progress bar where the standard error stream is a terminal.

    Raises:
      UserError: the page cannot be written.
    """
    shown = document["groups"][:MOST_GROUPS]
    page.write(
        path,
        "audit.html",
        audit=document,
        classes=CLASSES,
        sections=[
            {"name": name, "title": title, "words": words,
             "groups": [group for group in shown if _section(group) == name],
             "count": sum(_section(group) == name for group in document["groups"])}
            for name, title, words in _SECTIONS
        ],
        roles=_ROLES,
        thumbnails=_thumbnails(shown, records, progress),
        most_images=MOST_IMAGES,
        most_names=MOST_NAMES,
        doubtful=DOUBTFUL,
    )  # fmt: skip


def _section(group: Mapping[str, Any]) -> str:
    """The first section that a group belongs to; it is shown once."""
    if group["conflict"]:
        return "conflicts"
    if group["across"]:
        return "across"
    return "exact" if group["exact"] else "near"


def _thumbnails(
    groups: Sequence[Mapping[str, Any]], records: Sequence[Record], progress: bool
) -> dict[int, dict[str, Any]]:
    """By row: data URI, width and height of the thumbnail."""
    rows = sorted({image["row"] for group in groups for image in group["images"][:MOST_IMAGES]})
    bar = tqdm(
        in_threads(lambda row: _thumbnail(records[row]), rows),
        total=len(rows),
        desc="drawing the page",
        unit="image",
        disable=None if progress else True,
    )
    return dict(zip(rows, bar, strict=True))


def _thumbnail(record: Record) -> dict[str, Any]:
    try:
        image = decode_image(read_file(record.image, record.name), record.name)
    except ImageError as error:
        raise UserError(
            f"{record.name}: the file changed while it was in use ({error}); start again"
        ) from error
    height, width = image.shape[:2]
    scale = min(1.0, _WIDTH / width, _HEIGHT / height)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    gray = np.ptp(small, axis=2).max() == 0
    pixels = small[..., 0] if gray else cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    uri = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
    return {"uri": uri, "width": size[0], "height": size[1]}
