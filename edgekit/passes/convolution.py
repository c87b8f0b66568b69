"""Fold what stands beside a convolution into it: BatchNormalization and an order of channels behind, padding before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.errors import ModelError
from edgekit.graph import Array, attributes, constant, shape_of
from edgekit.passes.rewrite import add_constant, drop, make, make_private, put_in_place, single_reader

EACH = ("Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid", "Tanh")  # what does the same to every channel
CHANNELS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0}  # where the output channels lie in the weights


def fold_batch_norm(model: ir.Model) -> bool:
    """BatchNormalization -> the weights and bias before it, else Mul and Add. Ensures: no BatchNormalization.

    y = gamma (x - mean) / sqrt(var + eps) + beta; computed in float64 (Jacob et al. 2018, section 3.2).
    """
    graph, changed = model.graph, False
    for node in list(graph):
        if node.op_type != "BatchNormalization" or attributes(node).get("training_mode", 0) or len(node.outputs) > 1:
            continue
        parameters = [constant(value) for value in node.inputs[1:5]]
        if any(p is None for p in parameters):
            continue
        gamma, beta, mean, var = (np.asarray(p, np.float64) for p in parameters)
        spread = var + float(attributes(node).get("epsilon", 1e-5))
        if spread.min(initial=1.0) <= 0:
            raise ModelError(
                f"node {node.name}: BatchNormalization with a variance of {var.min():g}; it cannot be below zero"
            )
        factor = gamma / np.sqrt(spread)
        offset = beta - mean * factor
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is not None and before.op_type in CHANNELS and _foldable(before):
            _fold(graph, before, factor, offset)
            put_in_place(graph, node.outputs[0], before.outputs[0])
        else:
            _spell_out(graph, node, factor, offset)
        drop(graph, node)
        changed = True
    return changed


def _foldable(node: ir.Node) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    groups = int(attributes(node).get("group", 1))
    return (
        single_reader(node.outputs[0]) is not None
        and constant(node.inputs[1]) is not None
        and (bias is None or constant(bias) is not None)
        and (node.op_type != "ConvTranspose" or groups == 1)
        and (node.op_type != "Gemm" or bool(attributes(node).get("transB", 0)))
    )


def _fold(graph: ir.Graph, node: ir.Node, factor: Array, offset: Array) -> None:
    weights = np.asarray(constant(node.inputs[1]))
    axis = CHANNELS[node.op_type]
    spread = factor.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
    make_private(graph, node, 1, (weights * spread).astype(weights.dtype))
    old = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    bias = (offset + (0 if old is None else old.reshape(-1) * factor)).astype(weights.dtype)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    if node.inputs[2] is None:
        node.replace_input_with(2, add_constant(graph, f"{_stem(node)}.bias", bias))
    else:
        make_private(graph, node, 2, bias)


def _stem(node: ir.Node) -> str:
    name = node.inputs[1].name if node.inputs[1] is not None else node.name
    return str(name).removesuffix(".weight")


def _spell_out(graph: ir.Graph, node: ir.Node, factor: Array, offset: Array) -> None:
    source, out = node.inputs[0], node.outputs[0]
    rank = len(shape_of(source)) if source is not None else 4
    shape, name = [1, -1] + [1] * (rank - 2), str(node.inputs[1].name if node.inputs[1] is not None else node.name)
    dtype = np.asarray(constant(node.inputs[1])).dtype
    scaled = make(
        "Mul",
        [source, add_constant(graph, f"{name}.factor", factor.reshape(shape).astype(dtype))],
        out,
        f"{out.name}/scaled",
    )
    offset_value = add_constant(graph, f"{name}.offset", offset.reshape(shape).astype(dtype))
    shifted = make("Add", [scaled.outputs[0], offset_value], out, f"{out.name}/shifted")
    graph.insert_after(node, [scaled, shifted])
    put_in_place(graph, out, shifted.outputs[0])


def order_for_depth_to_space(model: ir.Model) -> bool:
    """DepthToSpace in torch's order (CRD) of a convolution's channels -> weights in the order of DCR, which is cheaper.

    Element (c, i, j) of a channel's block is channel c b b + i b + j in CRD and (i b + j) C + c in DCR.
    """
    graph, changed = model.graph, False
    for node in graph:
        if node.op_type != "DepthToSpace" or attributes(node).get("mode", "DCR") != "CRD" or node.inputs[0] is None:
            continue
        before = _convolution(node.inputs[0])
        if before is None or int(attributes(before).get("group", 1)) > 1 or not _foldable(before):
            continue
        block = int(attributes(node)["blocksize"])
        order = np.arange(shape_of(node.inputs[0])[1]).reshape(-1, block * block).T.reshape(-1)
        for i, axis in ((1, CHANNELS[before.op_type]), (2, 0)):
            array = constant(before.inputs[i]) if i < len(before.inputs) else None
            if array is not None:
                make_private(graph, before, i, np.take(array, order, axis))
        node.attributes["mode"] = ir.AttrString("mode", "DCR")
        changed = True
    return changed


def _convolution(value: ir.Value) -> ir.Node | None:
    """The convolution that makes a value which is read once, through what does the same to every channel."""
    node = value.producer() if single_reader(value) is not None else None
    if node is None or node.op_type in ("Conv", "ConvTranspose"):
        return node
    source = node.inputs[0] if node.op_type in EACH else None
    return None if source is None else _convolution(source)


def absorb_padding(model: ir.Model) -> bool:
    """Zero Pad of the spatial axes -> the pads of the Conv that alone reads it."""
    graph, changed = model.graph, False
    for node in list(graph):
        reader = single_reader(node.outputs[0]) if node.op_type == "Pad" else None
        if reader is None or reader.op_type != "Conv" or attributes(reader).get("auto_pad", "NOTSET") != "NOTSET":
            continue
        amounts = _zero_pads(node)
        if amounts is None or node.inputs[0] is None:
            continue
        rank = len(amounts) // 2
        spatial = rank - 2
        old = attributes(reader).get("pads") or [0] * 2 * spatial
        total = [int(o) + int(amounts[2 + i if i < spatial else rank + 2 + i - spatial]) for i, o in enumerate(old)]
        reader.attributes["pads"] = ir.AttrInt64s("pads", total)
        reader.replace_input_with(0, node.inputs[0])
        drop(graph, node)
        changed = True
    return changed


def _zero_pads(node: ir.Node) -> Array | None:
    """The amounts of a constant zero Pad that leaves batch and channels alone, (2 x rank,), or None."""
    pads, value = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if attributes(node).get("mode", "constant") != "constant" or pads is None:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and (value is None or value.any()):
        return None
    source = node.inputs[0]
    rank = len(shape_of(source)) if source is not None else 0
    table = np.zeros((2, rank), np.int64)
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else np.arange(rank)
    if axes is None:
        return None
    table[:, [int(a) % rank for a in axes]] = pads.reshape(2, -1)
    return None if (table < 0).any() or table[:, :2].any() or rank < 3 else table.reshape(-1)
