"""One step of an LSTM, GRU or RNN as plain nodes, and the products with the input that all steps share.

The formulas are those of the ONNX operators; rows of W and R lie in ONNX's order (LSTM iofc, GRU zrh).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgekit.graph import GATES, Array, attributes, constant, shape_of
from edgekit.passes.recurrent import activations, weights
from edgekit.passes.rewrite import add_constant, make

Shared = dict[str, str]  # a tensor of one step -> the name under which its range is kept


@dataclass(frozen=True)
class Cell:
    """A plain recurrent node (``recurrent.plain_recurrences``) with its numbers.

    ``blocks`` are the gates that are added up in one product: their name, and their rows in W and R.
    """

    node: ir.Node
    stem: str
    hidden: int
    blocks: tuple[tuple[str, slice], ...]
    activations: tuple[str, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Cell:
        """The cell of a plain node."""
        hidden = np.asarray(constant(node.inputs[2])).shape[2]
        every = slice(0, GATES[node.op_type] * hidden)
        blocks: tuple[tuple[str, slice], ...] = (("sums", every),)
        if node.op_type == "GRU":  # what the reset gate multiplies stands apart
            blocks = (("gates", slice(0, 2 * hidden)), ("new", slice(2 * hidden, 3 * hidden)))
        return cls(node, str(node.name), hidden, blocks, activations(node))

    @property
    def reset_after(self) -> bool:
        """Whether a GRU's reset gate acts on the product of the state, not on the state."""
        return bool(attributes(self.node).get("linear_before_reset"))


@dataclass
class Builder:
    """Makes the nodes of a cell before its node, or into a ``body``.

    ``suffix`` tells the steps apart; ``shared`` says under which name the range of each tensor is kept.
    """

    graph: ir.Graph
    cell: Cell
    body: ir.Graph | None = None
    suffix: str = ""
    shared: Shared = field(default_factory=dict)
    _constants: dict[str, ir.Value] = field(default_factory=dict)

    def inside(self, body: ir.Graph) -> Builder:
        """The same cell, written into the body of a loop."""
        return replace(self, body=body)

    def _put(self, node: ir.Node) -> None:
        if self.body is None:
            self.graph.insert_before(self.cell.node, node)
        else:
            self.body.append(node)

    def describe(self, value: ir.Value, part: str, shape: Sequence[int], kept: str | None) -> ir.Value:
        """Name a value after its part of the cell; None keeps no range for it."""
        value.name, value.shape = f"{self.cell.stem}/{part}{self.suffix}", ir.Shape(shape)
        value.type = self.cell.node.outputs[0].type
        if kept is not None:
            self.shared[value.name] = f"{self.cell.stem}/{kept}"
        return value

    def feed(self, part: str, shape: Sequence[int], kept: str) -> ir.Value:
        """An input of the body."""
        return self.describe(ir.Value(), part, shape, kept)

    def value(
        self, op_type: str, inputs: Sequence[ir.Value], part: str, shape: Sequence[int], kept: str = "", **given: Any
    ) -> ir.Value:
        """A node with one result."""
        made = make(op_type, inputs, self.cell.node.outputs[0], f"{self.cell.stem}/{part}{self.suffix}", **given)
        self._put(made)
        return self.describe(made.outputs[0], part, shape, kept or part)

    def reshape(self, value: ir.Value, part: str, shape: Sequence[int], kept: str | None = None) -> ir.Value:
        """The value in another shape; it keeps its scale."""
        target = self.constant(f"shape/{'x'.join(map(str, shape))}", np.asarray(shape))
        made = make("Reshape", [value, target], self.cell.node.outputs[0], f"{self.cell.stem}/{part}{self.suffix}")
        self._put(made)
        return self.describe(made.outputs[0], part, shape, kept)

    def split(self, value: ir.Value, parts: Sequence[str], axis: int) -> list[ir.Value]:
        """Equal parts of a value; they keep its scale."""
        shape = list(shape_of(value))
        shape[axis] //= len(parts)
        given = convenience.convert_attributes({"axis": axis, "num_outputs": len(parts)})
        made = ir.Node("", "Split", [value, None], given, num_outputs=len(parts), name=f"{value.name}/split")
        self._put(made)
        for out, part in zip(made.outputs, parts, strict=True):
            self.describe(out, part, shape, None)
            self.shared[str(out.name)] = self.shared[str(value.name)]
        return list(made.outputs)

    def constant(self, part: str, array: Array) -> ir.Value:
        """A constant of the cell, once for all steps."""
        if part not in self._constants:
            self._constants[part] = add_constant(self.graph, f"{self.cell.stem}/{part}", array)
        return self._constants[part]

    def product(self, value: ir.Value, part: str, matrix: str, weight: Array, bias: Array) -> ir.Value:
        """(rows, in) x weight (out, in) + bias."""
        inputs = [value, self.constant(matrix, weight), self.constant(f"{matrix}/bias", bias)]
        return self.value("Gemm", inputs, part, (shape_of(value)[0], len(weight)), transB=1)

    def project(self, source: ir.Value) -> list[ir.Value]:
        """What each block adds up from the input, for all steps at once: (time x batch, rows)."""
        time, batch, width = shape_of(source)
        if constant(source) is not None:  # what is made of it is computed, as in any other network
            source = self.value("Identity", [source], "source", (time, batch, width))
        flat = self.reshape(source, "flat", (time * batch, width))
        w, _, b = (array[0] for array in weights(self.cell.node))
        found = []
        for name, rows in self.cell.blocks:
            bias = b[: len(w)][rows] + (0 if self._apart(name) else b[len(w) :][rows])
            found.append(self.product(flat, f"{name}/input", f"{name}/w", w[rows], bias))
        return found

    def _apart(self, name: str) -> bool:
        """Whether a block's recurrent bias cannot be added to its input's: a reset gate multiplies it."""
        return self.cell.node.op_type == "GRU" and name == "new" and self.cell.reset_after

    def recur(self, name: str, rows: slice, state: ir.Value) -> ir.Value:
        """What a block adds up from the state; of a constant state, which is zero, the bias is left."""
        _, r, b = (array[0] for array in weights(self.cell.node))
        bias = b[len(r) :][rows] if self._apart(name) else np.zeros(rows.stop - rows.start, np.float32)
        if constant(state) is not None:
            return self.constant(f"{name}/state/first", np.tile(bias, (shape_of(state)[0], 1)))
        return self.product(state, f"{name}/state", f"{name}/r", r[rows], bias)

    def step(self, inputs: Sequence[ir.Value], states: Sequence[ir.Value]) -> list[ir.Value]:
        """The states after one step, given what each block takes from the input: (batch, rows) each."""
        build = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.cell.node.op_type]
        return build(list(inputs), list(states))

    def _like(self, op_type: str, inputs: Sequence[ir.Value], part: str) -> ir.Value:
        return self.value(op_type, inputs, part, shape_of(inputs[0]))

    def _sum(self, block: int, taken: ir.Value, state: ir.Value) -> ir.Value:
        name, rows = self.cell.blocks[block]
        return self._like("Add", [taken, self.recur(name, rows, state)], f"{name}/sum")

    def _lstm(self, inputs: list[ir.Value], states: list[ir.Value]) -> list[ir.Value]:
        soft, new, shown = self.cell.activations
        hidden, memory = states
        *gates, total = self.split(self._sum(0, inputs[0], hidden), ("i/sum", "o/sum", "f/sum", "new/sum"), 1)
        i, o, f = (self._like(soft, [gate], part) for gate, part in zip(gates, "iof", strict=True))
        kept = self._like("Mul", [f, memory], "kept")
        added = self._like("Mul", [i, self._like(new, [total], "new")], "added")
        memory = self._like("Add", [kept, added], "memory")
        return [self._like("Mul", [o, self._like(shown, [memory], "shown")], "hidden"), memory]

    def _gru(self, inputs: list[ir.Value], states: list[ir.Value]) -> list[ir.Value]:
        soft, last = self.cell.activations
        (hidden,), (name, rows) = states, self.cell.blocks[1]
        z, r = self.split(self._like(soft, [self._sum(0, inputs[0], hidden)], "gates"), ("z", "r"), 1)
        if self.cell.reset_after:
            taken = self._like("Mul", [r, self.recur(name, rows, hidden)], "new/reset")
        else:
            taken = self.recur(name, rows, self._like("Mul", [r, hidden], "new/reset"))
        new = self._like(last, [self._like("Add", [inputs[1], taken], "new/sum")], "new")
        change = self._like("Mul", [z, self._like("Sub", [hidden, new], "difference")], "change")
        return [self._like("Add", [new, change], "hidden")]

    def _rnn(self, inputs: list[ir.Value], states: list[ir.Value]) -> list[ir.Value]:
        return [self._like(self.cell.activations[0], [self._sum(0, inputs[0], states[0])], "hidden")]
