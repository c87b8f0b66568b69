"""Which elements of a graph's tensors belong together: union-find over their numbers, followed along ops.

What follows channels (``quant.equalize`` scales them, ``compress.channels`` removes them) has rules of its own for each
op; what only moves data is the same for both, and stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, attributes, shape_of

PINNED = 0  # the class of what stays as it is


class Classes:
    """Numbers that belong together (union-find); the smallest of a class stands for it."""

    def __init__(self) -> None:
        self._parent = [PINNED]

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> Array:
        """So many new numbers, each a class of its own."""
        start = len(self._parent)
        self._parent += range(start, start + count)
        return np.arange(start, start + count)

    def join(self, a: Array, b: Array) -> None:
        """Make one class of each pair."""
        for one, other in set(zip(*(x.reshape(-1).tolist() for x in np.broadcast_arrays(a, b)), strict=True)):
            low, high = sorted((self._find(one), self._find(other)))
            self._parent[high] = low

    def _find(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number

    def of(self, numbers: Array) -> Array:
        """The class of each number."""
        return np.asarray([self._find(n) for n in numbers.reshape(-1).tolist()], np.int64).reshape(numbers.shape)


class Numbering:
    """The elements of a graph's tensors, numbered; an axis along which all are alike has length 1."""

    def __init__(self) -> None:
        self.classes = Classes()
        self.numbers: dict[str, Array] = {}

    def of(self, value: ir.Value) -> Array:
        """The class of each element of a computed value; an axis along which all are alike has length 1."""
        return self.classes.of(self.numbers[str(value.name)])

    def along(self, value: ir.Value, axis: int) -> Array:
        """The class of each index of one axis; what differs along the others becomes one class."""
        numbers = np.moveaxis(self.numbers[str(value.name)], axis, 0)
        numbers = numbers.reshape(len(numbers), -1)
        self.classes.join(numbers[:, :1], numbers)
        return np.broadcast_to(self.classes.of(numbers[:, 0]), (shape_of(value)[axis],))

    def full(self, value: ir.Value) -> Array:
        """The number of every element."""
        return np.broadcast_to(self.numbers[str(value.name)], shape_of(value))

    def pin(self, values: Iterable[ir.Value]) -> None:
        """Let all of these stay as they are."""
        for value in values:
            rank = len(value.shape) if value.shape is not None else 0
            numbers = self.numbers.setdefault(str(value.name), np.full((1,) * rank, PINNED))
            self.classes.join(numbers, np.asarray(PINNED))

    def give(self, values: Sequence[ir.Value], found: Sequence[Array]) -> None:
        """Number the outputs of a node."""
        for value, numbers in zip(values, found, strict=True):
            self.numbers[str(value.name)] = compact(numbers)


def compact(numbers: Array) -> Array:
    """Every axis along which all are alike with length 1."""
    for axis in range(numbers.ndim):
        first = numbers.take([0], axis)
        if numbers.shape[axis] > 1 and (numbers == first).all():
            numbers = first
    return np.ascontiguousarray(numbers)


Move = Callable[[Numbering, ir.Node, list[ir.Value]], "Sequence[Array] | None"]


def _split(numbering: Numbering, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    axis = int(attributes(node).get("axis", 0))
    ends = np.cumsum([shape_of(value)[axis] for value in node.outputs])[:-1]
    return np.split(numbering.full(read[0]), ends, axis)


def _reshape(numbering: Numbering, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    return [numbering.full(read[0]).reshape(shape_of(node.outputs[0]))]


def _transpose(numbering: Numbering, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    return [numbering.numbers[str(read[0].name)].transpose(attributes(node).get("perm"))]


MOVES: dict[str, Move] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Split": _split,
    "Transpose": _transpose,
}
