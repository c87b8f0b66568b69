"""The columns of the table of layers in HTML; one that no row has anything for is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.report import text
from edgekit.report.layers import Layer, milliseconds
from edgekit.report.markup import Html, el, join
from edgekit.report.page import SMALL, bar, head, number

FULL_DB = 60.0
"""The signal-to-noise ratio that fills a bar."""


@dataclass(frozen=True)
class Column:
    """A column: its title, whether a row has anything for it, and the cell of a row and the greatest share of time."""

    title: str
    known: Callable[[Layer], bool]
    cell: Callable[[Layer, float], Html]
    class_: str | None = None

    def head(self) -> Html:
        """The head that sorts by this column."""
        return head(self.title, self.class_)


def band(snr_db: float) -> str:
    """The colour of a signal-to-noise ratio."""
    return "low" if snr_db < 10 else "middle" if snr_db < 20 else ""


def _snr(row: Layer, most: float) -> Html:
    return _barred(row.snr_db, text.decibels, lambda value: bar(value / FULL_DB, band(value)))


def _time(row: Layer, most: float) -> Html:
    return _barred(row.share, lambda _: milliseconds(row.ms or 0.0), lambda share: bar(share / most, "time"))


def _barred(value: float | None, say: Callable[[float], str], draw: Callable[[float], Html]) -> Html:
    """A number with a bar below it."""
    if value is None:
        return number(None, "")
    return number(value, join(el("span", say(value)), draw(value)))


COLUMNS = (
    Column("layer", lambda row: True, lambda row, _: el("td", row.name, class_="name")),
    Column("op", lambda row: True, lambda row, _: el("td", row.op, class_=SMALL), SMALL),
    Column("dtype", lambda row: bool(row.dtype), lambda row, _: el("td", row.dtype, class_=SMALL), SMALL),
    Column(
        "scale",
        lambda row: row.scale is not None,
        lambda row, _: number(row.scale, "" if row.scale is None else f"{row.scale:.5g}", SMALL),
        f"n {SMALL}",
    ),
    Column(
        "zero point",
        lambda row: row.zero_point is not None,
        lambda row, _: number(row.zero_point, "" if row.zero_point is None else str(row.zero_point), SMALL),
        f"n {SMALL}",
    ),
    Column(
        "saturated",
        lambda row: row.saturated is not None,
        lambda row, _: number(row.saturated, "" if row.saturated is None else text.percent(row.saturated), SMALL),
        f"n {SMALL}",
    ),
    Column("snr", lambda row: row.snr_db is not None, _snr, "n"),
    Column("time", lambda row: row.ms is not None, _time, "n"),
    Column(
        "share",
        lambda row: row.share is not None,
        lambda row, _: number(row.share, "" if row.share is None else text.percent(row.share), SMALL),
        f"n {SMALL}",
    ),
)
