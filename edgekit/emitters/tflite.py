"""(graph, plan) -> TFLite, written without TensorFlow: decide the layouts, then lower unit after unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgekit.contract import Contract, Port
from edgekit.emitters import Artifact, sparse, tflite_bytes
from edgekit.emitters.lowering import Lowering
from edgekit.emitters.metadata import describe
from edgekit.emitters.tflite_graph import Tensor
from edgekit.errors import UnsupportedError
from edgekit.graph import Unit, constant, shape_of, units
from edgekit.layout import Layouts, Perm, channels_last, decide, identity
from edgekit.ops import LoweringError
from edgekit.passes.known import unknown_ops
from edgekit.quant.plan import QuantPlan


@dataclass(frozen=True)
class Options:
    """How to write the file.

    ``input_layout`` NHWC or NCHW; ``io_dtype`` int8 hands the integers in and out, float32 puts QUANTIZE and DEQUANTIZE
    at the ends; ``ops`` are the operators that the target's runtime has (empty: all); ``sparse`` stores a pruned weight
    as a sparse tensor where the file gets smaller; ``delegated`` says that the runtime hands what it can to XNNPACK.
    """

    input_layout: str = "NHWC"
    io_dtype: str = "int8"
    ops: tuple[str, ...] = ()
    sparse: bool = False
    delegated: bool = True
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def emit(model: ir.Model, plan: QuantPlan, options: Options | None = None) -> Artifact:
    """The model as TFLite: full integer where the plan covers it, float32 with an empty plan.

    Raises UnsupportedError that names every node which cannot be expressed.
    """
    options = options or Options()
    graph = model.graph
    _refuse_unknown(graph)
    layouts = decide(graph, options.input_layout)
    lowering = Lowering(plan, layouts, options.delegated)
    inputs = [_enter(lowering, value, options) for value in graph.inputs]
    problems: list[str] = []
    for unit in units(graph):
        _lower(lowering, unit, problems)
    if problems:
        raise UnsupportedError(problems)
    outputs = [_leave(lowering, value, layouts.outputs[i], options) for i, value in enumerate(graph.outputs)]
    _refuse_missing(lowering, options)
    written = lowering.graph
    written.inputs, written.outputs = [t for t, _ in inputs], [t for t, _ in outputs]
    contract = Contract(
        tuple(port for _, port in inputs),
        tuple(port for _, port in outputs),
        dict(options.preprocessing),
        options.labels,
    )
    if options.sparse:
        sparse.store(written)
    written.metadata["edgekit"] = describe(contract, plan, options.facts)
    return Artifact("tflite", tflite_bytes.write(written), contract)


def _refuse_unknown(graph: ir.Graph) -> None:
    unknown = unknown_ops(graph)
    if unknown:
        raise UnsupportedError(unknown)


def _lower(lowering: Lowering, unit: Unit, problems: list[str]) -> None:
    try:
        lowering.unit(unit)
    except LoweringError as error:
        problems.append(f"node {unit.node.name}: {unit.node.op_type}: {error}")


def _refuse_missing(lowering: Lowering, options: Options) -> None:
    """Name every operator that the target's runtime does not have."""
    missing: dict[str, list[str]] = {}
    for op in lowering.graph.ops:
        if options.ops and op.code not in options.ops:
            missing.setdefault(op.code, []).append(op.outputs[0].name)
    if missing:
        raise UnsupportedError(
            [
                f"operator {code}, which the target's runtime does not have, at {', '.join(names)}"
                for code, names in missing.items()
            ]
        )


def _enter(lowering: Lowering, value: ir.Value, options: Options) -> tuple[Tensor, Port]:
    """An input of the file."""
    tensor = lowering.declare(value, options.io_dtype != "float32")
    return tensor, _port(tensor.name, tensor, lowering.layouts.stored[tensor.name])


def _leave(lowering: Lowering, value: ir.Value, perm: Perm, options: Options) -> tuple[Tensor, Port]:
    """An output of the file in the order in which it leaves."""
    name = str(value.name)
    array = constant(value)
    if name not in lowering.tensors and array is not None:
        tensor = Tensor(name, array.shape, str(array.dtype), None, array)
        return tensor, _port(name, tensor, identity(array.ndim))
    tensor = lowering.moved(name, perm, options.io_dtype != "float32")
    if tensor.name != name:
        lowering.tensors[name].name, tensor.name = tensor.name, name
    return tensor, _port(name, tensor, perm)


def _port(name: str, tensor: Tensor, perm: Perm) -> Port:
    scale = zero_point = None
    if tensor.quant is not None:
        scale, zero_point = tensor.quant.scale[0], tensor.quant.zero_point[0]
    return Port(name, tensor.shape, tensor.dtype, perm, layout_name(perm), scale, zero_point)


def layout_name(perm: Perm) -> str:
    """A word for a storage order: NHWC, NCHW, NLC, ... or empty for tensors without channels and space."""
    letters = {3: "NCL", 4: "NCHW", 5: "NCDHW"}.get(len(perm), "")
    return "".join(letters[axis] for axis in perm) if letters else ""


def tensor_order(layouts: Layouts, value: ir.Value) -> Perm:
    """The stored order of a value, for who compares tensors of the file with those of the source."""
    return layouts.stored.get(str(value.name), identity(len(shape_of(value))))


__all__ = ["Options", "channels_last", "emit", "layout_name", "tensor_order"]
