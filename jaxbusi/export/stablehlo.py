"""A program as StableHLO, through `jax.export`, for any batch size and three kinds of devices."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import export

from jaxbusi.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(program: Program) -> bytes:
    """Returns the serialised program, a function of weights and images; the weights are not in it.

    With them inside, a file of 390 MB would be parsed and compiled as code.
    """
    (batch,) = export.symbolic_shape("batch")
    weights = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in program.weights.items()
    }
    images = jax.ShapeDtypeStruct((batch, *program.images.shape[1:]), program.images.dtype)
    with _no_places():
        traced = export.export(jax.jit(program.probabilities), platforms=PLATFORMS)
        return bytes(traced(weights, images).serialize())


@contextlib.contextmanager
def _no_places() -> Iterator[None]:
    """Keeps out of what is traced where it was traced from: JAX notes files and lines of callers.

    They name this machine's folders, and the same run is to give the same file, whoever calls.
    """
    key = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, key)
    jax.config.update(key, 0)
    try:
        yield
    finally:
        jax.config.update(key, before)


def run_stablehlo(serialised: bytes, weights: Any, images: np.ndarray) -> np.ndarray:
    """Runs what `to_stablehlo` returned: uint8[B, s, s, 3] to float32[B, 3]."""
    return np.asarray(export.deserialize(bytearray(serialised)).call(weights, images))
