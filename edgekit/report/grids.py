"""Tables of a report that every printed form sets alike: compression, the rungs of the ladder, and what left int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.report import text
from edgekit.report.model import Compression, ModelFacts, Report, Rung


@dataclass(frozen=True)
class Grid:
    """A table of text: a title, the head of each column, and rows."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def grids(report: Report) -> list[Grid]:
    """The network before and after every ``[[compress]]`` step, the rungs of the ladder, the layers that left int8."""
    metric = report.evaluation.metric if report.evaluation else "metric"
    found, value = report.model, report.evaluation.float_value if report.evaluation else None
    source = Compression("source", found.parameters, found.parameters, found.macs, metric=value)
    steps = [_compressed(step, found) for step in (source, *report.compression)] if report.compression else []
    lifts = [(lift.node, lift.to, lift.why) for lift in report.lifts]
    rungs = [_rung(rung) for rung in report.rungs]
    heads = ("multiply-adds", "parameters", "not zero", "as gzip", metric, "latency")
    return [
        grid
        for grid in (
            Grid("compression", ("step", *heads), steps),
            Grid("ladder", ("rung", "target", metric, "agreement", "snr", "size", "p50", "took", "gates"), rungs),
            Grid("lifted layers", ("layer", "computes in", "why"), lifts),
        )
        if grid.rows
    ]


def _rung(rung: Rung) -> tuple[str, ...]:
    return (
        f"{rung.name} (chosen)" if rung.chosen else rung.name,
        rung.target,
        "" if rung.metric is None else text.percent(rung.metric),
        "" if rung.agreement is None else text.percent(rung.agreement),
        "" if rung.snr_db is None else text.decibels(rung.snr_db),
        text.size(rung.bytes),
        "" if rung.p50_ms is None else text.milliseconds(rung.p50_ms),
        text.seconds(rung.seconds),
        "hold" if rung.holds else "fail",
    )


def _compressed(step: Compression, source: ModelFacts) -> tuple[str, ...]:
    """A row on a step; the latency is in terms of that before the step."""
    ratios = [text.ratio(value) for key, value in step.facts.items() if key.startswith("latency ")]
    return (
        step.method if step.facts.get("kept", True) else f"{step.method} (not kept)",
        f"{text.count(step.macs)} {step.macs / max(source.macs, 1):.2f}x",
        text.count(step.parameters),
        text.count(step.nonzero),
        text.size(step.packed["gzip"]) if step.packed else "",
        "" if step.metric is None else text.percent(step.metric),
        ", ".join(ratios),
    )
