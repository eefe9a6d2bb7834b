"""An ONNX graph that is being built: its nodes, its constants, and shapes that hold the batch."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jaxbusi.errors import UserError

OPSET = 17
"""Version of the operators; ONNX Runtime 1.12 and later know it."""

IR_VERSION = 8
"""Version of the file format, the one that goes with `OPSET`."""

Dim = Any
"""A length: an int, or JAX's symbol where the batch is in it."""

Shape = tuple[Dim, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value that depends on the input.

    Attributes:
      name: in the graph.
      shape: in the graph. A 1 may stand where the program has a longer axis, all of whose entries
        are equal then: ONNX's elementwise operators broadcast by themselves, and `Graph.whole`
        spells it out for the others.
    """

    name: str
    shape: Shape


Value = np.ndarray | Tensor
"""Of the program: a constant, or what depends on the input."""


class Graph:
    """Nodes and constants, in the order in which they are added."""

    def __init__(self, input_name: str, batch: Dim):
        """Takes the name of the only input, and the symbol of its first axis."""
        self._input = input_name
        self._batch = batch
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._batch_size = ""

    def add(self, operator: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> Tensor:
        """Adds a node and returns its only output, which has `shape`."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return Tensor(name, tuple(shape))

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds an array and returns its name."""
        name = f"constant_{len(self._constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def name(self, value: Value) -> str:
        """Returns the name of a value for an operator that broadcasts."""
        return value.name if isinstance(value, Tensor) else self.constant(value)

    def whole(self, value: Value, shape: Shape) -> Tensor:
        """Returns a value with every axis at its full length, as the program has it."""
        if not isinstance(value, Tensor):
            return Tensor(self.constant(value), value.shape)
        if value.shape == tuple(shape):
            return value
        return self.add("Expand", [value.name, self._lengths(shape)], shape)

    def model(self, output: Tensor, name: str, given: Any, result: Any) -> onnx.ModelProto:
        """Returns the finished model.

        Args:
          output: of the graph.
          name: of the output, as the model's users see it.
          given: shape and dtype of the input.
          result: shape and dtype of the output.
        """
        self._nodes.append(helper.make_node("Identity", [output.name], [name], name=name))
        graph = helper.make_graph(
            self._nodes,
            "jaxbusi",
            [_described(self._input, given)],
            [_described(name, result)],
            self._constants,
        )
        return helper.make_model(
            graph,
            producer_name="jaxbusi",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )

    def _lengths(self, shape: Shape) -> str:
        """The name of int64[rank], computed where the batch is in it."""
        pieces = []
        for length in shape:
            if isinstance(length, int):
                pieces.append(self.constant([length], np.int64))
            elif length == self._batch:
                pieces.append(self._runtime_batch())
            else:
                raise UserError(
                    f"an axis of length {length} cannot be stretched in ONNX; "
                    "export with --format stablehlo"
                )
        return self.add("Concat", pieces, (len(shape),), axis=0).name

    def _runtime_batch(self) -> str:
        if not self._batch_size:
            node = self.add("Shape", [self._input], (1,), start=0, end=1)
            self._batch_size = node.name
        return self._batch_size


def _described(name: str, array: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype))
    shape = [length if isinstance(length, int) else str(length) for length in array.shape]
    return helper.make_tensor_value_info(name, kind, shape)
