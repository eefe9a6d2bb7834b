"""A perceptual hash: the low frequencies of an image's texture, of the whole and of its parts.

The whole of a crop is a part of the image that it was cropped from. So every image is filed under
the hashes of its whole and of eighteen parts, and looked up by the hash of its whole, as it is and
mirrored. Hashes are unit vectors; their dot product is the correlation of two smoothed textures.
"""

import functools
from collections.abc import Sequence

import numpy as np

from jaxbusi.data.fingerprints import SIDE

View = tuple[float, float, float]
"""Left and upper edge, and width (which is the height too), as shares of the image's."""

_PARTS = (0.85, 0.72)  # A crop that keeps 70 % or more of either side is close to one of these.
_FREQUENCIES = 12  # Half waves over the view; more tell images apart and crops from their part.
_BLOCK = 256  # Images at a time.

VIEWS: tuple[View, ...] = (
    (0.0, 0.0, 1.0),
    *(
        (left * (1 - share), top * (1 - share), share)
        for share in _PARTS
        for left in (0.0, 0.5, 1.0)
        for top in (0.0, 0.5, 1.0)
    ),
)
"""The whole first, then its parts."""

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
      float16[N, 19, 77]: unit vectors in the order of `VIEWS`; zeros where there is no structure.
    """
    hashes = np.zeros((len(textures), len(VIEWS), LENGTH), np.float16)
    for first in range(0, len(textures), _BLOCK):
        block = np.stack(textures[first : first + _BLOCK]).astype(np.float32)
        for number, (left, top, share) in enumerate(VIEWS):
            down, across = _waves(top, share), _waves(left, share)
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
