"""Position embeddings for another number of patches."""

import math

import numpy as np

from jaxbusi.errors import UserError

_A = -0.75
"""Of the cubic convolution kernel (Keys 1981); torch's choice."""


def is_square(count: int) -> bool:
    """Whether so many positions can be a square grid."""
    return math.isqrt(count) ** 2 == count


def positions_with_token(positions: np.ndarray) -> np.ndarray:
    """Adds a position of zeros for a class token that has none: [1, T, width] to [1, T + 1, …]."""
    return np.pad(positions, ((0, 0), (1, 0), (0, 0)))


def resize_positions(positions: np.ndarray, grid: int, *, class_token: bool) -> np.ndarray:
    """Resizes a square grid of position embeddings; that of the class token stays.

    This is `torch.nn.functional.interpolate(mode='bicubic', align_corners=False)` without
    antialiasing, which Hugging Face's ViT and DINOv2 use.

    Args:
      positions: f32[1, T, width]; T is a square number, and one more with a class token.
      grid: side of the new grid, patches.
      class_token: whether the first row belongs to the class token.

    Returns:
      f32[1, grid² (+ 1), width].

    Raises:
      UserError: the grid is not square.
    """
    first = positions[:, : int(class_token)]
    patches = positions[:, int(class_token) :]
    if not is_square(patches.shape[1]):
        raise UserError(
            f"{patches.shape[1]} position embeddings are no square grid; take weights of a "
            "transformer for square images"
        )
    side = math.isqrt(patches.shape[1])
    if side == grid:
        return positions
    square = patches.reshape(side, side, -1).astype(np.float64)
    matrix = _bicubic(side, grid)
    resized = np.einsum("ih,jw,hwc->ijc", matrix, matrix, square, optimize=True)
    resized = resized.reshape(1, grid * grid, -1).astype(np.float32)
    return np.concatenate([first, resized], axis=1)


def _bicubic(length: int, size: int) -> np.ndarray:
    """Matrix f64[size, length] that resamples a line; pixels beyond its ends repeat them."""
    matrix = np.zeros((size, length))
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    first = np.floor(centres).astype(int)
    for tap in range(-1, 3):
        weights = _cubic(np.abs(centres - (first + tap)))
        np.add.at(matrix, (np.arange(size), np.clip(first + tap, 0, length - 1)), weights)
    return matrix


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
