"""The report as a person reads it in a terminal: verdicts first, then what was won, then where it was lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from edgekit.gate import status
from edgekit.profile.facts import LayerTimes
from edgekit.report import console, grids, text, view
from edgekit.report.layers import milliseconds, slowest
from edgekit.report.model import Fidelity, Report, Verdict

WORST = 5
"""How many tensors are named."""

FULL_DB = 60.0
"""The signal-to-noise ratio that fills a bar."""


def show(reports: Sequence[Report], stream: TextIO) -> None:
    """Print each report; below several of them, one table that compares them."""
    console.show(parts(reports), stream)


def render(reports: Sequence[Report], width: int = 80) -> str:
    """The same as plain text without colours."""
    return console.plain(parts(reports), width)


def parts(reports: Sequence[Report]) -> Iterator[RenderableType]:
    """What ``show`` prints, one below the other."""
    for report in reports:
        headline = ((view.name(report), "bold"), ": ", (view.verdict(report), console.COLOURS[status(report.gates)]))
        yield Text.assemble(*headline, "\n")
        first = (gates(report.gates), comparison(view.comparison(report), report.artifact.precision), _facts(report))
        then = (
            *map(grid, grids.grids(report)),
            ports(report.contract),
            worst(report.fidelity, WORST),
            layers(report.layer_times, WORST),
            _warnings(report),
            _footer(report),
        )
        for part in (*first, *then):
            if part.row_count:
                yield console.indented(part)
    if len(reports) > 1:
        yield _summary(reports)


def gates(verdicts: Sequence[Verdict]) -> Table:
    """Status, gate and what was found, a line each."""
    table = console.table(Column("gate"), Column(""), Column("found"))
    for verdict in verdicts:
        table.add_row(console.verdict(verdict.status), Text(verdict.gate), Text(verdict.text))
    return table


def comparison(rows: Sequence[view.Row], artifact: str) -> Table:
    """Float, artifact and change, a line a quantity."""
    columns = (Column("", no_wrap=True), console.number("float"), console.number(artifact))
    table = console.table(*columns, Column("change"))
    for row in rows:
        table.add_row(row.name, row.source, Text(row.artifact, style="bold"), Text(row.change))
    return table


def grid(found: grids.Grid) -> Table:
    """A table of text, numbers to the right."""
    first, *others = found.heads
    table = console.table(console.name(first), *(Column(head, justify="right") for head in others))
    for row in found.rows:
        table.add_row(*map(Text, row))
    return table


def _facts(report: Report) -> Table:
    lines = [("audit" if index == 0 else "", line) for index, line in enumerate(view.audit_lines(report.audit))]
    return console.labelled([*lines, *view.lines(report)])


def ports(contract: view.Json) -> Table:
    """The inputs and outputs, a line each."""
    table = console.table(Column("", no_wrap=True), console.name(), Column(""), Column(""), header=False)
    for side, name, dtype, shape, stored in view.ports(contract):
        table.add_row(side, Text(name), Text(f"{dtype}  {shape}"), Text(stored, style="dim"))
    return table


def worst(fidelity: Fidelity | None, count: int) -> Table:
    """The tensors that lost most, a line each."""
    table = console.table(console.name("worst tensors"), Column("op"), console.number("snr"), Column("", no_wrap=True))
    for tensor in view.worst_tensors(fidelity, count):
        snr = Text(text.decibels(tensor.snr_db), style=_style(tensor.snr_db))
        table.add_row(Text(tensor.name), Text(tensor.op), snr, console.bar(tensor.snr_db / FULL_DB))
    return table


def layers(times: LayerTimes | None, count: int) -> Table:
    """The layers that take longest, a line each."""
    columns = (console.name("slowest layers"), Column("op"), console.number("time"), console.number("share"))
    table = console.table(*columns, Column("", no_wrap=True))
    for name, op, ms, share in slowest(times, count) if times else ():
        table.add_row(Text(name), Text(op), milliseconds(ms), text.percent(share), console.bar(share))
    return table


def _style(snr_db: float) -> str:
    return "red" if snr_db < 10 else "yellow" if snr_db < 20 else ""


def _warnings(report: Report) -> Table:
    return console.labelled((Text("warning", style="yellow"), warning) for warning in report.warnings)


def _footer(report: Report) -> Table:
    stages = view.stages(report)
    first = [("stages", stages)] if stages else []
    return console.labelled([*first, ("artifact", report.artifact.path), ("again", report.reproduce)])


def _summary(reports: Sequence[Report]) -> Table:
    numbers = map(console.number, ("size", view.metric_name(reports), "p50", "integer ops"))
    table = console.table(console.name("target"), Column("gates"), *numbers)
    for report in reports:
        word = status(report.gates)
        table.add_row(Text(view.target_name(report)), Text(word, style=console.COLOURS[word]), *view.short(report))
    return table
