"""Audit a TFLite file, through the one module that knows its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

from edgekit.audit import macs
from edgekit.audit.arena import Life, arena_bytes, planned
from edgekit.audit.facts import DYNAMIC, FLOAT, INTEGER, NARROW, WIDE, Audit, AuditedOp, Terminal, metadata, precision
from edgekit.emitters import tflite_bytes
from edgekit.emitters.tflite_graph import Graph, Op, Tensor

# Kernels that take integer weights with float activations, and quantize those while running.
HYBRID = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "SVDF", "RNN", "LSTM"}
    | {f"{way}DIRECTIONAL_SEQUENCE_{cell}" for way in ("UNI", "BI") for cell in ("RNN", "LSTM")}
)
CONTROL = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE"})
CONDITION, BODY = "cond_subgraph_index", "body_subgraph_index"
SUB_BYTE = {"type17": ("int4", 4), "type19": ("int2", 2)}  # schema.TensorType numbers without a numpy dtype
FLOATS = ("float", "bfloat")
WIDTHS = {"bool": 1} | {f"{kind}{8 * n}": n for kind in ("int", "uint", "float", "complex") for n in (1, 2, 4, 8, 16)}


def audit_tflite(data: bytes) -> Audit:
    """Audit the bytes of a TFLite file. Raises ModelError when they are not a sound one."""
    graph = tflite_bytes.read(data)
    readers = list(_readers(graph))
    ops: list[AuditedOp] = []
    boundary: list[AuditedOp] = []
    bookkeeping: list[AuditedOp] = []
    for reader in readers:
        for found in reader.all_audited():
            {"boundary": boundary, "bookkeeping": bookkeeping}.get(found.kind, ops).append(found)
    known, notes = metadata(graph.metadata)
    return Audit(
        format="tflite",
        file_bytes=len(data),
        precision=precision(ops),
        ops=tuple(ops),
        boundary=tuple(boundary),
        bookkeeping=tuple(bookkeeping),
        inputs=tuple(map(_terminal, graph.inputs)),
        outputs=tuple(map(_terminal, graph.outputs)),
        parameters=sum(prod(tensor.shape) for reader in readers for tensor in reader.parameters()),
        weight_dtypes=_weight_dtypes(tensor for reader in readers for tensor in reader.all_constants()),
        arena_bytes=sum(arena_bytes(planned(reader.lives())) for reader in readers),
        producer=graph.description,
        metadata=known,
        notes=(*notes, *_notes(readers)),
    )


def _readers(graph: Graph, turns: int = 1) -> Iterator[_Reader]:
    """Readers of a graph and of the bodies of its loops, each with how often it runs."""
    yield _Reader(graph, turns)
    for op in graph.ops:
        if BODY in op.bodies:
            yield from _readers(op.bodies[BODY], turns * (_turns(op) or 1))


def _turns(op: Op) -> int | None:
    """How often a loop runs that compares a counter with a constant; None where it is another."""
    condition = op.bodies.get(CONDITION)
    last = condition.ops[-1] if condition is not None and condition.ops else None
    limit = last.inputs[1] if last is not None and last.code == "LESS" else None
    return int(limit.data.reshape(-1)[0]) if limit is not None and limit.data is not None else None


def _notes(readers: Sequence[_Reader]) -> list[str]:
    unknown = [name for reader in readers for name in reader.unknown]
    return [*(note for reader in readers for note in reader.notes), *macs.unknown(unknown)]


class _Reader:
    """A graph with what makes each tensor known: its op, and the constant that it is stored as."""

    def __init__(self, graph: Graph, turns: int = 1) -> None:
        self.graph, self._runs = graph, turns
        self.notes: list[str] = []
        self.unknown: list[str] = []  # ops whose multiply-adds are not known
        self._made_by = {id(tensor): op for op in graph.ops for tensor in op.outputs}
        self._inputs = {id(tensor) for tensor in graph.inputs}
        self._outputs = {id(tensor) for tensor in graph.outputs}

    def stored(self, tensor: Tensor) -> Tensor | None:
        """The constant behind a tensor: itself, or the one that it is dequantized from; None of an activation."""
        op = self._made_by.get(id(tensor))
        if op is None:
            return None if id(tensor) in self._inputs else tensor
        return self.stored(op.inputs[0]) if op.code in ("DEQUANTIZE", "DENSIFY") and op.inputs[0] is not None else None

    def all_audited(self) -> Iterator[AuditedOp]:
        """Every op but those that only unpack a constant; the multiply-adds are those of all runs."""
        for op in self.graph.ops:
            if not self.is_storage(op):
                found = self.audited(op)
                yield replace(found, macs=found.macs * self._runs, moved_bytes=found.moved_bytes * self._runs)

    def is_storage(self, op: Op) -> bool:
        """Whether the op only unpacks a constant, which is done once."""
        return bool(op.outputs) and self.stored(op.outputs[0]) is not None

    def audited(self, op: Op) -> AuditedOp:
        """One op; ``kind`` may also be "boundary" or "bookkeeping"."""
        shapes = [(0,) if tensor is None else tensor.shape for tensor in op.inputs]
        found = macs.count(macs.TFLITE, op.code, (shapes, [tensor.shape for tensor in op.outputs]), op.options)
        name = op.outputs[0].name if op.outputs else op.code
        if found is None:
            self.unknown.append(name)
        constants = self._constants(op)
        largest = max(constants, key=_size, default=None)
        return AuditedOp(
            name=name,
            op=op.code,
            kind=self._kind(op),
            inputs=tuple(_dtype(tensor) for tensor in self._activations(op)),
            outputs=tuple(map(_dtype, op.outputs)),
            weights=_dtype(largest) if largest is not None else "",
            weight_bytes=sum(map(_size, constants)),
            macs=found or 0,
            moved_bytes=sum(map(_size, (*constants, *self._activations(op), *op.outputs))),
        )

    def lives(self) -> Iterator[Life]:
        """When each activation must be there: an input from the start on, an output to the end.

        The memory of an operator (a variable) stays between runs, so it is there all the time.
        """
        end = len(self.graph.ops)
        first = {id(tensor): 0 for tensor in self.graph.inputs}
        last = {id(tensor): end for tensor in self.graph.outputs}
        for step, op in enumerate(self.graph.ops):
            first |= {id(tensor): step for tensor in op.outputs if id(tensor) not in first}
            read = [tensor for tensor in (*op.inputs, *op.outputs) if tensor is not None]
            last |= {id(t): max(last.get(id(t), 0), end if t.variable else step) for t in read}
        for tensor in self.graph.tensors():
            if tensor.data is None and (tensor.variable or id(tensor) in first):
                start = 0 if tensor.variable else first[id(tensor)]
                yield Life(tensor.name, _size(tensor), start, last.get(id(tensor), start))

    def _kind(self, op: Op) -> str:
        dtypes = [_dtype(tensor) for tensor in (*self._activations(op), *op.outputs)]
        is_float = any(dtype.startswith(FLOATS) for dtype in dtypes)
        if op.code == "QUANTIZE" and is_float and op.inputs[0] is not None and id(op.inputs[0]) in self._inputs:
            return "boundary"
        if op.code == "DEQUANTIZE" and id(op.outputs[0]) in self._outputs:
            return "boundary"
        if BODY in op.bodies:
            if _turns(op) is None:
                self.notes.append(f"{op.code}: how often it runs is not known; its multiply-adds count once")
            return "bookkeeping"
        if op.code in CONTROL:
            self.notes.append(f"{op.code}: the ops that it calls are not audited, so it counts as float")
            return FLOAT
        if is_float:
            direct = {_dtype(tensor) for tensor in op.inputs if tensor is not None and id(tensor) not in self._made_by}
            hybrid = op.code in HYBRID and bool(direct & NARROW - WIDE)
            return DYNAMIC if hybrid else FLOAT
        stored = {_dtype(tensor) for tensor in self._constants(op)}
        return INTEGER if (set(dtypes) | stored) & NARROW else "bookkeeping"

    def _activations(self, op: Op) -> list[Tensor]:
        return [tensor for tensor in op.inputs if tensor is not None and self.stored(tensor) is None]

    def _constants(self, op: Op) -> list[Tensor]:
        found = (self.stored(tensor) for tensor in op.inputs if tensor is not None)
        return [tensor for tensor in found if tensor is not None]

    def all_constants(self) -> list[Tensor]:
        """Every constant once."""
        return _once(tensor for op in self.graph.ops for tensor in self._constants(op))

    def parameters(self) -> list[Tensor]:
        """Weights and biases, each once: constants that are not plain integers (shapes, axes, paddings, indices).

        What a loop starts from is neither.
        """
        every = _once(tensor for op in self.graph.ops if not op.bodies for tensor in self._constants(op))
        return [tensor for tensor in every if not _dtype(tensor).startswith(("int32", "int64", "bool")) or tensor.quant]


def _weight_dtypes(constants: Iterable[Tensor]) -> Mapping[str, int]:
    """Bytes of constants by dtype; equal ones, which a file may share, once."""
    sizes: dict[str, int] = {}
    seen: set[tuple[str, bytes]] = set()
    for tensor in constants:
        content = (tensor.dtype, b"" if tensor.data is None else tensor.data.tobytes())
        if content not in seen or tensor.data is None:
            seen.add(content)
            sizes[_dtype(tensor)] = sizes.get(_dtype(tensor), 0) + _size(tensor)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _once(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _dtype(tensor: Tensor) -> str:
    return SUB_BYTE[tensor.dtype][0] if tensor.dtype in SUB_BYTE else tensor.dtype


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor as stored; an open dimension counts as 1, text as nothing."""
    if tensor.sparsity is not None:
        return tensor.sparsity.nbytes
    if tensor.data is not None:
        return int(tensor.data.nbytes)
    count = prod(abs(length) for length in tensor.shape)
    if tensor.dtype in SUB_BYTE:
        return count * SUB_BYTE[tensor.dtype][1] // 8
    return count * WIDTHS.get(tensor.dtype, 0)


def _terminal(tensor: Tensor) -> Terminal:
    quant = tensor.quant
    if quant is None or len(quant.scale) != 1:
        return Terminal(tensor.name, tensor.shape, _dtype(tensor))
    return Terminal(tensor.name, tensor.shape, _dtype(tensor), quant.scale[0], quant.zero_point[0])
