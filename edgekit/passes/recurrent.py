"""LSTM, GRU and RNN in one plain form: one direction, forward, time first, every bias and initial state given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgekit.errors import UnsupportedError
from edgekit.graph import GATES, Array, attributes, constant, shape_of
from edgekit.passes.rewrite import Writer, add_constant, drop, make, put_in_place, single_reader
from edgekit.passes.shuffle import MOVES, moved

STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
STEPWISE = ("Sigmoid", "Tanh", "Relu")  # activations that a step can be written with
LARGEST = 1 << 22  # elements that are numbered to see what a reader picks


def plain_recurrences(model: ir.Model) -> bool:
    """Ensures: every LSTM, GRU and RNN has ``direction`` forward, ``layout`` 0, a bias and initial states.

    What reads only the last step of the whole sequence reads the final state. Raises UnsupportedError that names every
    recurrent node with peepholes, clipping, varying lengths, computed weights or another activation.
    """
    found = [node for node in model.graph if node.op_type in GATES and not node.domain]
    problems = [f"node {node.name}: {node.op_type} {said}" for node in found for said in _problems(node)]
    if problems:
        raise UnsupportedError(problems)
    for node in found:
        _directions(model.graph, node)
    for node in list(model.graph):
        if node.op_type in GATES:
            _read_final_state(model.graph, node)
    return bool(found)


def weights(node: ir.Node) -> tuple[Array, Array, Array]:
    """W (directions, gates x hidden, inputs), R (directions, gates x hidden, hidden) and B (directions, 2 x ...)."""
    w, r = (np.asarray(constant(node.inputs[i])) for i in (1, 2))
    bias = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    return w, r, np.zeros((len(w), 2 * w.shape[1]), w.dtype) if bias is None else bias


def activations(node: ir.Node) -> tuple[str, ...]:
    """The activations of the gates, as the node names them or by default, for each direction in turn."""
    named = attributes(node).get("activations")
    return tuple(map(str, named)) if named else ACTIVATIONS[node.op_type] * len(np.asarray(constant(node.inputs[1])))


def _problems(node: ir.Node) -> Iterator[str]:
    given, inputs = attributes(node), [*node.inputs, *[None] * 8]
    if any(constant(value) is None for value in inputs[1:3]) or (inputs[3] is not None and constant(inputs[3]) is None):
        yield "with weights that are computed at run time is not supported"
        return
    for name in ("clip", "input_forget"):
        if given.get(name):
            yield f"with {name} is not supported"
    if inputs[7] is not None:
        yield "with peephole weights is not supported"
    shapes = [a.shape for a in weights(node)]
    hidden, rows = shapes[1][-1], GATES[node.op_type] * shapes[1][-1]
    if any(shape[1:2] != (size,) for shape, size in zip(shapes, (rows, rows, 2 * rows), strict=True)):
        yield f"with W, R and B of shapes {', '.join(str(list(s)) for s in shapes)}, which do not fit, is not supported"
    if any(v is not None and v.shape is not None and shape_of(v)[-1] != hidden for v in inputs[5:7]):
        yield f"with states of another size than its {hidden} outputs (a projection) is not supported"
    lengths, source = constant(inputs[4]), inputs[0]
    time = None if source is None or source.shape is None else shape_of(source)[1 if given.get("layout") else 0]
    if inputs[4] is not None and (lengths is None or time is None or (lengths != time).any()):
        yield "with sequence_lens that are not the whole sequence is not supported"
    other = sorted(set(activations(node)) - set(STEPWISE))
    if other:
        yield f"with activation {', '.join(other)} is not supported; {', '.join(STEPWISE)} are"


def _directions(graph: ir.Graph, node: ir.Node) -> None:
    """Write a node as one forward node a direction, with the axes that ``layout`` 1 moves moved outside."""
    given, source = attributes(node), node.inputs[0]
    assert source is not None
    writer = _Writer(graph, node, source)
    swapped = bool(given.get("layout"))
    steps = writer.turned(source, (1, 0, 2)) if swapped else source
    w, r, b = weights(node)
    ways = {"bidirectional": (1, -1), "reverse": (-1,)}.get(str(given.get("direction", "forward")), (1,))
    parts = []
    for d, way in enumerate(ways):
        states = [writer.initial(i, d, swapped) for i in range(STATES[node.op_type])]
        read = steps if way > 0 else writer.backwards(steps)
        constants = (w[d : d + 1], r[d : d + 1], b[d : d + 1])
        names = activations(node)[d * len(ACTIVATIONS[node.op_type]) :][: len(ACTIVATIONS[node.op_type])]
        outs = writer.forward(read, constants, states, names, str(d) if len(ways) > 1 else "")
        parts.append([writer.backwards(outs[0]) if way < 0 else outs[0], *outs[1:]])
    for i, old in enumerate(node.outputs):
        if not old.uses() and not old.is_graph_output():
            continue
        axis = 1 if i == 0 else 0
        whole = parts[0][i] if len(ways) == 1 else writer.joined([part[i] for part in parts], axis)
        if swapped:
            whole = writer.turned(whole, (2, 0, 1, 3) if i == 0 else (1, 0, 2))
        put_in_place(graph, old, whole)
    drop(graph, node)


class _Writer(Writer):
    """Puts nodes before a recurrent node that is being rewritten."""

    def turned(self, value: ir.Value, perm: tuple[int, ...]) -> ir.Value:
        shape = shape_of(value)
        return self.add("Transpose", [value], tuple(shape[i] for i in perm), perm=list(perm))

    def backwards(self, value: ir.Value) -> ir.Value:
        numbers = [self.constant(number) for number in _BACKWARDS]
        return self.add("Slice", [value, *numbers], shape_of(value))

    def joined(self, values: list[ir.Value], axis: int) -> ir.Value:
        shape = list(shape_of(values[0]))
        shape[axis] = sum(shape_of(value)[axis] for value in values)
        return self.add("Concat", [*values], tuple(shape), axis=axis)

    def initial(self, state: int, direction: int, swapped: bool) -> ir.Value | None:
        """The initial state of one direction, (1, batch, hidden); None is zero."""
        value = self.node.inputs[5 + state] if len(self.node.inputs) > 5 + state else None
        array = constant(value)
        if value is None or (array is not None and not array.any()):
            return None
        if swapped:
            value = self.turned(value, (1, 0, 2))
        count, batch, hidden = shape_of(value)
        if count == 1:
            return value
        index = self.constant([direction])
        return self.add("Gather", [value, index], (1, batch, hidden), axis=0)

    def forward(
        self,
        source: ir.Value,
        constants: tuple[Array, Array, Array],
        states: list[ir.Value | None],
        names: tuple[str, ...],
        which: str,
    ) -> list[ir.Value]:
        time, batch, _ = shape_of(source)
        hidden, op_type = constants[1].shape[2], self.node.op_type
        held = [*(value.name for value in self.node.inputs[1:4] if value is not None), f"{self.stem}/bias"]
        w, r, b = (add_constant(self.graph, f"{held[i]}{which}", array) for i, array in enumerate(constants))
        zero = np.zeros((1, batch, hidden), np.float32)
        first = [self.constant(zero) if value is None else value for value in states]
        given: dict[str, Any] = {"hidden_size": hidden, "activations": list(names)}
        if op_type == "GRU":
            given["linear_before_reset"] = int(attributes(self.node).get("linear_before_reset", 0))
        made = ir.Node(
            "",
            op_type,
            [source, w, r, b, None, *first],
            convenience.convert_attributes(given),
            num_outputs=1 + len(first),
            name=f"{self.node.name}{which}",
        )
        for i, value in enumerate(made.outputs):
            shape = (1, batch, hidden) if i else (time, 1, batch, hidden)
            value.name, value.shape = f"{self.stem}{('', '/final', '/cell')[i]}{which}", ir.Shape(shape)
            value.type = source.type
        self.graph.insert_before(self.node, made)
        return list(made.outputs)


# Of a Slice along time: where it starts and ends, the axis, and the step.
_BACKWARDS = ([-1], [np.iinfo(np.int64).min], [0], [-1])


def _read_final_state(graph: ir.Graph, node: ir.Node) -> None:
    """Who takes the last step out of the whole sequence reads the final state, so that nobody keeps the sequence."""
    sequence, final = node.outputs[0], node.outputs[1]
    if not 0 < np.prod(shape_of(sequence)) <= LARGEST:
        return
    numbers = np.arange(np.prod(shape_of(sequence))).reshape(shape_of(sequence))
    for picker in _pickers(sequence):
        picked = moved(picker, sequence, numbers)
        if picked is not None and np.array_equal(picked.reshape(-1), numbers[-1].reshape(-1)):
            out = picker.outputs[0]
            shape = add_constant(graph, f"{out.name}/shape", np.asarray(picked.shape))
            last = make("Reshape", [final, shape], out, f"{out.name}/last")
            last.outputs[0].shape = ir.Shape(picked.shape)
            graph.insert_after(node, last)
            put_in_place(graph, out, last.outputs[0])


def _pickers(value: ir.Value) -> Iterator[ir.Node]:
    """The Gathers by a constant that read a value, also through moves."""
    for use in value.uses():
        if use.node.op_type in MOVES and single_reader(use.node.outputs[0]) is not None:
            yield from _pickers(use.node.outputs[0])
        elif use.node.op_type == "Gather" and use.idx == 0 and constant(use.node.inputs[1]) is not None:
            yield use.node
