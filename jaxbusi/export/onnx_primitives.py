"""JAX's primitives as ONNX operators: those that the models compute with, and no others.

Each is a function of the graph, the equation and its inputs, and returns the equation's only
output. What a primitive can do beyond what the models ask of it is refused by name, never
approximated.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from jaxbusi.errors import UserError
from jaxbusi.export.onnx_graph import Graph, Shape, Tensor, Value

Equation = Any
"""Of a jaxpr: `primitive`, `invars`, `outvars` with shapes and types, `params`."""

Primitive = Callable[[Graph, Equation, Sequence[Value]], Value]


def refuse(equation: Equation, what: str = "") -> UserError:
    """The error that says that an equation has no counterpart here."""
    return UserError(
        f"the model computes {equation.primitive.name}{what}, which this version does not write "
        "as ONNX; export with --format stablehlo"
    )


def _elementwise(operator: str) -> Primitive:
    def convert(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
        return _apply(graph, operator, inputs)

    return convert


def _apply(graph: Graph, operator: str, inputs: Sequence[Value], **attributes: Any) -> Tensor:
    """An operator that broadcasts its inputs, whose axes are aligned from the last."""
    shape = functools.reduce(_broadcast, [value.shape for value in inputs])
    return graph.add(operator, [graph.name(value) for value in inputs], shape, **attributes)


def _broadcast(first: Shape, second: Shape) -> Shape:
    rank = max(len(first), len(second))
    pairs = zip(_of_rank(first, rank), _of_rank(second, rank), strict=True)
    return tuple(b if isinstance(a, int) and a == 1 else a for a, b in pairs)


def _of_rank(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _not_equal(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    return _apply(graph, "Not", [_apply(graph, "Equal", inputs)])


def _or(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    if equation.outvars[0].aval.dtype != bool:
        raise refuse(equation, " of whole numbers")
    return _apply(graph, "Or", inputs)


def _rsqrt(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    return _apply(graph, "Reciprocal", [_apply(graph, "Sqrt", inputs)])


def _square(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    return _apply(graph, "Mul", [*inputs, *inputs])


def _same(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Value:
    return inputs[0]


def _select(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    if len(inputs) != 3 or equation.invars[0].aval.dtype != bool:
        raise refuse(equation, " among more than two")
    condition, otherwise, then = inputs
    return _apply(graph, "Where", [condition, then, otherwise])


def _convert(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return _apply(graph, "Cast", inputs, to=kind)


def _whole(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> list[Tensor]:
    return [
        graph.whole(value, variable.aval.shape)
        for value, variable in zip(inputs, equation.invars, strict=True)
    ]


def _reshape(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    [x] = _whole(graph, equation, inputs)
    shape = equation.params["new_sizes"]
    lengths = [length if isinstance(length, int) else -1 for length in shape]
    if lengths.count(-1) > 1 or equation.params["dimensions"] is not None:
        raise refuse(equation, f" to {shape}")
    return graph.add("Reshape", [x.name, graph.constant(lengths, np.int64)], shape)


def _transpose(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    [x] = _whole(graph, equation, inputs)
    return _permuted(graph, x, equation.params["permutation"])


def _permuted(graph: Graph, x: Tensor, order: Sequence[int]) -> Tensor:
    if list(order) == list(range(len(order))):
        return x
    order = [int(axis) for axis in order]
    return graph.add("Transpose", [x.name], tuple(x.shape[axis] for axis in order), perm=order)


def _stretch(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    """`broadcast_in_dim`: the new axes have length 1 in the graph, see `Tensor`."""
    [x] = inputs
    rank = len(equation.params["shape"])
    place = equation.params["broadcast_dimensions"]
    new = [axis for axis in range(rank) if axis not in place]
    shape = [1] * rank
    for axis, length in zip(place, x.shape, strict=True):
        shape[axis] = length
    if not isinstance(x, Tensor):
        return Tensor(graph.constant(x.reshape(shape)), tuple(shape))
    if not new:
        return x
    return graph.add("Unsqueeze", [x.name, graph.constant(new, np.int64)], tuple(shape))


def _slice(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    [x] = _whole(graph, equation, inputs)
    start, end = equation.params["start_indices"], equation.params["limit_indices"]
    return _sliced(graph, equation, x, start, end, equation.params["strides"])


def _sliced(
    graph: Graph,
    equation: Equation,
    x: Tensor,
    start: Sequence[Any],
    end: Sequence[Any],
    strides: Sequence[int] | None,
) -> Tensor:
    steps = [1] * len(start) if strides is None else list(strides)
    cut = [
        axis
        for axis, length in enumerate(x.shape)
        if not (steps[axis] == 1 and start[axis] == 0 and end[axis] == length)
    ]
    shape = list(x.shape)
    for axis in cut:
        if not (isinstance(start[axis], int | np.integer) and isinstance(end[axis], int)):
            raise refuse(equation, " along the batch")
        shape[axis] = -(-(end[axis] - int(start[axis])) // steps[axis])
    bounds = [[int(of[axis]) for axis in cut] for of in (start, end)]
    columns = [*bounds, cut, [steps[axis] for axis in cut]]
    names = [graph.constant(column, np.int64) for column in columns]
    return graph.add("Slice", [x.name, *names], tuple(shape)) if cut else x


def _gather(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    """`x[:, 2]` and `x[:, 1:]`: one window at a place that is known."""
    indices = inputs[1]
    dims, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    if isinstance(indices, Tensor) or indices.ndim != 1 or dims.operand_batching_dims:
        raise refuse(equation, " at places that are computed")
    x = graph.whole(inputs[0], equation.invars[0].aval.shape)
    start = [0] * len(sizes)
    for axis, index in zip(dims.start_index_map, indices.tolist(), strict=True):
        start[axis] = index
    end = [size + first if first else size for size, first in zip(sizes, start, strict=True)]
    if any(last > length for last, length in zip(end, x.shape, strict=True) if last != length):
        raise refuse(equation, " beyond the end")
    window = _sliced(graph, equation, x, start, end, None)
    shape = equation.outvars[0].aval.shape
    axes = [int(axis) for axis in dims.collapsed_slice_dims]
    if not axes:  # for Squeeze, none would mean all of length 1
        return window
    return graph.add("Squeeze", [window.name, graph.constant(axes, np.int64)], shape)


def _pad(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    x = graph.whole(inputs[0], equation.invars[0].aval.shape)
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between) or min(*before, *after) < 0:
        raise refuse(equation, " within or by less than nothing")
    amounts = graph.constant([*map(int, before), *map(int, after)], np.int64)
    return graph.add(
        "Pad", [x.name, amounts, graph.name(inputs[1])], equation.outvars[0].aval.shape
    )


def _concatenate(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    names = [x.name for x in _whole(graph, equation, inputs)]
    axis = equation.params["dimension"]
    return graph.add("Concat", names, equation.outvars[0].aval.shape, axis=axis)


def _sum(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    [x] = _whole(graph, equation, inputs)
    axes = graph.constant(equation.params["axes"], np.int64)
    return graph.add("ReduceSum", [x.name, axes], equation.outvars[0].aval.shape, keepdims=0)


def _maximum(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    [x] = _whole(graph, equation, inputs)
    shape, axes = equation.outvars[0].aval.shape, [int(axis) for axis in equation.params["axes"]]
    return graph.add("ReduceMax", [x.name], shape, axes=axes, keepdims=0)


def _dot(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    """One free and one contracted axis on either side, any number of batch axes: `MatMul`."""
    contracted, batched = equation.params["dimension_numbers"]
    sides = []
    for side, x in enumerate(_whole(graph, equation, inputs)):
        along, batch = list(contracted[side]), list(batched[side])
        free = [axis for axis in range(len(x.shape)) if axis not in (*along, *batch)]
        if len(along) != 1 or len(free) != 1:
            raise refuse(equation, f" over {len(along)} axes with {len(free)} left")
        sides.append(_permuted(graph, x, [*batch, *(along + free if side else free + along)]))
    shape = equation.outvars[0].aval.shape
    return graph.add("MatMul", [x.name for x in sides], shape)


def _conv(graph: Graph, equation: Equation, inputs: Sequence[Value]) -> Tensor:
    """ONNX has channels before pixels: the image is turned there and back.

    ONNX Runtime takes out the turns that cancel between two convolutions.
    """
    parameters = equation.params
    numbers, kernel = parameters["dimension_numbers"], inputs[1]
    dilated = any(step != 1 for step in parameters["lhs_dilation"])
    if dilated or parameters["batch_group_count"] != 1 or isinstance(kernel, Tensor):
        raise refuse(equation, " of more than an image with a kernel")
    x = graph.whole(inputs[0], equation.invars[0].aval.shape)
    turned = _permuted(graph, x, numbers.lhs_spec)
    before, after = zip(*parameters["padding"], strict=True)
    if min(*before, *after) < 0:
        raise refuse(equation, " of less than the image")
    order = numbers.out_spec
    out = equation.outvars[0].aval.shape
    y = graph.add(
        "Conv",
        [turned.name, graph.constant(kernel.transpose(numbers.rhs_spec))],
        tuple(out[axis] for axis in order),
        strides=[int(step) for step in parameters["window_strides"]],
        pads=[*map(int, before), *map(int, after)],
        dilations=[int(step) for step in parameters["rhs_dilation"]],
        group=int(parameters["feature_group_count"]),
    )
    return _permuted(graph, y, np.argsort(order).tolist())


PRIMITIVES: dict[str, Primitive] = {
    "add": _elementwise("Add"),
    "broadcast_in_dim": _stretch,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "convert_element_type": _convert,
    "div": _elementwise("Div"),
    "dot_general": _dot,
    "erf": _elementwise("Erf"),
    "exp": _elementwise("Exp"),
    "gather": _gather,
    "gt": _elementwise("Greater"),
    "max": _elementwise("Max"),
    "mul": _elementwise("Mul"),
    "ne": _not_equal,
    "or": _or,
    "pad": _pad,
    "reduce_max": _maximum,
    "reduce_sum": _sum,
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "square": _square,
    "stop_gradient": _same,
    "sub": _elementwise("Sub"),
    "transpose": _transpose,
}
"""What can be written, by the name that a jaxpr has for it."""
