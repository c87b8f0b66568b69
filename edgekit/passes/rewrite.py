"""Small moves that passes share: make a constant, make a node, put one value in another's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgekit.graph import Array

Pass = Callable[[ir.Model], bool]


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer; the name is made unique."""
    unique, count = name, 1
    while unique in graph.initializers:
        unique, count = f"{name}.{count}", count + 1
    tensor = ir.tensor(np.asarray(array, order="C"), name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def make(op_type: str, inputs: Sequence[ir.Value | None], like: ir.Value, name: str, **attributes: Any) -> ir.Node:
    """A node with one output named ``name``, of the shape and type of ``like``."""
    node = ir.Node("", op_type, inputs, convenience.convert_attributes(attributes), name=name)
    out = node.outputs[0]
    out.name, out.shape, out.type = name, like.shape, like.type
    return node


class Writer:
    """Adds nodes before one that they replace, named after what that gives with a number each, and of its type."""

    def __init__(self, graph: ir.Graph, node: ir.Node, like: ir.Value | None = None) -> None:
        self.graph, self.node = graph, node
        self.stem = str(node.outputs[0].name or node.name)
        self._like, self._count = like or node.outputs[0], 0

    def _next(self) -> str:
        self._count += 1
        return f"{self.stem}/{self._count}"

    def add(self, op_type: str, inputs: Sequence[ir.Value | None], shape: Sequence[int], **more: Any) -> ir.Value:
        """A node with one result of that shape."""
        made = make(op_type, inputs, self._like, self._next(), **more)
        made.outputs[0].shape = ir.Shape(shape)
        self.graph.insert_before(self.node, made)
        return made.outputs[0]

    def constant(self, array: Any) -> ir.Value:
        """A new constant."""
        return add_constant(self.graph, self._next(), np.asarray(array))


def unique_names(graph: ir.Graph) -> None:
    """Ensures: no two values have one name. Inputs and outputs keep theirs; of the others the first does."""
    ends = {*graph.inputs, *graph.outputs}
    taken = {value.name for value in ends}
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in inner:
        if value in ends or not value.name:
            continue
        name, count = value.name, 1
        while value.name in taken:
            value.name, count = f"{name}.{count}", count + 1
        taken.add(value.name)


def put_in_place(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let every reader of ``old`` read ``new``, which takes over its name when ``old`` leaves the graph."""
    if old.is_graph_output():
        name = old.name
        for i, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[i] = new
        old.name = f"{name}/replaced"
        new.name = name
    convenience.replace_all_uses_with(old, new)


def drop(graph: ir.Graph, *nodes: ir.Node) -> None:
    """Remove nodes that nothing reads any more."""
    graph.remove(list(nodes), safe=True)


def single_reader(value: ir.Value) -> ir.Node | None:
    """The only node that reads a value which is not a graph output, or None."""
    uses = list(value.uses())
    return None if value.is_graph_output() or len(uses) != 1 else uses[0].node


def make_private(graph: ir.Graph, node: ir.Node, position: int, array: Array) -> None:
    """Give a node its own new constant at an input; other readers keep theirs, and a name that is free is kept."""
    old = node.inputs[position]
    name = old.name if old is not None and old.name else f"{node.name}.{position}"
    if old is not None and len(old.uses()) == 1 and old.is_initializer() and not old.is_graph_output():
        node.replace_input_with(position, None)
        del graph.initializers[name]
    node.replace_input_with(position, add_constant(graph, name, array))
