"""Masks before a Softmax: infinite ones, and what exports write against the NaN that those can give."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph import constant
from edgekit.passes.rewrite import drop, make_private, put_in_place
from edgekit.passes.shuffle import MOVES

LOWEST = np.finfo(np.float32).min
THROUGH = frozenset({"Add", "Where", *MOVES})


def finite_masks(model: ir.Model) -> bool:
    """-inf in an Add or Where that only a Softmax reads -> the lowest number, which has the same weight: none.

    Ensures: such masks are finite, and no IsNaN looks at a Softmax, which is then never NaN. A row in which everything
    is masked gives even weights, not NaN.
    """
    graph, changed = model.graph, False
    for node in list(graph):
        if node.op_type in ("Add", "Where") and feeds_softmax(node.outputs[0]):
            for position, value in enumerate(node.inputs):
                array = constant(value)
                if array is not None and array.dtype.kind == "f" and np.isneginf(array).any():
                    make_private(graph, node, position, np.where(np.isneginf(array), LOWEST, array))
                    changed = True
        changed |= node.op_type == "IsNaN" and _never(graph, node)
    return changed


def feeds_softmax(value: ir.Value) -> bool:
    """Whether only a Softmax reads a value, if need be through moves and further masks."""
    uses = list(value.uses())
    if value.is_graph_output() or not uses:
        return False
    for use in uses:
        through = use.node.op_type in THROUGH and feeds_softmax(use.node.outputs[0])
        if use.node.op_type != "Softmax" and not through:
            return False
    return True


def _never(graph: ir.Graph, node: ir.Node) -> bool:
    """Take out Where(IsNaN(s), other, s) for a Softmax s."""
    source, changed = node.inputs[0], False
    producer = source.producer() if source is not None else None
    if source is None or producer is None or producer.op_type != "Softmax":
        return False
    for use in list(node.outputs[0].uses()):
        choice = use.node
        if choice.op_type == "Where" and use.idx == 0 and choice.inputs[2] is source:
            put_in_place(graph, choice.outputs[0], source)
            drop(graph, choice)
            changed = True
    return changed
