"""Gelu spelled out, as exports before opset 20 have it, becomes the one op that runtimes know."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgekit.graph import constant
from edgekit.passes.rewrite import drop, make, put_in_place, single_reader

TOLERANCE = 1e-3


def fuse_gelu(model: ir.Model) -> bool:
    """x * 0.5 * (1 + erf(x / sqrt(2))) -> Gelu(x), in any order of the factors (Hendrycks and Gimpel 2016)."""
    graph, changed = model.graph, False
    for erf in [node for node in graph if node.op_type == "Erf"]:
        source = _times(erf.inputs[0], 1 / math.sqrt(2))
        plus = single_reader(erf.outputs[0])
        product = single_reader(plus.outputs[0]) if plus is not None and _constant_of(plus, "Add") == 1.0 else None
        if source is None or product is None or product.op_type != "Mul":
            continue
        other = next((value for value in product.inputs if value is not plus.outputs[0]), None)  # type: ignore[union-attr]
        last: ir.Node | None = product
        if other is source:
            last = single_reader(product.outputs[0])
            if last is None or abs((_constant_of(last, "Mul") or 0.0) - 0.5) > TOLERANCE:
                continue
        elif _times(other, 0.5) is not source:
            continue
        assert last is not None
        gelu = make("Gelu", [source], last.outputs[0], str(erf.name or last.name))
        gelu.outputs[0].name = f"{last.outputs[0].name}/gelu"
        graph.insert_after(last, gelu)
        put_in_place(graph, last.outputs[0], gelu.outputs[0])
        drop(graph, *dict.fromkeys([last, product]))
        changed = True
    return changed


def _constant_of(node: ir.Node, op_type: str) -> float | None:
    """The one number of a node of that op with another input, or None."""
    numbers = [constant(value) for value in node.inputs]
    found = [array for array in numbers if array is not None]
    if node.op_type != op_type or len(found) != 1 or found[0].size != 1:
        return None
    return float(found[0].reshape(-1)[0])


def _times(value: ir.Value | None, factor: float) -> ir.Value | None:
    """The value that this one is ``factor`` times, or None."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    by = _constant_of(node, node.op_type)
    if by is None or node.op_type not in ("Mul", "Div"):
        return None
    if node.op_type == "Div":
        if constant(node.inputs[1]) is None or by == 0:
            return None
        by = 1 / by
    if abs(by - factor) > TOLERANCE:
        return None
    return next(other for other in node.inputs if constant(other) is None)
