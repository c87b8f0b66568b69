"""What a comparison of two artifacts says, whatever prints it: the verdict, and the changes, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.compare import Change, Difference

KINDS = {
    "float": "fell back to float",
    "slower": "slowed",
    "grew": "grew",
    "noisier": "noisier",
    "integer": "came to integers",
    "new": "new",
    "gone": "gone",
    "scale": "changed scale",
    "faster": "sped up",
    "shrank": "shrank",
}
"""What became of an op or tensor, the worst first."""
WORSE = ("float", "slower", "grew", "noisier")
BETTER = ("integer", "faster", "shrank")


def ordered(found: Difference) -> Sequence[Change]:
    """The changes, the worst kind first."""
    order = list(KINDS)
    return sorted(found.changes, key=lambda one: order.index(one.kind))


def verdict(found: Difference) -> str:
    """``2 fell back to float, 1 grew``: how many of each kind; "no layer changed"."""
    kinds = [one.kind for one in found.changes]
    counts = {kind: kinds.count(kind) for kind in KINDS if kind in kinds}
    return ", ".join(f"{number:,} {KINDS[kind]}" for kind, number in counts.items()) or "no layer changed"


def status(found: Difference) -> str:
    """``worse`` when a layer is, ``changed`` when they only differ, ``better``, or ``same``."""
    kinds = {one.kind for one in found.changes}
    if kinds & set(WORSE):
        return "worse"
    if found.contract or kinds - set(BETTER):
        return "changed"
    return "better" if kinds else "same"
