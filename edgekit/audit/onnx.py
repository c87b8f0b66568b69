"""Audit an ONNX file: its QuantizeLinear and DequantizeLinear say which ops a runtime can compute on integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from edgekit.audit import macs, onnx_graph
from edgekit.audit.facts import DYNAMIC, FLOAT, INTEGER, NARROW, Audit, AuditedOp, Terminal, metadata, precision
from edgekit.audit.onnx_graph import OnnxGraph, bits_of, dtype_name, load, tensor_bytes

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FUSED = frozenset({"Relu", "Clip"})  # become part of the integer kernel before them
NATIVE = frozenset({"ConvInteger", "MatMulInteger", "QGemm"})  # compute on integers as they stand, as QLinear... do
DYNAMIC_OPS = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
# Float inputs that are no data, and the inputs of native ops that hold weights and biases.
SETTINGS = {
    "Clip": (1, 2),
    "Pad": (2,),
    "Resize": (1, 2),
    "Upsample": (1,),
    "Dropout": (1,),
}
NATIVE_WEIGHTS = {
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "ConvInteger": (1,),
    "MatMulInteger": (1,),
    "QGemm": (3, 6),
}
MOVES = frozenset({"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"})  # change no number


def audit_onnx(data: bytes) -> Audit:
    """Audit the bytes of an ONNX file. Raises ModelError when they are not a sound one."""
    model = load(data)
    graph = OnnxGraph(model)
    reader = _Reader(graph)
    ops: list[AuditedOp] = []
    boundary: list[AuditedOp] = []
    bookkeeping: list[AuditedOp] = []
    for node in graph.nodes:
        found = reader.audited(node)
        if found is not None:
            {"boundary": boundary, "bookkeeping": bookkeeping}.get(found.kind, ops).append(found)
    known, notes = metadata({item.key: item.value.encode() for item in model.metadata_props})
    if graph.pinned:
        notes.append(f"open dimensions count as 1: {', '.join(graph.pinned)}")
    return Audit(
        format="onnx",
        file_bytes=len(data),
        precision=precision(ops),
        ops=tuple(ops),
        boundary=tuple(boundary),
        bookkeeping=tuple(bookkeeping),
        inputs=tuple(reader.terminal(name) for name in graph.inputs),
        outputs=tuple(reader.terminal(name) for name in graph.outputs),
        parameters=reader.parameters(),
        weight_dtypes=reader.weight_dtypes(),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opset=max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0),
        metadata=known,
        notes=(*notes, *macs.unknown(reader.unknown)),
    )


class _Reader:
    """Judges the nodes of a graph."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.unknown: list[str] = []  # ops whose multiply-adds are not known

    def audited(self, node: NodeProto) -> AuditedOp | None:
        """One op; ``kind`` may also be "boundary" or "bookkeeping". None of what no runtime computes by itself."""
        graph = self.graph
        if all(name in graph.fixed for name in node.output):
            return None
        op, kind = self._kind(node)
        if not kind:
            return None
        attributes = {attr.name: onnx.helper.get_attribute_value(attr) for attr in node.attribute}
        shapes = [graph.shapes.get(name) if name else (0,) for name in node.input]
        found = macs.count(macs.ONNX, op, (shapes, [graph.shapes.get(name) for name in node.output]), attributes)
        name, is_conversion = node.name or node.output[0], node.op_type in (QUANTIZE, DEQUANTIZE)
        if found is None:
            self.unknown.append(name)
        constants = [] if is_conversion else self._constants(node)
        largest = max(constants, key=tensor_bytes, default=None)
        return AuditedOp(
            name=name,
            op=op,
            kind=kind,
            inputs=tuple(self._stored_in(item, node) for item in node.input if item and item not in graph.fixed),
            outputs=tuple(
                graph.dtype(item) if is_conversion else self._stored_out(item) for item in node.output if item
            ),
            weights=dtype_name(largest.data_type) if largest is not None else "",
            weight_bytes=sum(map(tensor_bytes, constants)),
            macs=found or 0,
            moved_bytes=self._moved(node, is_conversion) + sum(map(tensor_bytes, constants)),
        )

    def _moved(self, node: NodeProto, is_conversion: bool) -> int:
        """Bytes of the activations that a node reads and writes, in the form in which they are stored."""
        graph = self.graph
        read = [(name, self._stored_in(name, node)) for name in node.input if name and name not in graph.fixed]
        written = [(n, graph.dtype(n) if is_conversion else self._stored_out(n)) for n in node.output if n]
        return sum(prod(graph.shapes.get(name) or ()) * bits_of(dtype) // 8 for name, dtype in (*read, *written))

    def _kind(self, node: NodeProto) -> tuple[str, str]:
        """The op type and the kind, which is "" when the node is part of a unit."""
        graph, op = self.graph, str(node.op_type)
        if op in (QUANTIZE, DEQUANTIZE):
            return self._conversion(node)
        if op in onnx_graph.SHAPE_ONLY:
            return op, "bookkeeping"
        if op in DYNAMIC_OPS or (op in NATIVE and graph.op(node.input[0]) == "DynamicQuantizeLinear"):
            return op, DYNAMIC
        if op in NATIVE or op.startswith("QLinear"):
            return op, INTEGER
        names = [name for name in (*node.input, *node.output) if name]
        if any(graph.may_be_float(name) for name in names):
            return op, INTEGER if self._is_unit(node) else FLOAT
        return op, INTEGER if {graph.dtype(name) for name in names} & NARROW else "bookkeeping"

    def _is_unit(self, node: NodeProto) -> bool:
        """Whether all float data comes from DequantizeLinear and goes to QuantizeLinear."""
        graph = self.graph
        settings = SETTINGS.get(node.op_type, ())
        data = [name for index, name in enumerate(node.input) if name and index not in settings]
        if not all(self._arrives(name, node) for name in data if graph.may_be_float(name)):
            return False
        results = [name for name in node.output if name and graph.may_be_float(name)]
        return all(self._lands(name) for name in results if name in graph.ends or name in graph.readers)

    def _arrives(self, name: str, node: NodeProto) -> bool:
        """Whether a float input of ``node`` is dequantized, or is the result of a unit that ``node`` ends."""
        graph = self.graph
        maker = graph.makers.get(name)
        while name in graph.fixed and maker is not None and maker.op_type in MOVES:
            maker = graph.makers.get(maker.input[0])
        if maker is None:
            return False
        if name in graph.fixed:
            return maker.op_type == DEQUANTIZE
        ends = node.op_type in FUSED and maker.op_type not in (*FUSED, QUANTIZE) and name == node.input[0]
        return maker.op_type == DEQUANTIZE or (ends and self._is_unit(maker))

    def _lands(self, name: str) -> bool:
        """Whether a float result is only quantized, if need be after one Relu or Clip."""
        graph = self.graph
        readers = graph.readers.get(name, [])
        if name in graph.ends or not readers:
            return False
        if all(reader.op_type == QUANTIZE for reader in readers):
            return True
        (reader, *others) = readers
        if others or reader.op_type not in FUSED or graph.op(name) in FUSED or name in reader.input[1:]:
            return False
        after = graph.readers.get(reader.output[0], [])
        return reader.output[0] not in graph.ends and bool(after) and all(item.op_type == QUANTIZE for item in after)

    def _conversion(self, node: NodeProto) -> tuple[str, str]:
        """What a QuantizeLinear or DequantizeLinear is by itself: (op, kind), the kind "" when it belongs to a unit."""
        graph, value, result = self.graph, node.input[0], node.output[0]
        if node.op_type == QUANTIZE:
            if value in graph.inputs:
                return QUANTIZE, "boundary"
            maker = graph.makers.get(value)
            if maker is not None and maker.op_type == DEQUANTIZE:
                return "Requantize", INTEGER
            return QUANTIZE, "" if maker is not None and self._is_unit(maker) else FLOAT
        readers = graph.readers.get(result, [])
        if any(reader.op_type != QUANTIZE and not self._is_unit(reader) for reader in readers):
            return DEQUANTIZE, FLOAT
        return DEQUANTIZE, "boundary" if result in graph.outputs else ""

    def _stored_in(self, name: str, node: NodeProto) -> str:
        """The dtype in which an input is stored before it is dequantized; that of the result where a unit ends."""
        graph = self.graph
        maker = graph.makers.get(name)
        if maker is not None and maker.op_type == DEQUANTIZE:
            return graph.dtype(maker.input[0])
        return graph.dtype(name) if node.op_type == QUANTIZE else self._stored_out(name)

    def _stored_out(self, name: str) -> str:
        """The dtype in which a result is stored once it is quantized."""
        graph = self.graph
        if graph.is_float(name) and self._lands(name):
            reader = graph.readers[name][0]
            return self._stored_out(reader.output[0])
        return graph.dtype(name)

    def _constant(self, name: str) -> TensorProto | None:
        """The constant that a fixed tensor is made from, by way of its first input."""
        while name not in self.graph.constants:
            maker = self.graph.makers.get(name)
            if maker is None or not maker.input:
                return None
            name = maker.input[0]
        return self.graph.constants[name]

    def _constants(self, node: NodeProto) -> list[TensorProto]:
        """The constants that a node reads, as stored. Scales and zero points of a dequantized one are left out."""
        found = (self._constant(name) for name in node.input if name and name in self.graph.fixed)
        return [tensor for tensor in found if tensor is not None]

    def parameters(self) -> int:
        """Weights and biases, each stored one once: float or dequantized constants that are data, not settings."""
        graph = self.graph
        found: dict[str, TensorProto] = {}
        for node in graph.nodes:
            if node.op_type in (QUANTIZE, DEQUANTIZE) or all(name in graph.fixed for name in node.output):
                continue
            native, settings = NATIVE_WEIGHTS.get(node.op_type), SETTINGS.get(node.op_type, ())
            for index, name in enumerate(node.input):
                constant = self._constant(name) if name in graph.fixed else None
                is_data = graph.is_float(name) and index not in settings if native is None else index in native
                if constant is not None and is_data:
                    found[constant.name or name] = constant
        return sum(prod(tensor.dims) for tensor in found.values())

    def weight_dtypes(self) -> Mapping[str, int]:
        """Bytes of constants by dtype."""
        sizes: dict[str, int] = {}
        for tensor in self.graph.constants.values():
            dtype = dtype_name(tensor.data_type)
            sizes[dtype] = sizes.get(dtype, 0) + tensor_bytes(tensor)
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    def terminal(self, name: str) -> Terminal:
        """An input or output; scale and zero point are those of the QuantizeLinear that makes it, or its reader's."""
        graph = self.graph
        shape = graph.declared.get(name) or graph.shapes.get(name, ())
        beside = [node for node in (graph.makers.get(name), *graph.readers.get(name, ())) if node is not None]
        for node in beside:
            own = node.output[0] if node.op_type == QUANTIZE else node.input[0] if node.op_type == DEQUANTIZE else ""
            scalars = list(self._scalars(node)) if own == name else []
            if scalars:
                return Terminal(name, shape, graph.dtype(name), float(scalars[0]), int([*scalars, 0][1]))
        return Terminal(name, shape, graph.dtype(name))

    def _scalars(self, node: NodeProto) -> Iterator[Any]:
        for name in node.input[1:3]:
            tensor = self.graph.constants.get(name)
            if tensor is None or prod(tensor.dims) != 1:
                return
            yield numpy_helper.to_array(tensor).reshape(())[()]
