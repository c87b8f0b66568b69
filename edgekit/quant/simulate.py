"""Integers seen from real numbers: a float graph whose tensors are put on their grid as they are made.

What comes out is what QuantizeLinear and DequantizeLinear give. Those two, alone among real numbers, ONNX Runtime may
take for parts of integer kernels; here they are ordinary ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, activations, with_constants
from edgekit.passes.rewrite import add_constant, make
from edgekit.quant import numerics
from edgekit.quant.plan import HALF, QParams


def on_grid(array: Array, q: QParams) -> Array:
    """Real numbers as they are after having been stored."""
    if q.dtype == HALF:
        return array.astype(HALF).astype(np.float32)
    return numerics.dequantize(numerics.quantize(array, q), q)


def with_rounding(model: ir.Model, plan: Mapping[str, QParams], constants: Mapping[str, Array]) -> ir.Model:
    """A copy of a float graph with these constants, in which planned activations are rounded as they are made."""
    copy = with_constants(model, constants)
    for value in list(activations(copy.graph)):
        if str(value.name) in plan:
            _round(copy.graph, value, plan[str(value.name)])
    return copy


def rounding(q: QParams, number: Callable[[float], ir.Value]) -> list[tuple[str, list[ir.Value]]]:
    """The ops that round a value, each with its other inputs: clip(round(value / scale), limits) x scale, half to even.

    ``number`` makes a float32 constant.
    """
    scale, low, high = (number(x) for x in (q.scale[0], *(limit - q.zero_point[0] for limit in q.limits)))
    return [("Div", [scale]), ("Round", []), ("Clip", [low, high]), ("Mul", [scale])]


def _round(graph: ir.Graph, value: ir.Value, q: QParams) -> None:
    """Round a value where it was read."""
    name, readers = str(value.name), [(use.node, use.idx) for use in value.uses()]
    nodes, result = [], value
    for op_type, more in rounding(q, lambda x: add_constant(graph, f"{name}/grid", np.asarray(x, np.float32))):
        nodes.append(make(op_type, [result, *more], value, f"{name}/{op_type.lower()}"))
        result = nodes[-1].outputs[0]
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)
    for node, position in readers:
        node.replace_input_with(position, result)
    for i, out in enumerate(graph.outputs):
        if out is value:
            graph.outputs[i] = result
            value.name, result.name = f"{name}/real", name
