"""Numbers as a person reads them. KB and MB are decimal: 1 KB = 1000 bytes, as in edgekit.toml."""

from __future__ import annotations

import math


def size(value: float) -> str:
    """Bytes: ``304.9 KB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:,.{_decimals(value / factor)}f} {unit}"
    return f"{value:,.0f} B"


def milliseconds(value: float) -> str:
    """Milliseconds to three digits: ``0.232 ms``, ``14.1 ms``; seconds from 10,000 ms on."""
    return f"{value / 1e3:.1f} s" if abs(value) >= 1e4 else f"{significant(value)} ms"


def seconds(value: float) -> str:
    """Wall time: ``40 ms``, ``0.4 s``, ``75 s``, ``12 min``."""
    if value < 0.095:
        return f"{1000 * value:.0f} ms"
    if value >= 600:
        return f"{value / 60:.0f} min"
    return f"{value:.0f} s" if value >= 60 else f"{value:.1f} s"


def percent(share: float) -> str:
    """A share: ``80.68 %``; ``0 %`` and ``100 %`` only when it is exactly that."""
    return f"{100 * share:.2f} %" if share not in (0, 1) else f"{100 * share:.0f} %"


def points(share: float) -> str:
    """A difference of shares in points of a percent: ``0.12 points``."""
    return f"{round(100 * share, 2) + 0.0:.2f} points"


def drop(share: float) -> str:
    """What was lost, in points: ``0.12 points``, ``a gain of 0.12 points``."""
    return f"a gain of {points(-share)}" if round(100 * share, 2) < 0 else points(share)


def change(share: float) -> str:
    """The same with its sign: ``+0.12 points``; ``no change`` when it rounds to nothing."""
    return f"{100 * share:+.2f} points" if round(100 * share, 2) else "no change"


def decibels(value: float) -> str:
    """A signal-to-noise ratio: ``27.8 dB``; ``exact`` when there is no error."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "exact" if value > 0 else "no signal"
    return f"{value:.1f} dB"


def count(value: float) -> str:
    """A large count: ``272 k``, ``41.2 M``, ``3.97 G``; small ones as they are."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= factor:
            return f"{significant(value / (1e3 if unit == 'k' else factor))} {unit}"
    return f"{value:,.0f}"


def ratio(value: float) -> str:
    """A quotient: ``3.92x``."""
    return f"{significant(value)}x"


def plural(number: int, one: str, many: str = "") -> str:
    """``1 op``, ``2 ops``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def significant(value: float) -> str:
    """Three significant digits without an exponent: ``0.0431``, ``4.00``, ``1,234``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, min(digits, 6))}f}"


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 10 else 2
