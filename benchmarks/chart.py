"""A chart of lines as SVG: plain text, readable on light and on dark ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 52, 48  # margins
TICKS = 6
HUES = (("#0969da", "#58a6ff"), ("#bc4c00", "#f0883e"), ("#1a7f37", "#3fb950"))  # on light ground, on dark
STYLE = """text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.quiet { fill: #59636e } .grid { stroke: #d1d9e0 } path { fill: none; stroke-width: 2.5 }"""
DARK = "text { fill: #f0f6fc } .quiet { fill: #9198a1 } .grid { stroke: #3d444d }"


def lines(title: str, axes: tuple[str, str], series: Mapping[str, Sequence[Point]]) -> str:
    """An SVG document of one line a series, with a dot at each point and the series' name above; x grows rightward."""
    xs, ys = (_ticks([point[i] for points in series.values() for point in points]) for i in (0, 1))

    def x(value: float) -> float:
        return LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 20, title, "title")]
    for value in ys:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text(LEFT - 8, y(value) + 4.5, f"{value:g}", "quiet", "end"))
    parts += [_text(x(value), HEIGHT - BOTTOM + 20, f"{value:g}", "quiet", "middle") for value in xs]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, axes[0], "quiet", "middle"))
    parts.append(_text(WIDTH - RIGHT, 20, axes[1], "quiet", "end"))
    at = LEFT
    for i, (name, points) in enumerate(series.items()):
        path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in sorted(points))
        parts.append(f'<path class="stroke{i}" d="{path}"/>')
        parts += [f'<circle class="fill{i}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="4"/>' for a, b in points]
        parts += [f'<circle class="fill{i}" cx="{at + 5}" cy="37" r="5"/>', _text(at + 16, 41.5, name)]
        at += 40 + 7 * len(name)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    head += f"<title>{escape(title)}</title><style>{_style(len(series))}</style>"
    return "\n".join([head, *parts, "</svg>\n"])


def _style(count: int) -> str:
    """Colours for light ground, and for dark where the reader prefers that."""
    light, dark = (" ".join(f".stroke{i} {{ stroke: {h[side]} }} .fill{i} {{ fill: {h[side]} }}"
                            for i, h in enumerate(HUES[:count])) for side in (0, 1))  # fmt: skip
    return f"{STYLE} {light}\n@media (prefers-color-scheme: dark) {{ {DARK} {dark} }}"


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers, about ``TICKS`` of them, from below the smallest value to above the largest."""
    low, high = min(values), max(values)
    rough = (high - low or 1.0) / TICKS
    power = 10.0 ** next(p for p in range(-9, 10) if 10.0 ** (p + 1) > rough)
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = int(low // step), int(-(-high // step))
    return [round(i * step, 9) for i in range(first, last + 1)]


def _text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
