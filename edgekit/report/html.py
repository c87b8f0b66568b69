"""The report as one HTML file that needs nothing else: no network, light and dark, desk and phone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.gate import status
from edgekit.report import grids, layers, text, view
from edgekit.report.distribution import distributions
from edgekit.report.layer_columns import COLUMNS, FULL_DB, band
from edgekit.report.markup import Html, el, join
from edgekit.report.model import Report, TensorFidelity
from edgekit.report.page import SMALL, bar, facts, head, key, page, pair, pill, scroll, section, sortable, tile


def render(report: Report, build: Sequence[Report] = ()) -> str:
    """The whole page; ``build`` are all reports of the build that it is from."""
    others = [other for other in build if other.artifact.path != report.artifact.path]
    first = (_tiles, _gates, _findings, _warnings, _comparison)
    beside = (distributions(report, others), _artifacts(report, others))
    then = (
        _grids,
        _fidelity,
        _layers,
        _ops,
        _contract,
        _facts,
        _stages,
        _again,
    )
    return page(
        view.headline(report),
        _header(report),
        [make(report) for make in first],
        *beside,
        [make(report) for make in then],
        _footer(report),
    )


def _header(report: Report) -> Html:
    title = el("h1", view.model_name(report), el("small", " for "), view.target_name(report))
    what = el("span", f" {report.artifact.precision}, ", el("span", report.artifact.path, class_="path"), class_="soft")
    return el("header", title, el("p", pill(status(report.gates), view.verdict(report)), what))


def _tiles(report: Report) -> Html:
    tiles = [tile("size", text.size(report.artifact.bytes), _size_note(report))]
    found = report.evaluation
    if found is not None:
        tiles.append(tile(found.metric, text.percent(found.artifact_value), f"{text.change(-found.drop)} to float"))
    if report.latency is not None:
        before = report.float_latency
        note = view.faster(before.p50_ms, report.latency.p50_ms) if before else "median"
        tiles.append(tile("latency", text.milliseconds(report.latency.p50_ms), f"{note}, p50" if before else note))
    ops = report.audit.get("ops", ())
    if ops:
        integer = sum(bool(op["integer"]) for op in ops)
        tiles.append(tile("integer ops", f"{integer} of {len(ops)}", f"{text.percent(integer / len(ops))} of ops"))
    return el("div", tiles, class_="tiles")


def _size_note(report: Report) -> str:
    return f"{view.smaller(report.model.float_bytes, report.artifact.bytes)} than float"


def _gates(report: Report) -> Html:
    if not report.gates:
        return Html()
    rows = [
        el("tr", el("td", pill(gate.status), class_="tight"), el("td", gate.gate, class_="tight"), el("td", gate.text))
        for gate in report.gates
    ]
    return section("Gates", el("table", el("tbody", rows), class_="gates"))


def _findings(report: Report) -> Html:
    """The causes of lost accuracy and what to do."""
    if not report.findings:
        return Html()
    said = [(found.cause, view.cause(found)) for found in report.findings]
    return section("Why accuracy fell", facts(said), class_="warn")


def _warnings(report: Report) -> Html:
    if not report.warnings:
        return Html()
    return section("Warnings", el("ul", [el("li", warning) for warning in report.warnings]), class_="warn")


IN_STRIPS = ("latency p90", "latency p99")
"""What the distributions show."""


def _comparison(report: Report) -> Html:
    rows = [row for row in view.comparison(report) if row.name not in IN_STRIPS]
    barred = [pair(row.name, row.change, row.source, row.artifact, row.share) for row in rows if row.share is not None]
    plain = [(row.name, ", ".join(filter(None, (row.artifact, row.change)))) for row in rows if row.share is None]
    colours = key("float", report.artifact.precision)
    return section("Against float", colours, el("div", barred, class_="compare"), facts(plain))


def _artifacts(report: Report, others: Sequence[Report]) -> Html:
    """The source and every artifact of the build, a row each; nothing when there is only one."""
    if not others:
        return Html()
    found, p50 = report.evaluation, report.float_latency and text.milliseconds(report.float_latency.p50_ms)
    source = (text.size(report.model.float_bytes), text.percent(found.float_value) if found else "", p50 or "", "")
    heads = [el("th", name, class_=kind) for name, kind in ARTIFACT_COLUMNS]
    heads[3] = el("th", view.metric_name([report, *others]), class_="n")
    rows = [_artifact("float", None, source)]
    rows += [_artifact(view.target_name(one), status(one.gates), view.short(one)) for one in (report, *others)]
    return section("All artifacts of this build", scroll(el("table", el("thead", el("tr", heads)), el("tbody", rows))))


ARTIFACT_COLUMNS = (("", None), ("gates", None), ("size", "n"), ("", "n"), ("p50", "n"), ("integer ops", f"n {SMALL}"))


def _artifact(name: str, gates: str | None, cells: Sequence[str]) -> Html:
    kinds = [kind for _, kind in ARTIFACT_COLUMNS[2:]]
    numbers = [el("td", cell, class_=kind) for cell, kind in zip(cells, kinds, strict=True)]
    return el("tr", el("td", name, class_="name"), el("td", pill(gates) if gates else None), numbers)


def _grids(report: Report) -> Html:
    return join(*(section(grid.title.capitalize(), _grid(grid)) for grid in grids.grids(report)))


def _grid(grid: grids.Grid) -> Html:
    """A table of text, numbers to the right."""

    def row(tag: str, cells: Sequence[str]) -> Html:
        return el("tr", [el(tag, cell, class_="n" if number else None) for number, cell in enumerate(cells)])

    return scroll(
        el("table", el("thead", row("th", grid.heads)), el("tbody", [row("td", cells) for cells in grid.rows]))
    )


def _fidelity(report: Report) -> Html:
    tensors = report.fidelity.tensors if report.fidelity else ()
    if not tensors:
        return Html()
    step = 1000 / len(tensors)
    columns = [_column(index * step, step, tensor) for index, tensor in enumerate(tensors)]
    chart = el(
        "svg", columns, viewBox="0 0 1000 100", preserveAspectRatio="none", role="img",
        aria_label="signal-to-noise ratio of every tensor in the order of execution",
    )  # fmt: skip
    ends = ("first tensor", f"full height: {FULL_DB:.0f} dB", "last")
    axis = el("div", [el("span", end) for end in ends], class_="axis")
    note = "Signal-to-noise ratio of every tensor in the order of execution. Below 20 dB amber, below 10 dB red."
    return section("Where precision is lost", el("p", note, class_="soft"), chart, axis)


def _column(left: float, step: float, tensor: TensorFidelity) -> Html:
    share = 0.0 if math.isnan(tensor.snr_db) else min(1.0, max(0.0, tensor.snr_db / FULL_DB))
    height = max(1.0, 100 * share)
    title = el("title", f"{tensor.name} {tensor.op} {text.decibels(tensor.snr_db)}")
    return el(
        "rect", title, x=f"{left:.2f}", y=f"{100 - height:.1f}", width=f"{step * 0.82:.2f}", height=f"{height:.1f}",
        class_=band(tensor.snr_db) or None,
    )  # fmt: skip


def _layers(report: Report) -> Html:
    """How true each tensor is and how long the op takes that makes it."""
    rows = layers.layers(report)
    if not rows:
        return Html()
    shown = [column for column in COLUMNS if any(column.known(row) for row in rows)]
    most = max((row.share or 0.0 for row in rows), default=0.0) or 1.0
    heads = [column.head() for column in shown]
    cells = [el("tr", [column.cell(row, most) for column in shown]) for row in rows]
    said = layers.trust(report.layer_times, report.latency) if report.layer_times else ()
    trust = el("p", " ".join(f"{line[:1].upper()}{line[1:]}." for line in said), class_="soft") if said else None
    return section(f"Layers ({len(rows):,})", trust, sortable(heads, cells))


def _ops(report: Report) -> Html:
    ops: Sequence[Mapping[str, Any]] = report.audit.get("ops", ())
    if not ops:
        return Html()
    most = max((max(op["macs"], 0) for op in ops), default=0) or 1
    heaviest = max((op["weight_bytes"] for op in ops), default=0) or 1
    rows = [_op_row(op, most, heaviest) for op in ops]
    said = el("p", "; ".join(view.audit_lines(report.audit)), class_="soft")
    heads = [head("op"), head("kind", SMALL), head("numbers"), head("multiply-adds", "n"), head("weights", "n")]
    return section(f"Ops ({len(ops):,}), read back from the bytes", said, sortable(heads, rows))


def _op_row(op: Mapping[str, Any], most: int, heaviest: int) -> Html:
    return el(
        "tr",
        el("td", op["name"], class_="name"),
        el("td", op["op"], class_=SMALL),
        el("td", "integer" if op["integer"] else pill("fail", op["kind"])),
        _barred(op["macs"], text.count(op["macs"]), most),
        _barred(op["weight_bytes"], text.size(op["weight_bytes"]), heaviest),
    )


def _barred(value: float, said: str, most: float) -> Html:
    return el("td", said if value else "", bar(value / most) if value else None, class_="n", data_v=value)


def _contract(report: Report) -> Html:
    kinds = (None, "name", None, "wide", "wide")
    rows = [
        el("tr", [el("td", cell, class_=kind) for cell, kind in zip(port, kinds, strict=True)])
        for port in view.ports(report.contract)
    ]
    if not rows:
        return Html()
    preprocessing = [(name, view.settings(found)) for name, found in report.contract.get("preprocessing", {}).items()]
    return section("Inputs and outputs", scroll(el("table", el("tbody", rows))), facts(preprocessing))


def _facts(report: Report) -> Html:
    hashes = [("model sha256", report.model.sha256), ("artifact sha256", report.artifact.sha256)]
    if report.calibration is not None:
        hashes.append(("calibration sha256", report.calibration.sha256))
    target = [("target", view.settings(report.target))]
    said = [line for line in view.lines(report) if not line[0].startswith(view.CAUSE)]
    return section("Facts", facts([*said, *target, *_device(report), *hashes]))


def _device(report: Report) -> list[tuple[str, str]]:
    """What the latency belongs to: the machine, and the state that it was in before and after."""
    found = report.latency
    if found is None:
        return []
    states = (("device", found.machine), ("before timing", found.before), ("after timing", found.after))
    return [(label, view.settings(state)) for label, state in states if state]


def _stages(report: Report) -> Html:
    if not report.stages:
        return Html()
    longest = max(stage.seconds for stage in report.stages) or 1
    rows = [
        el(
            "tr",
            el("td", stage.name, class_="tight"),
            el("td", "reused" if stage.cached else text.seconds(stage.seconds), class_="n"),
            el("td", None if stage.cached else bar(stage.seconds / longest), class_="track"),
        )
        for stage in report.stages
    ]
    total = text.seconds(sum(stage.seconds for stage in report.stages))
    return section(f"Stages ({total})", el("table", el("tbody", rows)))


def _again(report: Report) -> Html:
    return section("Again", el("pre", el("code", report.reproduce)))


def _footer(report: Report) -> Html:
    return el("footer", f"edgekit {report.edgekit}, report schema {report.schema}")
