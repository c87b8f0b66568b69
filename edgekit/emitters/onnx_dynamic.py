"""Products of real activations with int8 weights: the activation is quantized as the model runs.

DynamicQuantizeLinear, MatMulInteger, a cast and a scale, in the form that ONNX Runtime fuses into one kernel
(DynamicQuantizeMatMul). Other ops with int8 weights read them through DequantizeLinear and compute on real numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgekit.graph import Unit, constant
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place
from edgekit.quant import numerics
from edgekit.quant.kernels import computes_in_integers, constant_weight
from edgekit.quant.plan import QuantPlan


def quantize_at_run_time(graph: ir.Graph, unit: Unit, plan: QuantPlan) -> bool:
    """Rewrite a Gemm or MatMul whose weight is int8 in the plan and whose activations are real; whether it was one."""
    node, weight = unit.node, constant_weight(unit)
    if weight is None or node.op_type not in ("Gemm", "MatMul") or str(weight.name) not in plan:
        return False
    q = plan[str(weight.name)]
    if q.dtype != "int8" or computes_in_integers(unit, plan):
        return False
    out, name = node.outputs[0], str(node.outputs[0].name)
    stored = numerics.quantize(np.asarray(constant(weight)), q)
    kernel = add_constant(graph, f"{weight.name}/int", stored.T if node.op_type == "Gemm" else stored)
    factor = add_constant(graph, f"{weight.name}/scale", np.asarray(q.scale, np.float32))
    quantized = ir.Node("", "DynamicQuantizeLinear", [node.inputs[0]], num_outputs=3, name=f"{name}/dynamic")
    for value, part in zip(quantized.outputs, ("int", "scale", "zero_point"), strict=True):
        value.name = f"{name}/in/{part}"
    whole = make("MatMulInteger", [quantized.outputs[0], kernel, quantized.outputs[2]], out, f"{name}/sum")
    whole.outputs[0].type = ir.TensorType(ir.DataType.INT32)
    real = make("Cast", [whole.outputs[0]], out, f"{name}/cast", to=int(ir.DataType.FLOAT))
    scale = make("Mul", [quantized.outputs[1], factor], out, f"{name}/factor")
    scale.outputs[0].shape = ir.Shape([len(q.scale)])
    nodes = [quantized, whole, real, scale, make("Mul", [real.outputs[0], scale.outputs[0]], out, f"{name}/scaled")]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        nodes.append(make("Add", [nodes[-1].outputs[0], node.inputs[2]], out, f"{name}/biased"))
    graph.insert_after(node, nodes)
    _replace(graph, node, nodes[-1].outputs[0])
    return True


def _replace(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Put the result in the node's place under the node's own name."""
    out = node.outputs[0]
    if out.is_graph_output():
        put_in_place(graph, out, result)
    else:
        name = out.name
        convenience.replace_all_uses_with(out, result)
        out.name, result.name = f"{name}/replaced", name
    drop(graph, node)
