"""What hides scores from a Softmax: masks become one addend, finite and no larger than need be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, constant, is_float
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place, single_reader

HIDDEN = -1e4  # exp of it is zero in float32 and float16 holds it; scores differ by far less


def plain_choices(model: ir.Model) -> bool:
    """Where that always or never chooses, and the guard of a Softmax against rows of which all is hidden, -> gone.

    Such a row is NaN without the guard and zero with it; with finite masks it is a mean of what is hidden. Where a
    constant condition chooses zeros it becomes a Mul.
    """
    graph, changed = model.graph, False
    for node in [n for n in graph if n.op_type == "Where" and is_float(n.outputs[0])]:
        out = node.outputs[0]
        kept = _kept(node) or _factored(graph, node)
        if kept is None or kept.shape != out.shape or kept.dtype != out.dtype:
            continue
        put_in_place(graph, out, kept)
        drop(graph, node)
        changed = True
    return changed


def _factored(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """Where(constant, 0, x) or Where(constant, x, 0) as a product with zeros and ones."""
    condition, arrays = constant(node.inputs[0]), [constant(value) for value in node.inputs[1:]]
    zeros = [array is not None and not array.any() for array in arrays]
    if condition is None or sum(zeros) != 1:
        return None
    factor = np.where(condition, not zeros[0], not zeros[1]).astype(np.float32)
    name = str(node.outputs[0].name)
    inputs = [node.inputs[1 + zeros.index(False)], add_constant(graph, f"{name}/shown", factor)]
    product = make("Mul", inputs, node.outputs[0], f"{name}/product")
    graph.insert_before(node, product)
    return product.outputs[0]


def _kept(node: ir.Node) -> ir.Value | None:
    """What a Where gives all of, or None."""
    condition, chosen, other = node.inputs
    array = constant(condition)
    if array is not None and array.size and array.all() == array.any():
        return chosen if array.all() else other
    weights, zero = _producer(other, "Softmax"), constant(chosen)
    if weights is None or zero is None or zero.any():
        return None
    nan, least = _producer(condition, "IsNaN"), _producer(condition, "Equal")
    if nan is not None and nan.inputs[0] is other:
        return other
    arrays = [] if least is None else [constant(value) for value in least.inputs]
    largest = least is not None and any(_producer(value, "ReduceMax") for value in least.inputs)
    return other if largest and any(array is not None and np.all(array == -np.inf) for array in arrays) else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that gives a value, if it is of that op."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def plain_masks(model: ir.Model) -> bool:
    """Ensures: a mask of constants before a Softmax is added to the scores, and hides with ``HIDDEN``, not -infinity.

    Where(hide, -inf, scores), Where(keep, scores, -inf), scores + Where(keep, 0, -inf) and scores + constant are known.
    Softmax(x)_j is zero in either way, but for rows of which all is hidden: those were NaN.
    """
    graph, changed = model.graph, False
    for softmax in [n for n in graph if n.op_type == "Softmax"]:
        for value, reader, position in list(_addends(softmax, 0)):
            array, node = constant(value), value.producer()
            if array is not None and array.min(initial=0.0) < HIDDEN:
                reader.replace_input_with(position, add_constant(graph, f"{value.name}/finite", _finite(array)))
            elif node is not None and node.op_type == "Where" and single_reader(value) is reader:
                new = _spelled_out(graph, node)
                changed |= new is not None
                if new is not None:
                    reader.replace_input_with(position, new)
    return changed


def _addends(node: ir.Node, position: int) -> Iterator[tuple[ir.Value, ir.Node, int]]:
    """What is added up to an input of a node, with its reader; sums that others read too are left whole."""
    value = node.inputs[position]
    producer = value.producer() if value is not None else None
    if value is None or not is_float(value):
        return
    if producer is not None and producer.op_type == "Add" and single_reader(value) is node:
        for i in range(2):
            yield from _addends(producer, i)
    else:
        yield value, node, position


def _finite(array: Array) -> Array:
    finite: Array = np.maximum(array, np.asarray(HIDDEN, array.dtype))
    return finite


def _spelled_out(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """A Where that hides, as a sum with a mask: of constants, or of the condition as a number; None for any other."""
    condition, *choices = node.inputs
    arrays = [constant(value) for value in choices]
    hiding = [array is not None and array.size == 1 and float(array.reshape(-1)[0]) <= HIDDEN for array in arrays]
    if condition is None or sum(hiding) != 1:
        return None
    first = hiding[0]
    other, shown = choices[1 - hiding.index(True)], arrays[1 - hiding.index(True)]
    out, name = node.outputs[0], str(node.outputs[0].name)
    if shown is not None and (shown.size != 1 or float(shown.reshape(-1)[0]) != 0.0):
        return None
    fixed = constant(condition)
    if fixed is not None:
        mask = add_constant(graph, f"{name}/mask", np.where(fixed == first, HIDDEN, 0.0).astype(np.float32))
    else:
        mask = _computed(graph, node, condition, first)
    if shown is not None:
        return mask
    added = make("Add", [other, mask], out, f"{name}/masked")
    graph.insert_after(node, added)
    return added.outputs[0]


def _computed(graph: ir.Graph, node: ir.Node, condition: ir.Value, hides: bool) -> ir.Value:
    """0 where the scores are shown and ``HIDDEN`` where not, from a condition that is computed or fed."""
    name = str(node.outputs[0].name)

    def step(op_type: str, inputs: list[ir.Value], label: str, **more: int) -> ir.Value:
        made = make(op_type, inputs, condition, f"{name}/{label}", **more)
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(node, made)
        return made.outputs[0]

    def number(label: str, value: float) -> ir.Value:
        return add_constant(graph, f"{name}/{label}", np.asarray(value, np.float32))

    found = step("Cast", [condition], "number", to=int(ir.DataType.FLOAT))
    if not hides:
        found = step("Sub", [number("one", 1.0), found], "hidden")
    return step("Mul", [found, number("depth", HIDDEN)], "mask")
