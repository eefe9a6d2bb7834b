"""Pooling with torch's borders: explicit padding, `ceil_mode`, adaptive averages."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np


def max_pool(
    x: jax.Array, *, window: int, stride: int, padding: int = 0, ceil_mode: bool = False
) -> jax.Array:
    """`torch.nn.MaxPool2d(window, stride, padding, ceil_mode=ceil_mode)` over [B, H, W, C].

    Args:
      x: [B, H, W, C].
      window: height and width of the window, in pixels.
      stride: step of the window, in pixels.
      padding: pixels added on each of the four sides; they never win.
      ceil_mode: let the last window hang over the lower and right border, if it begins inside.

    Returns:
      [B, H', W', C], H' = ⌊(H + 2·padding - window) / stride⌋ + 1, or ⌈…⌉ in `ceil_mode`.
    """
    sides = tuple(
        (padding, padding + (_overhang(size, window, stride, padding) if ceil_mode else 0))
        for size in x.shape[1:3]
    )
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)
    # From the first pixel of the first window to that of the last one, and behind it.
    height, width = ((size - window) // stride * stride + 1 for size in x.shape[1:3])
    pixels = [
        jax.lax.slice(
            x,
            (0, row, column, 0),
            (x.shape[0], row + height, column + width, x.shape[3]),
            (1, stride, stride, 1),
        )
        for row, column in itertools.product(range(window), range(window))
    ]
    # One comparison after another, because the gradient of XLA's own window maximum is slow. As in
    # torch the first of equal values wins, and gets the gradient; NaN wins always.
    return functools.reduce(
        lambda best, new: jnp.where((new > best) | jnp.isnan(new), new, best), pixels
    )


def _overhang(size: int, window: int, stride: int, padding: int) -> int:
    """Pixels by which torch's last window in `ceil_mode` sticks out of the padded input."""
    padded = size + 2 * padding
    windows = -(-(padded - window) // stride) + 1
    if (windows - 1) * stride >= size + padding:
        windows -= 1  # torch drops a window that would begin in the right-hand padding
    return max(0, (windows - 1) * stride + window - padded)


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """`torch.nn.AdaptiveAvgPool2d(size)` over [B, H, W, C], giving [B, size, size, C].

    Bin i of n over a length L averages the pixels ⌊iL/n⌋ … ⌈(i+1)L/n⌉ - 1; neighbouring bins share
    pixels where n does not divide L, and repeat them where L < n.
    """
    rows, columns = (_averaging(length, size, x.dtype) for length in x.shape[1:3])
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns)


def _averaging(length: int, bins: int, dtype: jnp.dtype) -> jax.Array:
    """Matrix [bins, length] whose rows average the pixels of each bin."""
    matrix = np.zeros((bins, length))
    for i in range(bins):
        start, stop = i * length // bins, -(-(i + 1) * length // bins)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return jnp.asarray(matrix, dtype)
