"""Vision transformers as Google publishes them, in `.npz`: vision_transformer and big_vision.

Both were trained with the tanh approximation of GELU; here, as in every port of them to PyTorch,
it is the exact one, and features differ in the third digit.
"""

import re
from collections.abc import Callable

import numpy as np

from jaxbusi.weights.mapping import Converted, Entry, State, convert, same
from jaxbusi.weights.positions import is_square, positions_with_token

_RENAMED = (
    (r"^(params|target|img)/", ""),
    (r"^Transformer/(posembed_input/)?pos_embedding$", "pos_embedding"),
    (r"/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
    (r"/LayerNorm_2/", "/LayerNorm_1/"),
    (r"/MlpBlock_3/", "/MlpBlock_0/"),
)
"""From the names of vision_transformer to those of big_vision, which count from 0."""


def plain_names(state: State) -> dict[str, np.ndarray]:
    """Returns the checkpoint under big_vision's names.

    A class token that has no position of its own (big_vision adds the positions first) gets zeros
    for one.
    """
    plain = {}
    for name, array in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        plain[name] = array
    positions = plain.get("pos_embedding")
    if "cls" in plain and positions is not None and positions.ndim == 3:
        count = positions.shape[1]
        if is_square(count):
            plain["pos_embedding"] = positions_with_token(positions)
    return plain


def vit_from_google(state: State) -> Converted:
    """Variables of `ViT` from Google's arrays; `head` and `pre_logits` are dropped.

    Args:
      state: under `plain_names`.

    Raises:
      UserError: names that are missing or unknown.
    """
    layers = {m[1] for name in state if (m := re.match(r"Transformer/encoderblock_(\d+)/", name))}
    entries = [
        *_pair(("patch_embedding",), "embedding", "kernel", same),
        Entry(("params", "position_embedding"), ("pos_embedding",), same),
        *_pair(("norm",), "Transformer/encoder_norm", "scale", same),
    ]
    if "cls" in state:
        entries.append(Entry(("params", "class_token"), ("cls",), same))
    for i in range(len(layers)):
        target, source = f"layer_{i}", f"Transformer/encoderblock_{i}"
        attention = f"{source}/MultiHeadDotProductAttention_0"
        for j in (0, 1):
            entries += _pair((target, f"norm{j + 1}"), f"{source}/LayerNorm_{j}", "scale", same)
            entries += _pair(
                (target, f"fc{j + 1}"), f"{source}/MlpBlock_0/Dense_{j}", "kernel", same
            )
        for leaf in ("kernel", "bias"):
            parts = tuple(f"{attention}/{part}/{leaf}" for part in ("query", "key", "value"))
            entries.append(Entry(("params", target, "attn", "qkv", leaf), parts, _joined))
        entries += _pair((target, "attn", "proj"), f"{attention}/out", "kernel", _from_heads)
    return convert(
        entries, state, drop=r"(head|pre_logits)/.*", origin="Google's vision transformers"
    )


def _pair(
    target: tuple[str, ...], source: str, first: str, layout: Callable[..., np.ndarray]
) -> list[Entry]:
    """A kernel or scale, in its layout, and the bias beside it."""
    return [
        Entry(("params", *target, first), (f"{source}/{first}",), layout),
        Entry(("params", *target, "bias"), (f"{source}/bias",), same),
    ]


def _joined(*parts: np.ndarray) -> np.ndarray:
    """[width, heads, size] or [heads, size] of query, key, value to [(width,) 3·width]."""
    return np.concatenate([part.reshape(*part.shape[:-2], -1) for part in parts], axis=-1)


def _from_heads(kernel: np.ndarray) -> np.ndarray:
    """[heads, size, width] to [width, width]."""
    return kernel.reshape(-1, kernel.shape[-1])
