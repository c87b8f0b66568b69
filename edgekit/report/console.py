"""What is printed on stdout for a person: colour and full width on a terminal, 80 columns of plain text elsewhere."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

COLOURS = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "no gates": "bold"}
BAR = 12
"""The length of a full bar."""


def show(parts: Iterable[RenderableType], stream: TextIO) -> None:
    """Print the parts one below the other."""
    if stream.isatty():
        Console(file=stream).print(*parts, sep="\n")
    else:
        stream.write(plain(parts))


def plain(parts: Iterable[RenderableType], width: int = 80) -> str:
    """The parts as text without colours and without blanks at the ends of lines."""
    page = io.StringIO()
    Console(file=page, width=width, color_system=None, force_terminal=False).print(*parts, sep="\n")
    return "".join(line.rstrip() + "\n" for line in page.getvalue().splitlines())


def table(*columns: Column, header: bool = True) -> Table:
    """A table without lines."""
    return Table(*columns, box=None, show_header=header, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)


def number(name: str) -> Column:
    """A column of numbers."""
    return Column(name, justify="right", no_wrap=True)


def name(title: str = "") -> Column:
    """A column of names, which break anywhere rather than be cut."""
    return Column(title, overflow="fold")


def labelled(rows: Iterable[tuple[str | Text, str]]) -> Table:
    """``label  text`` lines."""
    lines = table(Column("", no_wrap=True, style="dim"), name(), header=False)
    for label, said in rows:
        lines.add_row(label, Text(said))
    return lines


def indented(part: RenderableType) -> Padding:
    """A part, two columns in and with an empty line below it."""
    return Padding(part, (0, 0, 1, 2))


def verdict(status: str) -> Text:
    """A gate's status as a coloured word; FAIL is loud without colours too."""
    return Text("FAIL" if status == "fail" else status, style=COLOURS[status])


def bar(share: float) -> Text:
    """``share`` of a bar."""
    filled = 0 if math.isnan(share) else round(BAR * min(1.0, max(0.0, share)))
    return Text.assemble(("#" * filled, "cyan"), ("." * (BAR - filled), "dim"))
