"""(graph, plan) -> ONNX with QuantizeLinear and DequantizeLinear.

Every planned tensor is stored as integers and read through a DequantizeLinear; the float value that a reader sees
keeps the tensor's name. Between an op and its QuantizeLinear stands at most the activation that the op takes in, and
only where the limits of the integers do not clip as it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgekit.contract import Contract, Join, Port
from edgekit.emitters import Artifact
from edgekit.emitters.metadata import describe
from edgekit.emitters.onnx_dynamic import quantize_at_run_time
from edgekit.graph import Array, Unit, constant, dtype_of, selects, shape_of, units
from edgekit.layout import identity
from edgekit.passes.rewrite import add_constant, drop, make, unique_names
from edgekit.quant import numerics
from edgekit.quant.kernels import computes_in_integers, constant_weight, inputs_of
from edgekit.quant.plan import HALF, QParams, QuantPlan
from edgekit.reference import serialize

PRODUCER = "edgekit"


@dataclass(frozen=True)
class Options:
    """``activations`` uint8 shifts the integers of activations by 128, as ONNX Runtime's x86 kernels want them."""

    activations: str = "int8"
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    joins: tuple[Join, ...] = ()


def emit(model: ir.Model, plan: QuantPlan, options: Options | None = None) -> Artifact:
    """The model as ONNX: QDQ where the plan covers it, float32 with an empty plan. Inputs and outputs stay float32."""
    options = options or Options()
    written = model.clone()
    graph = written.graph
    contract = Contract(
        tuple(_port(value) for value in graph.inputs),
        tuple(_port(value) for value in graph.outputs),
        dict(options.preprocessing),
        options.labels,
        options.joins,
    )
    for node in filter(selects, graph):
        node.outputs[0].shape = ir.Shape([None, 3])
    writer = _Writer(graph, plan, options.activations)
    for unit in units(graph):
        if not quantize_at_run_time(graph, unit, plan):
            writer.unit(unit)
    for value in graph.inputs:
        writer.value(value)
    writer.constants()
    unique_names(graph)
    written.producer_name, written.producer_version = PRODUCER, None
    written.metadata_props["edgekit"] = describe(contract, plan, options.facts).decode()
    return Artifact("onnx", serialize(written), contract)


def _port(value: ir.Value) -> Port:
    shape = shape_of(value)
    layout = {3: "NCL", 4: "NCHW", 5: "NCDHW"}.get(len(shape), "")
    return Port(str(value.name), shape, dtype_of(value), identity(len(shape)), layout)


class _Writer:
    """Puts Q and DQ into one graph."""

    def __init__(self, graph: ir.Graph, plan: QuantPlan, activations: str) -> None:
        self._graph, self._plan, self._unsigned = graph, plan, activations == "uint8"
        self._scalars: dict[Any, ir.Value] = {}
        self._between: dict[str, QParams] = {}  # values that this writer adds
        self._restored: dict[ir.Value, str] = {}  # what a DequantizeLinear gives -> the planned name
        self._planned_constants = [v for v in graph.initializers.values() if v.name in plan and constant(v) is not None]
        self._activation_constants = _read_as_activations(graph)

    def unit(self, unit: Unit) -> None:
        """Store what a unit gives; leave out an activation that the integers' limits already apply."""
        integer = computes_in_integers(unit, self._plan)
        if unit.bias is not None and integer:
            unit = self._biased(unit)
        outputs = unit.outputs
        out = self._plan.get(str(outputs[0].name))
        if integer and out is not None and unit.activation is not None and _clips_alike(out, unit.bounds):
            inner, result = unit.inner, unit.activation.outputs[0]
            _take_over(self._graph, inner, result)
            drop(self._graph, unit.activation)
            outputs = (inner,)
        elif out is not None and unit.node.op_type == "Identity" and not outputs[0].is_graph_output():
            source = unit.node.inputs[0]
            if source is not None and self._plan.get(self._restored.get(source, str(source.name))) == out:
                convenience.replace_all_uses_with(outputs[0], source)
                drop(self._graph, unit.node)
                return
        elif out is not None and not integer and constant_weight(unit) is not None:
            outputs = (self._guarded(outputs[0]),)
        for value in outputs:
            self.value(value)

    def _biased(self, unit: Unit) -> Unit:
        """A MatMul and its bias as one Gemm; what lies between its Reshapes is stored too, or ONNX Runtime stores it in
        a type of its own.
        """
        source, weight = unit.node.inputs[0], unit.node.inputs[1]
        if source is None or weight is None:
            return unit
        read = self._plan.get(self._restored.get(source, str(source.name)))
        given = self._plan.get(str(unit.outputs[0].name))
        unit, flat, product = _as_gemm(self._graph, unit, source, weight)
        for value, q in ((flat, read), (product, given)):
            if q is not None:
                self._between[str(value.name)] = q
                self.value(value)
        return unit

    def _guarded(self, value: ir.Value) -> ir.Value:
        """The value through a maximum with the smallest number, which stands for it from here on.

        ONNX Runtime quantizes float weights that it finds between DequantizeLinear and QuantizeLinear, per tensor, and
        says nothing (its WeightBiasQuantization); it does not look past the maximum.
        """
        lowest = add_constant(self._graph, f"{value.name}/lowest", np.asarray(np.finfo(np.float32).min, np.float32))
        readers = [(use.node, use.idx) for use in value.uses()]
        guard = make("Max", [value, lowest], value, f"{value.name}/guard")
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, guard)
        result = guard.outputs[0]
        for node, position in readers:
            node.replace_input_with(position, result)
        for i, out in enumerate(self._graph.outputs):
            if out is value:
                self._graph.outputs[i] = result
        value.name, result.name = f"{value.name}/unguarded", value.name
        return result

    def value(self, value: ir.Value) -> None:
        """Q and DQ behind a computed or fed value; its name goes to what the readers see."""
        name = str(value.name)
        planned = self._plan.get(name) or self._between.get(name)
        if planned is None:
            return
        q = self._stored(planned)
        quantized = self._node("QuantizeLinear", value, q, f"{name}/int")
        restored = self._node("DequantizeLinear", quantized.outputs[0], q, f"{name}/real")
        real = restored.outputs[0]
        self._restored[real] = name
        real.shape, real.type = value.shape, value.type
        readers = [(use.node, use.idx) for use in value.uses() if use.node is not quantized]
        for node, position in readers:
            node.replace_input_with(position, real)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [quantized, restored])
            return
        self._graph.insert_after(producer, [quantized, restored])
        for i, out in enumerate(self._graph.outputs):
            if out is value:
                self._graph.outputs[i] = real
        value.name, real.name = f"{name}/raw", name

    def constants(self) -> None:
        """Constants as the plan stores them, behind what makes them real again."""
        for value in self._planned_constants:
            name, uses = str(value.name), [(use.node, use.idx) for use in value.uses()]
            if not uses:
                self._graph.initializers.pop(name, None)
                continue
            q = self._plan[name]
            node = self._widened(value) if q.dtype == HALF else self._dequantized(value, q)
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            for reader, position in uses:
                reader.replace_input_with(position, node.outputs[0])
            self._graph.insert_before(self._graph[0], node)
            del self._graph.initializers[name]

    def _dequantized(self, value: ir.Value, q: QParams) -> ir.Node:
        name = str(value.name)
        if name in self._activation_constants:
            q = self._stored(q)
        if q.dtype == "int64":  # ONNX adds up in 32 bits
            q = replace(q, dtype="int32")
        stored = add_constant(self._graph, f"{name}/int", numerics.quantize(np.asarray(constant(value)), q))
        return self._node("DequantizeLinear", stored, q, f"{name}/dequantize")

    def _widened(self, value: ir.Value) -> ir.Node:
        stored = add_constant(self._graph, f"{value.name}/{HALF}", np.asarray(constant(value)).astype(HALF))
        return make("Cast", [stored], value, f"{value.name}/widen", to=int(ir.DataType.FLOAT))

    def _stored(self, q: QParams) -> QParams:
        return numerics.as_unsigned(q) if self._unsigned and q.dtype == "int8" else q

    def _node(self, op_type: str, source: ir.Value, q: QParams, name: str) -> ir.Node:
        inputs = [source, self._number("scale", np.asarray(q.scale, np.float32), q)]
        if q.dtype != "int32":
            inputs.append(self._number("zero_point", np.asarray(q.zero_point, q.dtype), q))
        attributes = {} if q.axis is None else {"axis": q.axis}
        node = ir.Node("", op_type, inputs, convenience.convert_attributes(attributes), name=name)
        node.outputs[0].name = name
        return node

    def _number(self, kind: str, values: Array, q: QParams) -> ir.Value:
        """A scale or zero point, each distinct one stored once."""
        array = values.reshape(()) if q.axis is None else values
        key = (kind, str(array.dtype), array.shape, array.tobytes())
        if key not in self._scalars:
            self._scalars[key] = add_constant(self._graph, f"{kind}.{len(self._scalars)}", array)
        return self._scalars[key]


def _as_gemm(graph: ir.Graph, unit: Unit, source: ir.Value, weight: ir.Value) -> tuple[Unit, ir.Value, ir.Value]:
    """MatMul and Add as Reshape, Gemm, Reshape: the bias is added in the sum's integers, as the plan has it.

    With the new unit come what its Gemm reads and gives.
    """
    node, old = unit.node, unit.inner
    name, (*rows, width) = str(old.name), shape_of(old)
    count = math.prod(rows)
    into = add_constant(graph, f"{name}/rows", np.asarray([count, shape_of(source)[-1]]))
    back = add_constant(graph, f"{name}/shape", np.asarray([*rows, width]))
    flat = make("Reshape", [source, into], source, f"{name}/flat")
    flat.outputs[0].shape = ir.Shape([count, shape_of(source)[-1]])
    gemm = make("Gemm", [flat.outputs[0], weight, unit.bias_value], old, f"{name}/gemm")
    gemm.outputs[0].shape = ir.Shape([count, width])
    result = make("Reshape", [gemm.outputs[0], back], old, f"{name}/result")
    graph.insert_after(unit.bias or node, [flat, gemm, result])
    _take_over(graph, result.outputs[0], old)
    drop(graph, *(n for n in (unit.bias, node) if n is not None))
    return replace(unit, node=result, bias=None), flat.outputs[0], gemm.outputs[0]


def _clips_alike(q: QParams, bounds: tuple[float, float]) -> bool:
    """Whether storing with ``q`` clips at least as much as ``bounds``, so that the activation changes no integer."""
    low, high = q.range
    step = q.scale[0]
    return bounds[0] <= low + step / 2 and bounds[1] >= high - step / 2


def _take_over(graph: ir.Graph, inner: ir.Value, result: ir.Value) -> None:
    """Let ``inner`` stand where ``result`` stood, under its name."""
    for i, out in enumerate(graph.outputs):
        if out is result:
            graph.outputs[i] = inner
    name = str(result.name)
    result.name = f"{name}/gone"
    inner.name = name
    convenience.replace_all_uses_with(result, inner)


def _read_as_activations(graph: ir.Graph) -> set[str]:
    """Names of constants that are read where an activation could be, and so are stored as one."""
    return {str(v.name) for unit in units(graph) for v in inputs_of(unit) if constant(v) is not None}
