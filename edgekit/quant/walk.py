"""A float graph run over many samples, a few nodes at a time: what the nodes still to come read is kept, no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from edgekit.graph import Array, dtype_of
from edgekit.runtimes import open_session


class Walk:
    """One pass through a graph under way; ``samples`` are inputs by name, source layout."""

    def __init__(self, model: ir.Model, samples: Sequence[Mapping[str, Array]]) -> None:
        self._proto: onnx.ModelProto = ir.to_proto(model)
        self._nodes = list(self._proto.graph.node)
        self._constants = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        self._index = {node.name: i for i, node in enumerate(self._nodes)}
        self._last = {name: i for i, node in enumerate(self._nodes) for name in _reads(node)}
        dtypes = {str(value.name): dtype_of(value) for value in model.graph.inputs}
        self._held = [{name: np.asarray(sample[name], dtype) for name, dtype in dtypes.items()} for sample in samples]
        self._at = 0

    def before(self, node: str) -> list[Array]:
        """What the first input of a node is, for each sample. Nodes are asked for in the order of the graph."""
        self._run(self._index[node])
        name = self._nodes[self._index[node]].input[0]
        return [held[name] for held in self._held]

    def give(self, constants: Mapping[str, Array]) -> None:
        """Give constants other numbers, for the nodes that were not run yet."""
        self._constants |= {name: onnx.numpy_helper.from_array(array, name) for name, array in constants.items()}

    def _run(self, end: int) -> None:
        nodes, self._at = self._nodes[self._at : end], max(self._at, end)
        made = {name for node in nodes for name in node.output}
        wanted = [name for name in made if self._last.get(name, -1) >= end]
        if wanted:
            read = {name for node in nodes for name in _reads(node)} - made
            session = open_session(self._part(nodes, read, wanted), "onnxruntime")
            fed = [name for name in read if name in self._held[0]]
            for i, held in enumerate(self._held):
                self._held[i] = held | dict(session.run({name: held[name] for name in fed}))
        self._held = [{k: v for k, v in held.items() if self._last.get(k, -1) >= end} for held in self._held]

    def _part(self, nodes: Sequence[onnx.NodeProto], read: set[str], wanted: Sequence[str]) -> bytes:
        """A model of these nodes alone."""
        first = self._held[0]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(first[name].dtype), first[name].shape)
            for name in read
            if name in first
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
        constants = [tensor for name, tensor in self._constants.items() if name in read]
        graph = helper.make_graph(nodes, "part", inputs, outputs, constants)
        opsets = list(self._proto.opset_import)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._proto.ir_version)
        return bytes(model.SerializeToString(deterministic=True))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, also from within the bodies that it holds."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)


def most_held(graph: ir.Graph) -> int:
    """The bytes of one sample that a walk holds at once, at most."""
    nodes = list(graph)
    index = {node: i for i, node in enumerate(nodes)}
    change = np.zeros(len(nodes) + 2, np.int64)
    for value in (*graph.inputs, *(out for node in nodes for out in node.outputs)):
        producer = value.producer()
        start = 0 if producer is None else index[producer] + 1
        ends = [index[use.node] + 1 for use in value.uses() if use.node in index]
        if ends and value.shape is not None and value.dtype is not None:
            size = int(np.prod([d if isinstance(d, int) else 1 for d in value.shape])) * value.dtype.itemsize
            change[start] += int(size)
            change[max(ends)] -= int(size)
    return int(np.cumsum(change).max(initial=0))
