"""What a build found out about one artifact: the values behind every form of the report.

``docs/report-schema.md`` documents the JSON form. All values are SI or named by their suffix: ``_ms`` milliseconds,
``_bytes`` bytes, ``_db`` decibels; a share lies in 0..1. Whatever says ``None`` was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.audit.facts import AuditedOp
from edgekit.contract import Contract
from edgekit.errors import InputError
from edgekit.measure import Measurement
from edgekit.profile.facts import LayerTimes
from edgekit.quant.plan import Lift
from edgekit.report.codec import decode, encode

SCHEMA = 1


@dataclass(frozen=True)
class ModelFacts:
    """The source model: what was given, and its size in float32."""

    source: str
    sha256: str
    parameters: int
    macs: int
    float_bytes: int
    opset: int


@dataclass(frozen=True)
class ArtifactFacts:
    """The file that was built. ``precision`` is what the audit of its bytes allows to say, for example ``int8``.

    ``packed`` are its bytes as ``gzip``, and with its int8 weights in a Huffman code (``coded``).
    """

    path: str
    format: str
    bytes: int
    sha256: str
    precision: str
    packed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationFacts:
    """The data that the ranges came from. ``sha256`` is of the samples as the model saw them.

    ``methods`` is how the range of each tensor was drawn, where ``range`` is ``auto`` and the tensor had a choice.
    """

    data: str
    samples: int
    range: str
    sha256: str
    methods: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compression:
    """One ``[[compress]]`` step and the float network after it. ``metric`` is None where nothing evaluates.

    ``nonzero`` counts the weights that are not zero, ``packed`` are the bytes of all floating-point constants, ``raw``
    and as ``gzip`` (``zstd`` too from Python 3.14 on), ``facts`` is what the method itself says.
    """

    method: str
    parameters: int
    nonzero: int
    macs: int
    packed: Mapping[str, int] = field(default_factory=dict)
    metric: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder (``[calibration] method = "auto"``) and the artifact of one target that it gave.

    ``holds`` says whether the accuracy gates of all targets hold on it, ``chosen`` whether it was built.
    """

    name: str
    target: str
    holds: bool
    seconds: float
    bytes: int
    metric: float | None = None
    agreement: float | None = None
    snr_db: float | None = None
    p50_ms: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The metric on the float model and on the artifact. ``drop`` = float - artifact; ``agreement`` is a share."""

    metric: str
    samples: int
    float_value: float
    artifact_value: float
    drop: float
    agreement: float | None = None


@dataclass(frozen=True)
class TensorFidelity:
    """How true one tensor of the artifact is to the float model's. ``saturated`` is the share at the ends of its range.

    ``snr_db`` is infinite where there is no error. ``scale`` and ``zero_point`` are None where it is float.
    """

    name: str
    op: str
    snr_db: float
    dtype: str = ""
    scale: float | None = None
    zero_point: int | None = None
    saturated: float | None = None


@dataclass(frozen=True)
class Fidelity:
    """Signal-to-noise against the float model: of the outputs, and of each tensor in the order of execution."""

    samples: int
    outputs: Mapping[str, float]
    tensors: tuple[TensorFidelity, ...] = ()


@dataclass(frozen=True)
class Parity:
    """This artifact against another of the same build. ``max_steps`` is the largest difference in quantized steps."""

    other: str
    samples: int
    agreement: float
    max_steps: int
    share_equal: float


@dataclass(frozen=True)
class Finding:
    """One cause of lost accuracy (``edgekit.diagnose``), the figures that give it away, and what to do.

    ``tensors`` are those that it hurts, the worst first; none where it is in the data.
    """

    cause: str
    tensors: tuple[str, ...]
    evidence: Mapping[str, float]
    text: str
    fix: str
    docs: str


@dataclass(frozen=True)
class Verdict:
    """One gate: its limit, what was found, and ``status``: "pass", "fail" or "inconclusive". ``text`` says why."""

    gate: str
    limit: float | None
    value: float | None
    status: str
    text: str


@dataclass(frozen=True)
class Instructions:
    """``count`` instructions of one steady inference on one thread, outside of the kernel, and what counted them."""

    count: int
    counter: str
    runtime_version: str
    cpu: str
    architecture: str


@dataclass(frozen=True)
class Stage:
    """One stage of the build and its wall time. ``cached`` when it was reused."""

    name: str
    seconds: float
    cached: bool = False


@dataclass(frozen=True)
class AuditTotals:
    """What gates and comparisons read of an audit besides its ops, so that it is checked where a report is read."""

    file_bytes: int | None = None
    weight_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    moved_bytes: int | None = None
    arena_bytes: int | None = None
    float_ops: tuple[str, ...] = ()
    transposes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """One artifact for one target. ``audit``, ``contract`` and ``target`` are those parts' own JSON.

    ``device`` is the name of the device that timed it; empty for the machine that built it.
    """

    schema: int = SCHEMA
    edgekit: str
    reproduce: str
    model: ModelFacts
    target: Mapping[str, Any]
    artifact: ArtifactFacts
    audit: Mapping[str, Any]
    contract: Mapping[str, Any]
    calibration: CalibrationFacts | None = None
    evaluation: Evaluation | None = None
    fidelity: Fidelity | None = None
    source_check: Mapping[str, Any] | None = None
    parity: Parity | None = None
    latency: Measurement | None = None
    float_latency: Measurement | None = None
    device: str = ""
    instructions: Instructions | None = None
    layer_times: LayerTimes | None = None
    gates: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    compression: tuple[Compression, ...] = ()
    rungs: tuple[Rung, ...] = ()
    lifts: tuple[Lift, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        """Holds other parts' JSON as it is read back: lists, not tuples."""
        for name in ("target", "audit", "contract", "source_check"):
            object.__setattr__(self, name, encode(getattr(self, name)))

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal report."""
        value: dict[str, Any] = encode(self)
        return value

    @classmethod
    def from_json(cls, value: Any, where: str = "report") -> Report:
        """The report that ``to_json`` wrote. Raises InputError that names ``where:key``."""
        schema = value.get("schema") if isinstance(value, Mapping) else None
        if schema != SCHEMA:
            found = "no schema" if schema is None else f"schema {schema!r}"
            raise InputError(f"{where}:schema: found {found}, this edgekit reads schema {SCHEMA}")
        report = decode(cls, value, where)
        decode(Contract, report.contract, f"{where}:contract")
        decode(AuditTotals, report.audit, f"{where}:audit")
        for index, op in enumerate(report.audit.get("ops", ())):
            decode(AuditedOp, op, f"{where}:audit.ops[{index}]")
        return report
