"""Ops that abbreviate others, written out in ops that are declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.graph import attributes, constant, dtype_of, shape_of
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place

SQUARED = ("ReduceL2", "ReduceSumSquare")
AFTER = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}


def spell_out(model: ir.Model) -> bool:
    """ReduceL1, L2, LogSum, LogSumExp and SumSquare -> ReduceSum and what goes around it; Trilu -> Where; more below.

    Ensures: none of the reductions, no GatherND along one axis, and no Trilu but one whose diagonal is computed.
    """
    graph, changed = model.graph, False
    for node in list(graph):
        rule = RULES.get(node.op_type)
        new = rule(graph, node) if rule is not None else []
        if new:
            graph.insert_after(node, new)
            put_in_place(graph, node.outputs[0], new[-1].outputs[0])
            drop(graph, node)
            changed = True
    return changed


def _reduced(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """What is summed, the sum, and what becomes of it."""
    source, out, kind = node.inputs[0], node.outputs[0], node.op_type
    assert source is not None
    new = []
    if kind == "ReduceL1":
        new.append(make("Abs", [source], source, f"{out.name}/size"))
    elif kind in SQUARED:
        new.append(make("Mul", [source, source], source, f"{out.name}/square"))
    summed = new[-1].outputs[0] if new else source
    new.append(_like(node, "ReduceSum", summed, f"{out.name}/sum"))
    if kind in AFTER:
        new.append(make(AFTER[kind], [new[-1].outputs[0]], out, f"{out.name}/{AFTER[kind].lower()}"))
    return new


def _log_sum_exp(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """max(x) + log(sum(exp(x - max(x)))), as the exponentials of x alone may be too large to store."""
    source, out, stem = node.inputs[0], node.outputs[0], node.outputs[0].name
    assert source is not None
    highest = _like(node, "ReduceMax", source, f"{stem}/max", keepdims=1)
    highest.outputs[0].shape = ir.Shape(_kept(node, shape_of(source)))
    below = make("Sub", [source, highest.outputs[0]], source, f"{stem}/below")
    grown = make("Exp", [below.outputs[0]], source, f"{stem}/exp")
    summed = _like(node, "ReduceSum", grown.outputs[0], f"{stem}/sum")
    small = make("Log", [summed.outputs[0]], out, f"{stem}/log")
    shape = add_constant(graph, f"{stem}/shape", np.asarray(shape_of(out), np.int64))
    moved = make("Reshape", [highest.outputs[0], shape], out, f"{stem}/highest")
    result = make("Add", [small.outputs[0], moved.outputs[0]], out, f"{stem}/result")
    return [highest, below, grown, summed, small, moved, result]


def _kept(node: ir.Node, shape: tuple[int, ...]) -> list[int]:
    """The shape of a reduction that keeps its axes."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or not axes.size:
        return list(shape) if attributes(node).get("noop_with_empty_axes", 0) else [1] * len(shape)
    gone = {int(axis) % len(shape) for axis in axes.reshape(-1)}
    return [1 if axis in gone else size for axis, size in enumerate(shape)]


def _like(node: ir.Node, op_type: str, source: ir.Value, name: str, **other: Any) -> ir.Node:
    """Another reduction, over the same axes."""
    return make(op_type, [source, *node.inputs[1:]], node.outputs[0], name, **{**attributes(node), **other})


def _triangle(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """The input where a constant triangle says so, else zero."""
    source, out = node.inputs[0], node.outputs[0]
    held = node.inputs[1] if len(node.inputs) > 1 else None
    diagonal = constant(held)
    if source is None or (held is not None and diagonal is None):
        return []
    side = np.triu if attributes(node).get("upper", 1) else np.tril
    mask = side(np.ones(shape_of(source)[-2:], bool), 0 if diagonal is None else int(diagonal.reshape(())))
    here = add_constant(graph, f"{out.name}/triangle", mask)
    zero = add_constant(graph, f"{out.name}/zero", np.zeros((), dtype_of(source)))
    return [make("Where", [here, source, zero], out, f"{out.name}/where")]


def _gathered(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """GatherND along its first axis alone -> Gather, which TFLite takes in any storage order."""
    source, where, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert where is not None
    shape = shape_of(where)
    if shape[-1] != 1 or attributes(node).get("batch_dims", 0):
        return []
    held, new = constant(where), []
    if held is not None:
        where = add_constant(graph, f"{where.name}/flat", held.reshape(shape[:-1]))
    else:
        flat = add_constant(graph, f"{out.name}/shape", np.asarray(shape[:-1], np.int64))
        new.append(make("Reshape", [where, flat], where, f"{out.name}/indices"))
        where = new[0].outputs[0]
        where.shape = ir.Shape(shape[:-1])
    return [*new, make("Gather", [source, where], out, f"{out.name}/gather", axis=0)]


RULES: dict[str, Callable[[ir.Graph, ir.Node], list[ir.Node]]] = {
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare"), _reduced),
    "ReduceLogSumExp": _log_sum_exp,
    "Trilu": _triangle,
    "GatherND": _gathered,
}


def largest_first(model: ir.Model) -> bool:
    """TopK of the smallest -> the largest of what is negated. Ensures: every TopK gives the largest."""
    graph, changed = model.graph, False
    for node in list(graph):
        if node.op_type != "TopK" or attributes(node).get("largest", 1):
            continue
        source, values = node.inputs[0], node.outputs[0]
        assert source is not None
        before = make("Neg", [source], source, f"{values.name}/negated")
        graph.insert_before(node, before)
        node.replace_input_with(0, before.outputs[0])
        node.attributes["largest"] = ir.AttrInt64("largest", 1)
        after = make("Neg", [values], values, f"{values.name}/restored")
        graph.insert_after(node, after)
        put_in_place(graph, values, after.outputs[0])
        after.replace_input_with(0, values)
        changed = True
    return changed
