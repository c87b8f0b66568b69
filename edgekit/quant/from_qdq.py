"""A model quantized elsewhere -> the float model behind it, and the scales that it was given.

Reads QuantizeLinear and DequantizeLinear as ONNX Runtime's ``quantize_static``, NNCF and torch's export write them (the
QDQ form): a DequantizeLinear after integers that are constant is a weight, one after a QuantizeLinear a tensor that is
stored in integers. uint8 becomes int8 with the zero point moved by 128, which changes no value.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.errors import UnsupportedError
from edgekit.graph import Array, attributes, constant
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place
from edgekit.quant import numerics
from edgekit.quant.plan import QParams

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
UNSIGNED = {"uint8": 128}  # what a zero point moves by when its tensor becomes int8
SIGNED_RESULT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "BatchNormalization"})


def take_out(model: ir.Model) -> dict[str, QParams]:
    """Remove all quantization from a model, in place, and return how each tensor was quantized, by name.

    A weight goes by the name of the value that its op reads, an activation by the name of what was quantized; the
    scale of a bias follows from its op's and is not among them. Where a
    quantizer left out a Relu because its integers cut off below zero by themselves, the Relu is put back. A model
    without quantization gives nothing. Raises UnsupportedError, which names every tensor in a form that has no plan:
    integers at the model's edge, weights with a zero point, a tensor in two scales.
    """
    graph = model.graph
    if not any(node.op_type == DEQUANTIZE and constant(node.inputs[0]) is None for node in graph):
        return {}
    problems: list[str] = []
    given: dict[str, QParams] = {}
    for node in [node for node in graph if node.op_type == DEQUANTIZE]:
        try:
            name, q = _stored(graph, node)
            if q.dtype == "int8" and given.setdefault(name, q) != q:
                raise UnsupportedError([f"tensor {name}: is quantized twice, in two scales"])
        except UnsupportedError as error:
            problems += error.problems
    if problems:
        raise UnsupportedError(list(dict.fromkeys(problems)))
    drop(graph, *(node for node in list(graph) if node.op_type == QUANTIZE and not node.outputs[0].uses()))
    for node in list(graph):
        stored = given.get(str(node.outputs[0].name)) if node.op_type in SIGNED_RESULT else None
        if stored is not None and stored.range[0] == 0.0:
            _put_relu(graph, node)
    return given


def _stored(graph: ir.Graph, node: ir.Node) -> tuple[str, QParams]:
    """Take one DequantizeLinear out of the graph: the name of the real value, and how it was stored."""
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    integers, writer = constant(source), source.producer()
    q = _parameters(node)
    if integers is not None:
        real = (integers.astype(np.float64) - _spread(q.zero_point, q, integers)) * _spread(q.scale, q, integers)
        weight = add_constant(graph, str(result.name), real.astype(np.float32))
        put_in_place(graph, result, weight)
        drop(graph, node)
        return str(weight.name), _as_weight(str(source.name), q)
    if writer is None or writer.op_type != QUANTIZE or source.is_graph_output():
        raise UnsupportedError([f"tensor {source.name}: integers at the model's edge; give a model with float edges"])
    if _parameters(writer) != q or writer.inputs[0] is None:
        raise UnsupportedError([f"tensor {source.name}: is written in one scale and read in another"])
    real_value = writer.inputs[0]
    put_in_place(graph, result, real_value)
    drop(graph, node)
    if q.axis is not None or q.dtype not in ("int8", "uint8"):
        raise UnsupportedError([f"tensor {real_value.name}: {q.dtype} along axis {q.axis}; expected int8 or uint8"])
    return str(real_value.name), numerics.fixed(q.scale[0], q.zero_point[0] - UNSIGNED.get(q.dtype, 0))


def _parameters(node: ir.Node) -> QParams:
    """What a QuantizeLinear or DequantizeLinear says. Raises UnsupportedError where that is not constant."""
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    attrs = attributes(node)
    if scale is None or (len(node.inputs) > 2 and zero is None) or attrs.get("block_size"):
        raise UnsupportedError([f"node {node.name}: its scale is not constant, or given for blocks"])
    stored = node.inputs[0] if node.op_type == DEQUANTIZE else node.outputs[0]
    dtype = str(zero.dtype) if zero is not None else str(stored.dtype.numpy()) if stored and stored.dtype else "uint8"
    zeros = np.zeros(scale.size, np.int64) if zero is None else np.broadcast_to(zero.reshape(-1), (scale.size,))
    axis = int(attrs.get("axis", 1)) if scale.size > 1 else None
    return QParams(dtype, tuple(scale.reshape(-1).astype(float).tolist()), tuple(int(z) for z in zeros), axis)


def _spread(values: tuple[float, ...], q: QParams, like: Array) -> Array:
    """Per-channel numbers in the shape that multiplies ``like``."""
    shape = [1] * like.ndim
    if q.axis is not None:
        shape[q.axis] = -1
    return np.asarray(values, np.float64).reshape(shape)


def _as_weight(name: str, q: QParams) -> QParams:
    """A weight or bias as the plan has it: int8 or int32, symmetric."""
    zeros = {z - UNSIGNED.get(q.dtype, 0) for z in q.zero_point}
    if q.dtype not in ("int8", "uint8", "int32") or zeros != {0}:
        raise UnsupportedError([f"weight {name}: {q.dtype} with a zero point; integer kernels take symmetric int8"])
    dtype = "int32" if q.dtype == "int32" else "int8"
    return QParams(dtype, q.scale, (0,) * len(q.scale), q.axis)


def _put_relu(graph: ir.Graph, node: ir.Node) -> None:
    """Relu after a node; the result keeps the node's name, so that the scale holds for it."""
    value = node.outputs[0]
    name = str(value.name)
    relu = make("Relu", [value], value, name)
    graph.insert_after(node, relu)
    put_in_place(graph, value, relu.outputs[0])
    relu.replace_input_with(0, value)
    value.name, relu.outputs[0].name = f"{name}/linear", name
