"""The layers of an artifact as every form of the report lists them: how true each is, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.measure import Measurement
from edgekit.profile.facts import LayerTimes
from edgekit.report import text
from edgekit.report.model import Report

FINEST_MS = 0.001
"""A profiler counts whole microseconds."""
DISTURBED = 1.1
"""Times the median without the profiler: a larger sum is its doing."""


@dataclass(frozen=True)
class Layer:
    """One row: what verification says of a tensor, and the profiler of the op that makes it; else None."""

    name: str
    op: str
    dtype: str = ""
    scale: float | None = None
    zero_point: int | None = None
    saturated: float | None = None
    snr_db: float | None = None
    ms: float | None = None
    share: float | None = None


def layers(report: Report) -> list[Layer]:
    """Every tensor in the order of execution, then the ops that took time and make none of them."""
    tensors = report.fidelity.tensors if report.fidelity else ()
    times = report.layer_times
    found = times.by_tensor() if times else {}
    rows = []
    for t in tensors:
        ms = found.pop(t.name, None)
        facts = (t.dtype, t.scale, t.zero_point, t.saturated, t.snr_db)
        rows.append(Layer(t.name, t.op, *facts, ms, _share(ms, times)))
    ops = {layer.tensor: layer.op for layer in times.layers} if times else {}
    return [*rows, *(Layer(name, ops[name], ms=ms, share=_share(ms, times)) for name, ms in found.items())]


def _share(ms: float | None, times: LayerTimes | None) -> float | None:
    return None if ms is None or times is None or not times.total_ms else ms / times.total_ms


def milliseconds(ms: float) -> str:
    """A time as fine as a profiler tells it."""
    return text.milliseconds(ms) if ms >= FINEST_MS else f"< {FINEST_MS} ms"


def slowest(times: LayerTimes, count: int) -> list[tuple[str, str, float, float]]:
    """The layers that take longest: name, op, ms and the share of all."""
    ordered = sorted(times.layers, key=lambda layer: -layer.ms)[:count]
    return [(layer.name, layer.op, layer.ms, layer.ms / times.total_ms if times.total_ms else 0.0) for layer in ordered]


def trust(times: LayerTimes, latency: Measurement | None = None) -> list[str]:
    """What the sum of the layers is worth, a sentence each; ``latency`` is what the report measured."""
    total, p50 = text.milliseconds(times.total_ms), text.milliseconds(times.p50_ms)
    said = [f"the layers add up to {total}; a run takes {p50} without the profiler (p50, in the same process)"]
    if times.total_ms > DISTURBED * times.p50_ms:
        said.append("the profiler adds its own time to every kernel, so small layers read too long")
    if DISTURBED * times.total_ms < times.p50_ms:
        said.append("the rest lies between kernels, is below the microsecond that a profiler counts, or is other work")
    if times.elsewhere_ms >= FINEST_MS:
        told = [(op, ms) for op, ms in times.elsewhere.items() if ms >= FINEST_MS]
        longest = sorted(told or times.elsewhere.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{op} {milliseconds(ms)}" for op, ms in longest)
        said.append(f"{milliseconds(times.elsewhere_ms)} of that belongs to no layer: {parts}")
    small = sum(layer.ms < FINEST_MS for layer in times.layers)
    if small:
        said.append(
            f"{small} of {text.plural(len(times.layers), 'layer')} below the microsecond that the profiler counts"
        )
    said.append(f"{text.plural(times.runs, 'run')} profiled by {times.runtime_version} on {place(times.machine)}")
    if latency is not None and place(latency.machine) != place(times.machine):
        said.append(f"the latency above is of {place(latency.machine)}")
    return said


def place(machine: Mapping[str, Any]) -> str:
    """What a machine is called."""
    return str(machine.get("board") or machine.get("cpu") or "unknown machine")
