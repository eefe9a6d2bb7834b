"""Lays one texture on another, and says how well the two agree where they overlap."""

import dataclasses
from typing import Any

import cv2
import numpy as np

from jaxbusi.data.fingerprints import SIDE
from jaxbusi.data.hashes import View

_HALF = SIDE // 2
_TILE = 12  # Pixels; 64 tiles.
_REACH = 8  # Largest shift tried, in pixels of half the size: a sixth of the side.
_FITTING = 0.3  # Agreement after the best shift from which the alignment is refined.
_PROMISING = 0.45  # Agreement at half size from which the full size is tried.
_LEAST_OVERLAP = 0.4  # Of the first image's area.
_SCALES = (0.5, 1.6)  # Of either axis: what a crop and a change of aspect do.
_MOST_SHEAR = 0.2
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 25, 1e-3)

# The stub of OpenCV asks for a mask where a blur is given; None is right.
_find_transform: Any = cv2.findTransformECC

_Warp = np.ndarray
"""float32[2, 3]: pixel of the first image to pixel of the second."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well two aligned textures agree.

    Attributes:
      score: normalised cross-correlation over the overlap, -1 to 1.
      typical: the median of the same over tiles of an eighth of the side. A bright outline that
        two images share by chance lifts `score`, and few tiles; a caliper spoils few tiles.
    """

    score: float
    typical: float


def align(first: np.ndarray, second: np.ndarray, view: View) -> Agreement | None:
    """Aligns the whole of `first` with the part `view` of `second`, and compares them.

    The best of all shifts is tried first, at half the size: it takes a tenth of the time, and most
    candidates end there. The alignment is then affine and maximises the enhanced correlation
    coefficient (Evangelidis and Psarakis, 2008), at half and at full size.

    Args:
      first: int8[96, 96], of `fingerprints.texture`; mirrored by the caller where that is asked.
      second: int8[96, 96].
      view: where in `second` to start.

    Returns:
      None where no plausible alignment was found, and the two have nothing in common.
    """
    left, top, width, height = view
    scale = np.diag([width, height])
    whole = first.astype(np.float32), second.astype(np.float32)
    small = [cv2.resize(i, (_HALF, _HALF), interpolation=cv2.INTER_AREA) for i in whole]
    # Pixel p is the point p + 1/2.
    shift = _HALF * np.array([left, top]) + (np.diag(scale) - 1) / 2
    warp = np.hstack([scale, shift[:, None]]).astype(np.float32)
    shifted = _shift(small[0], small[1], warp)
    found = None if shifted is None else _refine(small[0], small[1], shifted)
    if found is None or found[0] < _PROMISING:
        return None
    warp = found[1]
    # Twice the pixels: pixel p of the half is the point 2 p + 1/2 of the whole.
    warp[:, 2] = 2 * warp[:, 2] + (np.eye(2) - warp[:, :2]).sum(axis=1) / 2
    found = _refine(*whole, warp)
    return None if found is None else _compare(*whole, found[1])


def _shift(first: np.ndarray, second: np.ndarray, warp: _Warp) -> _Warp | None:
    """Moves `warp` to where the middle of `first` fits best; None where it fits nowhere."""
    moved = cv2.warpAffine(second, warp, (_HALF, _HALF), flags=_FLAGS)
    middle = first[_REACH:-_REACH, _REACH:-_REACH]
    fits = cv2.matchTemplate(moved, middle, cv2.TM_CCOEFF_NORMED)
    _, best, _, place = cv2.minMaxLoc(fits)
    if best < _FITTING:
        return None
    shifted = warp.copy()
    shifted[:, 2] += warp[:, :2] @ (np.array(place, np.float32) - _REACH)
    return shifted


def _refine(first: np.ndarray, second: np.ndarray, warp: _Warp) -> tuple[float, _Warp] | None:
    try:
        score, warp = _find_transform(first, second, warp, cv2.MOTION_AFFINE, _STEPS, None, 3)
    except cv2.error:  # Did not converge, or left the image: nothing to align to.
        return None
    scales = np.hypot(warp[0, :2], warp[1, :2])
    shear = abs(warp[0, 1]) + abs(warp[1, 0])
    plausible = _SCALES[0] < scales.min() and scales.max() < _SCALES[1] and shear < _MOST_SHEAR
    return (score, warp) if plausible else None


def _compare(first: np.ndarray, second: np.ndarray, warp: _Warp) -> Agreement | None:
    # The lightest blur that takes what resampling and JPEG add; as the alignment itself has it.
    first, second = (cv2.GaussianBlur(image, (3, 3), 0) for image in (first, second))
    moved = cv2.warpAffine(second, warp, (SIDE, SIDE), flags=_FLAGS)
    inside = cv2.warpAffine(np.ones_like(second), warp, (SIDE, SIDE), flags=_FLAGS) > 0.99
    if inside.mean() < _LEAST_OVERLAP:
        return None
    score = _correlation(first[inside][None], moved[inside][None])[0]
    whole_tiles = _tiles(inside).all(axis=1)
    if not whole_tiles.any():
        return None
    tiles = _correlation(_tiles(first)[whole_tiles], _tiles(moved)[whole_tiles])
    return Agreement(float(score), float(np.median(tiles)))


def _tiles(image: np.ndarray) -> np.ndarray:
    """[96, 96] to [64, 144]."""
    count = SIDE // _TILE
    return image.reshape(count, _TILE, count, _TILE).swapaxes(1, 2).reshape(count**2, -1)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the rows of two arrays [N, P]: [N], 0 where one is constant."""
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / np.maximum(norms, 1e-6)
