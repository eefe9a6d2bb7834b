"""GoogLeNet with batch normalisation and torchvision's geometry (arXiv:1409.4842): Table 4's peer.

Where torchvision departs from the publication, it is followed, because its checkpoints are the
public ones: 3x3 windows where the publication has 5x5, no local response normalisation, BatchNorm
(eps 1e-3) after each convolution, `ceil_mode` pools, a fourth pool of 2x2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxbusi.models.batch_norm import BatchNorm
from jaxbusi.models.initializers import googlenet_kernel, torch_bias
from jaxbusi.models.pooling import adaptive_average_pool, max_pool
from jaxbusi.models.precision import full

Widths = tuple[int, int, int, int, int, int]
"""1x1; 3x3 reduction, 3x3; '5x5' reduction, '5x5'; pool projection."""

INCEPTIONS: dict[str, Widths] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}

POOL_AFTER: dict[str, int] = {"inception3b": 3, "inception4e": 2}
"""Window of the pool (stride 2, `ceil_mode`) that follows a block."""

AUXILIARY_AFTER: dict[str, str] = {"inception4a": "aux1", "inception4d": "aux2"}
"""Auxiliary head that reads the output of a block, in training."""

AUXILIARY_DROPOUT: float = 0.7
"""torchvision's and the publication's rate inside the auxiliary heads."""


class ConvBlock(nn.Module):
    """Convolution, BatchNorm (eps 1e-3), ReLU: torchvision's `BasicConv2d`.

    Attributes:
      features: output channels.
      window: height and width of the kernel; the padding keeps the size at stride 1.
      stride: step in pixels.
      dtype: compute type.
    """

    features: int
    window: int = 1
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, ⌈H/stride⌉, ⌈W/stride⌉, features]."""
        side = self.window // 2
        x = nn.Conv(
            self.features,
            (self.window, self.window),
            strides=(self.stride, self.stride),
            padding=((side, side), (side, side)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=googlenet_kernel,
            name="conv",
        )(x)
        return nn.relu(BatchNorm(epsilon=1e-3, dtype=self.dtype, name="bn")(x, train=train))


class Inception(nn.Module):
    """Four parallel paths, concatenated: torchvision's `Inception`.

    Attributes:
      widths: channels of the convolutions, see `Widths`.
      dtype: compute type.
    """

    widths: Widths
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, H, W, widths[0] + widths[2] + widths[4] + widths[5]]."""
        one, three_reduced, three, five_reduced, five, projected = self.widths

        def conv(y: jax.Array, features: int, window: int, name: str) -> jax.Array:
            return ConvBlock(features, window, dtype=self.dtype, name=name)(y, train=train)

        first = conv(x, one, 1, "branch1")
        second = conv(conv(x, three_reduced, 1, "branch2_0"), three, 3, "branch2_1")
        third = conv(conv(x, five_reduced, 1, "branch3_0"), five, 3, "branch3_1")
        pooled = max_pool(x, window=3, stride=1, padding=1)
        fourth = conv(pooled, projected, 1, "branch4_1")
        return jnp.concatenate([first, second, third, fourth], axis=-1)


class AuxiliaryHead(nn.Module):
    """Classifier on an inner feature map: torchvision's `InceptionAux`.

    Attributes:
      num_classes: number of logits.
      dropout: rate before the last layer, in training.
      dtype: compute type.
    """

    num_classes: int
    dropout: float = AUXILIARY_DROPOUT
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, C] to logits f32[B, num_classes]."""
        x = adaptive_average_pool(x, 4)
        x = ConvBlock(128, dtype=self.dtype, name="conv")(x, train=train)
        # torch flattens channel by channel; the same order lets its weights be used as they are.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = nn.relu(self._linear(1024, x.shape[-1], self.dtype, "fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self._linear(self.num_classes, 1024, full(self.dtype), "fc2")(x)

    def _linear(self, features: int, fan_in: int, dtype: Dtype, name: str) -> nn.Dense:
        return nn.Dense(
            features,
            dtype=dtype,
            kernel_init=googlenet_kernel,
            bias_init=torch_bias(fan_in),
            name=name,
        )


class GoogLeNet(nn.Module):
    """torchvision's `googlenet` up to its average pool, without `dropout` and `fc`.

    Attributes:
      num_classes: logits of the two auxiliary heads.
      auxiliary_dropout: dropout rate inside the auxiliary heads.
      dtype: compute type; parameters, batch statistics and logits are float32.
    """

    num_classes: int
    auxiliary_dropout: float = AUXILIARY_DROPOUT
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Pooled features of normalised images, and in training the auxiliary logits.

        Args:
          images: [B, H, W, 3], normalised, any size.
          train: whether batch statistics and the auxiliary heads are in use; then a random stream
            named `dropout` is needed, unless `auxiliary_dropout` is 0.

        Returns:
          features [B, 1024] in `dtype`, and the logits f32[B, num_classes] of the first and the
          second auxiliary head; an empty tuple in evaluation.
        """
        x = ConvBlock(64, 7, 2, self.dtype, name="conv1")(images, train=train)
        x = max_pool(x, window=3, stride=2, ceil_mode=True)
        x = ConvBlock(64, dtype=self.dtype, name="conv2")(x, train=train)
        x = ConvBlock(192, 3, dtype=self.dtype, name="conv3")(x, train=train)
        x = max_pool(x, window=3, stride=2, ceil_mode=True)
        auxiliary = []
        for name, widths in INCEPTIONS.items():
            x = Inception(widths, self.dtype, name=name)(x, train=train)
            head = AUXILIARY_AFTER.get(name)
            # Initialisation makes the parameters of the heads also where it runs in evaluation.
            if head and (train or self.is_initializing()):
                auxiliary.append(
                    AuxiliaryHead(self.num_classes, self.auxiliary_dropout, self.dtype, name=head)(
                        x, train=train
                    )
                )
            if name in POOL_AFTER:
                x = max_pool(x, window=POOL_AFTER[name], stride=2, ceil_mode=True)
        return x.mean((1, 2)), tuple(auxiliary) if train else ()
