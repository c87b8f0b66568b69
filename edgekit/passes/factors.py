"""Constant factors of a product of two computed tensors: one multiplication instead of two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph import constant
from edgekit.passes.rewrite import add_constant, drop, put_in_place, single_reader
from edgekit.passes.shuffle import MOVES


def one_factor(model: ir.Model) -> bool:
    """(a x) @ move(b y) -> (a b x) @ move(y) for scalars a and b, as exported attention scales both of its sides."""
    graph, changed = model.graph, False
    for node in list(graph):
        if node.op_type != "MatMul":
            continue
        left, right = _scaled(node.inputs[0], node), _scaled(node.inputs[1], node)
        if left is None or right is None:
            continue
        (first, at, a), (second, other, b) = left, right
        first.replace_input_with(at, add_constant(graph, f"{first.outputs[0].name}/factor", np.asarray(a * b, a.dtype)))
        source = second.inputs[1 - other]
        if source is not None:
            put_in_place(graph, second.outputs[0], source)
            drop(graph, second)
            changed = True
    return changed


def _scaled(value: ir.Value | None, reader: ir.Node) -> tuple[ir.Node, int, np.ndarray] | None:
    """The Mul by a scalar that a value comes from through moves: (node, position of the scalar, the scalar)."""
    while value is not None and single_reader(value) is reader and (producer := value.producer()) is not None:
        if producer.op_type == "Mul":
            for i, factor in enumerate(map(constant, producer.inputs)):
                if factor is not None and factor.size == 1:
                    return producer, i, factor
            return None
        if producer.op_type not in MOVES:
            return None
        value, reader = producer.inputs[0], producer
    return None
