"""Small readings of an ``onnx_ir`` graph that many stages need, and its units: an op with the activation it absorbs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.errors import ModelError

OPSET = 21
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}  # recurrent ops, and how many gates their weights hold
MEMORY = "/cell"  # behind the name of what a fused LSTM gives: its cell state, which is no tensor of the graph
Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of a constant value, or None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape. Raises ModelError when an axis is not known."""
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        raise ModelError(
            f"tensor {value.name}: shape {value.shape or 'unknown'} is not fixed; pin the shapes in [model.inputs]"
        )
    return tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]


def selects(node: ir.Node | None) -> bool:
    """Whether the number of a node's results depends on the values; its shape is the largest that it may have."""
    return node is not None and node.op_type == "NonMaxSuppression"


def dtype_of(value: ir.Value) -> str:
    """The element type as numpy names it."""
    if value.dtype is None:
        raise ModelError(f"tensor {value.name}: its element type is not known")
    return str(np.dtype(value.dtype.numpy()).name)


def is_float(value: ir.Value | None) -> bool:
    """Whether the value holds floating-point numbers."""
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def attributes(node: ir.Node) -> dict[str, Any]:
    """The node's attributes as Python values; tensors as arrays, and strings as str."""
    found: dict[str, Any] = {}
    for name, attr in node.attributes.items():
        value = attr.value
        found[name] = value.numpy() if attr.type == ir.AttributeType.TENSOR else value
    return found


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """The interval that Relu or Clip keeps, or None when it is not constant or the node is another op."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip":
        return None
    bounds = [-math.inf, math.inf]
    for i, value in enumerate(node.inputs[1:3]):
        if value is not None:
            array = constant(value)
            if array is None:
                return None
            bounds[i] = float(array)
    return bounds[0], bounds[1]


@dataclass(frozen=True)
class Unit:
    """A node with what its kernel does before it stores: a bias that stands apart as an Add, and a Relu or Clip.

    No tensor lies between them.
    """

    node: ir.Node
    bias: ir.Node | None = None
    activation: ir.Node | None = None

    @property
    def inner(self) -> ir.Value:
        """The result before the activation."""
        return (self.bias or self.node).outputs[0]

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """What the unit stores."""
        return tuple((self.activation or self.bias or self.node).outputs)

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval to which the result is clipped; infinite without an activation."""
        found = clip_bounds(self.activation) if self.activation is not None else None
        return found or (-math.inf, math.inf)

    @property
    def bias_value(self) -> ir.Value | None:
        """The constant that is added per output channel, wherever it stands."""
        if self.bias is not None:
            return next(value for value in self.bias.inputs if constant(value) is not None)
        from edgekit.ops import OPS

        position = OPS[self.node.op_type].quant.bias
        return self.node.inputs[position] if position is not None and position < len(self.node.inputs) else None


def units(graph: ir.Graph) -> list[Unit]:
    """The graph as units, in order. An op takes in what is the only reader of its only result."""
    from edgekit.ops import OPS

    absorbed: set[ir.Node] = set()
    found = []
    for node in graph:
        if node in absorbed:
            continue
        declared = OPS.get(node.op_type)
        if declared is None or not declared.fuses or len(node.outputs) != 1 or not is_float(node.outputs[0]):
            found.append(Unit(node))
            continue
        reader = _only_reader(node)
        bias = reader if reader is not None and _is_bias(node, reader) else None
        activation = _only_reader(bias) if bias is not None else reader
        if activation is not None and clip_bounds(activation) is None:
            activation = None
        absorbed.update(n for n in (bias, activation) if n is not None)
        found.append(Unit(node, bias, activation))
    return found


def all_units(graph: ir.Graph) -> list[Unit]:
    """The units of a graph and of the bodies of its loops."""
    found = []
    for unit in units(graph):
        found.append(unit)
        for attr in unit.node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH:
                found += all_units(attr.as_graph())
    return found


def _only_reader(node: ir.Node) -> ir.Node | None:
    value = node.outputs[0]
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        return None
    reader: ir.Node = uses[0].node
    return reader if uses[0].idx == 0 or reader.op_type == "Add" else None


def _is_bias(node: ir.Node, reader: ir.Node) -> bool:
    """Whether ``reader`` adds one constant per output of a product with a constant matrix."""
    if node.op_type != "MatMul" or reader.op_type != "Add":
        return False
    weight = constant(node.inputs[1])
    arrays = [a for a in map(constant, reader.inputs) if a is not None]
    return weight is not None and weight.ndim == 2 and len(arrays) == 1 and arrays[0].shape == weight.shape[1:]


def activations(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every floating-point value that is computed or fed, in order: inputs, then what the units store."""
    yield from (value for value in graph.inputs if is_float(value))
    for unit in units(graph):
        yield from (value for value in unit.outputs if is_float(value) and value.name)


def with_constants(model: ir.Model, constants: Mapping[str, Array]) -> ir.Model:
    """A copy of a model whose named constants hold other numbers of the same shape."""
    copy = model.clone()
    for name, array in constants.items():
        copy.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return copy
