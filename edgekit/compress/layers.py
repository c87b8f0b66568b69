"""The layers of a graph whose weights can be compressed, and what a graph multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from edgekit.audit.macs import ONNX, count
from edgekit.errors import ConfigError
from edgekit.graph import Array, attributes, constant, is_float
from edgekit.toml_table import near_misses

# op -> (input that is the weight, axis of its outputs, axis of its inputs); a Gemm's axes depend on transB.
WEIGHTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "Conv": ((1, 0, 1),),
    "ConvTranspose": ((1, 1, 0),),
    "Gemm": ((1, 0, 1),),
    "MatMul": ((1, -1, -2), (0, -2, -1)),
    "LSTM": ((1, 1, 2), (2, 1, 2)),
    "GRU": ((1, 1, 2), (2, 1, 2)),
    "RNN": ((1, 1, 2), (2, 1, 2)),
}


@dataclass(frozen=True)
class Layer:
    """A node, a constant weight that it multiplies with, and the axes of that weight that are outputs and inputs."""

    node: ir.Node
    weight: ir.Value
    outputs: int
    inputs: int

    @property
    def name(self) -> str:
        """The name of the weight."""
        return str(self.weight.name)

    @property
    def array(self) -> Array:
        """The weight's numbers."""
        found = constant(self.weight)
        assert found is not None
        return found


def weights_in(graph: ir.Model) -> dict[str, Layer]:
    """Every weight of two axes or more, once, by its name."""
    found: dict[str, Layer] = {}
    for node in graph.graph:
        for position, outputs, inputs in WEIGHTS.get(node.op_type, ()):
            weight = node.inputs[position]
            array = constant(weight)
            if weight is None or array is None or array.ndim < 2 or not is_float(weight):
                continue
            if node.op_type == "Gemm" and not attributes(node).get("transB", 0):
                outputs, inputs = inputs, outputs
            found.setdefault(str(weight.name), Layer(node, weight, outputs % array.ndim, inputs % array.ndim))
    return found


def layers_of(graph: ir.Model, skip: Sequence[str] = ()) -> list[Layer]:
    """The weights of a graph, save those of the nodes or of the names that ``skip`` (fnmatch) names.

    Raises ConfigError for a pattern that names none, and where nothing is left.
    """
    found = weights_in(graph)
    left: set[str] = set()
    for pattern in skip:
        called = {n: (n, str(layer.node.name)) for n, layer in found.items()}
        named = {n for n, names in called.items() if any(fnmatchcase(name, pattern) for name in names)}
        if not named:
            hint = near_misses(pattern, [name for names in called.values() for name in names])
            raise ConfigError(f"skip: {pattern} names no weight and no node{hint}")
        left |= named
    if not found.keys() - left:
        raise ConfigError("no weight is left to compress; multiplied are none, or skip names them all")
    return [layer for name, layer in found.items() if name not in left]


def macs_of(graph: ir.Model) -> int:
    """Multiply-adds of one inference. Nodes whose shapes are not known count as 0."""
    return sum(macs_of_node(node) for node in graph.graph)


def macs_of_node(node: ir.Node) -> int:
    """Multiply-adds of one node."""
    shapes = [[_shape(value) for value in values] for values in (node.inputs, node.outputs)]
    return count(ONNX, node.op_type, (shapes[0], shapes[1]), attributes(node)) or 0


def _shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None:
        return (0,)
    known = value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
    return tuple(int(dim) for dim in value.shape or ()) if known else None  # type: ignore[arg-type]
