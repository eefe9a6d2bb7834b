"""Batch normalisation with the arithmetic of `torch.nn.BatchNorm2d`."""

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
            axes = tuple(range(x.ndim - 1))
            # Two passes: E[x²] - E[x]² loses digits where the mean is large beside the deviation.
            mean = x.mean(axes)
            var = jnp.square(x - _over_channels(mean, x)).mean(axes)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                running_mean.value = self._move(running_mean.value, mean)
                running_var.value = self._move(running_var.value, unbiased)
        else:
            mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
        factor = scale.astype(wide) * jax.lax.rsqrt(var + self.epsilon)
        y = (x - _over_channels(mean, x)) * _over_channels(factor, x)
        return (y + _over_channels(bias.astype(wide), x)).astype(self.dtype)

    def _move(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        return self.momentum * running + (1.0 - self.momentum) * batch.astype(running.dtype)


def _over_channels(vector: jax.Array, x: jax.Array) -> jax.Array:
    """[C] as [1, …, 1, C]: rank promotion is an error in the tests."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
