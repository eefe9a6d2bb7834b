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
_NEAR = 61  # Pixels across, around a stroke: where the rest of its word or caliper is looked for.
_AROUND = 7  # Pixels across, around what was found: its soft edge.


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
    return Overlay(int(_strokes(_scaled(gray)).sum()), _coloured_share(_spread(image)))


def find_marks(image: np.ndarray) -> np.ndarray:
    """Returns bool[H, W], where the strokes and colours of `find_overlay` are, and what is around.

    Near an upright stroke whatever is as thin, bright and hard-edged, though it lies across or
    aslant, belongs to the same word or caliper. A picture that is coloured as a whole has no
    coloured marks.

    Args:
      image: uint8[H, W, 3], RGB.
    """
    height, width = image.shape[:2]
    gray = _scaled(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    near = cv2.dilate(_strokes(gray), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_NEAR, _NEAR)))
    small = near & _narrow(gray, (_STROKE, _STROKE))
    marks = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    spread = _spread(image)
    if 0 < _coloured_share(spread) <= _COLOURED_WHOLE:
        marks = marks | (spread > _COLOUR_SPREAD)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_AROUND, _AROUND))
    return np.asarray(cv2.dilate(marks.astype(np.uint8), around), bool)


def _scaled(gray: np.ndarray) -> np.ndarray:
    """The same, or one of `_LARGEST` where it is larger."""
    scale = _LARGEST / max(gray.shape)
    if scale >= 1:
        return gray
    height, width = (max(1, round(scale * side)) for side in gray.shape)
    return np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _strokes(gray: np.ndarray) -> np.ndarray:
    """uint8[H, W], 1 in upright strokes."""
    down = cv2.getStructuringElement(cv2.MORPH_RECT, (1, _STROKE))
    strokes = cv2.morphologyEx(_narrow(gray, (_STROKE, 1)), cv2.MORPH_OPEN, down)
    height, width = (round(s * n) + _STROKE for s, n in zip(_CORNER, gray.shape, strict=True))
    strokes[:height, :width] = 0
    return np.asarray(strokes, np.uint8)


def _narrow(gray: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """uint8[H, W], 1 where a pixel is bright, in something narrower than a window."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, window)
    above = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, kernel)
    return np.asarray((above >= _CONTRAST) & (gray >= _BRIGHT), np.uint8)


def _spread(image: np.ndarray) -> np.ndarray:
    """uint8[H, W], levels between the channels."""
    red, green, blue = cv2.split(image)
    brightest = cv2.max(cv2.max(red, green), blue)
    darkest = cv2.min(cv2.min(red, green), blue)
    return np.asarray(cv2.subtract(brightest, darkest), np.uint8)


def _coloured_share(spread: np.ndarray) -> float:
    share = float((spread > _COLOUR_SPREAD).mean())
    return share if share >= _COLOUR_SHARE else 0.0
