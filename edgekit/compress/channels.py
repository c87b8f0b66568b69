"""Which channels can only go together: a dependency analysis over the graph, down to single elements of tensors.

Every element of every tensor has a class. Removing a class removes slices of tensors, and of the constants around them,
so that everything stays rectangular and what is left computes what it did when the class is zero. What cannot be
followed is pinned, and so is what would take a whole tensor with it. (After Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning", whose groups are found between layers; here between elements, so that flattened images, shuffles
and the heads of attention need no cases of their own.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from edgekit.classes import PINNED, Numbering, compact
from edgekit.graph import GATES, Array, attributes, constant, is_float, shape_of
from edgekit.passes.rewrite import make_private

PRODUCERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", *GATES)


@dataclass(frozen=True)
class Layer:
    """Channels that are cut from the same tensors along the same axes, as classes.

    ``name`` is that of the weights that make them. ``width`` is how many output channels of those one class takes: more
    than one where groups or the heads of attention go together. ``places`` are the tensors and constants, each with the
    axis and how much of it one class takes.
    """

    name: str
    classes: tuple[int, ...]
    width: int = 1
    places: tuple[tuple[str, int, int], ...] = ()


@dataclass
class _Cuts:
    """By constant: the numbers along its axes; what is broadcast to a tensor; and who may not be cut."""

    along: dict[str, list[tuple[int, Array]]] = field(default_factory=dict)
    links: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)


class Channels(Numbering):
    """The channels of an opened model (a copy of it, ``model``) as classes; the pinned ones stay.

    Of attention, whole heads may go; with ``inner`` the same channels within all heads.
    """

    def __init__(self, model: ir.Model, inner: bool = False) -> None:
        from edgekit.compress.channel_rules import RULES

        super().__init__()
        self.inner = inner
        self.model = model.clone()
        self.graph = self.model.graph
        self.cuts = _Cuts()
        _own_vectors(self.graph)
        self.pin(self.graph.inputs)
        for node in self.graph:
            read = [v for v in node.inputs if v is not None and str(v.name) in self.numbers]
            rule = RULES.get(node.op_type) if read and not node.domain else None
            found = rule(self, node, read) if rule is not None else None
            if found is None:
                self.pin((*read, *node.outputs))
                self.whole(node.inputs)
            else:
                self.give(node.outputs, found)
        self.pin(self.graph.outputs)
        self._settle()

    def cut(self, value: ir.Value | None, axis: int, numbers: Array) -> None:
        """A constant's axis goes with these numbers."""
        if value is not None:
            self.cuts.along.setdefault(str(value.name), []).append((axis, numbers))

    def link(self, node: ir.Node, out: ir.Value) -> None:
        """The node's constants are broadcast to ``out``, and go with it."""
        self.cuts.links += [(v, out) for v in node.inputs if v is not None and str(v.name) not in self.numbers]

    def whole(self, values: Sequence[ir.Value | None]) -> None:
        """These constants are not cut."""
        self.cuts.whole.update(str(v.name) for v in values if v is not None)

    def collapsed(self, value: ir.Value, axes: Sequence[int]) -> Array:
        """The numbers of a value, of which all along some axes go together."""
        numbers = self.numbers[str(value.name)]
        for axis in axes:
            first = numbers.take([0], axis)
            self.classes.join(first, numbers)
            numbers = first
        return numbers

    def _settle(self) -> None:
        """Join until every tensor has classes along one axis at most, and every constant agrees with its readers."""
        count = -1
        while count != (count := len(np.unique(self.classes.of(np.arange(len(self.classes)))))):
            for name, numbers in self.numbers.items():
                self.numbers[name] = numbers = self.squared(compact(self.classes.of(numbers)))
            for axes in self._constant_axes().values():
                for first, *rest in axes.values():
                    for other in rest:
                        self.classes.join(first, other)

    def squared(self, numbers: Array) -> Array:
        """Join slices along the axis that has most different ones; what is one class in all stays."""
        varies = [axis for axis, size in enumerate(numbers.shape) if size > 1]
        if not varies:
            self.classes.join(numbers, np.asarray(PINNED))
        elif len(varies) > 1:
            rows = [np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1) for axis in varies]
            finest = max(rows, key=lambda row: len(np.unique(row, axis=0)))
            self.classes.join(finest[:, :1], finest)
        return numbers

    def _constant_axes(self) -> dict[str, dict[int, list[Array]]]:
        """The numbers along each axis of each constant, one for each of its readers."""
        found: dict[str, dict[int, list[Array]]] = {}
        for name, cuts in self.cuts.along.items():
            for axis, numbers in cuts:
                found.setdefault(name, {}).setdefault(axis, []).append(numbers)
        for value, out in self.cuts.links:
            numbers, sizes = self.numbers[str(out.name)], shape_of(value)
            for axis, size in enumerate(sizes):
                at = axis - len(sizes) + numbers.ndim
                if size > 1 and at >= 0:
                    along = np.moveaxis(numbers, at, 0).reshape(numbers.shape[at], -1)[:, 0]
                    along = along if len(along) > 1 else np.asarray([PINNED])
                    found.setdefault(str(value.name), {}).setdefault(axis, []).append(np.broadcast_to(along, (size,)))
        for name in self.cuts.whole & set(found):
            for lists in found[name].values():
                lists.append(np.asarray([PINNED]))
        for name in self.graph.initializers:  # a constant that is data (Concat) has numbers of its own
            for axis, size in enumerate(self.numbers[name].shape if name in self.numbers else ()):
                if size > 1:
                    along = np.moveaxis(self.numbers[name], axis, 0).reshape(size, -1)[:, 0]
                    found.setdefault(name, {}).setdefault(axis, []).append(along)
        return found

    @cached_property
    def constants(self) -> dict[str, dict[int, Array]]:
        """By constant and axis, where any may be cut: the class of each index."""
        found: dict[str, dict[int, Array]] = {}
        for name, axes in self._constant_axes().items():
            for axis, lists in axes.items():
                classes = np.broadcast_to(self.classes.of(lists[0]), (shape_of(self.graph.initializers[name])[axis],))
                if classes.any():
                    found.setdefault(name, {})[axis] = classes
        return found

    def axis_of(self, value: ir.Value | None) -> tuple[int, Array] | None:
        """The axis of a tensor along which channels may go, and the class of each of its indices."""
        if value is None or str(value.name) not in self.numbers:
            return None
        numbers = self.of(value)
        axis = int(np.argmax(numbers.shape)) if numbers.size > 1 else None
        return None if axis is None else (axis, numbers.reshape(-1))

    def made(self, node: ir.Node) -> Array | None:
        """The class of each output channel that a node with weights makes; None of other nodes."""
        if node.op_type not in PRODUCERS or constant(node.inputs[1]) is None:
            return None
        axis = len(shape_of(node.outputs[0])) - 1 if node.op_type in ("MatMul", *GATES) else 1
        found = self.axis_of(node.outputs[0])
        return found[1] if found is not None and found[0] == axis else None

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """What may be cut. A tensor holds a layer whole or not at all, so one channel left of each keeps it alive."""
        made: dict[int, tuple[str, int]] = {}
        for node in self.graph:
            classes = self.made(node)
            for one, width in zip(*np.unique([] if classes is None else classes, return_counts=True), strict=True):
                made.setdefault(int(one), (str(node.inputs[1].name), int(width)))  # type: ignore[union-attr]
        made.pop(PINNED, None)
        where: dict[int, list[tuple[str, int, int]]] = {one: [] for one in made}
        for name, axis, classes in self._places():
            for one, count in zip(*np.unique(classes, return_counts=True), strict=True):
                if int(one) in where:
                    where[int(one)].append((name, axis, int(count)))
        cells: dict[tuple[tuple[str, int, int], ...], list[int]] = {}
        for one, places in where.items():
            cells.setdefault(tuple(places), []).append(one)
        found = (
            Layer(made[ones[0]][0], tuple(ones), made[ones[0]][1], at) for at, ones in cells.items() if len(ones) > 1
        )
        return tuple(found)

    def _places(self) -> Iterator[tuple[str, int, Array]]:
        """Every axis of a tensor or constant that may be cut, with its classes."""
        for node in self.graph:
            for value in node.outputs:
                if (found := self.axis_of(value)) is not None:
                    yield str(value.name), *found
        for name, axes in self.constants.items():
            for axis, classes in axes.items():
                yield name, axis, classes


def _own_vectors(graph: ir.Graph) -> None:
    """Give each reader of a shared vector its own: equal biases of different layers do not tie them together."""
    for node in graph:
        for at, value in enumerate(node.inputs):
            array = constant(value)
            if array is not None and array.ndim == 1 and is_float(value) and len(value.uses()) > 1:  # type: ignore[union-attr]
                make_private(graph, node, at, array)


def slices_of(node: ir.Node) -> dict[int, slice] | None:
    """What a Slice with constant limits takes of each axis; None where they are not constant."""
    source = node.inputs[0]
    limits = [constant(v) for v in node.inputs[1:]]
    if source is None or any(v is not None and a is None for v, a in zip(node.inputs[1:], limits, strict=True)):
        return None
    starts, ends, axes, steps = ([None if a is None else a.tolist() for a in limits] + [None, None])[:4]
    rank = len(shape_of(source))
    found: dict[int, slice] = {}
    for i, (start, end) in enumerate(zip(starts or [], ends or [], strict=True)):
        axis, step = (axes[i] if axes else i) % rank, steps[i] if steps else 1
        size = shape_of(source)[axis]
        found[axis] = slice(*slice(start, None if step < 0 and end < -size else end, step).indices(size))
    return found


def pads_of(node: ir.Node) -> dict[int, tuple[int, int]] | None:
    """What a Pad with constant amounts adds before and behind each axis; None where they are not constant."""
    amounts = constant(node.inputs[1])
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if amounts is None or (len(node.inputs) > 3 and node.inputs[3] is not None and axes is None):
        return None
    rank = len(shape_of(node.outputs[0]))
    which = range(rank) if axes is None else [int(a) % rank for a in axes]
    half = amounts.size // 2
    return {axis: (int(amounts[i]), int(amounts[half + i])) for i, axis in enumerate(which)}


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes that a reduction takes; None where they are not constant."""
    rank = len(shape_of(node.inputs[0])) if node.inputs[0] is not None else 0
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = constant(given)
    if given is not None and axes is None:
        return None
    if axes is None or not axes.size:
        return () if attributes(node).get("noop_with_empty_axes") else tuple(range(rank))
    return tuple(int(a) % rank for a in axes.reshape(-1))
