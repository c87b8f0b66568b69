"""The report as Markdown, short enough for a comment on a change: verdicts, what was won, where it was lost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgekit.report import grids, text, view
from edgekit.report.model import Report

WORST = 5
MARKS = {"pass": "pass", "fail": "**FAIL**", "inconclusive": "*inconclusive*"}


def render(reports: Sequence[Report]) -> str:
    """Every report; above several of them, one table that compares them."""
    summary = [_summary(reports)] if len(reports) > 1 else []
    return "\n\n".join([*summary, *map(_report, reports)]) + "\n"


def escape(value: object) -> str:
    """A value as literal text, in a table cell too: no markup, no HTML, one line."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(str(value).split()))
    return escaped.replace("@", "@\u200b")


def _report(report: Report) -> str:
    parts = [f"## {escape(view.headline(report))}", _gates(report), _comparison(report)]
    parts += [
        *map(_grid, grids.grids(report)),
        _facts(report),
        _worst(report),
        _warnings(report),
        f"Again: {code(report.reproduce)}",
    ]
    return "\n\n".join(part for part in parts if part)


def code(value: str) -> str:
    """A code span that holds ``value`` whatever backticks it has."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", value)), default=0))
    pad = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{pad}{' '.join(value.split())}{pad}{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    rules = {"l": ":--", "r": "--:"}
    lines = [head, [rules[letter] for letter in align], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""


def _gates(report: Report) -> str:
    rows = [(MARKS[gate.status], escape(gate.gate), escape(gate.text)) for gate in report.gates]
    return _table(("", "gate", "found"), rows, "lll")


def _comparison(report: Report) -> str:
    rows = [tuple(map(escape, (row.name, row.source, row.artifact, row.change))) for row in view.comparison(report)]
    return _table(("", "float", escape(report.artifact.precision), "change"), rows, "lrrl")


def _grid(grid: grids.Grid) -> str:
    rows = [tuple(map(escape, row)) for row in grid.rows]
    return _table(tuple(map(escape, grid.heads)), rows, "l" + "r" * (len(grid.heads) - 1))


def _facts(report: Report) -> str:
    found = [("audit", line) for line in view.audit_lines(report.audit)] + view.lines(report)
    return "\n".join(f"- {escape(label)}: {escape(line)}" for label, line in found)


def _worst(report: Report) -> str:
    tensors = view.worst_tensors(report.fidelity, WORST)
    rows = [(escape(tensor.name), escape(tensor.op), text.decibels(tensor.snr_db)) for tensor in tensors]
    return _table(("worst tensors", "op", "snr"), rows, "llr")


def _warnings(report: Report) -> str:
    return "\n".join(f"- **warning** {escape(warning)}" for warning in report.warnings)


def _summary(reports: Sequence[Report]) -> str:
    head = ("target", "gates", "size", escape(view.metric_name(reports)), "p50", "integer ops")
    rows = [
        (escape(view.target_name(report)), escape(view.verdict(report)), *map(escape, view.short(report)))
        for report in reports
    ]
    return _table(head, rows, "llrrrr")
