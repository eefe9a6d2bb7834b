"""Types inside a model whose compute type may be narrow."""

import jax.numpy as jnp
from flax.typing import Dtype


def full(dtype: Dtype) -> Dtype:
    """Type of statistics, softmax and logits: float32, or float64 where the model computes in it.

    float64 is for proofs: the gradients of a network with ReLU jump where a pre-activation crosses
    zero, so that two correct float32 programs need not agree, and two float64 ones do.
    """
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
