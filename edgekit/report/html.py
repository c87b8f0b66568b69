"""The report as one HTML file that needs nothing else: no network, light and dark, desk and phone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from edgekit.gate import status
from edgekit.report import grids, text, view
from edgekit.report.markup import Child, Html, el, join
from edgekit.report.model import Report, TensorFidelity

FULL_DB = 60.0
"""The signal-to-noise ratio that fills a bar."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
FILTER_FROM = 12
"""A table of so many rows gets a search field."""


def render(report: Report) -> str:
    """The whole page."""
    parts = (
        _tiles,
        _gates,
        _warnings,
        _comparison,
        _grids,
        _fidelity,
        _tensors,
        _ops,
        _contract,
        _facts,
        _stages,
        _again,
    )
    body = el("main", _header(report), [make(report) for make in parts], _footer(report))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", view.headline(report)),
        el("style", Html(_asset("page.css"))),
    )
    script = el("script", Html(_asset("page.js")))
    return f"<!doctype html>\n{el('html', head, el('body', body, script), lang='en')}\n"


def _asset(name: str) -> str:
    return files("edgekit.report").joinpath(name).read_text(encoding="utf-8")


def _pill(word: str, said: str = "") -> Html:
    return el("span", said or word, class_=f"pill {word if word != 'no gates' else 'none'}")


def _section(title: str, *children: Child, class_: str | None = None) -> Html:
    return el("section", el("h2", title), *children, class_=class_)


def _header(report: Report) -> Html:
    title = el("h1", view.model_name(report), el("small", " for "), view.target_name(report))
    what = el("span", f" {report.artifact.precision}, ", el("span", report.artifact.path, class_="path"), class_="soft")
    return el("header", title, el("p", _pill(status(report.gates), view.verdict(report)), what))


def _tiles(report: Report) -> Html:
    tiles = [_tile("size", text.size(report.artifact.bytes), _size_note(report))]
    found = report.evaluation
    if found is not None:
        tiles.append(_tile(found.metric, text.percent(found.artifact_value), f"{text.change(-found.drop)} to float"))
    if report.latency is not None:
        before = report.float_latency
        note = view.faster(before.p50_ms, report.latency.p50_ms) if before else "median"
        tiles.append(_tile("latency", text.milliseconds(report.latency.p50_ms), f"{note}, p50" if before else note))
    ops = report.audit.get("ops", ())
    if ops:
        integer = sum(bool(op["integer"]) for op in ops)
        tiles.append(_tile("integer ops", f"{integer} of {len(ops)}", f"{text.percent(integer / len(ops))} of ops"))
    return el("div", tiles, class_="tiles")


def _size_note(report: Report) -> str:
    return f"{view.smaller(report.model.float_bytes, report.artifact.bytes)} than float"


def _tile(label: str, value: str, note: str) -> Html:
    return el("div", el("span", label), el("b", value), el("span", note), class_="tile")


def _gates(report: Report) -> Html:
    if not report.gates:
        return Html()
    rows = [
        el("tr", el("td", _pill(gate.status), class_="tight"), el("td", gate.gate, class_="tight"), el("td", gate.text))
        for gate in report.gates
    ]
    return _section("Gates", el("table", el("tbody", rows), class_="gates"))


def _warnings(report: Report) -> Html:
    if not report.warnings:
        return Html()
    return _section("Warnings", el("ul", [el("li", warning) for warning in report.warnings]), class_="warn")


def _comparison(report: Report) -> Html:
    rows = view.comparison(report)
    barred = [_pair(row, row.share) for row in rows if row.share is not None]
    plain = [(row.name, ", ".join(filter(None, (row.artifact, row.change)))) for row in rows if row.share is None]
    key = el("p", el("span", class_="key before"), "float", el("span", class_="key"), report.artifact.precision)
    return _section("Against float", key, el("div", barred, class_="compare"), _list(plain))


def _pair(row: view.Row, share: float) -> Html:
    longest = max(1.0, share)
    return join(
        el("div", row.name, class_="label"),
        el("div", row.change, class_="change"),
        el("div", _bar(1 / longest, "before"), el("span", row.source), class_="pair"),
        el("div", _bar(share / longest), el("span", row.artifact), class_="pair"),
        el("div", class_="gap"),
    )


def _bar(share: float, kind: str = "") -> Html:
    width = 0.0 if math.isnan(share) else 100 * min(1.0, max(0.0, share))
    return el("span", class_=f"bar {kind}".strip(), style=f"width:{width:.1f}%")


def _list(pairs: Sequence[tuple[str, str]]) -> Html:
    return el("dl", [join(el("dt", label), el("dd", said)) for label, said in pairs]) if pairs else Html()


def _grids(report: Report) -> Html:
    return join(*(_section(grid.title.capitalize(), _grid(grid)) for grid in grids.grids(report)))


def _grid(grid: grids.Grid) -> Html:
    """A table of text, numbers to the right."""

    def row(tag: str, cells: Sequence[str]) -> Html:
        return el("tr", [el(tag, cell, class_="n" if number else None) for number, cell in enumerate(cells)])

    return _scroll(
        el("table", el("thead", row("th", grid.heads)), el("tbody", [row("td", cells) for cells in grid.rows]))
    )


def _band(snr_db: float) -> str:
    return "low" if snr_db < 10 else "middle" if snr_db < 20 else ""


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
    return _section("Where precision is lost", el("p", note, class_="soft"), chart, axis)


def _column(left: float, step: float, tensor: TensorFidelity) -> Html:
    share = 0.0 if math.isnan(tensor.snr_db) else min(1.0, max(0.0, tensor.snr_db / FULL_DB))
    height = max(1.0, 100 * share)
    title = el("title", f"{tensor.name} {tensor.op} {text.decibels(tensor.snr_db)}")
    return el(
        "rect", title, x=f"{left:.2f}", y=f"{100 - height:.1f}", width=f"{step * 0.82:.2f}", height=f"{height:.1f}",
        class_=_band(tensor.snr_db) or None,
    )  # fmt: skip


def _tensors(report: Report) -> Html:
    tensors = report.fidelity.tensors if report.fidelity else ()
    if not tensors:
        return Html()
    saturation = any(tensor.saturated is not None for tensor in tensors)
    stored = ("scale", "zero point", "saturated") if saturation else ("scale", "zero point")
    heads = [_head("tensor"), _head("op"), _head("dtype", SMALL), *(_head(name, f"n {SMALL}") for name in stored)]
    heads += [_head("snr", "n"), el("th", aria_hidden="true")]
    rows = [_tensor_row(tensor, saturation) for tensor in tensors]
    return _section(f"Tensors ({len(tensors):,})", _sortable(heads, rows))


SMALL = "hide-small"
"""What a phone does not show."""


def _head(name: str, class_: str | None = None) -> Html:
    return el("th", el("button", name, type="button"), scope="col", class_=class_)


def _tensor_row(tensor: TensorFidelity, saturation: bool) -> Html:
    saturated = "" if tensor.saturated is None else text.percent(tensor.saturated)
    return el(
        "tr",
        el("td", tensor.name, class_="name"),
        el("td", tensor.op),
        el("td", tensor.dtype, class_=SMALL),
        _number(tensor.scale, "" if tensor.scale is None else f"{tensor.scale:.5g}", SMALL),
        _number(tensor.zero_point, "" if tensor.zero_point is None else str(tensor.zero_point), SMALL),
        _number(tensor.saturated, saturated, SMALL) if saturation else None,
        _number(tensor.snr_db, text.decibels(tensor.snr_db)),
        el("td", _bar(tensor.snr_db / FULL_DB, _band(tensor.snr_db)), class_="track"),
    )


def _number(value: float | None, said: str, class_: str = "") -> Html:
    known = -math.inf if value is None or math.isnan(value) else value
    sortable = f"{'-' * (known < 0)}Infinity" if math.isinf(known) else f"{known:.9g}"
    return el("td", said, class_=f"n {class_}".strip(), data_v=sortable)


def _sortable(heads: Sequence[Html], rows: Sequence[Html]) -> Html:
    table = el("table", el("thead", el("tr", heads)), el("tbody", rows), class_="sortable")
    search = el("input", type="search", placeholder="filter", aria_label="filter the rows")
    return join(search if len(rows) >= FILTER_FROM else None, el("div", table, class_="scroll tall"))


def _ops(report: Report) -> Html:
    ops: Sequence[Mapping[str, Any]] = report.audit.get("ops", ())
    if not ops:
        return Html()
    most = max((max(op["macs"], 0) for op in ops), default=0) or 1
    heaviest = max((op["weight_bytes"] for op in ops), default=0) or 1
    rows = [_op_row(op, most, heaviest) for op in ops]
    said = el("p", "; ".join(view.audit_lines(report.audit)), class_="soft")
    heads = [_head("op"), _head("kind"), _head("numbers"), _head("multiply-adds", "n"), _head("weights", "n")]
    return _section(f"Ops ({len(ops):,}), read back from the bytes", said, _sortable(heads, rows))


def _op_row(op: Mapping[str, Any], most: int, heaviest: int) -> Html:
    return el(
        "tr",
        el("td", op["name"], class_="name"),
        el("td", op["op"]),
        el("td", "integer" if op["integer"] else _pill("fail", op["kind"])),
        _barred(op["macs"], text.count(op["macs"]), most),
        _barred(op["weight_bytes"], text.size(op["weight_bytes"]), heaviest),
    )


def _barred(value: float, said: str, most: float) -> Html:
    return el("td", said if value else "", _bar(value / most) if value else None, class_="n", data_v=value)


def _contract(report: Report) -> Html:
    kinds = (None, "name", None, "wide", "wide")
    rows = [
        el("tr", [el("td", cell, class_=kind) for cell, kind in zip(port, kinds, strict=True)])
        for port in view.ports(report.contract)
    ]
    if not rows:
        return Html()
    preprocessing = [(name, view.settings(found)) for name, found in report.contract.get("preprocessing", {}).items()]
    return _section("Inputs and outputs", _scroll(el("table", el("tbody", rows))), _list(preprocessing))


def _scroll(table: Html) -> Html:
    return el("div", table, class_="scroll")


def _facts(report: Report) -> Html:
    hashes = [("model sha256", report.model.sha256), ("artifact sha256", report.artifact.sha256)]
    if report.calibration is not None:
        hashes.append(("calibration sha256", report.calibration.sha256))
    target = [("target", view.settings(report.target))]
    return _section("Facts", _list([*view.lines(report), *target, *hashes]))


def _stages(report: Report) -> Html:
    if not report.stages:
        return Html()
    longest = max(stage.seconds for stage in report.stages) or 1
    rows = [
        el(
            "tr",
            el("td", stage.name, class_="tight"),
            el("td", "reused" if stage.cached else text.seconds(stage.seconds), class_="n"),
            el("td", None if stage.cached else _bar(stage.seconds / longest), class_="track"),
        )
        for stage in report.stages
    ]
    total = text.seconds(sum(stage.seconds for stage in report.stages))
    return _section(f"Stages ({total})", el("table", el("tbody", rows)))


def _again(report: Report) -> Html:
    return _section("Again", el("pre", el("code", report.reproduce)))


def _footer(report: Report) -> Html:
    return el("footer", f"edgekit {report.edgekit}, report schema {report.schema}")
