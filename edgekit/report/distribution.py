"""Where the times of runs lie: a line from the fastest to p99, a box from p50 to p90, on one scale for all models."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.measure import Measurement
from edgekit.report import text, view
from edgekit.report.markup import Html, el, join
from edgekit.report.model import Report
from edgekit.report.page import section


def distributions(report: Report, others: Sequence[Report]) -> Html:
    """Of the artifact, of its model in float, and of the other artifacts of the build; nothing when none was timed."""
    rows = [("float", report.float_latency), (report.artifact.precision, report.latency)]
    rows += [(f"{other.artifact.precision} for {view.target_name(other)}", other.latency) for other in others]
    timed = [(name, found) for name, found in rows if found is not None]
    if not timed:
        return Html()
    longest = max(value for _, found in timed for _, value in _quantiles(found))
    strips = [_strip(name, found, longest, found is report.latency) for name, found in timed]
    key = "The fastest run to p99, with a box from the median to p90."
    return section("Latency", el("p", key, class_="soft"), el("div", strips, class_="strips"))


def _quantiles(found: Measurement) -> list[tuple[str, float]]:
    """Those that are known: a benchmark binary may tell the median alone."""
    every = (("p50", found.p50_ms), ("p90", found.p90_ms), ("p99", found.p99_ms))
    return [(name, value) for name, value in every if value is not None]


def _strip(name: str, found: Measurement, longest: float, own: bool) -> Html:
    def span(kind: str, low: float, high: float) -> Html:
        left, width = 100 * low / longest, 100 * (high - low) / longest
        return el("span", class_=kind, style=f"left:{left:.2f}%;width:{width:.2f}%")

    known = dict(_quantiles(found))
    box = span("box", found.p50_ms, known.get("p90", found.p50_ms))
    marks = (span("whole", found.min_ms, max(known.values())), box)
    said = ", ".join(f"{label} {text.milliseconds(value)}" for label, value in known.items())
    track = el("div", marks, class_="strip own" if own else "strip")
    return join(el("div", name, class_="label"), track, el("div", said, class_="said"))
