"""Measurements + limits -> verdicts. A gate whose value was not measured, or cannot be trusted, never passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.report import text
from edgekit.report.model import Report, Verdict

if TYPE_CHECKING:
    from edgekit.project import Limits

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"

SLACK = 1e-9
"""What a comparison of shares forgives: 0.8068 - 0.8018 is not 0.005 in binary."""


@dataclass(frozen=True)
class Gate:
    """One gate: its key in edgekit.toml, the field of ``Limits``, how to find its value and how to print it."""

    name: str
    field: str
    value: Callable[[Report], float | None]
    show: Callable[[float], str]
    missing: str
    at_least: bool = False
    quantile: float | None = None
    interval: str = ""


def _evaluated(field: str) -> Callable[[Report], float | None]:
    def value(report: Report) -> float | None:
        found: float | None = None if report.evaluation is None else getattr(report.evaluation, field)
        return found

    return value


def _timed(field: str) -> Callable[[Report], float | None]:
    def value(report: Report) -> float | None:
        found: float | None = None if report.latency is None else getattr(report.latency, field)
        return found

    return value


def _worst_output(report: Report) -> float | None:
    if report.fidelity is None or not report.fidelity.outputs:
        return None
    values = report.fidelity.outputs.values()
    return math.nan if any(math.isnan(value) for value in values) else min(values)


def _float_ops(value: float) -> str:
    return text.plural(int(value), "float op")


def float_ops(report: Report) -> float | None:
    """How many ops of the artifact compute in float, or None when it was not audited."""
    ops = report.audit.get("ops")
    return None if ops is None else sum(not op["integer"] for op in ops)


def _audited(field: str) -> Callable[[Report], float | None]:
    def value(report: Report) -> float | None:
        found: float | None = report.audit.get(field)
        return found

    return value


def _counted(report: Report) -> float | None:
    return None if report.instructions is None else report.instructions.count


def _latency(rank: int) -> Gate:
    name, field = f"latency_p{rank}", f"p{rank}_ms"
    value = _timed(field)
    missing = _NO_LATENCY if rank == 50 else _NO_QUANTILE
    return Gate(name, f"{name}_ms", value, text.milliseconds, missing, False, rank / 100, f"p{rank}_interval_ms")


_NO_EVALUATION = "evaluation.data is not set"
_NO_AGREEMENT = f"{_NO_EVALUATION}, or there are no scores"
_NO_AUDIT = "the artifact was not audited"
_NO_LATENCY = "the artifact was not timed"
_NO_QUANTILE = "not timed, or by a binary that tells its median alone"


def _bytes(report: Report) -> float:
    return report.artifact.bytes


ACCURACY = ("accuracy", "accuracy_drop", "agreement", "snr")
"""The gates that say how well an artifact answers."""

FACTS = (
    (Gate("flash", "", _bytes, text.size, ""), "flash_bytes"),
    (Gate("arena of the device", "", _audited("arena_bytes"), text.size, "the file has no memory plan"), "arena_bytes"),
)
"""Facts of a device, not limits of the project: no artifact passes that its flash or its tensor arena cannot hold."""

GATES: tuple[Gate, ...] = (
    Gate("size", "size_bytes", _bytes, text.size, ""),
    Gate("accuracy", "accuracy", _evaluated("artifact_value"), text.percent, _NO_EVALUATION, at_least=True),
    Gate("accuracy_drop", "accuracy_drop", _evaluated("drop"), text.drop, _NO_EVALUATION),
    Gate("agreement", "agreement", _evaluated("agreement"), text.percent, _NO_AGREEMENT, at_least=True),
    Gate("snr", "snr_db", _worst_output, text.decibels, "the artifact was not verified", at_least=True),
    Gate("float_ops", "float_ops", float_ops, _float_ops, _NO_AUDIT),
    Gate("macs", "macs", _audited("macs"), text.count, _NO_AUDIT),
    Gate("parameters", "parameters", _audited("parameters"), text.count, _NO_AUDIT),
    Gate("moved", "moved_bytes", _audited("moved_bytes"), text.size, _NO_AUDIT),
    Gate("arena", "arena_bytes", _audited("arena_bytes"), text.size, "only TFLite files have a memory plan"),
    Gate("instructions", "instructions", _counted, text.count, "none were counted"),
    Gate("memory", "memory_bytes", _timed("peak_memory_bytes"), text.size, _NO_LATENCY),
    _latency(50),
    _latency(90),
    _latency(99),
)


def judge(report: Report, limits: Limits) -> tuple[Verdict, ...]:
    """A verdict for every limit that is set, in the order of ``GATES``, and whether the target can hold it."""
    set_limits = [(gate, getattr(limits, gate.field, None)) for gate in GATES]
    set_limits += [(gate, report.target.get(fact)) for gate, fact in FACTS]
    return tuple(_verdict(gate, report, float(limit)) for gate, limit in set_limits if limit is not None)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 when all pass, 1 when one failed, else 3 when one is inconclusive."""
    statuses = {verdict.status for verdict in verdicts}
    return 1 if FAIL in statuses else 3 if INCONCLUSIVE in statuses else 0


def status(verdicts: Sequence[Verdict]) -> str:
    """The word for all of them: "pass", "fail", "inconclusive", or "no gates" when there are none."""
    return {0: PASS, 1: FAIL, 3: INCONCLUSIVE}[exit_code(verdicts)] if verdicts else "no gates"


def _verdict(gate: Gate, report: Report, limit: float) -> Verdict:
    value = gate.value(report)
    accepted = f"{'at least' if gate.at_least else 'at most'} {gate.show(limit)}"
    if value is None or math.isnan(value):
        why = gate.missing if value is None else "it is not a number"
        return Verdict(gate.name, limit, None, FAIL, f"{accepted} wanted, nothing was measured: {why}")
    found = f"{gate.show(value)}, {accepted}"
    doubt = _doubt(gate, limit, report)
    if doubt:
        return Verdict(gate.name, limit, value, INCONCLUSIVE, f"{found}: {doubt}")
    holds = value >= limit - SLACK if gate.at_least else value <= limit + SLACK
    return Verdict(gate.name, limit, value, PASS if holds else FAIL, found)


def _doubt(gate: Gate, limit: float, report: Report) -> str:
    """Why a measurement cannot be held against its limit; nothing when it can."""
    timing = report.latency
    if timing is None or not gate.field.startswith(("latency", "memory")):
        return ""
    foreign = elsewhere(report)
    if foreign:
        return f"measured {foreign}"
    if gate.quantile is None:
        return ""
    needed = round(1 / (1 - gate.quantile))
    if timing.runs < needed:
        return f"{text.plural(timing.runs, 'run')} cannot tell it, {needed} are needed"
    low, high = getattr(timing, gate.interval)
    if low <= limit < high:
        return f"it may be anything from {text.milliseconds(low)} to {text.milliseconds(high)}"
    return ""


_ARCHITECTURES = {"aarch64": "arm64", "amd64": "x86_64"}


def elsewhere(report: Report) -> str:
    """``on x86_64, not on the target's arm64``; nothing when the timing comes from the target's kind of machine."""
    if report.latency is None:
        return ""
    found = str(report.latency.machine.get("architecture", "an unknown machine"))
    found = _ARCHITECTURES.get(found.lower(), found)
    wanted = report.target.get("architecture")
    return "" if wanted in (None, found) else f"on {found}, not on the target's {wanted}"
