"""A perceptual hash: the low frequencies of an image's texture, of the whole and of its parts.

The whole of a crop is a part of the image that it was cropped from. So every image is filed under
the hashes of its whole and of 24 parts, and looked up by the hash of its whole, as it is and
mirrored. Hashes are unit vectors; their dot product is the correlation of two smoothed textures.
"""

import functools
from collections.abc import Sequence

import numpy as np

from jaxbusi.data.fingerprints import SIDE

View = tuple[float, float, float, float]
"""Left and upper edge, width and height, as shares of the image's."""

# A crop that keeps 70 % or more of either side is close to one of these; the last two are crops of
# one side alone, as where the black beside a fan-shaped scan is cut off.
_PARTS = ((0.85, 0.85), (0.72, 0.72), (0.72, 1.0), (1.0, 0.72))
_FREQUENCIES = 12  # Half waves over the view; more tell images apart and crops from their part.
_BLOCK = 256  # Images at a time.


def _places(share: float) -> tuple[float, ...]:
    """Where a part may begin: at the edge, in the middle, at the other edge."""
    return (0.0, (1 - share) / 2, 1 - share) if share < 1 else (0.0,)


VIEWS: tuple[View, ...] = (
    (0.0, 0.0, 1.0, 1.0),
    *(
        (left, top, width, height)
        for width, height in _PARTS
        for left in _places(width)
        for top in _places(height)
    ),
)
"""The whole first, then its 24 parts."""

_KEPT = [
    (row, column)
    for row in range(_FREQUENCIES)
    for column in range(_FREQUENCIES)
    if 0 < row + column < _FREQUENCIES
]
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*_KEPT, strict=True))

LENGTH = len(_KEPT)
"""Numbers in a hash: 77."""


def hash_views(textures: Sequence[np.ndarray]) -> np.ndarray:
    """Hashes all views of images.

    A coefficient is that of the discrete cosine transform of the view, with 1 to 11 half waves in
    height and width together.

    Args:
      textures: N times int8[96, 96], of `fingerprints.texture`.

    Returns:
      float16[N, 25, 77]: unit vectors in the order of `VIEWS`; zeros where there is no structure.
    """
    hashes = np.zeros((len(textures), len(VIEWS), LENGTH), np.float16)
    for first in range(0, len(textures), _BLOCK):
        block = np.stack(textures[first : first + _BLOCK]).astype(np.float32)
        for number, (left, top, width, height) in enumerate(VIEWS):
            down, across = _waves(top, height), _waves(left, width)
            spectrum = (down @ block @ across.T)[:, _ROWS, _COLUMNS]
            norms = np.linalg.norm(spectrum, axis=1, keepdims=True)
            # A blank image has no direction; its hash is like no other.
            spectrum = np.divide(spectrum, norms, out=np.zeros_like(spectrum), where=norms > 1)
            hashes[first : first + _BLOCK, number] = spectrum
    return hashes


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """Hashes of the images mirrored left to right, of the hashes of their wholes [..., 77].

    Mirroring turns the sign of the waves with an odd number of halves across.
    """
    return hashes * np.where(_COLUMNS % 2, -1, 1).astype(hashes.dtype)


@functools.cache
def _waves(start: float, share: float) -> np.ndarray:
    """float32[12, 96]: unit cosines over the view from `start`, 0 outside it."""
    place = ((np.arange(SIDE) + 0.5) / SIDE - start) / share
    inside = (place > 0) & (place < 1)
    waves = np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * place) * inside
    return (waves / np.linalg.norm(waves, axis=1, keepdims=True)).astype(np.float32)
