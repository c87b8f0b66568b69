"""Recurrent nodes in the form that a target runs: whole, fused into one operator, as a loop, or step after step.

What reads the input alone leaves the loop first: one product for all steps. All forms speak of the same tensors, so
that what was calibrated step by step serves each of them: a tensor has one scale in all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgekit.graph import GATES, MEMORY, constant, shape_of
from edgekit.passes.cell import Builder, Cell, Shared
from edgekit.passes.recurrent import ACTIVATIONS, activations
from edgekit.passes.rewrite import drop, make, put_in_place

STATES = ("hidden", "memory")
WHOLE_MEMORY = "memory/whole"  # the range of a cell state that has 16 bits
STEPS = 5  # of one turn of a loop, at most
JOINED = 10  # inputs of one Concat: TFLM's CONCATENATION takes no more
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Shaped:
    """A model whose recurrent nodes have a form, and what name the range of each of their tensors is kept under.

    ``parts`` are the names of the nodes that each recurrent node was written as, ``copies`` the tensors that are copies
    of others in another width (``passes.width``).
    """

    model: ir.Model
    shared: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)

    def nodes(self, names: Sequence[str]) -> list[str]:
        """The nodes that stand for those of the prepared model."""
        return [part for name in names for part in self.parts.get(name, (name,))]


def shaped(model: ir.Model, form_of: Callable[[ir.Node], str]) -> Shaped:
    """A copy of a prepared model, every recurrent node in the form (of ``target.RECURRENT``) that ``form_of`` says."""
    if not recurrent_nodes(model.graph):
        return Shaped(model)
    copy, shared, parts = model.clone(), Shared(), dict[str, list[str]]()
    for node in recurrent_nodes(copy.graph):
        form = form_of(node)
        if form != "whole":
            others = set(copy.graph.all_nodes()) - {node}
            builder = Builder(copy.graph, Cell.of(node))
            _hand_over(builder, BUILDERS[form](builder))
            shared |= builder.shared
            parts[str(node.name)] = [str(n.name) for n in copy.graph.all_nodes() if n not in others]
    return Shaped(copy, shared, parts)


def recurrent_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The LSTM, GRU and RNN nodes."""
    return [node for node in graph if node.op_type in GATES]


def fuses(node: ir.Node) -> bool:
    """Whether UNIDIRECTIONAL_SEQUENCE_LSTM can stand for a plain node: from zero, its cell state kept to itself."""
    if node.op_type != "LSTM" or activations(node) != ACTIVATIONS["LSTM"] or any(map(_used, node.outputs[2:])):
        return False
    zero = all((array := constant(value)) is not None and not array.any() for value in node.inputs[5:7])
    return zero and constant(node.inputs[0]) is None


def across_steps(ranges: Mapping[str, Bounds], shared: Mapping[str, str]) -> dict[str, Bounds]:
    """The range that holds in all steps, by the name under which it is kept."""
    found: dict[str, Bounds] = {}
    for name, kept in shared.items():
        if name in ranges:
            low, high = found.get(kept, ranges[name])
            found[kept] = (min(low, ranges[name][0]), max(high, ranges[name][1]))
    wide = {name: name.removesuffix(STATES[1]) + WHOLE_MEMORY for name in found if name.endswith(f"/{STATES[1]}")}
    return found | {whole: found[name] for name, whole in wide.items()}


def ranges_of(form: Shaped, ranges: Mapping[str, Bounds], kept: Mapping[str, Bounds]) -> dict[str, Bounds]:
    """The ranges of a form's tensors: those of its own name, of what it copies, and those that hold in all steps."""
    copied = {copy: ranges[name] for copy, name in form.copies.items() if name in ranges}
    return {**ranges, **copied, **{name: kept[whole] for name, whole in form.shared.items() if whole in kept}}


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _hand_over(builder: Builder, results: Sequence[ir.Value | None]) -> None:
    """Put copies of the results where those of the node stood: their readers may want another scale."""
    node, graph = builder.cell.node, builder.graph
    for old, new in zip(node.outputs, results, strict=False):
        if new is None:
            continue
        name = str(old.name)
        copy = make("Identity", [new], old, f"{name}/copy")
        graph.insert_before(node, copy)
        put_in_place(graph, old, copy.outputs[0])
        old.name = f"{name}/replaced"
        copy.outputs[0].name = name
    if node in graph:
        drop(graph, node)


def _unrolled(builder: Builder) -> list[ir.Value | None]:
    """Every step written out; the weights are there once."""
    node = builder.cell.node
    time, _, batch, hidden = shape_of(node.outputs[0])
    states, seen = _steps(builder, builder.project(_source(node)), _initial(builder), time)
    if not _used(node.outputs[0]):
        return [None, *_finals(builder, states)]
    flat = _joined(builder, seen, "all")
    return [builder.reshape(flat, "sequence", (time, 1, batch, hidden), "hidden"), *_finals(builder, states)]


def _joined(builder: Builder, values: Sequence[ir.Value], part: str) -> ir.Value:
    """The hidden states one below another, few at a time."""
    if len(values) > JOINED:
        groups = [values[i : i + JOINED] for i in range(0, len(values), JOINED)]
        values = [_joined(builder, group, f"{part}.{i}") for i, group in enumerate(groups)]
        return _joined(builder, values, part)
    rows = sum(shape_of(value)[0] for value in values)
    return builder.value("Concat", values, part, (rows, builder.cell.hidden), "hidden", axis=0)


def _steps(
    builder: Builder, taken: Sequence[ir.Value], states: list[ir.Value], count: int
) -> tuple[list[ir.Value], list[ir.Value]]:
    """The states after so many steps, and every hidden state on the way; in ``taken`` step lies below step."""
    names = [name for name, _ in builder.cell.blocks]
    parts = [
        builder.split(value, [f"{name}/input.{t}" for t in range(count)], 0) if count > 1 else [value]
        for name, value in zip(names, taken, strict=True)
    ]
    seen = []
    for t in range(count):
        builder.suffix = f".{t}"
        states = builder.step([part[t] for part in parts], states)
        seen.append(states[0])
    builder.suffix = ""
    return states, seen


def _looped(builder: Builder) -> list[ir.Value | None]:
    """A Scan whose body is a few steps: a turn of the loop costs as much as two operators of a small network."""
    node = builder.cell.node
    time, _, batch, hidden = shape_of(node.outputs[0])
    count = max(n for n in range(1, STEPS + 1) if time % n == 0)
    if count == time:
        return _unrolled(builder)
    turns, rows = time // count, count * batch
    fed = [
        builder.reshape(value, f"{name}/steps", (turns, rows, shape_of(value)[1]), f"{name}/input")
        for (name, _), value in zip(builder.cell.blocks, builder.project(_source(node)), strict=True)
    ]
    first = _initial(builder)
    body = ir.Graph([], [], nodes=[], name=f"{builder.cell.stem}/body", opset_imports=builder.graph.opset_imports)
    inner = builder.inside(body)
    states = [inner.feed(f"{part}/before", (batch, hidden), part) for part in STATES[: len(first)]]
    taken = [
        inner.feed(f"{name}/now", (rows, shape_of(value)[2]), f"{name}/input")
        for (name, _), value in zip(builder.cell.blocks, fed, strict=True)
    ]
    after, seen = _steps(inner, taken, states, count)
    kept = [inner.value("Concat", seen, "seen", (rows, hidden), "hidden", axis=0)] if _used(node.outputs[0]) else []
    body.inputs.extend([*states, *taken])
    body.outputs.extend([*after, *kept])
    given = [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", len(fed))]
    scan = ir.Node("", "Scan", [*first, *fed], given, num_outputs=len(after) + len(kept), name=f"{node.name}/scan")
    for out, part in zip(scan.outputs, STATES[: len(after)], strict=False):
        builder.describe(out, f"{part}/last", (batch, hidden), part)
    if kept:
        builder.describe(scan.outputs[-1], "all", (turns, rows, hidden), "hidden")
    builder.graph.insert_before(node, scan)
    finals = _finals(builder, scan.outputs[: len(after)])
    if not kept:
        return [None, *finals]
    return [builder.reshape(scan.outputs[-1], "sequence", (time, 1, batch, hidden), "hidden"), *finals]


def _fused(builder: Builder) -> list[ir.Value | None]:
    """The node itself; only its results get the names that the steps share."""
    node, stem = builder.cell.node, builder.cell.stem
    builder.shared[f"{stem}/sequence{MEMORY}"] = f"{stem}/{WHOLE_MEMORY}"
    results = []
    count = min(2, len(node.outputs))
    made = ir.Node("", node.op_type, node.inputs[:4], node.attributes.values(), num_outputs=count, name=node.name)
    for old, out, part in zip(node.outputs, made.outputs, ("sequence", "hidden/last"), strict=False):
        builder.describe(out, part, shape_of(old), "hidden")
        results.append(out if _used(old) else None)
    builder.graph.insert_before(node, made)
    return results


BUILDERS: Mapping[str, Callable[[Builder], list[ir.Value | None]]] = {
    "fused": _fused,
    "loop": _looped,
    "unrolled": _unrolled,
}


def _initial(builder: Builder) -> list[ir.Value]:
    """The initial states as (batch, hidden): constants that are zero, or copies of what is given."""
    found = []
    for value, part in zip(builder.cell.node.inputs[5:7], STATES, strict=False):
        assert value is not None
        array = constant(value)
        if array is not None and not array.any():
            found.append(builder.constant(f"{part}/zero", array[0]))
            continue
        given = f"{part}/given"
        flat = (
            builder.reshape(value, given, shape_of(value)[1:]) if array is None else builder.constant(given, array[0])
        )
        found.append(builder.value("Identity", [flat], f"{part}/first", shape_of(flat), part))
    return found


def _finals(builder: Builder, states: Sequence[ir.Value]) -> list[ir.Value | None]:
    """The final states in the shape that the node gives them, where somebody reads them."""
    found: list[ir.Value | None] = []
    for old, value, part in zip(builder.cell.node.outputs[1:], states, STATES, strict=False):
        found.append(builder.reshape(value, f"{part}/final", shape_of(old), part) if _used(old) else None)
    return found


def _source(node: ir.Node) -> ir.Value:
    source = node.inputs[0]
    assert source is not None
    return source
