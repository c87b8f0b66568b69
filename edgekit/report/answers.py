"""What the smaller commands print for a person: bench, inspect, verify, gate, targets and doctor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from edgekit.gate import status
from edgekit.report import changed, console, layers, terminal, text, view
from edgekit.report.codec import encode

if TYPE_CHECKING:
    from edgekit.compare import Difference
    from edgekit.device_check import DeviceCheck
    from edgekit.doctor import Check
    from edgekit.measure import Comparison, Measurement
    from edgekit.profile import LayerTimes
    from edgekit.recheck import Recheck
    from edgekit.report.model import Report
    from edgekit.target import Target

Parts = Iterator[RenderableType]

_TIMES = (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("mean", "mean_ms"), ("fastest", "min_ms"))
_STARTS = (("loading", "load_ms"), ("first run", "first_run_ms"))
_MEMORY = (("peak memory", "peak_memory_bytes"), ("model memory", "model_memory_bytes"))


def bench(
    measurements: Sequence[tuple[str, Measurement]], comparison: Comparison | None = None, word: str = ""
) -> Parts:
    """Latency and memory of one artifact, or of two beside each other with the ratio of their medians and a verdict."""
    table = console.table(Column("", no_wrap=True), *(console.number(name) for name, _ in measurements))
    for label, field in (*_TIMES, *_STARTS):
        times = [getattr(found, field) for _, found in measurements]
        table.add_row(label, *("" if time is None else text.milliseconds(time) for time in times))
    for label, field in _MEMORY:
        values = [getattr(found, field) for _, found in measurements]
        table.add_row(label, *("" if value is None else text.size(value) for value in values))
    yield table
    if comparison is not None:
        said = ratio(comparison, measurements[0][0], measurements[1][0])
        yield Text(f"\n{said}{': ' if word else ''}{word}", style="bold")
    several = len(measurements) > 1
    yield Text()
    lines = [(name if several else "timing", view.how_timed(found)) for name, found in measurements]
    yield console.labelled([*lines, *(("before, after", said) for said in [view.states(measurements[0][1])] if said)])
    notes = [warning for _, found in measurements for warning in found.warnings()]
    yield from _warnings(notes)


def bench_per_layer(name: str, measurement: Measurement, times: LayerTimes) -> Parts:
    """The same of one artifact, then the time of every layer, the slowest first."""
    yield from bench([(name, measurement)])
    yield Text()
    yield terminal.layers(times, len(times.layers))
    yield Text()
    yield console.labelled(("trust" if not index else "", line) for index, line in enumerate(layers.trust(times)))


def names(a: Path, b: Path) -> tuple[str, str]:
    """What to call two files: their names, or their paths when the names are the same."""
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def ratio(found: Comparison, a: str, b: str) -> str:
    """``A takes 0.98x as long as B (0.97x to 0.99x)``."""
    return f"{a} takes {found.ratio:.3f}x as long as {b} ({found.low:.3f}x to {found.high:.3f}x)"


def _warnings(notes: Sequence[str]) -> Parts:
    if notes:
        yield console.labelled((Text("warning", style="yellow"), note) for note in dict.fromkeys(notes))


def inspect(path: str, audit: view.Json, every_op: bool = False) -> Parts:
    """An artifact's format, precision, integers, sizes and inputs and outputs; with ``every_op`` its ops too."""
    yield Text.assemble((path, "bold"), f": {audit['precision']} {audit['format']}, {text.size(audit['file_bytes'])}\n")
    kinds = ", ".join(f"{number} {op}" for op, number in audit["counts"].items())
    facts = [("audit" if index == 0 else "", line) for index, line in enumerate(view.audit_lines(audit))]
    facts += [("ops", kinds), ("weights", _weights(audit)), *_origin(audit)]
    yield console.indented(console.labelled([*facts, *(("note", note) for note in audit["notes"])]))
    yield console.indented(terminal.ports(audit))
    if every_op:
        yield console.indented(_ops(audit))


def _weights(audit: view.Json) -> str:
    dtypes = ", ".join(f"{text.size(size)} {dtype}" for dtype, size in audit["weight_dtypes"].items())
    return f"{text.count(audit['parameters'])} parameters, {dtypes or 'nothing'} constant"


def _origin(audit: view.Json) -> list[tuple[str, str]]:
    """Who wrote the file, from what."""
    own = audit["metadata"].get("edgekit")
    producer = [("producer", f"{audit['producer']}, opset {audit['opset']}" if audit["opset"] else audit["producer"])]
    if not isinstance(own, dict):
        return producer if audit["producer"] else []
    keys = ("edgekit", "source", "plan_sha256", "calibration")
    return [(key.removesuffix("_sha256"), view.settings(own[key])) for key in keys if own.get(key)]


def _ops(audit: view.Json) -> Table:
    columns = (console.name("op"), Column("kind", no_wrap=True), Column("numbers"))
    table = console.table(*columns, console.number("multiply-adds"), console.number("weights"))
    for op in audit["ops"]:
        weights = text.size(op["weight_bytes"]) if op["weight_bytes"] else ""
        numbers = Text(op["kind"], style="" if op["integer"] else "bold red")
        table.add_row(Text(op["name"]), Text(op["op"]), numbers, text.count(op["macs"]) if op["macs"] else "", weights)
    return table


WORST = 12
"""How many tensors are named."""


def verify(found: Recheck) -> Parts:
    """The metric, the outputs' signal-to-noise ratio and the worst tensors."""
    yield Text.assemble((found.artifact, "bold"), f" against {found.source}, {found.data}\n")
    rows = [*view.accuracy(found.evaluation), *view.noise(found.fidelity)]
    yield console.indented(terminal.comparison(rows, "artifact"))
    yield console.indented(terminal.worst(found.fidelity, WORST))
    if found.device is not None:
        yield Text(f"\n{on_device(found.device)}", style="bold")


def on_device(found: DeviceCheck) -> str:
    """Whether a device computes the same, in a sentence or two."""
    where = f"on {found.device} ({found.machine['architecture']}, {found.runtime_version})"
    of = f"{text.count(found.values)} outputs of {text.plural(found.samples, 'sample')}"
    if found.equal == found.values:
        said = f"{where}: the same bits in all {of}"
    else:
        said = f"{where}: {text.count(found.values - found.equal)} of {of} differ, by {found.max_steps:g} at most"
    return said if found.value is None else f"{said}; the metric is {found.value:.4f} there"


def compared(found: Difference) -> Parts:
    """Totals of both, then every layer that changed."""
    yield Text.assemble((found.b, "bold"), f" against {found.a}: {changed.verdict(found)}\n")
    table = console.table(Column("", no_wrap=True), console.number("before"), console.number("after"), Column("change"))
    for total in found.totals:
        change = "" if total.ratio is None else f"{total.ratio:.3f}x"
        table.add_row(total.name, total.before, Text(total.after, style="bold"), change)
    yield console.indented(table)
    if found.contract:
        yield console.indented(console.labelled(("contract", line) for line in found.contract))
    changes = console.table(Column("change", no_wrap=True), console.name("layer"), Column(""))
    for one in changed.ordered(found):
        style = "bold red" if one.kind in changed.WORSE else ""
        changes.add_row(Text(changed.KINDS[one.kind], style=style), Text(one.name), Text(one.said))
    yield console.indented(changes) if changes.row_count else Text("  every layer is as it was\n")
    yield console.labelled(("note", note) for note in found.notes)


def gates(reports: Sequence[Report]) -> Parts:
    """Every verdict of every report, a line each."""
    for report in reports:
        words = Text(view.verdict(report), style=console.COLOURS[status(report.gates)])
        yield Text.assemble((view.name(report), "bold"), ": ", words, "\n")
        yield console.indented(terminal.gates(report.gates))


def gates_json(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Every verdict of every report as JSON."""
    return [
        {
            "target": view.target_name(report),
            "artifact": report.artifact.path,
            "status": status(report.gates),
            "gates": [encode(verdict) for verdict in report.gates],
        }
        for report in reports
    ]


def targets(found: Sequence[Target]) -> Parts:
    """A line a profile."""
    table = console.table(console.name("target"), Column("description"), Column("format"), Column("precisions"))
    for target in found:
        precisions = ", ".join(target.precisions)
        table.add_row(Text(target.name, style="bold"), Text(target.description), target.format, precisions)
    yield table


def target(found: Target) -> Parts:
    """All the facts of one profile."""
    yield Text.assemble((found.name, "bold"), f": {found.description}\n")
    facts = found.to_json()
    shown = [(key, _fact(key, facts[key])) for key in facts if key not in ("name", "description")]
    yield console.indented(console.labelled((key.removesuffix("_bytes"), said) for key, said in shown if said))


def _fact(key: str, value: object) -> str:
    if value is None:
        return ""
    if key == "ops":
        return ", ".join(map(str, value)) if isinstance(value, list) and value else "all that the runtime has"
    if key.endswith("_bytes") and isinstance(value, int):
        return text.size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def init(path: Path) -> Parts:
    """What was written, and what comes next."""
    yield Text(f"{path} is written. Next: fill it in, then edgekit build --target NAME (edgekit targets lists them)")


_STATUS = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def doctor(checks: Sequence[Check], device: str | None = None) -> Parts:
    """A line a check, and below them what to do."""
    table = console.table(Column("", no_wrap=True), Column("", no_wrap=True), console.name(), header=False)
    for check in checks:
        table.add_row(Text(check.status, style=_STATUS[check.status]), Text(check.name), Text(check.found))
    yield table
    fixes = [(check.name, check.fix) for check in checks if check.fix]
    if fixes:
        yield Text("\nto do", style="bold")
        yield console.indented(console.labelled(fixes))
    missing = sum(check.status == "missing" for check in checks)
    can = f"{device} can run and time artifacts" if device else "edgekit can build, run and time artifacts here"
    said = f"{text.plural(missing, 'thing')} missing" if missing else can
    yield Text(("" if fixes else "\n") + said, style="bold red" if missing else "green")
