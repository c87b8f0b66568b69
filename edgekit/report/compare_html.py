"""``edgekit compare`` as one HTML file in the look of the report: verdict, totals, and every layer that changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.report import changed, text
from edgekit.report.markup import Html, el
from edgekit.report.page import facts, head, key, number, page, pair, pill, section, sortable, tile

if TYPE_CHECKING:
    from edgekit.compare import Change, Difference, Total

PILLS = {"worse": "fail", "changed": "inconclusive", "better": "pass", "same": "pass"}
TILES = ("float", "slower", "grew", "scale")


def render(found: Difference, command: str) -> str:
    """The whole page; ``command`` gives it again."""
    title = f"{found.b} against {found.a}: {changed.verdict(found)}"
    parts = (_header(found), _tiles(found), _totals(found.totals), _contract(found), _layers(found))
    return page(title, *parts, section("Again", el("pre", el("code", command))))


def _header(found: Difference) -> Html:
    status = changed.status(found)
    title = el("h1", found.b, el("small", " against "), found.a)
    return el("header", title, el("p", pill(PILLS[status], status), f" {changed.verdict(found)}"))


def _tiles(found: Difference) -> Html:
    """How many layers changed for the worse, or silently."""
    kinds = [one.kind for one in found.changes]
    return el("div", [_tile(kind, kinds.count(kind), found) for kind in TILES], class_="tiles")


def _tile(kind: str, count: int, found: Difference) -> Html:
    if kind == "slower" and not found.timed:
        return tile(changed.KINDS[kind], "-", "not compared")
    return tile(changed.KINDS[kind], f"{count:,}", "layer" if count == 1 else "layers")


def _totals(totals: Sequence[Total]) -> Html:
    barred = [
        pair(total.name, _times(total.ratio), total.before, total.after, total.ratio)
        for total in totals
        if total.ratio is not None
    ]
    plain = [(total.name, _became(total)) for total in totals if total.ratio is None]
    return section("Totals", key("before", "after"), el("div", barred, class_="compare"), facts(plain))


def _became(total: Total) -> str:
    same = total.before == total.after
    return f"{total.after}, no change" if same else f"{total.before} became {total.after}"


def _times(ratio: float) -> str:
    return "no change" if abs(ratio - 1) < 0.0005 else f"{ratio:.3f}x"


def _contract(found: Difference) -> Html:
    if not found.contract:
        return Html()
    return section("Inputs and outputs", el("ul", [el("li", line) for line in found.contract]), class_="warn")


def _layers(found: Difference) -> Html:
    changes = changed.ordered(found)
    notes = [el("p", f"{note[:1].upper()}{note[1:]}.", class_="soft") for note in found.notes]
    if not changes:
        return section("Layers", el("p", "Every layer is as it was."), *notes)
    heads = [head("change"), head("layer"), head("before and after"), head("ratio", "n")]
    return section(f"Layers ({text.plural(len(changes), 'change')})", *notes, sortable(heads, list(map(_row, changes))))


def _row(one: Change) -> Html:
    kind = "fail" if one.kind in changed.WORSE else "pass" if one.kind in changed.BETTER else "none"
    order = list(changed.KINDS).index(one.kind)
    return el(
        "tr",
        el("td", pill(kind, changed.KINDS[one.kind]), class_="tight", data_v=order),
        el("td", one.name, class_="name"),
        el("td", one.said, class_="name"),
        number(one.ratio, "" if one.ratio is None else text.ratio(one.ratio)),
    )
