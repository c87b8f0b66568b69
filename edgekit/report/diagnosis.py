"""What ``edgekit diagnose`` prints for a person: the causes with what to do, then the tensors that lost most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from edgekit.report import console, text

if TYPE_CHECKING:
    from edgekit.diagnose.diagnosis import Diagnosis, Finding
    from edgekit.diagnose.run import Diagnosed

WORST = 12
"""How many tensors are named."""


def parts(found: Diagnosed) -> Iterator[RenderableType]:
    """The causes, what each asks for, and the table of the worst tensors."""
    lost = text.decibels(found.diagnosis.output_db)
    yield Text.assemble((found.artifact, "bold"), f" of {found.source}: signal to noise {lost} at its worst output\n")
    if not found.diagnosis.findings:
        yield console.indented(Text("no cause is recognised: nothing costs the outputs much by itself"))
    for finding in found.diagnosis.findings:
        yield console.indented(_cause(finding))
    yield console.indented(losses(found.diagnosis, WORST))


def _cause(finding: Finding) -> Table:
    figures = ", ".join(f"{name} {text.significant(value)}" for name, value in finding.evidence.items())
    where = ", ".join(finding.tensors[:WORST]) + ", ..." * (len(finding.tensors) > WORST)
    rows = (("cause", finding.cause), ("at", where), ("evidence", figures), ("do", finding.fix), ("more", finding.docs))
    return console.labelled((name, said) for name, said in rows if said)


def losses(found: Diagnosis, count: int) -> Table:
    """The tensors that cost most, a line each: what was kept before and after each, and what it costs by itself."""
    numbers = map(console.number, ("before", "after", "alone", "weights"))
    columns = (console.name("worst tensors, dB"), Column("op", no_wrap=True), *numbers, Column("cause", no_wrap=True))
    table = console.table(*columns)
    for loss in found.tensors[:count]:
        values = (loss.before_db, loss.after_db, loss.alone_db, loss.weights_db)
        cells = ("" if value is None else text.decibels(value).removesuffix(" dB") for value in values)
        table.add_row(Text(loss.name), Text(loss.op), *cells, Text(loss.cause or ""))
    return table
