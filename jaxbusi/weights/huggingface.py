"""Hugging Face's ViT and DINOv2, under their classic names and the newer ones."""

import re

import numpy as np

from jaxbusi.weights.mapping import (
    Converted,
    Entry,
    State,
    convert,
    convolution,
    layer_norm_entries,
    linear,
    linear_entries,
    same,
)

_RENAMED = (
    (r"^(vit|deit|dinov2|model)\.", ""),
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.attention\.(\w)\w+\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(encoder\.layer\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
"""From every name in use to one: that of DINOv2 in transformers 5."""

_DROPPED = r"(classifier|pooler)\..*|embeddings\.mask_token"


def plain_names(state: State) -> dict[str, np.ndarray]:
    """Returns the checkpoint under one set of names, whichever version wrote it."""
    plain = {}
    for name, array in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        plain[name] = array
    return plain


def vit_from_huggingface(state: State) -> Converted:
    """Variables of `ViT` from Hugging Face's ViT, DeiT or DINOv2 models.

    Depth and LayerScale are read from the names. `classifier`, `pooler` and `mask_token` are
    dropped. Position embeddings keep the grid of the checkpoint.

    Args:
      state: under `plain_names`.

    Raises:
      UserError: names that are missing or unknown.
    """
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layer.")}
    entries = _entries(
        depth=len(layers), layer_scale="encoder.layer.0.layer_scale1.lambda1" in state
    )
    return convert(entries, state, drop=_DROPPED, origin="Hugging Face's ViT or DINOv2")


def _entries(*, depth: int, layer_scale: bool) -> list[Entry]:
    patches = "embeddings.patch_embeddings.projection"
    entries = [
        Entry(("params", "patch_embedding", "kernel"), (f"{patches}.weight",), convolution),
        Entry(("params", "patch_embedding", "bias"), (f"{patches}.bias",), same),
        Entry(("params", "position_embedding"), ("embeddings.position_embeddings",), same),
        Entry(("params", "class_token"), ("embeddings.cls_token",), same),
        *layer_norm_entries(("norm",), "layernorm"),
    ]
    for i in range(depth):
        target, source = f"layer_{i}", f"encoder.layer.{i}"
        for norm in ("norm1", "norm2"):
            entries += layer_norm_entries((target, norm), f"{source}.{norm}")
        entries += _fused_entries(target, f"{source}.attention")
        entries += linear_entries((target, "attn", "proj"), f"{source}.attention.o_proj")
        for part in ("fc1", "fc2"):
            entries += linear_entries((target, part), f"{source}.mlp.{part}")
        if layer_scale:
            entries += [
                Entry(
                    ("params", target, f"ls{j}", "gamma"),
                    (f"{source}.layer_scale{j}.lambda1",),
                    same,
                )
                for j in (1, 2)
            ]
    return entries


def _fused_entries(target: str, source: str) -> list[Entry]:
    """Three projections joined into one: query, key, value."""
    names = [f"{source}.{part}_proj" for part in "qkv"]
    return [
        Entry(
            ("params", target, "attn", "qkv", "kernel"),
            tuple(f"{name}.weight" for name in names),
            lambda *weights: np.concatenate([linear(weight) for weight in weights], axis=1),
        ),
        Entry(
            ("params", target, "attn", "qkv", "bias"),
            tuple(f"{name}.bias" for name in names),
            lambda *biases: np.concatenate(biases),
        ),
    ]
