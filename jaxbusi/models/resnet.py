"""ResNet18 with torchvision's geometry (He et al. 2016, arXiv:1512.03385): the local branch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxbusi.models.batch_norm import BatchNorm
from jaxbusi.models.initializers import resnet_kernel
from jaxbusi.models.pooling import max_pool

STAGES: tuple[tuple[int, int], ...] = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Width and first stride of torchvision's `layer1` … `layer4`."""

BLOCKS: int = 2
"""Blocks in each stage."""


def _conv(features: int, window: int, stride: int, dtype: Dtype, name: str) -> nn.Conv:
    """Convolution without bias. Flax's SAME pads (0, 1) at stride 2 where torch pads (1, 1)."""
    side = window // 2
    return nn.Conv(
        features,
        (window, window),
        strides=(stride, stride),
        padding=((side, side), (side, side)),
        use_bias=False,
        dtype=dtype,
        kernel_init=resnet_kernel,
        name=name,
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: torchvision's `BasicBlock`.

    Attributes:
      features: output channels.
      stride: of the first convolution, and of the 1x1 one on the shortcut.
      dtype: compute type.
    """

    features: int
    stride: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        y = _conv(self.features, 3, self.stride, self.dtype, "conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train=train))
        y = _conv(self.features, 3, 1, self.dtype, "conv2")(y)
        y = BatchNorm(dtype=self.dtype, name="bn2")(y, train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = _conv(self.features, 1, self.stride, self.dtype, "downsample_conv")(x)
            x = BatchNorm(dtype=self.dtype, name="downsample_bn")(x, train=train)
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """torchvision's `resnet18` up to its average pool, without `fc`: 11,176,512 parameters.

    Attributes:
      dtype: compute type; parameters and batch statistics are float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Pooled features of normalised images.

        Args:
          images: [B, H, W, 3], normalised, any size.
          train: whether batch normalisation uses (and records) the statistics of this batch.

        Returns:
          [B, 512] in `dtype`.
        """
        x = _conv(64, 7, 2, self.dtype, "conv1")(images)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train=train))
        x = max_pool(x, window=3, stride=2, padding=1)
        for stage, (features, stride) in enumerate(STAGES, start=1):
            for block in range(BLOCKS):
                x = BasicBlock(
                    features,
                    stride if block == 0 else 1,
                    self.dtype,
                    name=f"layer{stage}_{block}",
                )(x, train=train)
        return x.mean((1, 2))
