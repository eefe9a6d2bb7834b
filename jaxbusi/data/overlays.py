"""What was drawn into an image: text, calipers, colour. Each may give a class away."""

import dataclasses

import cv2
import numpy as np

_LARGEST = 1024  # Pixels; strokes of larger images are wider than what is looked for.
_STROKE = 7  # Pixels: strokes are narrower than this, and at least as long.
_CONTRAST = 110  # Gray levels of a stroke above what lies left and right of it.
_BRIGHT = 150  # Gray level of a stroke.
_CORNER = 0.06, 0.08  # Share of height and width at the upper left, where the probe's mark sits.
_COLOUR_SPREAD = 8  # Levels between the channels; JPEG tints gray by less.
_COLOUR_SHARE = 1e-4  # Of the pixels; less is noise.
_COLOURED_WHOLE = 0.05  # Of the pixels; more is a coloured picture, and no mark in it.
_AROUND = 11  # Pixels across, around a stroke: the rest of its letter.


@dataclasses.dataclass(frozen=True)
class Overlay:
    """What was found to be burnt into an image.

    Attributes:
      marks: pixels in upright strokes of text, calipers and pictograms; 0 where there are none.
      colour: share of the pixels that are coloured, 0 to 1; 0 where it is too small to matter.
    """

    marks: int
    colour: float


def find_overlay(image: np.ndarray, gray: np.ndarray) -> Overlay:
    """Looks for burnt-in strokes and colour.

    Tissue has bright lines, but they lie along the layers: across the image or aslant. Letters,
    digits and the crosses of calipers have strokes that are upright, thin, bright, straight and
    hard-edged on both sides. The square at the upper left that marks the probe's side, which most
    images have, is passed over; so is what touches it, the scale bar's labels for instance.

    Args:
      image: uint8[H, W, 3], RGB.
      gray: uint8[H, W], the same.
    """
    return Overlay(int(_strokes(gray).sum()), _coloured_share(_spread(image)))


def find_marks(image: np.ndarray) -> np.ndarray:
    """Returns bool[H, W], where the strokes and colours of `find_overlay` are, and what is around.

    The rest of a letter or caliper lies within a few pixels of its upright strokes. A picture that
    is coloured as a whole has no coloured marks.

    Args:
      image: uint8[H, W, 3], RGB.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    strokes = cv2.resize(_strokes(gray), (width, height), interpolation=cv2.INTER_NEAREST)
    marks = np.asarray(strokes, bool)
    spread = _spread(image)
    if 0 < _coloured_share(spread) <= _COLOURED_WHOLE:
        marks = marks | (spread > _COLOUR_SPREAD)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_AROUND, _AROUND))
    return np.asarray(cv2.dilate(marks.astype(np.uint8), around), bool)


def _strokes(gray: np.ndarray) -> np.ndarray:
    """uint8, 1 in strokes, of the size of the image or of `_LARGEST`."""
    scale = _LARGEST / max(gray.shape)
    if scale < 1:
        height, width = (max(1, round(scale * side)) for side in gray.shape)
        gray = np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    across = cv2.getStructuringElement(cv2.MORPH_RECT, (_STROKE, 1))
    down = cv2.getStructuringElement(cv2.MORPH_RECT, (1, _STROKE))
    narrow = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, across)
    bright = ((narrow >= _CONTRAST) & (gray >= _BRIGHT)).astype(np.uint8)
    strokes = cv2.morphologyEx(bright, cv2.MORPH_OPEN, down)
    height, width = (round(s * n) + _STROKE for s, n in zip(_CORNER, gray.shape, strict=True))
    strokes[:height, :width] = 0
    return np.asarray(strokes, np.uint8)


def _spread(image: np.ndarray) -> np.ndarray:
    """uint8[H, W], levels between the channels."""
    red, green, blue = cv2.split(image)
    brightest = cv2.max(cv2.max(red, green), blue)
    darkest = cv2.min(cv2.min(red, green), blue)
    return np.asarray(cv2.subtract(brightest, darkest), np.uint8)


def _coloured_share(spread: np.ndarray) -> float:
    share = float((spread > _COLOUR_SPREAD).mean())
    return share if share >= _COLOUR_SHARE else 0.0
