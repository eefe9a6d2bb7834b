"""Batch normalisation with the arithmetic of `torch.nn.BatchNorm2d`."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxbusi.errors import UserError
from jaxbusi.models.precision import full


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d`: normalise each channel over batch, height and width.

    Flax's own `BatchNorm` keeps the biased variance of the batch in its running statistics; torch
    normalises with the biased one but keeps the unbiased one, n / (n - 1) times larger.

    Under `jax.jit` with a batch that is sharded over devices, the statistics are those of the
    global batch. They are computed in float32 also where the compute type is narrower.

    Attributes:
      epsilon: added to the variance; torch's default 1e-5.
      momentum: share of the running statistics that is kept; torch's `momentum=0.1` is 0.9 here.
      dtype: type of the result.

    Variables: `params` scale and bias, `batch_stats` mean and var, each f32[C].
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises `x`, and in training moves the running statistics.

        Args:
          x: [B, H, W, C].
          train: use the statistics of this batch; otherwise the running ones.

        Returns:
          [B, H, W, C] in `dtype`.

        Raises:
          UserError: in training with a single value per channel, as torch refuses it.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        wide = full(self.dtype)
        x = x.astype(wide)
        if train:
            count = math.prod(x.shape[:-1])
            if count < 2:
                raise UserError(
                    "batch normalisation cannot train on one value per channel: "
                    "raise config.batch_size or the image size"
                )
            y, mean, var = _normalize(x, scale.astype(wide), bias.astype(wide), self.epsilon)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                running_mean.value = self._move(running_mean.value, mean)
                running_var.value = self._move(running_var.value, unbiased)
        else:
            mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
            factor = scale.astype(wide) * jax.lax.rsqrt(var + self.epsilon)
            y = _affine(x, mean, factor, bias.astype(wide))
        return y.astype(self.dtype)

    def _move(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        return self.momentum * running + (1.0 - self.momentum) * batch.astype(running.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises [B, H, W, C] by its own mean and biased variance, f[C], and returns both.

    The gradient is written out because the compiler's own, on a CPU, spends several times the
    forward pass on sums over pixels; docs/performance.md has what it gave. No gradient comes
    through the returned statistics: they only move the running ones.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    count = math.prod(x.shape[:-1])
    # Two passes: E[x²] - E[x]² loses digits where the mean is large beside the deviation.
    mean = _channel_sums(x) / count
    var = _channel_sums(jnp.square(x - _over_channels(mean, x))) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    y = _affine(x, mean, scale * inverse, bias)
    return (y, mean, var), (x, scale, mean, inverse)


def _normalize_backward(
    _: float, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = residuals
    dy = cotangents[0]
    count = math.prod(x.shape[:-1])
    normal = (x - _over_channels(mean, x)) * _over_channels(inverse, x)
    dbias = _channel_sums(dy)
    dscale = _channel_sums(dy * normal)
    centred = dy - _over_channels(dbias / count, x) - normal * _over_channels(dscale / count, x)
    return centred * _over_channels(scale * inverse, x), dscale, dbias


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _channel_sums(x: jax.Array) -> jax.Array:
    """[B, H, W, C] to [C], by whole rows first: a CPU adds long vectors many times faster."""
    rows = x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]).sum(0)
    return rows.reshape(x.shape[2], x.shape[3]).sum(0)


def _affine(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) · factor + bias, each of the three f[C]."""
    centred = x - _over_channels(mean, x)
    return centred * _over_channels(factor, x) + _over_channels(bias, x)


def _over_channels(vector: jax.Array, x: jax.Array) -> jax.Array:
    """[C] as [1, …, 1, C]: rank promotion is an error in the tests."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
