"""Channel shuffles: whatever chain of reshapes picks channels, write it as one transpose and a split.

ShuffleNet exports x[:, 0::2] and x[:, 1::2] as Reshape, Transpose, Reshape and two Gathers over five axes. What such a
chain does to the channels is found by sending the element numbers through it, not by matching its form.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, attributes, constant, shape_of
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")


def plain_shuffles(model: ir.Model) -> bool:
    """Gathers behind reshapes that together take every channel once -> Reshape, Transpose, Split. Batch 1 only."""
    graph, changed = model.graph, False
    for node in list(graph):
        gathers = _gathers(node.outputs[0]) if node.op_type in MOVES else []
        root = _root(node)
        if len(gathers) < 2 or root is None:
            continue
        picked = [_channels(root, gather) for gather in gathers]
        if any(p is None for p in picked):
            continue
        order = np.concatenate([p for p in picked if p is not None])
        groups = len(gathers)
        if np.array_equal(order, np.arange(shape_of(root)[1]).reshape(-1, groups).T.reshape(-1)):
            _rewrite(graph, node, root, gathers)
            changed = True
    return changed


def _gathers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, if all of them are Gathers of one constant index, in the order of the index."""
    nodes = [use.node for use in value.uses()]
    if value.is_graph_output() or any(n.op_type != "Gather" for n in nodes):
        return []
    indices = [constant(n.inputs[1]) for n in nodes]
    if any(index is None or index.size != 1 for index in indices):
        return []
    return sorted(nodes, key=lambda n: int(np.asarray(constant(n.inputs[1])).reshape(-1)[0]))


def _root(node: ir.Node) -> ir.Value | None:
    """The image tensor at the start of a chain of moves that only the chain reads on the way."""
    value = node.inputs[0] if node.inputs else None
    while value is not None and value.producer() is not None:
        producer = value.producer()
        if producer is None or producer.op_type not in MOVES or len(value.uses()) != 1 or value.is_graph_output():
            break
        value = producer.inputs[0]
    image = value is not None and value.shape is not None and len(value.shape) == 4 and value.shape[0] == 1
    return value if image else None


def _channels(root: ir.Value, gather: ir.Node) -> Array | None:
    """Which channels of ``root`` (N, C, H, W) the Gather gives, in order, or None when it does something else."""
    n, channels, height, width = shape_of(root)
    numbers = moved(gather, root, np.arange(n * channels * height * width).reshape(n, channels, height, width))
    if numbers is None or numbers.ndim != 4:
        return None
    picked = numbers[0, :, 0, 0] // (height * width)
    expected = np.arange(n * channels * height * width).reshape(n, channels, height, width)[:, picked]
    return picked if np.array_equal(numbers, expected) else None


def moved(node: ir.Node, root: ir.Value, numbers: Array) -> Array | None:
    """``numbers`` after the chain from ``root`` up to and with ``node``."""
    source = node.inputs[0]
    if source is not root:
        producer = source.producer() if source is not None else None
        before = moved(producer, root, numbers) if producer is not None else None
        if before is None:
            return None
        numbers = before
    if node.op_type == "Transpose":
        return numbers.transpose(attributes(node).get("perm"))
    if node.op_type == "Gather":
        index = np.asarray(constant(node.inputs[1]))
        return np.take(numbers, index, axis=int(attributes(node).get("axis", 0)))
    return numbers.reshape(shape_of(node.outputs[0]))


def _rewrite(graph: ir.Graph, last: ir.Node, root: ir.Value, gathers: list[ir.Node]) -> None:
    _, channels, height, width = shape_of(root)
    groups, part = len(gathers), channels // len(gathers)
    stem = str(last.outputs[0].name)
    apart = add_constant(graph, f"{stem}/apart", np.asarray([part, groups, height, width]))
    opened = make("Reshape", [root, apart], root, f"{stem}/opened")
    opened.outputs[0].shape = ir.Shape([part, groups, height, width])
    turned = make("Transpose", [opened.outputs[0]], root, f"{stem}/turned", perm=[1, 0, 2, 3])
    turned.outputs[0].shape = ir.Shape([groups, part, height, width])
    attributes_ = [ir.AttrInt64("axis", 0), ir.AttrInt64("num_outputs", groups)]
    split = ir.Node("", "Split", [turned.outputs[0], None], attributes_, num_outputs=groups, name=f"{stem}/split")
    graph.insert_after(last, [opened, turned, split])
    for gather, piece in zip(gathers, split.outputs, strict=True):
        out = gather.outputs[0]
        piece.name, piece.shape, piece.type = f"{out.name}/part", out.shape, out.type
        put_in_place(graph, out, piece)
        drop(graph, gather)
