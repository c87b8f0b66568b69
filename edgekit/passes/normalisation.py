"""Normalisations: known in the forms that exporters spell them in, and folded into what reads them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, attributes, constant, shape_of, units
from edgekit.passes.rewrite import add_constant, make, make_private, put_in_place, single_reader


def fuse_group_norm(model: ir.Model) -> bool:
    """Reshape to (n, groups, rest), InstanceNormalization, Reshape, Mul, Add by channel -> GroupNormalization.

    Exporters to opsets below 21 write it so; the scale and bias of the inner normalisation are 1 and 0.
    """
    graph, changed = model.graph, False
    for node in [n for n in graph if n.op_type == "InstanceNormalization"]:
        before, after = node.inputs[0].producer(), single_reader(node.outputs[0])  # type: ignore[union-attr]
        if before is None or after is None or before.op_type != "Reshape" or after.op_type != "Reshape":
            continue
        source, result = before.inputs[0], after.outputs[0]
        scale, bias = constant(node.inputs[1]), constant(node.inputs[2])
        if source is None or scale is None or bias is None or not (np.all(scale == 1) and not bias.any()):
            continue
        shape, (batch, groups, *_) = shape_of(source), shape_of(before.outputs[0])
        if shape_of(result) != shape or shape[0] != batch or len(shape) < 3 or shape[1] % groups:
            continue
        last, factors = after, []
        for op_type, neutral in (("Mul", np.ones), ("Add", np.zeros)):
            reader = single_reader(last.outputs[0])
            found = _per_channel(reader, op_type, shape) if reader is not None else None
            factors.append(neutral(shape[1], np.float32) if found is None else found)
            last = reader if reader is not None and found is not None else last
        name, out = str(last.outputs[0].name), last.outputs[0]
        parameters = [
            add_constant(graph, f"{name}/{what}", f) for what, f in zip(("scale", "bias"), factors, strict=True)
        ]
        epsilon = float(attributes(node).get("epsilon", 1e-5))
        new = make("GroupNormalization", [source, *parameters], out, f"{name}/norm", num_groups=groups, epsilon=epsilon)
        graph.insert_after(last, new)
        put_in_place(graph, out, new.outputs[0])
        changed = True
    return changed


def _per_channel(node: ir.Node, op_type: str, shape: tuple[int, ...]) -> Array | None:
    """The constant, one number a channel, with which a node multiplies or to which it adds (N, C, ...); else None."""
    arrays = [array for array in map(constant, node.inputs) if array is not None]
    if node.op_type != op_type or len(arrays) != 1 or shape_of(node.outputs[0]) != shape:
        return None
    (array,) = arrays
    full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if any(n != 1 for axis, n in enumerate(full.shape) if axis != 1):
        return None
    return np.ascontiguousarray(np.broadcast_to(full.reshape(-1), (shape[1],)))


def fold_layer_norm(model: ir.Model) -> bool:
    """LayerNormalization whose readers are all biased products with constant matrices -> scale one, no bias.

    (n s + b) W + c = n (diag(s) W) + (b W + c), computed in float64.
    """
    graph, changed = model.graph, False
    biases = {unit.node: unit.bias for unit in units(graph)}
    for node in list(graph):
        if node.op_type != "LayerNormalization" or len(node.outputs) > 1 or node.outputs[0].is_graph_output():
            continue
        scale, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
        readers = [use.node for use in node.outputs[0].uses()]
        last = int(attributes(node).get("axis", -1)) in (-1, len(shape_of(node.outputs[0])) - 1)
        if scale is None or not last or not readers or any(biases.get(r) is None for r in readers):
            continue
        if any(r.inputs[0] is not node.outputs[0] for r in readers):
            continue
        for reader in readers:
            _fold(graph, reader, biases[reader], scale, np.zeros_like(scale) if bias is None else bias)
        make_private(graph, node, 1, np.ones_like(scale))
        if len(node.inputs) > 2:
            node.replace_input_with(2, None)
        changed = True
    return changed


def _fold(graph: ir.Graph, product: ir.Node, add: ir.Node | None, scale: Array, bias: Array) -> None:
    weights = np.asarray(constant(product.inputs[1]), np.float64)
    dtype = np.asarray(constant(product.inputs[1])).dtype
    make_private(graph, product, 1, (scale.astype(np.float64)[:, None] * weights).astype(dtype))
    if add is not None:
        at = next(i for i, value in enumerate(add.inputs) if constant(value) is not None)
        old = np.asarray(constant(add.inputs[at]), np.float64)
        add.replace_input_with(at, add_constant(graph, f"{add.inputs[at].name}", (bias @ weights + old).astype(dtype)))  # type: ignore[union-attr]
