"""timm's vision transformers (ViT and DeiT, fused qkv) as state dicts."""

from jaxbusi.weights.mapping import (
    Converted,
    Entry,
    State,
    convert,
    convolution,
    layer_norm_entries,
    linear_entries,
    same,
)
from jaxbusi.weights.positions import is_square, positions_with_token


def vit_entries(*, depth: int, class_token: bool, layer_scale: bool) -> list[Entry]:
    """Timm's `VisionTransformer` without `head` to `jaxbusi.models.vit.ViT`.

    Args:
      depth: number of encoder layers.
      class_token: whether there is a class token.
      layer_scale: whether the layers have LayerScale factors.
    """
    entries = [
        Entry(("params", "patch_embedding", "kernel"), ("patch_embed.proj.weight",), convolution),
        Entry(("params", "patch_embedding", "bias"), ("patch_embed.proj.bias",), same),
        Entry(("params", "position_embedding"), ("pos_embed",), same),
        *layer_norm_entries(("norm",), "norm"),
    ]
    if class_token:
        entries.append(Entry(("params", "class_token"), ("cls_token",), same))
    for i in range(depth):
        target, source = f"layer_{i}", f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            entries += layer_norm_entries((target, norm), f"{source}.{norm}")
        for part in ("qkv", "proj"):
            entries += linear_entries((target, "attn", part), f"{source}.attn.{part}")
        for part in ("fc1", "fc2"):
            entries += linear_entries((target, part), f"{source}.mlp.{part}")
        if layer_scale:
            entries += [
                Entry(("params", target, scale, "gamma"), (f"{source}.{scale}.gamma",), same)
                for scale in ("ls1", "ls2")
            ]
    return entries


def vit_from_timm(state: State) -> Converted:
    """Variables of `ViT` from timm's `VisionTransformer`; the classifier `head` is dropped.

    Depth, class token and LayerScale are read from the names. Position embeddings keep the grid of
    the checkpoint; a class token without one (timm's `no_embed_class`) gets zeros.

    Raises:
      UserError: names that are missing or unknown.
    """
    positions = state.get("pos_embed")
    has_grid = positions is not None and positions.ndim == 3 and is_square(positions.shape[1])
    if "cls_token" in state and has_grid:  # DeiT-III
        state = {**state, "pos_embed": positions_with_token(state["pos_embed"])}
    layers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    entries = vit_entries(
        depth=len(layers),
        class_token="cls_token" in state,
        layer_scale="blocks.0.ls1.gamma" in state,
    )
    return convert(entries, state, drop=r"head\..*|mask_token", origin="timm's VisionTransformer")
