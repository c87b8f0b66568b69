"""The values of an audit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

INTEGER, DYNAMIC, FLOAT = "integer", "dynamic", "float"
NARROW = frozenset({"int4", "uint4", "int8", "uint8", "int16", "uint16"})
WIDE = frozenset({"int16", "uint16"})
TRANSPOSES = ("TRANSPOSE", "Transpose")
LONGEST_TEXT = 200


@dataclass(frozen=True)
class AuditedOp:
    """One op: its output's name, its kind, the stored dtypes of its activations, and its constants.

    ``weights`` is the dtype in which its largest constant is stored ("" when it has none), ``weight_bytes`` the size
    of all of them. ``macs`` counts multiply-adds at the shapes in the file (an open dimension counts as 1),
    ``moved_bytes`` what is read and written of activations and constants.
    """

    name: str
    op: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: str = ""
    weight_bytes: int = 0
    macs: int = 0
    moved_bytes: int = 0

    @property
    def integer(self) -> bool:
        """Whether it computes on integers only."""
        return self.kind == INTEGER

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the field names and ``integer``."""
        return {**asdict(self), "integer": self.integer}


@dataclass(frozen=True)
class Terminal:
    """One input or output of the file. An open dimension is -1; without quantization, scale and zero point are None."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Audit:
    """What the bytes of one artifact say. See ``edgekit.audit`` for the rules.

    ``parameters`` counts weights and biases, ``weight_bytes`` all that is constant, by dtype in ``weight_dtypes``.
    ``arena_bytes`` is what a memory plan of the activations takes (``audit.arena``), None where the format leaves that
    to the runtime. ``metadata["edgekit"]`` is what edgekit wrote into the file, if it did. ``opset`` is 0 for TFLite.
    """

    format: str
    file_bytes: int
    precision: str
    ops: tuple[AuditedOp, ...]
    boundary: tuple[AuditedOp, ...]
    bookkeeping: tuple[AuditedOp, ...]
    inputs: tuple[Terminal, ...]
    outputs: tuple[Terminal, ...]
    parameters: int
    weight_dtypes: Mapping[str, int]
    arena_bytes: int | None = None
    producer: str = ""
    opset: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many ops of each kind, most frequent first."""
        names = [item.op for item in self.ops]
        return {name: names.count(name) for name in sorted(set(names), key=lambda name: (-names.count(name), name))}

    @property
    def float_ops(self) -> tuple[AuditedOp, ...]:
        """The ops that are not integer."""
        return tuple(item for item in self.ops if not item.integer)

    @property
    def transposes(self) -> tuple[AuditedOp, ...]:
        """The ops that only move data to another axis order."""
        return tuple(item for item in self.ops if item.op in TRANSPOSES)

    @property
    def integer_ops(self) -> int:
        """How many ops are integer."""
        return sum(item.integer for item in self.ops)

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return sum(item.macs for item in self.ops)

    @property
    def moved_bytes(self) -> int:
        """Bytes of activations and constants that all ops read and write in one run, as if no cache held any."""
        return sum(item.moved_bytes for item in (*self.ops, *self.boundary, *self.bookkeeping))

    @property
    def integer_macs(self) -> int:
        """Multiply-adds of the integer ops."""
        return sum(item.macs for item in self.ops if item.integer)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants, each stored one once."""
        return sum(self.weight_dtypes.values())

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields and what is derived from them; shares lie in 0..1, or are None of nothing."""
        ops, macs = len(self.ops), self.macs
        return {
            "format": self.format,
            "precision": self.precision,
            "file_bytes": self.file_bytes,
            "weight_bytes": self.weight_bytes,
            "weight_dtypes": dict(self.weight_dtypes),
            "parameters": self.parameters,
            "macs": macs,
            "moved_bytes": self.moved_bytes,
            "arena_bytes": self.arena_bytes,
            "integer_ops": self.integer_ops,
            "integer_op_share": self.integer_ops / ops if ops else None,
            "integer_mac_share": self.integer_macs / macs if macs else None,
            "counts": self.counts,
            "float_ops": [item.name for item in self.float_ops],
            "transposes": [item.name for item in self.transposes],
            "inputs": [asdict(item) for item in self.inputs],
            "outputs": [asdict(item) for item in self.outputs],
            "ops": [item.to_json() for item in self.ops],
            "boundary": [item.to_json() for item in self.boundary],
            "bookkeeping": [item.to_json() for item in self.bookkeeping],
            "producer": self.producer,
            "opset": self.opset,
            "metadata": dict(self.metadata),
            "notes": list(self.notes),
        }


def precision(ops: Sequence[AuditedOp]) -> str:
    """The one word for all of these ops.

    "int8" (activations of 8 bits where there are weights), "int16x8" (of 16), "int8+int16x8" (both),
    "dynamic-int8", "mixed" (some ops
    integer, some not), and of a file without integer ops "float32", "float16", or "float16-weights" and "int8-weights"
    by what most of the weights are stored in; "none" when there is nothing to compute.
    """
    kinds = {item.kind for item in ops}
    if not kinds:
        return "none"
    if kinds == {INTEGER}:
        weighted = [item for item in ops if item.weights] or ops
        stored = {dtype for item in weighted for dtype in (*item.inputs, *item.outputs)}
        words = ["int8"] * bool(stored & NARROW - WIDE) + ["int16x8"] * bool(stored & WIDE)
        return "+".join(words) or "int8"
    if INTEGER in kinds:
        return "mixed"
    if DYNAMIC in kinds:
        return "dynamic-int8"
    return _of_floats(ops)


def _of_floats(ops: Sequence[AuditedOp]) -> str:
    sizes: dict[str, int] = {}
    for item in ops:
        if item.weights:
            sizes[item.weights] = sizes.get(item.weights, 0) + item.weight_bytes
    most = max(sizes, key=lambda dtype: sizes[dtype], default="float32")
    activations = {
        dtype for item in ops for dtype in (*item.inputs, *item.outputs) if dtype.startswith(("float", "bfloat"))
    }
    if "float32" not in activations and "float16" in activations:
        return "float16"
    if most in NARROW:
        return "int8-weights"
    return "float16-weights" if most == "float16" else "float32"


def metadata(values: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
    """Metadata as JSON values (edgekit's own parsed, of long or binary ones the size), and what is unreadable."""
    found: dict[str, Any] = {}
    notes = []
    for name, value in values.items():
        try:
            text = value.decode()
            if name == "edgekit":
                found[name] = json.loads(text)
                continue
        except ValueError:
            text = ""
            if name == "edgekit":
                notes.append("the edgekit metadata is not readable JSON")
        text = text.rstrip("\0")
        found[name] = text if text.isprintable() and 0 < len(text) <= LONGEST_TEXT else f"{len(value)} bytes"
    return found, notes
