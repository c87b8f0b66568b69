"""Decide in which axis order every tensor of a TFLite model is stored, before anything is emitted.

A storage order is a permutation: ``perm[i]`` is the source axis that lies at stored axis ``i``. One pass in graph
order assigns one to every value and notes, for every input of every node, the order in which that node wants it; where
the two differ, and only there, the emitter writes a TRANSPOSE. An ONNX Transpose is pure bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.graph import attributes, constant, shape_of
from edgekit.ops import OPS, Layout

Perm = tuple[int, ...]


def identity(rank: int) -> Perm:
    """The source's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Perm:
    """(N, C, spatial...) stored as (N, spatial..., C)."""
    return identity(rank) if rank < 3 else (0, *range(2, rank), 1)


@dataclass
class Layouts:
    """The decision.

    ``stored``: order of each value. ``wanted``: order in which a node reads input ``i``. ``features``: for a value
    whose last axis was merged from channels-last axes, the source position of each stored feature; the weights of the
    fully-connected layer that reads it are put into that order instead of transposing the activation.
    ``outputs``: the order in which each graph output leaves the model.
    """

    stored: dict[str, Perm] = field(default_factory=dict)
    wanted: dict[tuple[ir.Node, int], Perm] = field(default_factory=dict)
    features: dict[str, NDArray[np.intp]] = field(default_factory=dict)
    outputs: list[Perm] = field(default_factory=list)


def decide(graph: ir.Graph, input_layout: str = "NHWC") -> Layouts:
    """Assign a storage order to every value of the graph; ``input_layout`` NCHW keeps the ends as they are."""
    decided = Layouts()
    wanting = _wanting_channels_last(graph)
    keep = input_layout == "NCHW"
    for value in graph.inputs:
        rank = len(shape_of(value))
        last = value in wanting and not keep
        decided.stored[_name(value)] = channels_last(rank) if last else identity(rank)
    for node in graph:
        _RULES[OPS[node.op_type].layout](_Step(node, decided, wanting))
    for value in graph.outputs:
        perm = decided.stored.get(_name(value), identity(len(shape_of(value))))
        last = perm == channels_last(len(perm)) and not keep
        decided.outputs.append(perm if last else identity(len(perm)))
    return decided


def _name(value: ir.Value) -> str:
    if value.name is None:
        raise ValueError("a value without a name")
    return value.name


def _wanting_channels_last(graph: ir.Graph) -> set[ir.Value]:
    """Values that reach a channels-last kernel through ops that do not care."""
    wanting: set[ir.Value] = set()
    for node in reversed(graph):
        layout = OPS[node.op_type].layout
        through = layout in (Layout.ANY, Layout.AXIS) and any(out in wanting for out in node.outputs)
        for i, value in enumerate(node.inputs):
            if value is None or constant(value) is not None:
                continue
            if (layout is Layout.NHWC and i == 0) or (through and value.shape is not None and len(value.shape) > 2):
                wanting.add(value)
    return wanting


@dataclass(frozen=True)
class _Step:
    """One node while its layout is being decided."""

    node: ir.Node
    decided: Layouts
    wanting: set[ir.Value]

    def data(self) -> list[tuple[int, ir.Value]]:
        """Inputs that are not constant, with their positions."""
        return [(i, v) for i, v in enumerate(self.node.inputs) if v is not None and constant(v) is None]

    def stored(self, value: ir.Value) -> Perm:
        return self.decided.stored[_name(value)]

    def want(self, position: int, perm: Perm) -> None:
        self.decided.wanted[(self.node, position)] = perm

    def store(self, perm_of: Callable[[int], Perm]) -> None:
        """Store every output in the order that ``perm_of(rank)`` gives."""
        for value in self.node.outputs:
            if value.name:
                self.decided.stored[value.name] = perm_of(len(shape_of(value)))


def _nhwc(step: _Step) -> None:
    for i, value in step.data():
        rank = len(shape_of(value))
        step.want(i, channels_last(rank) if i == 0 else identity(rank))
    step.store(channels_last)


def _source(step: _Step) -> None:
    for i, value in step.data():
        keep = i == 0 and _name(value) in step.decided.features
        step.want(i, step.stored(value) if keep else identity(len(shape_of(value))))
    step.store(identity)


def _product(step: _Step) -> None:
    """As ``_source``, but a right side whose rows are stored innermost is read that way: the kernel can turn it."""
    _source(step)
    for i, value in step.data():
        rank = len(shape_of(value))
        if i == 1 and rank > 2 and step.stored(value)[-1] == rank - 2:
            step.want(i, (*range(rank - 2), rank - 1, rank - 2))


def _common(step: _Step) -> Perm:
    """The order in which most of the bytes of an op's full-rank inputs lie; channels-last wins a tie."""
    rank = max((len(shape_of(v)) for _, v in step.data()), default=len(shape_of(step.node.outputs[0])))
    if any(len(shape_of(v)) not in (rank, 0) for _, v in step.data()):
        return identity(rank)  # broadcasting aligns axes from the right, which only the source order keeps
    weight: dict[Perm, float] = {}
    for _, value in step.data():
        if len(shape_of(value)) == rank:
            perm = step.stored(value)
            weight[perm] = weight.get(perm, 0.0) + float(np.prod(shape_of(value)))
    return max(weight, key=lambda p: (weight[p], p == channels_last(rank)), default=identity(rank))


def _any(step: _Step) -> None:
    out = step.node.outputs[0]
    rank = len(shape_of(out))
    perm = _common(step)
    if len(perm) != rank:
        perm = identity(rank)
    for i, value in step.data():
        step.want(i, perm if len(shape_of(value)) == rank else identity(len(shape_of(value))))
    _pass_features(step)
    step.store(lambda r: perm if r == rank else identity(r))


def _pass_features(step: _Step) -> None:
    data = step.data()
    if len(step.node.inputs) == 1 and data and _name(data[0][1]) in step.decided.features:
        for value in step.node.outputs:
            step.decided.features[_name(value)] = step.decided.features[_name(data[0][1])]


def _axis(step: _Step) -> None:
    """Axes are translated; an axis that goes away leaves the order of the others as it was."""
    data = step.data()
    perm = _common(step)
    if step.node.op_type == "Gather" and len(shape_of(step.node.inputs[1])) > 1:  # type: ignore[arg-type]
        perm = identity(len(perm))  # a matrix of indices puts new axes in the place of one
    gone = _removed_axes(step.node, len(perm))
    if step.node.op_type in ("Gather", "Split") and len(perm) > 2 and _axis_of(step.node) % len(perm) == perm[-1] == 0:
        perm = (perm[-1], *perm[:-1])  # taking apart an axis that lies innermost would copy element by element
    for i, value in data:
        step.want(i, perm if len(shape_of(value)) == len(perm) else identity(len(shape_of(value))))

    def result(rank: int) -> Perm:
        if rank == len(perm):
            return perm
        if rank != len(perm) - len(gone):
            return identity(rank)
        left = [a for a in perm if a not in gone]
        return tuple(sorted(left).index(a) for a in left)

    step.store(result)


def _axis_of(node: ir.Node, default: int = 0) -> int:
    """The axis that a node names, as an attribute or, in CumSum, as a constant."""
    held = constant(node.inputs[1]) if node.op_type == "CumSum" else None
    return int(attributes(node).get("axis", default) if held is None else held)


def _removed_axes(node: ir.Node, rank: int) -> set[int]:
    """Axes that a reduction or a scalar Gather removes."""
    attrs = attributes(node)
    if node.op_type == "Gather":
        return {_axis_of(node) % rank}
    if attrs.get("keepdims", 1):
        return set()
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        axes = np.asarray([attrs["axis"]] if "axis" in attrs else range(rank))
    return {int(a) % rank for a in np.atleast_1d(axes)}


def _last(step: _Step) -> None:
    (i, value), *_ = step.data()
    rank = len(shape_of(value))
    axis = _axis_of(step.node, -1) % rank
    perm = step.stored(value)
    if perm[-1] != axis:
        perm = (*(a for a in perm if a != axis), axis)
    step.want(i, perm)
    step.store(lambda r: perm)


def _transpose(step: _Step) -> None:
    (i, value), *_ = step.data()
    stored = step.stored(value)
    order = [int(a) for a in attributes(step.node).get("perm", range(len(stored))[::-1])]
    step.want(i, stored)
    step.store(lambda r: tuple(order.index(a) for a in stored))


def _reshape(step: _Step) -> None:
    (i, value), *_ = step.data()
    before, after = shape_of(value), shape_of(step.node.outputs[0])
    out = step.node.outputs[0]
    if before == after:
        step.want(i, step.stored(value))
        step.store(lambda r: step.stored(value))
        _pass_features(step)
        return
    stored = step.stored(value)
    if _name(value) in step.decided.features:
        stored = identity(len(before))
    groups = matching_groups(before, after)
    order = _feature_order(step, stored, before, after)
    if order is not None:
        step.decided.features[_name(out)] = order
        step.want(i, stored)
        step.store(identity)
        return
    wanted, result = _through(groups, stored, before, after, prefer_last=out in step.wanting)
    step.want(i, wanted)
    step.store(lambda r: result)


def _feature_order(
    step: _Step, stored: Perm, before: tuple[int, ...], after: tuple[int, ...]
) -> NDArray[np.intp] | None:
    """(N, C, spatial...) flattened to (N, features) for fully-connected layers: their weights take the order."""
    if len(after) != 2 or len(before) < 3 or after[0] != before[0] or stored[0] != 0:
        return None
    inner = [a for a in stored[1:] if before[a] > 1]
    if inner == sorted(inner) or not _feeds_linear_only(step.node.outputs[0]):
        return None
    features = np.arange(after[1]).reshape(before[1:])
    return features.transpose([a - 1 for a in stored[1:]]).reshape(-1)


def _feeds_linear_only(value: ir.Value) -> bool:
    uses = value.uses()
    if value.is_graph_output() or not uses:
        return False
    for use in uses:
        node = use.node
        if node.op_type in ("Gemm", "MatMul") and use.idx == 0 and constant(node.inputs[1]) is not None:
            if attributes(node).get("transA", 0):
                return False
        elif not (
            OPS[node.op_type].layout is Layout.ANY and len(node.inputs) == 1 and _feeds_linear_only(node.outputs[0])
        ):
            return False
    return True


Group = tuple[tuple[int, ...], tuple[int, ...]]


def matching_groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[Group]:
    """Split a reshape into the smallest runs of axes with equal products; axes of length 1 are in no run."""
    a = [i for i, n in enumerate(before) if n != 1]
    b = [i for i, n in enumerate(after) if n != 1]
    groups: list[Group] = []
    while a or b:
        left, right = [a.pop(0)], [b.pop(0)]
        size, other = before[left[0]], after[right[0]]
        while size != other:
            if size < other:
                left.append(a.pop(0))
                size *= before[left[-1]]
            else:
                right.append(b.pop(0))
                other *= after[right[-1]]
        groups.append((tuple(left), tuple(right)))
    return groups


def _through(
    groups: list[Group], stored: Perm, before: tuple[int, ...], after: tuple[int, ...], *, prefer_last: bool
) -> tuple[Perm, Perm]:
    """The order to read the input in, and the order of the result: groups stay where their last axis is stored."""
    position = {axis: i for i, axis in enumerate(stored)}
    ordered = sorted(groups, key=lambda g: max(position[a] for a in g[0]))
    kept = [a for left, _ in ordered for a in left]
    current = [a for a in stored if before[a] != 1]
    wanted = stored if current == kept else (*kept, *(a for a in stored if before[a] == 1))
    result = [a for _, right in ordered for a in right]
    rank = len(after)
    candidates = [channels_last(rank), identity(rank)]
    for candidate in candidates if prefer_last else reversed(candidates):
        if [a for a in candidate if after[a] != 1] == result:
            return wanted, candidate
    return wanted, _with_ones(result, after)


def _with_ones(order: list[int], after: tuple[int, ...]) -> Perm:
    """Put the axes of length 1 back: each before the axis that follows it in the source, else at the end."""
    full = list(order)
    for axis in reversed(range(len(after))):
        if after[axis] == 1:
            full.insert(full.index(axis + 1) if axis + 1 in full else len(full), axis)
    return tuple(full)


_RULES: dict[Layout, Callable[[_Step], None]] = {
    Layout.NHWC: _nhwc,
    Layout.ANY: _any,
    Layout.AXIS: _axis,
    Layout.LAST: _last,
    Layout.SOURCE: _source,
    Layout.PRODUCT: _product,
    Layout.RESHAPE: _reshape,
    Layout.TRANSPOSE: _transpose,
}
