"""Mixup and CutMix: training images blended on the device, and their labels with them."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Which blends a training batch gets.

    Each image keeps a share of its own drawn from Beta(alpha, alpha) and takes the rest from the
    next image of the batch, the last one from the first: batches come in random order. With both
    kinds on, each image gets one of them by the toss of a coin.

    Attributes:
      mixup_alpha: of the weighted means of two images (arXiv:1710.09412); 0 is none.
      cutmix_alpha: of images with a rectangle of another (arXiv:1905.04899); 0 is none. The
        rectangle has the images' proportions and a random centre; what lies outside the image is
        cut off, and the shares follow from what is left.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    @property
    def active(self) -> bool:
        """Whether anything is blended."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def __call__(
        self, images: jax.Array, labels: jax.Array, num_classes: int, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Blends a batch.

        Args:
          images: uint8[B, H, W, 3].
          labels: int32[B].
          num_classes: C.
          key: of this step. Under `jax.jit` the result does not depend on how the batch lies on
            the devices.

        Returns:
          Images f32[B, H, W, 3] on the same scale, and targets f32[B, C], the classes' shares.
        """
        coin, draw, place = jax.random.split(key, 3)
        rows, height, width, _ = images.shape
        if self.mixup_alpha and self.cutmix_alpha:
            cuts = jax.random.bernoulli(coin, shape=(rows,))
        else:
            cuts = jnp.full((rows,), bool(self.cutmix_alpha))
        alpha = jnp.where(cuts, jnp.float32(self.cutmix_alpha), jnp.float32(self.mixup_alpha))
        share = jax.random.beta(draw, alpha, alpha, (rows,))
        # The share of the image itself, for every pixel.
        own = jnp.where(
            cuts[:, None, None],
            _outside(place, 1.0 - share, height, width).astype(jnp.float32),
            share[:, None, None],
        )
        first = images.astype(jnp.float32)
        second = jnp.roll(first, -1, axis=0)
        mixed = second + own[..., None] * (first - second)
        truth = jax.nn.one_hot(labels, num_classes)
        weight = own.mean((1, 2))[:, None]
        return mixed, weight * truth + (1.0 - weight) * jnp.roll(truth, -1, axis=0)


UNMIXED = Mixing()
"""The paper's: images stay as they are."""


def _outside(key: jax.Array, areas: jax.Array, height: int, width: int) -> jax.Array:
    """bool[B, H, W]: outside a random rectangle that takes f32[B] of the image's area."""
    inside = []
    for axis_key, length in zip(jax.random.split(key), (height, width), strict=True):
        centre = jax.random.uniform(axis_key, (areas.shape[0], 1), jnp.float32, 0, length)
        middle = jnp.arange(length, dtype=jnp.float32)[None, :] + 0.5
        inside.append(jnp.abs(middle - centre) < jnp.sqrt(areas)[:, None] * (length / 2))
    return ~(inside[0][:, :, None] & inside[1][:, None, :])
