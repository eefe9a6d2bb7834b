"""Numbers that give a changed array away."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Checksums = dict[str, int]
"""Of each array by its path in a tree, `params/head/kernel`: the CRC-32 of its bytes."""


def checksums(tree: Any) -> Checksums:
    """Returns the checksums of a tree of arrays.

    They are those of the values alone, whatever devices or hosts held them.

    Args:
      tree: of arrays, each as a whole on this process's devices or on the host.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _checksum(np.asarray(leaf))
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def changed(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """Returns the paths whose checksums differ, or that only one of the two has."""
    paths = sorted({*expected, *found})
    return [path for path in paths if expected.get(path) != found.get(path)]


def _checksum(array: np.ndarray) -> int:
    # As bytes: the types that JAX adds to numpy's have no buffers of their own.
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
