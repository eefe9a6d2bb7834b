"""A case run through the project's own models."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbusi.models.fusion import Output
from tests.reference.cases import AUXILIARY_WEIGHT, Case
from tests.reference.results import Result, flatten

Tree = dict[str, Any]


def _forward(case: Case, params: Tree, batch_stats: Tree) -> tuple[Output, Tree]:
    output, updates = case.classifier.apply(
        {"params": params, "batch_stats": batch_stats},
        case.images(),
        train=case.train,
        mutable=["batch_stats"],
    )
    return output, updates.get("batch_stats", {})


def _loss(params: Tree, batch_stats: Tree, case: Case) -> tuple[jax.Array, tuple[Output, Tree]]:
    output, statistics = _forward(case, params, batch_stats)
    labels = jnp.asarray(case.labels(), jnp.int32)

    def cross_entropy(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss = cross_entropy(output.logits)
    for other in output.auxiliary:
        loss = loss + AUXILIARY_WEIGHT * cross_entropy(other)
    return loss, (output, statistics)


def run(case: Case, *, double: bool, gradients: bool = True) -> Result:
    """Forward and backward pass under `jax.jit`.

    Args:
      case: what to run.
      double: in float64 instead of float32.
      gradients: without them the backward pass is not compiled.
    """
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        model = case.classifier.clone(dtype=dtype)
        case = dataclasses.replace(case, classifier=model)
        state = case.state()
        params, batch_stats = (
            jax.tree.map(lambda array: jnp.asarray(array, dtype), case.tree(state, collection))
            for collection in ("params", "batch_stats")
        )
        if gradients:
            # GoogLeNet's 59 convolutions compile in half the time without optimisation; the proof
            # in float64 is about the function. float32 is compiled as users have it.
            lazy = double and "googlenet" in model.branches
            options = {"xla_backend_optimization_level": 0} if lazy else None
            loss = functools.partial(_loss, case=case)
            step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=options)
            grads, (output, statistics) = step(params, batch_stats)
        else:
            grads = {}
            output, statistics = jax.jit(functools.partial(_forward, case))(params, batch_stats)
        return Result(
            np.asarray(output.logits),
            np.asarray(output.auxiliary).reshape(-1, *output.logits.shape),
            flatten(grads),
            flatten(statistics),
        )
