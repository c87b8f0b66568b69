"""What a graph may hold: ops that are declared, and those that the passes rewrite into them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.errors import ModelError, UnsupportedError
from edgekit.graph import GATES, constant, selects

WRITTEN = frozenset({"Scan"})  # declared, as edgekit itself writes it for recurrent layers
REWRITTEN = frozenset({
    "BatchNormalization", "CastLike", "Dropout", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare", "Trilu",
})  # fmt: skip
WEIGHTED = frozenset({"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", *GATES})
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
QUANTIZED = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearGlobalAveragePool", "QGemm",
})  # fmt: skip


def unknown_ops(graph: ir.Graph, rewritten: frozenset[str] = frozenset()) -> list[str]:
    """Every node whose op is not declared, one line each; one line for all when the model is quantized already."""
    from edgekit.ops import OPS

    unknown = [node for node in graph if node.domain or node.op_type not in rewritten.union(OPS)]
    quantized = sorted({node.op_type for node in unknown if node.op_type in QUANTIZED})
    if quantized:
        count = sum(node.op_type in QUANTIZED for node in unknown)
        said = f"the model is quantized already ({count} nodes of {', '.join(quantized)}); give the float model"
        return [said, *(_said(node) for node in unknown if node.op_type not in QUANTIZED)]
    return [_said(node) for node in unknown]


def _said(node: ir.Node) -> str:
    equation = f" of {node.attributes['equation'].value}" if "equation" in node.attributes else ""
    return f"node {node.name}: op {node.domain + '.' if node.domain else ''}{node.op_type}{equation} is not supported"


def refuse_unknown(model: ir.Model) -> bool:
    """Ensures: every op is declared or will be rewritten. Raises UnsupportedError that names every other node."""
    problems = unknown_ops(model.graph, REWRITTEN) + [_said(node) for node in model.graph if node.op_type in WRITTEN]
    if problems:
        raise UnsupportedError(problems)
    return False


def refuse_unknown_but_pairs(model: ir.Model) -> bool:
    """As ``refuse_unknown``, for a model in QDQ form."""
    problems = unknown_ops(model.graph, REWRITTEN | PAIR)
    if problems:
        raise UnsupportedError(problems)
    return False


def refuse_unsized(model: ir.Model) -> bool:
    """Ensures: nothing reads what NonMaxSuppression selects, and at most how many is constant.

    Raises UnsupportedError that names every other node.
    """
    problems = []
    for node in filter(selects, model.graph):
        if len(node.inputs) < 3 or constant(node.inputs[2]) is None:
            problems.append(f"node {node.name}: how many boxes {node.op_type} may give has to be a constant")
        problems += [
            f"node {use.node.name}: reads what {node.op_type} selects, which has no fixed size; "
            "name the tensors before it in [model] outputs"
            for use in node.outputs[0].uses()
        ]
    if problems:
        raise UnsupportedError(problems)
    return False


def refuse_unrewritten(model: ir.Model) -> bool:
    """Ensures: every op is declared. Raises UnsupportedError that names what no pass could rewrite."""
    left = [node for node in model.graph if node.op_type in REWRITTEN]
    if left:
        reason = "is supported for inference only, with constant parameters"
        raise UnsupportedError([f"node {node.name}: op {node.op_type} {reason}" for node in left])
    return False


def refuse_unsound(model: ir.Model, masks: bool = False) -> bool:
    """Ensures: constants are finite, but for the limits of a Clip. Raises ModelError that names the others.

    An infinite mask (scores + -inf before a Softmax) has no integer form; the passes put a large number in its place.
    Before them, ``masks`` lets -infinity through where it is no weight.
    """
    problems = []
    for name, value in model.graph.initializers.items():
        array = constant(value) if value.dtype is not None and value.dtype.is_floating_point() else None
        bad = 0 if array is None else int(array.size - np.count_nonzero(np.isfinite(array)))
        if array is None or not bad:
            continue
        nan = int(np.count_nonzero(np.isnan(array)))
        low = masks and not nan and array.max() < np.inf
        if low and all(use.node.op_type not in WEIGHTED for use in value.uses()):
            continue
        if nan or not all(use.node.op_type == "Clip" and use.idx > 0 for use in value.uses()):
            problems.append(f"{name} has {f'{nan} NaN' if nan else f'{bad} infinite'} of {array.size} values")
    if problems:
        raise ModelError(f"weights must be finite: {'; '.join(problems)}")
    return False
