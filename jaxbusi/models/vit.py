"""Vision transformer with timm's geometry (arXiv:2010.11929): the global branch."""

import dataclasses
import functools
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxbusi.errors import UserError
from jaxbusi.models.initializers import torch_bias, torch_kernel, transformer_kernel
from jaxbusi.models.precision import full

EPSILON: float = 1e-6
"""Of every layer normalisation; torch's own default would be 1e-5."""

Pooling = Literal["mean", "class", "both"]
"""`mean` of the patch tokens (the paper), the `class` token, or `both` (class, then mean)."""


@dataclasses.dataclass(frozen=True)
class ViTSize:
    """What a checkpoint's architecture fixes.

    Attributes:
      patch: side of a patch in pixels.
      width: features of a token.
      depth: number of encoder layers.
      heads: attention heads; they divide `width`.
      mlp: hidden features of each layer's MLP.
      class_token: whether a learned token precedes the patches.
      layer_scale: whether each residual branch is multiplied by learned factors.
    """

    patch: int
    width: int
    depth: int
    heads: int
    mlp: int
    class_token: bool = False
    layer_scale: bool = False


SIZES: dict[str, ViTSize] = {
    "Ti16": ViTSize(patch=16, width=192, depth=12, heads=3, mlp=768),
    "S16": ViTSize(patch=16, width=384, depth=12, heads=6, mlp=1536),
    "B16": ViTSize(patch=16, width=768, depth=12, heads=12, mlp=3072),
    "S14": ViTSize(
        patch=14, width=384, depth=12, heads=6, mlp=1536, class_token=True, layer_scale=True
    ),
}
"""Known sizes: ViT-Ti/16, S/16, B/16, and DINOv2's S/14."""


def exact_gelu(x: jax.Array) -> jax.Array:
    """x·Φ(x) with the error function, as `torch.nn.GELU()`; Flax's default is an approximation."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * (0.5**0.5)))


def _dense(x: jax.Array, features: int, dtype: Dtype, name: str) -> jax.Array:
    """[B, T, d] to [B, T, features]; each token on its own, so that all of them make one matrix.

    The gradient of a kernel is then one matrix product: with two axes to sum over, XLA's CPU code
    takes half as long again for a whole layer.
    """
    dense = nn.Dense(features, dtype=dtype, kernel_init=transformer_kernel, name=name)
    return dense(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def _layer_norm(x: jax.Array, dtype: Dtype, name: str) -> jax.Array:
    norm = nn.LayerNorm(
        epsilon=EPSILON,
        dtype=full(dtype),
        param_dtype=full(dtype),
        # Two passes: E[x²] - E[x]² loses digits, and torch does not take that way.
        use_fast_variance=False,
        # The input has its full type already; Flax's own promotion is refused where it is strict.
        force_float32_reductions=False,
        name=name,
    )
    return norm(x.astype(full(dtype))).astype(dtype)


class LayerScale(nn.Module):
    """Learned factor per feature, started at 1e-5 (arXiv:2103.17239); timm's `LayerScale`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[…, width] to the same shape and type."""
        gamma = self.param("gamma", nn.initializers.constant(1e-5), (x.shape[-1],), jnp.float32)
        return x * gamma.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection: timm's `Attention`.

    Attributes:
      heads: number of heads; they divide the width.
      dtype: compute type; the softmax is in float32.
    """

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, width] to the same shape."""
        batch, tokens, width = x.shape
        size = width // self.heads
        projected = _dense(x, 3 * width, self.dtype, "qkv")
        projected = projected.reshape(batch, tokens, 3, self.heads, size)
        query, key, value = (projected[:, :, i] for i in range(3))
        scores = jnp.einsum(
            "bqhd,bkhd->bhqk", query * size**-0.5, key, preferred_element_type=full(self.dtype)
        )
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return _dense(mixed.reshape(batch, tokens, width), width, self.dtype, "proj")


class EncoderLayer(nn.Module):
    """Pre-norm attention and MLP, each on a residual path: timm's `Block`.

    Attributes:
      heads: attention heads.
      mlp: hidden features of the MLP.
      layer_scale: whether each path ends in a `LayerScale`.
      dtype: compute type.
    """

    heads: int
    mlp: int
    layer_scale: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, width] to the same shape."""
        y = Attention(self.heads, self.dtype, name="attn")(_layer_norm(x, self.dtype, "norm1"))
        x = x + (LayerScale(name="ls1")(y) if self.layer_scale else y)
        y = _dense(_layer_norm(x, self.dtype, "norm2"), self.mlp, self.dtype, "fc1")
        y = _dense(exact_gelu(y), x.shape[-1], self.dtype, "fc2")
        return x + (LayerScale(name="ls2")(y) if self.layer_scale else y)


class ViT(nn.Module):
    """timm's `VisionTransformer` up to its last layer norm, then pooled.

    The grid of position embeddings is that of the images seen at initialisation; other sizes are
    refused by Flax as a mismatch of shapes afterwards.

    Attributes:
      size: the geometry; `SIZES` has the known ones.
      pooling: how the tokens after the last layer norm become one vector, see `Pooling`. The class
        token never enters the mean.
      dtype: compute type; parameters are float32.
      remat: in the backward pass compute each layer again from its input instead of keeping what
        is inside it.
    """

    size: ViTSize
    pooling: Pooling = "mean"
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Pooled features of normalised images.

        Args:
          images: [B, H, W, 3], normalised; H and W are multiples of the patch.

        Returns:
          [B, width] in `dtype`, or [B, 2·width] for the pooling `both`.

        Raises:
          UserError: unknown pooling, a class token asked for and absent, or a size that the patch
            does not divide.
        """
        check_pooling(self.size, self.pooling)
        x = self._patches(images)
        if self.size.class_token:
            token = self.param(
                "class_token", nn.initializers.normal(1e-6), (1, 1, self.size.width), jnp.float32
            )
            token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.size.width))
            x = jnp.concatenate([token, x], axis=1)
        positions = self.param(
            "position_embedding", transformer_kernel, (1, *x.shape[1:]), jnp.float32
        )
        x = x + jnp.broadcast_to(positions.astype(self.dtype), x.shape)
        x = self._layers(x)
        return self._pool(_layer_norm(x, self.dtype, "norm"))

    def _layers(self, x: jax.Array) -> jax.Array:
        """The encoder: [B, T, width] to the same shape."""
        size = self.size
        make = functools.partial(EncoderLayer, size.heads, size.mlp, size.layer_scale, self.dtype)
        layers = [make(name=f"layer_{number}") for number in range(size.depth)]
        if not self.remat or self.is_initializing():
            for layer in layers:
                x = layer(x)
            return x
        # A loop, because XLA's CPU compiler moves what is computed twice out of an unrolled
        # sequence, to where it saves no memory.
        params = [layer.variables["params"] for layer in layers]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

        @jax.checkpoint
        def step(x: jax.Array, params: Any) -> tuple[Any, None]:
            return make(parent=None).apply({"params": params}, x), None

        return jax.lax.scan(step, x, stacked)[0]

    def _patches(self, images: jax.Array) -> jax.Array:
        """[B, H, W, 3] to [B, tokens, width], row by row."""
        patch, width = self.size.patch, self.size.width
        if images.shape[1] % patch or images.shape[2] % patch:
            raise UserError(
                f"config.model.vit has patches of {patch} pixels, which do not divide images of "
                f"{images.shape[1]}x{images.shape[2]}: change the image size or config.model.vit"
            )
        x = nn.Conv(
            width,
            (patch, patch),
            strides=(patch, patch),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=torch_kernel,
            bias_init=torch_bias(3 * patch**2),
            name="patch_embedding",
        )(images)
        return x.reshape(x.shape[0], -1, width)

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.pooling == "class":
            return x[:, 0]
        mean = x[:, int(self.size.class_token) :].mean(1)
        return mean if self.pooling == "mean" else jnp.concatenate([x[:, 0], mean], axis=-1)


def check_pooling(size: ViTSize, pooling: str) -> None:
    """Raises UserError for an unknown pooling, or one that needs a class token which is absent."""
    known = get_args(Pooling)
    if pooling not in known:
        raise UserError(f"config.model.pooling={pooling!r} is unknown: use one of {list(known)}")
    if pooling != "mean" and not size.class_token:
        raise UserError(
            f"config.model.pooling={pooling!r} needs a class token, which this transformer does "
            "not have: take weights that bring one, or config.model.pooling='mean'"
        )
