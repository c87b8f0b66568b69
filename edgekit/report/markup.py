"""HTML elements from values: whatever is not already ``Html`` is escaped, so that nothing can slip through."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = ("meta", "rect", "line", "br")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]
Attribute = str | int | float | bool | None


def el(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """One element. ``class_`` is class, ``data_v`` is data-v; True is an attribute alone, None and False are none."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    written = "".join(_attribute(key, value) for key, value in named)
    inner = join(*children)
    return Html(f"<{tag}{written}>" if tag in VOID and not inner else f"<{tag}{written}>{inner}</{tag}>")


def join(*children: Child) -> Html:
    """Children one after the other."""
    return Html("".join(map(_child, children)))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return escape(str(child))
    return "".join(map(_child, child))


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    return f" {key}" if value is True else f' {key}="{escape(str(value))}"'
