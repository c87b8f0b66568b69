"""The report as a person reads it in a terminal: verdicts first, then what was won, then where it was lost."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from edgekit.gate import status
from edgekit.report import text, view
from edgekit.report.model import Report

WORST = 5
"""How many tensors are named."""

COLOURS = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "no gates": "bold"}
BAR = 12
FULL_DB = 60.0
"""The signal-to-noise ratio that fills a bar."""


def show(reports: Sequence[Report], stream: TextIO) -> None:
    """Print to a terminal in colour and its width, elsewhere as plain text of 80 columns."""
    if stream.isatty():
        _show(reports, Console(file=stream))
    else:
        stream.write(render(reports))


def render(reports: Sequence[Report], width: int = 80) -> str:
    """Each report as plain text without colours; below several of them, one table that compares them."""
    page = io.StringIO()
    _show(reports, Console(file=page, width=width, color_system=None, force_terminal=False))
    return "".join(line.rstrip() + "\n" for line in page.getvalue().splitlines())


def _show(reports: Sequence[Report], console: Console) -> None:
    for report in reports:
        _report(report, console)
    if len(reports) > 1:
        _summary(reports, console)


def _report(report: Report, console: Console) -> None:
    style = COLOURS[status(report.gates)]
    console.print(Text.assemble((view.name(report), "bold"), ": ", (view.verdict(report), style)))
    console.print()
    parts = (_gates, _comparison, _facts, _ports, _worst, _warnings, _footer)
    for part in (make(report) for make in parts):
        if part.row_count:
            console.print(Padding(part, (0, 0, 1, 2)))


def _table(*columns: Column, header: bool = True) -> Table:
    return Table(*columns, box=None, show_header=header, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)


def _gates(report: Report) -> Table:
    table = _table(Column("gate"), Column(""), Column("found"))
    for verdict in report.gates:
        word = Text(verdict.status.upper() if verdict.status == "fail" else verdict.status)
        word.stylize(COLOURS[verdict.status])
        table.add_row(word, Text(verdict.gate), Text(verdict.text))
    return table


def _comparison(report: Report) -> Table:
    table = _table(
        Column("", no_wrap=True),
        Column("float", justify="right", no_wrap=True),
        Column(report.artifact.precision, justify="right", no_wrap=True),
        Column("change"),
    )
    for row in view.comparison(report):
        table.add_row(row.name, row.source, Text(row.artifact, style="bold"), Text(row.change))
    return table


def _facts(report: Report) -> Table:
    table = _labelled()
    for index, line in enumerate(view.audit_lines(report)):
        table.add_row("audit" if index == 0 else "", Text(line))
    for label, line in view.lines(report):
        table.add_row(label, Text(line))
    return table


def _ports(report: Report) -> Table:
    table = _table(Column("", no_wrap=True), Column("", overflow="fold"), Column(""), Column(""), header=False)
    for side, name, dtype, shape, stored in view.ports(report):
        table.add_row(side, Text(name), Text(f"{dtype}  {shape}"), Text(stored, style="dim"))
    return table


def _worst(report: Report) -> Table:
    table = _table(
        Column("worst tensors", overflow="fold"),
        Column("op"),
        Column("snr", justify="right", no_wrap=True),
        Column("", no_wrap=True),
    )
    for tensor in view.worst_tensors(report, WORST):
        snr = Text(text.decibels(tensor.snr_db), style=_snr_style(tensor.snr_db))
        table.add_row(Text(tensor.name), Text(tensor.op), snr, _bar(tensor.snr_db / FULL_DB))
    return table


def _snr_style(value: float) -> str:
    return "red" if value < 10 else "yellow" if value < 20 else ""


def _bar(share: float) -> Text:
    filled = 0 if math.isnan(share) else round(BAR * min(1.0, max(0.0, share)))
    return Text.assemble(("#" * filled, "cyan"), ("." * (BAR - filled), "dim"))


def _warnings(report: Report) -> Table:
    table = _labelled()
    for warning in report.warnings:
        table.add_row(Text("warning", style="yellow"), Text(warning))
    return table


def _footer(report: Report) -> Table:
    table = _labelled()
    stages = view.stages(report)
    if stages:
        table.add_row("stages", Text(stages))
    table.add_row("artifact", Text(report.artifact.path))
    table.add_row("again", Text(report.reproduce))
    return table


def _labelled() -> Table:
    return _table(Column("", no_wrap=True, style="dim"), Column("", overflow="fold"), header=False)


def _summary(reports: Sequence[Report], console: Console) -> None:
    right = {"justify": "right", "no_wrap": True}
    table = _table(
        Column("target", overflow="fold"),
        Column("gates"),
        Column("size", **right),  # type: ignore[arg-type]
        Column(view.metric_name(reports), **right),  # type: ignore[arg-type]
        Column("p50", **right),  # type: ignore[arg-type]
        Column("integer ops", **right),  # type: ignore[arg-type]
    )
    for report in reports:
        word = status(report.gates)
        table.add_row(Text(view.target_name(report)), Text(word, style=COLOURS[word]), *view.short(report))
    console.print(table)
