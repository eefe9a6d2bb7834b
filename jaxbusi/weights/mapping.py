"""Name maps, applied strictly: every name on either side is used, dropped or reported."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxbusi.errors import UserError

State = Mapping[str, np.ndarray]
"""A checkpoint: tensor name to array."""

Tree = dict[str, Any]
"""Nested dictionaries of float32 arrays; the top keys are `params` and `batch_stats`."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of ours, and what it is made of.

    Attributes:
      target: path in the tree, collection first: `('params', 'conv1', 'kernel')`.
      sources: names in the checkpoint; several where one array is joined from many.
      layout: turns the arrays of `sources`, in their order, into ours.
    """

    target: tuple[str, ...]
    sources: tuple[str, ...]
    layout: Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A branch's weights.

    Attributes:
      variables: `{'params': …, 'batch_stats': …}`, the latter only where the branch has any.
      dropped: names of the checkpoint that have no place in the branch, such as its head.
    """

    variables: Tree
    dropped: tuple[str, ...]


def same(array: np.ndarray) -> np.ndarray:
    """The array as it is."""
    return array


def linear(weight: np.ndarray) -> np.ndarray:
    """Torch's [out, in] to Flax's [in, out]."""
    return weight.transpose(1, 0)


def convolution(weight: np.ndarray) -> np.ndarray:
    """Torch's [out, in, height, width] to Flax's [height, width, in, out]."""
    return weight.transpose(2, 3, 1, 0)


def linear_entries(target: Sequence[str], source: str) -> list[Entry]:
    """`torch.nn.Linear` at `source` to `flax.linen.Dense` at `target` (below `params`)."""
    return [
        Entry(("params", *target, "kernel"), (f"{source}.weight",), linear),
        Entry(("params", *target, "bias"), (f"{source}.bias",), same),
    ]


def layer_norm_entries(target: Sequence[str], source: str) -> list[Entry]:
    """`torch.nn.LayerNorm` at `source` to `flax.linen.LayerNorm` at `target`."""
    return [
        Entry(("params", *target, "scale"), (f"{source}.weight",), same),
        Entry(("params", *target, "bias"), (f"{source}.bias",), same),
    ]


def batch_norm_entries(target: Sequence[str], source: str) -> list[Entry]:
    """`torch.nn.BatchNorm2d` at `source` to `BatchNorm` at `target`, running statistics too."""
    return [
        *layer_norm_entries(target, source),
        Entry(("batch_stats", *target, "mean"), (f"{source}.running_mean",), same),
        Entry(("batch_stats", *target, "var"), (f"{source}.running_var",), same),
    ]


def convert(entries: Iterable[Entry], state: State, *, drop: str, origin: str) -> Converted:
    """Applies a name map strictly.

    Args:
      entries: the map.
      state: the checkpoint.
      drop: regular expression; names that it matches in full and no entry uses are left out.
      origin: the format in words, for the message.

    Returns:
      float32 variables, and the names that were dropped.

    Raises:
      UserError: names that the map needs and the checkpoint lacks, or that the checkpoint has and
        the map neither uses nor drops; the message lists both.
    """
    entries = list(entries)
    used = {name for entry in entries for name in entry.sources}
    missing = [name for entry in entries for name in entry.sources if name not in state]
    dropped = [name for name in state if name not in used and re.fullmatch(drop, name)]
    unused = [name for name in state if name not in used and name not in set(dropped)]
    if missing or unused:
        raise UserError(
            f"the weights are not those of {origin}: missing {_listing(missing)}; "
            f"unknown {_listing(unused)}"
        )
    variables: Tree = {}
    for entry in entries:
        array = _laid_out(entry, state)
        node = variables
        for key in entry.target[:-1]:
            node = node.setdefault(key, {})
        node[entry.target[-1]] = array
    return Converted(variables, tuple(dropped))


def _laid_out(entry: Entry, state: State) -> np.ndarray:
    """One of our arrays, float32.

    Raises:
      UserError: what it is made of has another shape than the format's, or holds no numbers.
    """
    sources = [np.asarray(state[name]) for name in entry.sources]
    try:
        return np.ascontiguousarray(entry.layout(*sources), np.float32)
    except (ValueError, TypeError) as error:
        found = ", ".join(
            f"{name} {array.dtype}{list(array.shape)}"
            for name, array in zip(entry.sources, sources, strict=True)
        )
        raise UserError(f"{found} is not of the shape and type that the format has") from error


def _listing(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"
