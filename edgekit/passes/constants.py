"""Fold what does not depend on the inputs, and keep every constant in one place."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir import convenience

from edgekit.graph import attributes, constant, shape_of
from edgekit.passes.rewrite import add_constant, drop, put_in_place

LARGEST = 1 << 26
FOLDED = ("DequantizeLinear", "ConstantOfShape")  # of a constant, also where the folder would by itself leave them

NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}  # the second operand that changes nothing


def fold_constants(model: ir.Model, keep: frozenset[str] = frozenset()) -> bool:
    """Evaluate nodes of constants, shape arithmetic included. Ensures: no Constant node; nothing unused.

    ``keep`` names ops that are left as they are.
    """
    from onnxscript import optimizer

    for node in model.graph:
        for out in node.outputs:
            if out.shape is not None and not all(isinstance(dim, int) for dim in out.shape):
                out.shape = None  # what was not known before folding would hide what is known then
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)  # what it leaves unfolded is no warning
    for _ in range(2):  # shapes that are only known once others are folded
        optimizer.fold_constants(
            model,
            input_size_limit=LARGEST,
            output_size_limit=LARGEST,
            should_fold=lambda node: node.op_type not in keep and (node.op_type in FOLDED or None),
        )
        common.ShapeInferencePass(check_type=True, strict_mode=False, data_prop=True)(model)
        if all(node.op_type != "Shape" for node in model.graph):
            break
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    for i, value in enumerate(list(model.graph.outputs)):
        producer = value.producer()
        if producer is not None and producer.op_type == "Constant":
            name, value.name = str(value.name), f"{value.name}/constant"
            (held,) = attributes(producer).values()
            array = np.asarray(held, value.dtype.numpy() if value.dtype is not None else None)
            model.graph.outputs[i] = add_constant(model.graph, name, array)
            convenience.replace_all_uses_with(value, model.graph.outputs[i])
            drop(model.graph, producer)
    return remove_unused(model)


def remove_unused(model: ir.Model) -> bool:
    """Ensures: every node and initializer is needed by an output."""
    common.RemoveUnusedNodesPass()(model)
    return True


def remove_idle_nodes(model: ir.Model) -> bool:
    """Drop nodes that change nothing: Identity, Dropout, casts and reshapes to the same, empty pads, adding zeros."""
    graph, changed = model.graph, False
    for node in list(graph):
        if node.inputs and node.inputs[0] is not None and _idle(node) and not _pinned(node):
            put_in_place(graph, node.outputs[0], node.inputs[0])
            drop(graph, node)
            changed = True
    return changed


def _pinned(node: ir.Node) -> bool:
    """Between an input or a constant and an output of the model a node must stay."""
    source = node.inputs[0]
    ends = source is None or source.is_graph_input() or source.is_initializer() or source.is_graph_output()
    return any(out.is_graph_output() for out in node.outputs) and ends


def _idle(node: ir.Node) -> bool:
    source, out = node.inputs[0], node.outputs[0]
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        off = training is None or (constant(training) is not None and not np.any(constant(training)))
        return off and not (len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()))
    if node.op_type in ("Cast", "CastLike"):
        return source is not None and source.dtype == out.dtype and source.dtype is not None
    if source is None or source.shape is None or out.shape is None or source.shape != out.shape:
        return False
    if node.op_type in NEUTRAL:
        array = constant(node.inputs[1])
        return array is not None and bool((array == NEUTRAL[node.op_type]).all())
    if node.op_type == "Transpose":
        order = attributes(node).get("perm")
        return order is not None and list(order) == sorted(order)
    if node.op_type == "Pad":
        pads = constant(node.inputs[1])
        return pads is not None and not pads.any()
    if node.op_type == "Slice":
        steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
        return steps is None or bool((steps == 1).all())
    if node.op_type == "Resize":
        return attributes(node).get("mode", "nearest") in ("nearest", "linear") and shape_of(source) == shape_of(out)
    return node.op_type in ("Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze")
