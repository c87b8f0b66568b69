"""WHILE: a loop over the first axis of some tensors, whose body is lowered like any graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgekit.emitters.tflite_graph import Graph, Op, Tensor
from edgekit.graph import units
from edgekit.layout import decide
from edgekit.ops.context import Operand
from edgekit.quant import numerics

if TYPE_CHECKING:
    from edgekit.emitters.lowering import Lowering


def write(outer: Lowering, body: ir.Graph, operands: Sequence[Operand], scanned: int) -> None:
    """Fill ``outer.outs`` with the final states of ``body`` and with what it gives step by step, one behind another.

    What passes from step to step: a counter, the states, the scanned tensors as they are, and what is collected.
    """
    count = len(operands) - scanned
    step = _Step(outer, body, count)
    fed = [outer.tensor(item) for item in operands[count:]]
    first = [
        outer.tensor(item) if item.array is None else _number("start", item.array, state)
        for item, state in zip(operands[:count], step.states, strict=True)
    ]
    collected = outer.outs[count:]
    empty = [_number("empty", np.zeros(out.shape, np.float32), out) for out in collected]
    carried = [_counter("counter", 0), *first, *fed, *empty]
    results = [_like(t, f"end/{i}") for i, t in enumerate(carried)]
    results[1 : 1 + count] = outer.outs[:count]
    results[1 + count + scanned :] = collected
    bodies = {
        "cond_subgraph_index": _condition(carried, fed[0].shape[0]),
        "body_subgraph_index": step.graph(fed, empty),
    }
    outer.graph.ops.append(Op("WHILE", tuple(carried), tuple(results), {}, bodies=bodies))


class _Step:
    """The body, lowered by a lowering of its own under the same plan."""

    def __init__(self, outer: Lowering, body: ir.Graph, count: int) -> None:
        self._lowering = type(outer)(outer.plan, decide(body, "NCHW"))
        tensors = [self._lowering.declare(value) for value in body.inputs]
        self.states, self._now = tensors[:count], tensors[count:]
        self._ops = self._lowering.graph.ops
        self._body, self._count = body, count

    def graph(self, fed: Sequence[Tensor], empty: Sequence[Tensor]) -> Graph:
        """The subgraph: pick what this step takes, run, and put what it gives in its place."""
        counter = Tensor("counter", (), "int32")
        sequences = [_like(t, f"fed/{i}") for i, t in enumerate(fed)]
        for sequence, now in zip(sequences, self._now, strict=True):
            self._ops.append(Op("GATHER", (sequence, counter), (now,), {"axis": 0, "batch_dims": 0}))
        for unit in units(self._body):
            self._lowering.unit(unit)
        results = [self._lowering.tensors[str(value.name)] for value in self._body.outputs]
        filled, before = [], [_like(t, f"collected/{i}") for i, t in enumerate(empty)]
        for old, new in zip(before, results[self._count :], strict=True):
            filled.append(self._placed(old, new, counter))
        after = _like(counter, "counter/after")
        inputs = (counter, _counter("one", 1))
        self._ops.append(Op("ADD", inputs, (after,), {"fused_activation_function": "NONE"}))
        graph = self._lowering.graph
        graph.inputs = [counter, *self.states, *sequences, *before]
        graph.outputs = [after, *results[: self._count], *sequences, *filled]
        return graph

    def _placed(self, old: Tensor, new: Tensor, counter: Tensor) -> Tensor:
        """``old`` with ``new`` at the counter's place on the first axis."""
        rank = len(old.shape)
        row = Tensor(f"{new.name}/row", (1, *new.shape), new.dtype, new.quant)
        shape = np.asarray(row.shape, np.int32)
        target = Tensor("row/shape", shape.shape, "int32", None, shape)
        self._ops.append(Op("RESHAPE", (new, target), (row,), {"new_shape": row.shape}))
        place = Tensor(f"{new.name}/place", (rank,), "int32")
        inputs = (counter, *[_counter("zero", 0)] * (rank - 1))
        self._ops.append(Op("PACK", inputs, (place,), {"values_count": rank, "axis": 0}))
        out = _like(old, f"{old.name}/after")
        self._ops.append(Op("DYNAMIC_UPDATE_SLICE", (old, row, place), (out,)))
        return out


def _condition(carried: Sequence[Tensor], steps: int) -> Graph:
    inputs = [_like(t, f"carried/{i}") for i, t in enumerate(carried)]
    going = Tensor("going", (), "bool")
    return Graph([Op("LESS", (inputs[0], _counter("steps", steps)), (going,))], inputs, [going])


def _counter(name: str, value: int) -> Tensor:
    return Tensor(name, (), "int32", None, np.asarray(value, np.int32))


def _number(name: str, values: np.ndarray, like: Tensor) -> Tensor:
    data = values.astype(like.dtype) if like.quant is None else numerics.quantize(values, like.quant)
    return Tensor(name, data.shape, like.dtype, like.quant, data)


def _like(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.shape, tensor.dtype, tensor.quant)
