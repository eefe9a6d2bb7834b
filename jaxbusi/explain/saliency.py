"""Where the branches look: Grad-CAM of the convolutions, two readings of the attention.

Nothing is added to the models for this. Flax lets a function watch every call inside a model
(`nn.intercept_methods`): it notes the last feature map and each layer's queries, keys and values,
and adds zeros to each attention's output, whose gradient is what the attention's is worked out of.

* Grad-CAM (Selvaraju et al., 2017): the last feature map's channels, weighted by the mean gradient
  of the answer's logit, positive part.
* Rollout (Abnar and Zuidema, 2020): products of ½(A + I) over the layers, A the mean of the heads.
  It knows no class: it says where information may come from, whatever the answer.
* Gradient-weighted attention (Chefer et al., 2021): R ← R + Ā·R with Ā the mean over the heads of
  the positive part of A times the gradient of the answer's logit with respect to A.

Where the tokens are pooled by their mean, the rows of all patches are averaged; where the class
token is read, its row is taken; where both are, the mean of the two. What a patch keeps for itself
without attention (the identity in R) is left out of the last, being the same for all patches.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxbusi.models import resnet
from jaxbusi.models.fusion import Classifier
from jaxbusi.models.precision import full
from jaxbusi.state import Tree

ROLLOUT, GRADIENT = "rollout", "gradient_attention"

NAMES: dict[str, str] = {
    "grad_cam_resnet18": "Grad-CAM, ResNet18",
    "grad_cam_googlenet": "Grad-CAM, GoogLeNet",
    ROLLOUT: "attention rollout, ViT",
    GRADIENT: "gradient-weighted attention, ViT",
}
"""The maps by key, in the order in which they are shown."""

Seen = dict[tuple[str, ...], jax.Array]
"""Outputs inside a model, by the path of the module that gave them."""


def look(
    model: Classifier, variables: Tree, images: jax.Array, target: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Looks at images and at what was looked at in them.

    Args:
      model: without `remat`, whose layers cannot be watched; the weights are the same.
      variables: its weights.
      images: uint8[B, s, s, 3].
      target: i32[B], the class whose logit is explained; -1 for the answer.

    Returns:
      Features f32[B, d] by branch, and by the keys of `NAMES` maps f32[B, g, g], 0 or more, of the
      branches that the model has; g differs between them.
    """

    def ask(nudges: dict[str, jax.Array]) -> tuple[jax.Array, tuple[Any, Seen, jax.Array]]:
        seen: Seen = {}
        with nn.intercept_methods(_watch(seen, nudges)):
            output: Any = model.apply(variables, images, train=False)
        chosen = jnp.where(target < 0, output.logits.argmax(-1).astype(target.dtype), target)
        return _score(output.logits, chosen), (output.features, seen, chosen)

    gradients, (features, seen, chosen) = jax.grad(ask, has_aux=True)(_nudges(model, images))
    slopes = jax.grad(lambda given: _score(logits_of(model, variables, given), chosen))(features)
    maps = {}
    for branch, path in _last_maps().items():
        if branch in model.branches:
            maps[f"grad_cam_{branch}"] = grad_cam(seen[path].astype(jnp.float32), slopes[branch])
    if "vit" in model.branches:
        maps |= _attention_maps(model, variables, seen, gradients)
    return features, maps


def logits_of(model: Classifier, variables: Tree, features: dict[str, jax.Array]) -> jax.Array:
    """f32[B, 3], of a model all of whose branches' features are given."""
    count = next(iter(features.values())).shape[0]
    unseen = jnp.zeros((count, 1, 1, 3), jnp.uint8)
    output: Any = model.apply(variables, unseen, train=False, given=features)
    return output.logits


def grad_cam(maps: jax.Array, slopes: jax.Array) -> jax.Array:
    """Grad-CAM of a feature map that is averaged over its pixels into the branch's features.

    The gradient of a score with respect to a pixel of the map is then that with respect to the
    feature, divided by the number of pixels, the same for all pixels: no backward pass is needed.

    Args:
      maps: f32[B, h, w, C].
      slopes: f32[B, C], gradients of the score with respect to the features.

    Returns:
      f32[B, h, w], 0 or more.
    """
    pixels = maps.shape[1] * maps.shape[2]
    return nn.relu(jnp.einsum("bhwc,bc->bhw", maps, slopes) / pixels)


def attention(qkv: jax.Array, tokens: int, heads: int) -> tuple[jax.Array, jax.Array]:
    """The weights and values of an attention, from its fused projection.

    Args:
      qkv: [B·T, 3·width], as `jaxbusi.models.vit.Attention` projects.
      tokens: T.
      heads: they divide the width.

    Returns:
      f32[B, heads, T, T], rows summing to 1, and the values f32[B, T, heads, width / heads].
    """
    size = qkv.shape[-1] // 3 // heads
    split = qkv.astype(jnp.float32).reshape(-1, tokens, 3, heads, size)
    query, key, value = (split[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * size**-0.5, key)
    return nn.softmax(scores, axis=-1), value


def weight_gradient(of_output: jax.Array, kernel: jax.Array, value: jax.Array) -> jax.Array:
    """The gradient with respect to attention weights, from that with respect to the output.

    Args:
      of_output: f32[B, T, width], of the attention's output.
      kernel: f32[width, width], of the projection that made it of the mixed values.
      value: f32[B, T, heads, width / heads].

    Returns:
      f32[B, heads, T, T].
    """
    of_mixed = (of_output @ kernel.T).reshape(value.shape)
    return jnp.einsum("bqhd,bkhd->bhqk", of_mixed, value)


def _attention_maps(
    model: Classifier, variables: Tree, seen: Seen, gradients: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    size = model.vit_size()
    first, tokens = int(size.class_token), next(iter(gradients.values())).shape[1]
    identity = jnp.eye(tokens)[None]
    rolled, gathered = identity, jnp.zeros_like(identity)  # R - I: small beside I
    for layer in (f"layer_{number}" for number in range(size.depth)):
        weights, value = attention(seen["vit", layer, "attn", "qkv"], tokens, size.heads)
        kernel = variables["params"]["vit"][layer]["attn"]["proj"]["kernel"]
        slope = weight_gradient(gradients[layer].astype(jnp.float32), kernel, value)
        rolled = 0.5 * (weights.mean(1) + identity) @ rolled
        gathered = gathered + nn.relu(weights * slope).mean(1) @ (gathered + identity)
    read = {
        "mean": lambda r: r[:, first:].mean(1),
        "class": lambda r: r[:, 0],
        "both": lambda r: 0.5 * (r[:, 0] + r[:, first:].mean(1)),
    }[model.pooling]
    side = round((tokens - first) ** 0.5)
    found = {ROLLOUT: rolled, GRADIENT: gathered}
    return {name: read(rows)[:, first:].reshape(-1, side, side) for name, rows in found.items()}


def _last_maps() -> dict[str, tuple[str, ...]]:
    """The module of each convolutional branch whose output is averaged into its features."""
    return {
        "resnet18": ("resnet18", f"layer{len(resnet.STAGES)}_{resnet.BLOCKS - 1}"),
        "googlenet": ("googlenet", "inception5b"),
    }


def _nudges(model: Classifier, images: jax.Array) -> dict[str, jax.Array]:
    """Zeros of the shape of each attention's output, by layer."""
    if "vit" not in model.branches:
        return {}
    size = model.vit_size()
    tokens = (images.shape[1] // size.patch) ** 2 + int(size.class_token)
    zeros = jnp.zeros((images.shape[0], tokens, size.width), model.dtype)
    return {f"layer_{number}": zeros for number in range(size.depth)}


def _watch(seen: Seen, nudges: dict[str, jax.Array]) -> Callable[..., Any]:
    wanted = set(_last_maps().values())

    def watch(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = next_fun(*args, **kwargs)
        if context.method_name != "__call__":
            return output
        path = context.module.path
        if path[:1] == ("vit",) and path[-1] == "attn":
            return output + nudges[path[1]]
        if path in wanted or path[-2:] == ("attn", "qkv"):
            seen[path] = output
        return output

    return watch


def _score(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """The sum over the images of the logit of each one's class."""
    return jnp.take_along_axis(logits, chosen[:, None], axis=-1).astype(full(logits.dtype)).sum()
