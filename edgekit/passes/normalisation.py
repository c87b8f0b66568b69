"""Fold the scale and bias of a LayerNormalization into the products that read it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, attributes, constant, shape_of, units
from edgekit.passes.rewrite import add_constant, make_private


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
