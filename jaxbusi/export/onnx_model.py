"""A JAX function as an ONNX model, by way of its jaxpr.

The jaxpr is interpreted once, equation by equation: what depends on the weights alone is computed
and becomes a constant, so that batch normalisation is one factor and one shift a channel; what
depends on the input becomes nodes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core

from jaxbusi.export.onnx_graph import Graph, Tensor, Value
from jaxbusi.export.onnx_primitives import PRIMITIVES, Equation, refuse

_INSIDE = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}
"""Equations that stand for what is inside them, and where they keep it."""

_BATCH = "dim_as_value"
"""The length of the batch as a number: not a constant, although it has no inputs."""


def to_onnx(
    function: Callable[..., jax.Array],
    weights: Any,
    example: jax.ShapeDtypeStruct,
    *,
    names: Sequence[str] = ("batch", "images", "probabilities"),
) -> onnx.ModelProto:
    """Converts a function of weights and one array.

    Args:
      function: of `weights` and an array, to one array. Pure, and made of `PRIMITIVES`.
      weights: a tree of arrays, which become part of the model.
      example: shape and dtype of the array; its first axis is the batch, of any length in the
        model whatever it is here.
      names: of the batch axis, the input and the output.

    Raises:
      UserError: the function computes what `PRIMITIVES` do not have; the message names it.
    """
    axis, given, result = names
    (batch,) = jax.export.symbolic_shape(axis)
    array = jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype)
    closed = jax.make_jaxpr(function)(weights, array)
    constants = [np.asarray(leaf) for leaf in jax.tree.leaves(weights)]
    graph = Graph(given, batch)
    inputs: list[Value] = [*constants, Tensor(given, array.shape)]
    [output] = _interpret(graph, closed.jaxpr, closed.consts, inputs)
    [returned] = closed.out_avals
    return graph.model(graph.whole(output, returned.shape), result, array, returned)


def _interpret(
    graph: Graph, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
    known: dict[core.Var, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= zip(jaxpr.constvars, map(np.asarray, consts), strict=True)

    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            kind: Any = atom.aval
            return np.asarray(atom.val, kind.dtype)  # Python's numbers have other types
        return known[atom]

    for equation in jaxpr.eqns:
        outputs = _convert(graph, equation, [read(atom) for atom in equation.invars])
        known |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _convert(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Sequence[Value]:
    name = equation.primitive.name
    if name in _INSIDE:
        inner = equation.params[_INSIDE[name]]
        return _interpret(graph, inner.jaxpr, inner.consts, inputs)
    if name != _BATCH and _is_constant(equation, inputs):
        found = equation.primitive.bind(*inputs, **equation.params)
        several = equation.primitive.multiple_results
        return [np.asarray(value) for value in (found if several else [found])]
    primitive = PRIMITIVES.get(name)
    if primitive is None:
        raise refuse(equation)
    return [primitive(graph, equation, inputs)]


def _is_constant(equation: Equation, inputs: Sequence[Value]) -> bool:
    lengths = [length for variable in equation.outvars for length in variable.aval.shape]
    return all(isinstance(value, np.ndarray) for value in inputs) and all(
        isinstance(length, int) for length in lengths
    )
