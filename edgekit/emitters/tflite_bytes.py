"""TFLite flatbuffer <-> ``tflite_graph.Graph``. The only module that knows the flatbuffer schema.

Equal vectors, quantization tables and buffers are written once and shared, which the format allows: a flatbuffer is a
graph of offsets (https://flatbuffers.dev/internals/). The bytes depend on the graph alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.emitters import sparse
from edgekit.emitters.tflite_graph import Graph, Op, Sparsity, Tensor
from edgekit.emitters.tflite_versions import version
from edgekit.errors import ModelError
from edgekit.quant.plan import QParams

IDENTIFIER = b"TFL3"
SIGNATURE = "serving_default"

DTYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "float64": schema.TensorType.FLOAT64,
    "uint32": schema.TensorType.UINT32,
}

# Options whose table is not simply the operator's name in camel case.
OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "CONV_3D": "Conv3DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "REDUCE_ALL": "ReducerOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "PADV2": "PadV2Options",
    "TOPK_V2": "TopKV2Options",
    "ARG_MAX": "ArgMaxOptions",
    "ARG_MIN": "ArgMinOptions",
    "SELECT_V2": "SelectV2Options",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "SPACE_TO_BATCH_ND": "SpaceToBatchNDOptions",
    "BATCH_TO_SPACE_ND": "BatchToSpaceNDOptions",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
}
ENUMS = {
    "padding": schema.Padding,
    "fused_activation_function": schema.ActivationFunctionType,
    "mode": schema.MirrorPadMode,
    "in_data_type": schema.TensorType,
    "out_data_type": schema.TensorType,
    "output_type": schema.TensorType,
}


@cache
def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def options_table(code: str) -> str | None:
    """The schema's options table of an operator, or None when it has none."""
    name = OPTIONS.get(code) or "".join(part.capitalize() for part in code.split("_")) + "Options"
    return name if hasattr(schema.BuiltinOptions, name) else None


class _Writer:
    """A flatbuffer builder that writes equal things once."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1 << 16)
        self._seen: dict[Any, int] = {}

    def once(self, key: Any, make: Callable[[], int]) -> int:
        if key not in self._seen:
            self._seen[key] = make()
        return self._seen[key]

    def string(self, text: str) -> int:
        return self.once(("string", text), lambda: int(self.builder.CreateString(text)))

    def vector(self, values: Any, dtype: str) -> int:
        array = np.asarray(values, dtype=dtype)
        return self.once((dtype, array.tobytes()), lambda: int(self.builder.CreateNumpyVector(array)))

    def offsets(self, items: Sequence[int]) -> int:
        self.builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            self.builder.PrependUOffsetTRelative(item)
        return int(self.builder.EndVector())

    def table(self, kind: str, **fields: Any) -> int:
        """Write one table: a field is an offset or a scalar; None is left out."""
        getattr(schema, f"{kind}Start")(self.builder)
        for name, value in fields.items():
            if value is not None:
                getattr(schema, f"{kind}Add{name}")(self.builder, value)
        return int(getattr(schema, f"{kind}End")(self.builder))

    def bytes(self, data: bytes) -> int:
        """A byte vector aligned to 16, as the schema asks of buffers."""
        b = self.builder
        b.StartVector(1, len(data), 16)
        b.head = b.head - len(data)
        b.Bytes[b.head : b.head + len(data)] = data
        return int(b.EndVector())


def write(graph: Graph) -> bytes:
    """The graph as a TFLite file. Deterministic: equal graphs give equal bytes."""
    w = _Writer()
    graphs = _with_bodies(graph)
    buffers = [w.table("Buffer")]
    buffer_of: dict[bytes, int] = {}

    def buffer(data: bytes) -> int:
        if data not in buffer_of:
            buffer_of[data] = len(buffers)
            buffers.append(w.table("Buffer", Data=w.bytes(data)))
        return buffer_of[data]

    codes: dict[tuple[str, int], int] = {}
    subgraphs = [_subgraph(w, g, graphs, buffer, codes) for g in graphs]
    metadata = [
        w.table("Metadata", Name=w.string(name), Buffer=buffer(value)) for name, value in sorted(graph.metadata.items())
    ]
    model = w.table(
        "Model",
        Version=3,
        OperatorCodes=w.offsets([_code(w, code, version) for code, version in codes]),
        Subgraphs=w.offsets(subgraphs),
        Description=w.string(graph.description),
        Buffers=w.offsets(buffers),
        Metadata=w.offsets(metadata) if metadata else None,
        SignatureDefs=_signature(w, graph),
    )
    w.builder.Finish(model, IDENTIFIER)
    return bytes(w.builder.Output())


def _with_bodies(graph: Graph) -> list[Graph]:
    """A graph, then those that its operators run."""
    found = [graph]
    for op in graph.ops:
        for body in op.bodies.values():
            found += _with_bodies(body)
    return found


def _subgraph(
    w: _Writer,
    graph: Graph,
    graphs: Sequence[Graph],
    buffer: Callable[[bytes], int],
    codes: dict[tuple[str, int], int],
) -> int:
    tensors = graph.tensors()
    index = {id(t): i for i, t in enumerate(tensors)}
    offsets = [_tensor(w, t, 0 if t.data is None else buffer(_raw(t))) for t in tensors]
    ops = []
    for op in graph.ops:
        called = {name: next(i for i, g in enumerate(graphs) if g is body) for name, body in op.bodies.items()}
        code = codes.setdefault((op.code, version(op)), len(codes))
        ops.append(_op(w, replace(op, options={**op.options, **called}), index, code))
    number = graphs.index(graph)
    return w.table(
        "SubGraph",
        Tensors=w.offsets(offsets),
        Inputs=w.vector([index[id(t)] for t in graph.inputs], "int32"),
        Outputs=w.vector([index[id(t)] for t in graph.outputs], "int32"),
        Operators=w.offsets(ops),
        Name=w.string(f"body{number}" if number else "main"),
    )


def _raw(tensor: Tensor) -> bytes:
    assert tensor.data is not None
    kept = tensor.data if tensor.sparsity is None else tensor.sparsity.values
    return np.ascontiguousarray(kept, dtype=tensor.dtype).tobytes()


def _tensor(w: _Writer, tensor: Tensor, buffer: int) -> int:
    quant = None if tensor.quant is None else _quant(w, tensor.quant)
    return w.table(
        "Tensor",
        Shape=w.vector(tensor.shape, "int32"),
        Type=DTYPES[tensor.dtype],
        Buffer=buffer,
        Name=w.string(tensor.name),
        Quantization=quant,
        HasRank=True,
        IsVariable=tensor.variable or None,
        Sparsity=None if tensor.sparsity is None else _sparsity(w, tensor.sparsity),
    )


def _sparsity(w: _Writer, how: Sparsity) -> int:
    return w.table(
        "SparsityParameters",
        TraversalOrder=w.vector(how.order, "int32"),
        BlockMap=w.vector(how.blocks, "int32") if how.blocks else None,
        DimMetadata=w.offsets([_level(w, level) for level in how.levels]),
    )


def _level(w: _Writer, level: int | tuple[Any, Any]) -> int:
    if isinstance(level, int):
        return w.table("DimensionMetadata", Format=schema.DimensionType.DENSE, DenseSize=level)
    fields: dict[str, int] = {}
    for name, values in zip(("ArraySegments", "ArrayIndices"), level, strict=True):
        kind = f"{values.dtype.name.capitalize()}Vector"
        fields[f"{name}Type"] = getattr(schema.SparseIndexVector, kind)
        fields[name] = w.table(kind, Values=w.vector(values, values.dtype.name))
    return w.table("DimensionMetadata", Format=schema.DimensionType.SPARSE_CSR, **fields)


def _quant(w: _Writer, q: QParams) -> int:
    def make() -> int:
        return w.table(
            "QuantizationParameters",
            Scale=w.vector(q.scale, "float32"),
            ZeroPoint=w.vector(q.zero_point, "int64"),
            QuantizedDimension=q.axis or 0,
        )

    return w.once(("quant", q.scale, q.zero_point, q.axis or 0), make)


def _op(w: _Writer, op: Op, index: dict[int, int], code: int) -> int:
    kind = options_table(op.code)
    fields: dict[str, Any] = {}
    if kind is not None:
        fields = {
            "BuiltinOptionsType": getattr(schema.BuiltinOptions, kind),
            "BuiltinOptions": w.once((kind, tuple(sorted(op.options.items()))), lambda: _options(w, kind, op)),
        }
    return w.table(
        "Operator",
        OpcodeIndex=code,
        Inputs=w.vector([-1 if t is None else index[id(t)] for t in op.inputs], "int32"),
        Outputs=w.vector([index[id(t)] for t in op.outputs], "int32"),
        Intermediates=w.vector([index[id(t)] for t in op.intermediates], "int32") if op.intermediates else None,
        **fields,
    )


def _options(w: _Writer, kind: str, op: Op) -> int:
    table = getattr(schema, f"{kind}T")()
    for name, value in op.options.items():
        attribute = re.sub(r"_([a-z])", lambda m: m.group(1).upper(), name)
        if not hasattr(table, attribute):
            raise KeyError(f"{kind} has no field {name}")
        enum = ENUMS.get(name)
        if enum is not None and isinstance(value, str):
            value = getattr(enum, value)
        setattr(table, attribute, np.array(value, np.int32) if isinstance(value, tuple) else value)
    return int(table.Pack(w.builder))


def _code(w: _Writer, code: str, version: int) -> int:
    number = getattr(schema.BuiltinOperator, code)
    return w.table("OperatorCode", DeprecatedBuiltinCode=min(number, 127), BuiltinCode=number, Version=version)


def _signature(w: _Writer, graph: Graph) -> int:
    index = {id(t): i for i, t in enumerate(graph.tensors())}

    def maps(tensors: Sequence[Tensor]) -> int:
        return w.offsets([w.table("TensorMap", Name=w.string(t.name), TensorIndex=index[id(t)]) for t in tensors])

    definition = w.table(
        "SignatureDef",
        Inputs=maps(graph.inputs),
        Outputs=maps(graph.outputs),
        SignatureKey=w.string(SIGNATURE),
        SubgraphIndex=0,
    )
    return w.offsets([definition])


def read(data: bytes) -> Graph:
    """A TFLite file as a graph (its first subgraph). Raises ModelError when the bytes are not a sound TFLite file."""
    if data[4:8] != IDENTIFIER:
        raise ModelError("not a TFLite file: the identifier TFL3 is missing")
    try:
        return _graph(schema.ModelT.InitFromPackedBuf(data, 0), data)
    except (struct.error, IndexError, TypeError, ValueError, AttributeError, UnicodeDecodeError, KeyError) as error:
        raise ModelError(f"not a sound TFLite file, truncated or corrupt ({type(error).__name__}: {error})") from error


def _graph(model: Any, data: bytes, number: int = 0, above: tuple[int, ...] = ()) -> Graph:
    """Subgraph ``number``; ``above`` are those that it is read for, which it may not run again."""
    sub, above = model.subgraphs[number], (*above, number)
    dtypes = {number: name for name, number in DTYPES.items()}

    def quant(t: Any, dtype: str) -> QParams | None:
        q = t.quantization
        if q is None or q.scale is None or len(q.scale) == 0:
            return None
        axis = q.quantizedDimension if len(q.scale) > 1 else None
        zero_points = q.zeroPoint if q.zeroPoint is not None else [0] * len(q.scale)
        return QParams(dtype, tuple(map(float, q.scale)), tuple(map(int, zero_points)), axis)

    def payload(buffer: Any) -> bytes:
        if buffer.offset > 1:  # data that lies behind the flatbuffer, as files over 2 GB need
            return data[buffer.offset : buffer.offset + buffer.size]
        return b"" if buffer.data is None else bytes(buffer.data)

    def tensor(t: Any) -> Tensor:
        dtype, shape = dtypes.get(t.type, f"type{t.type}"), tuple(map(int, t.shape if t.shape is not None else ()))
        raw = payload(model.buffers[t.buffer])
        array = np.frombuffer(raw, dtype) if raw and dtype in DTYPES else None
        how = None if array is None or t.sparsity is None else _read_sparsity(t.sparsity, array)
        if array is not None:
            array = array.reshape(shape) if how is None else sparse.dense(shape, how)
        return Tensor((t.name or b"").decode(), shape, dtype, quant(t, dtype), array, bool(t.isVariable), how)

    tensors = [tensor(t) for t in sub.tensors]
    ops = []
    for op in sub.operators:
        opcode = model.operatorCodes[op.opcodeIndex]
        number = max(opcode.builtinCode, opcode.deprecatedBuiltinCode)
        custom = opcode.customCode.decode() if opcode.customCode else None
        code = custom or _names(schema.BuiltinOperator)[number]
        ops.append(
            Op(
                code,
                tuple(None if i < 0 else tensors[i] for i in op.inputs),
                tuple(tensors[i] for i in op.outputs),
                _read_options(op.builtinOptions),
                tuple(tensors[i] for i in (op.intermediates if op.intermediates is not None else ())),
            )
        )
        called = {name: i for name, i in ops[-1].options.items() if name.endswith("_subgraph_index") and i not in above}
        ops[-1].bodies = {name: _graph(model, data, i, above) for name, i in called.items()}
    metadata = {m.name.decode(): payload(model.buffers[m.buffer]) for m in model.metadata or ()}
    description = (model.description or b"").decode()
    return Graph(ops, [tensors[i] for i in sub.inputs], [tensors[i] for i in sub.outputs], metadata, description)


def _read_sparsity(table: Any, values: Any) -> Sparsity:
    def level(dim: Any) -> Any:
        if dim.format == schema.DimensionType.DENSE:
            return int(dim.denseSize)
        return np.asarray(dim.arraySegments.values), np.asarray(dim.arrayIndices.values)

    blocks = () if table.blockMap is None else tuple(map(int, table.blockMap))
    return Sparsity(tuple(map(int, table.traversalOrder)), tuple(map(level, table.dimMetadata)), values, blocks)


def _read_options(table: Any) -> dict[str, Any]:
    if table is None:
        return {}
    options: dict[str, Any] = {}
    for attribute, value in vars(table).items():
        name = re.sub(r"([A-Z])", lambda m: "_" + m.group(1).lower(), attribute)
        if name in ENUMS and isinstance(value, int):
            value = _names(ENUMS[name]).get(value, value)
        options[name] = tuple(map(int, value)) if isinstance(value, np.ndarray) else value
    return options
