"""Two artifacts, or two reports, beside each other: what grew, slowed, changed its scale or fell back to float.

Times of layers are only in reports, and only compared when one machine took both. They come from two moments on it, so
a layer counts as slower only when that is far more than the profiler's steps and the unrest between two runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.artifact import read_artifact
from edgekit.audit import audit_file
from edgekit.baseline import read_report
from edgekit.contract import Contract
from edgekit.measure import Measurement
from edgekit.profile import LayerTimes
from edgekit.report import text
from edgekit.report.layers import milliseconds, place
from edgekit.report.model import Report

SCALED = 0.01  # share by which a scale must differ to be named
NOISIER_DB = 1.0
SLOWER, SLOWER_SHARE, SLOWER_MS = 1.25, 0.02, 0.002  # times as long, by this share of a run, and by two of its steps

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """What is known of one of the two. ``scales`` holds scale and zero point by tensor, ``snr_db`` only of a report."""

    name: str
    audit: Json
    contract: Contract
    scales: Mapping[str, tuple[float, int]]
    snr_db: Mapping[str, float] = field(default_factory=dict)
    metric: tuple[str, float] | None = None
    latency: Measurement | None = None
    times: LayerTimes | None = None


@dataclass(frozen=True)
class Total:
    """A quantity of the whole, before and after, as text; ``ratio`` = after / before, None where that says nothing."""

    name: str
    before: str
    after: str
    ratio: float | None = None


@dataclass(frozen=True)
class Change:
    """What became of one op or tensor, and after / before where that says something.

    ``kind``: new, gone, float, integer, grew, shrank, slower, faster, scale, noisier.
    """

    kind: str
    name: str
    said: str
    ratio: float | None = None


@dataclass(frozen=True)
class Difference:
    """B in terms of A. ``timed``: whether the times of layers were compared; ``notes`` say why something was not."""

    a: str
    b: str
    totals: tuple[Total, ...]
    contract: tuple[str, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    timed: bool = True


def compare(a: Path, b: Path) -> Difference:
    """Each an artifact, a report.json, or a folder with one. Raises InputError or ModelError for anything else."""
    before, after = side(a), side(b)
    changes = (
        *_ops(before.audit, after.audit),
        *_times(before, after),
        *_scales(before, after),
        *_noise(before, after),
    )
    return Difference(
        a=before.name,
        b=after.name,
        totals=tuple(_totals(before, after)),
        contract=tuple(before.contract.differences(after.contract)),
        changes=changes,
        notes=tuple(_notes(before, after)),
        timed=_timed_alike(before, after),
    )


def side(path: Path) -> Side:
    """What a file or a folder tells."""
    if path.is_dir() or path.suffix == ".json":
        return _of_report(str(path), read_report(path))
    found = audit_file(path)
    artifact = read_artifact(path.read_bytes(), str(path))
    scales = {name: (q.scale[0], q.zero_point[0]) for name, q in artifact.quant.items() if len(q.scale) == 1}
    return Side(str(path), found.to_json(), artifact.contract, scales)


def _of_report(name: str, report: Report) -> Side:
    tensors = report.fidelity.tensors if report.fidelity else ()
    scales = {t.name: (t.scale, t.zero_point or 0) for t in tensors if t.scale is not None}
    found = report.evaluation
    return Side(
        name,
        report.audit,
        Contract.from_json(report.contract),
        scales,
        {tensor.name: tensor.snr_db for tensor in tensors},
        (found.metric, found.artifact_value) if found else None,
        report.latency,
        report.layer_times,
    )


COSTS = (
    ("size", "file_bytes", text.size),
    ("weights", "weight_bytes", text.size),
    ("multiply-adds", "macs", text.count),
    ("parameters", "parameters", text.count),
    ("bytes moved", "moved_bytes", text.size),
    ("arena", "arena_bytes", text.size),
)


def _totals(a: Side, b: Side) -> Iterator[Total]:
    for name, key, show in COSTS:
        before, after = a.audit.get(key), b.audit.get(key)
        if before is not None and after is not None:
            yield Total(name, show(before), show(after), after / before if before else None)
    before, after = (str(len(found.audit.get("float_ops", ()))) for found in (a, b))
    yield Total("float ops", before, after)
    if a.metric and b.metric and a.metric[0] == b.metric[0]:
        yield Total(a.metric[0], text.percent(a.metric[1]), text.percent(b.metric[1]))
    if a.latency and b.latency and place(a.latency.machine) == place(b.latency.machine):
        before, after = a.latency.p50_ms, b.latency.p50_ms
        yield Total("latency p50", text.milliseconds(before), text.milliseconds(after), after / before)


def _ops(a: Json, b: Json) -> Iterator[Change]:
    """What became of the ops, matched by name, in the order of B."""
    before, after = ({op["name"]: op for op in found.get("ops", ())} for found in (a, b))
    for name, op in after.items():
        old = before.get(name)
        if old is None:
            yield Change("new", name, _described(op))
            continue
        if old["integer"] != op["integer"]:
            yield Change("integer" if op["integer"] else "float", name, f"{old['kind']} became {op['kind']}")
        yield from _grown(name, old, op)
    yield from (Change("gone", name, _described(op)) for name, op in before.items() if name not in after)


def _grown(name: str, old: Json, op: Json) -> Iterator[Change]:
    said = [
        f"{what} {show(old[key])} became {show(op[key])}"
        for what, key, show in (("multiply-adds", "macs", text.count), ("weights", "weight_bytes", text.size))
        if old[key] != op[key]
    ]
    if said:
        more = (op["macs"], op["weight_bytes"]) > (old["macs"], old["weight_bytes"])
        key = "macs" if op["macs"] != old["macs"] else "weight_bytes"
        yield Change("grew" if more else "shrank", name, ", ".join(said), op[key] / old[key] if old[key] else None)


def _described(op: Json) -> str:
    macs = f", {text.count(op['macs'])} multiply-adds" if op["macs"] else ""
    return f"{op['op']}, {op['kind']}{macs}"


def _times(a: Side, b: Side) -> Iterator[Change]:
    """The layers of both that take longer or shorter, where one machine timed both in the same way."""
    if a.times is None or b.times is None or not _timed_alike(a, b):
        return
    least = max(SLOWER_MS, SLOWER_SHARE * min(a.times.total_ms, b.times.total_ms))
    before = a.times.by_tensor()
    for name, ms in b.times.by_tensor().items():
        old = before.get(name)
        if old is None or abs(ms - old) < least or max(ms, old) < SLOWER * min(ms, old):
            continue
        said = f"{milliseconds(old)} became {milliseconds(ms)}"
        yield Change("slower" if ms > old else "faster", name, said, ms / old if old else None)


def _timed_alike(a: Side, b: Side) -> bool:
    return a.times is not None and b.times is not None and _timed(a.times) == _timed(b.times)


def _timed(times: LayerTimes) -> str:
    """Where and how: the profilers of two runtimes do not measure alike."""
    return f"{times.runtime}, {text.plural(times.threads, 'thread')} on {place(times.machine)}"


def _notes(a: Side, b: Side) -> Iterator[str]:
    """Why something is not compared."""
    if a.latency and b.latency and (one := place(a.latency.machine)) != (other := place(b.latency.machine)):
        yield f"the latencies are not compared: one is of {one}, the other of {other}"
    lacking = [side.name for side in (a, b) if side.times is None]
    if lacking:
        yield f"no times of layers in {' and '.join(lacking)}: only reports of builds that timed them have any"
    elif a.times and b.times and (one := _timed(a.times)) != (other := _timed(b.times)):
        yield f"the layers' times are not compared: one is of {one}, the other of {other}"


def _scales(a: Side, b: Side) -> Iterator[Change]:
    for name, (scale, zero_point) in b.scales.items():
        if name not in a.scales:
            continue
        old, old_zero = a.scales[name]
        if abs(scale - old) > SCALED * old or zero_point != old_zero:
            said = f"{old:.5g}, zero point {old_zero} became {scale:.5g}, zero point {zero_point}"
            yield Change("scale", name, said, scale / old)


def _noise(a: Side, b: Side) -> Iterator[Change]:
    for name, snr in b.snr_db.items():
        old = a.snr_db.get(name)
        if old is not None and snr < old - NOISIER_DB:
            yield Change("noisier", name, f"{text.decibels(old)} became {text.decibels(snr)}")
