"""What every HTML page is made of: one file that needs nothing else, no network, light and dark, desk and phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files

from edgekit.report.markup import Child, Html, el, join

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
FILTER_FROM = 12
"""A table of so many rows gets a search field."""
SMALL = "hide-small"
"""What a phone does not show."""


def page(title: str, *body: Child) -> str:
    """The whole file around its body."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", title),
        el("style", Html(_asset("page.css"))),
    )
    script = el("script", Html(_asset("page.js")))
    return f"<!doctype html>\n{el('html', head, el('body', el('main', *body), script), lang='en')}\n"


def _asset(name: str) -> str:
    return files("edgekit.report").joinpath(name).read_text(encoding="utf-8")


def pill(word: str, said: str = "") -> Html:
    """A verdict in its colour."""
    return el("span", said or word, class_=f"pill {word if word != 'no gates' else 'none'}")


def section(title: str, *children: Child, class_: str | None = None) -> Html:
    """A card with a heading."""
    return el("section", el("h2", title), *children, class_=class_)


def tile(label: str, value: str, note: str) -> Html:
    """A number in large type."""
    return el("div", el("span", label), el("b", value), el("span", note), class_="tile")


def bar(share: float, kind: str = "") -> Html:
    """``share`` of the width of a bar."""
    width = 0.0 if math.isnan(share) else 100 * min(1.0, max(0.0, share))
    return el("span", class_=f"bar {kind}".strip(), style=f"width:{width:.1f}%")


def pair(label: str, change: str, before: str, after: str, share: float) -> Html:
    """Two bars one above the other, the second ``share`` times as long as the first, with what they stand for."""
    longest = max(1.0, share)
    return join(
        el("div", label, class_="label"),
        el("div", change, class_="change"),
        el("div", bar(1 / longest, "before"), el("span", before), class_="pair"),
        el("div", bar(share / longest), el("span", after), class_="pair"),
        el("div", class_="gap"),
    )


def key(before: str, after: str) -> Html:
    """What the two colours of ``pair`` stand for."""
    return el("p", el("span", class_="key before"), before, el("span", class_="key"), after)


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """Labels and what they stand for; nothing where there are none."""
    return el("dl", [join(el("dt", label), el("dd", said)) for label, said in pairs]) if pairs else Html()


def scroll(table: Html) -> Html:
    """A table that may be wider than the page."""
    return el("div", table, class_="scroll")


def head(name: str, class_: str | None = None) -> Html:
    """The head of a column that sorts."""
    return el("th", el("button", name, type="button"), scope="col", class_=class_)


def number(value: float | None, said: Child, class_: str = "") -> Html:
    """A cell that sorts by its value; what is not known is the least."""
    known = -math.inf if value is None or math.isnan(value) else value
    sortable_as = f"{'-' * (known < 0)}Infinity" if math.isinf(known) else f"{known:.9g}"
    return el("td", said, class_=f"n {class_}".strip(), data_v=sortable_as)


def sortable(heads: Sequence[Html], rows: Sequence[Html]) -> Html:
    """A table that sorts, with a search field when it is long."""
    table = el("table", el("thead", el("tr", heads)), el("tbody", rows), class_="sortable")
    search = el("input", type="search", placeholder="filter", aria_label="filter the rows")
    return join(search if len(rows) >= FILTER_FROM else None, el("div", table, class_="scroll tall"))
