"""Outputs that a Concat joins, each part an output of its own: what is read as integers need not share one scale."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgekit.contract import Join
from edgekit.graph import attributes, constant, shape_of
from edgekit.passes.rewrite import drop


def part_of(value: ir.Value) -> ir.Value:
    """What an input of a Concat copies (``canonical.lone_shared_inputs``), or itself."""
    node = value.producer()
    copied = node.inputs[0] if node is not None and node.op_type == "Identity" else None
    return copied or value


def splits(value: ir.Value) -> bool:
    """Whether an output is a Concat of different parts, all of them computed, none an output already."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or not value.is_graph_output():
        return False
    parts = [part_of(part) for part in node.inputs if part is not None]
    fixed = any(constant(p) is not None or p.is_graph_input() or p.is_graph_output() for p in parts)
    return not fixed and len(set(parts)) == len(node.inputs)


def split_outputs(model: ir.Model, names: Collection[str]) -> tuple[ir.Model, tuple[Join, ...]]:
    """A copy of a prepared model whose outputs of these names give way to their parts, and what joins them again."""
    copy = model.clone()
    graph, joins, outputs = copy.graph, list[Join](), list[ir.Value]()
    whole = list(graph.outputs)
    for value in whole:
        node = value.producer()
        parts = [part_of(part) for part in node.inputs if part is not None] if node is not None else []
        if node is None or value.name not in names or not splits(value) or not {*parts}.isdisjoint(outputs):
            outputs.append(value)
            continue
        axis = int(attributes(node)["axis"]) % len(shape_of(value))
        joins.append(Join(str(value.name), axis, tuple(str(part.name) for part in parts)))
        outputs += parts
    graph.outputs[:] = outputs
    for value in whole:
        node = value.producer()
        if node is not None and value not in outputs and not value.uses():
            copies = [part.producer() for part in node.inputs if part is not None and part_of(part) is not part]
            drop(graph, node)
            drop(graph, *(c for c in dict.fromkeys(copies) if c is not None and not c.outputs[0].uses()))
    return copy, tuple(joins)
