"""The memory that activations need: which tensors live when, and where each lies in one block.

Largest first, each at the lowest place that is free for as long as it lives: what TensorFlow Lite Micro's greedy
planner does, and LiteRT's for each subgraph (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net
inference", section 5: greedy by size). A kernel's scratch memory and a runtime's own structures are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIGNMENT = 16  # bytes


@dataclass(frozen=True)
class Life:
    """A tensor's bytes, and the first and the last step of execution at which they must be there."""

    name: str
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: the bytes from ``start`` to ``end`` of the block."""

    life: Life
    start: int

    @property
    def end(self) -> int:
        """The first byte behind it, aligned."""
        return self.start + -(-self.life.bytes // ALIGNMENT) * ALIGNMENT


def planned(lives: Iterable[Life]) -> list[Place]:
    """A place for each tensor with bytes; those that live at the same time do not overlap."""
    done: list[Place] = []
    for life in sorted(lives, key=lambda life: -life.bytes):
        if life.bytes:
            beside = [p for p in done if p.life.first <= life.last and life.first <= p.life.last]
            done.append(Place(life, _lowest(Place(life, 0).end, beside)))
    return done


def _lowest(size: int, beside: Sequence[Place]) -> int:
    """The lowest start of a gap of that size."""
    start = 0
    for place in sorted(beside, key=lambda place: place.start):
        if place.start - start >= size:
            break
        start = max(start, place.end)
    return start


def arena_bytes(places: Iterable[Place]) -> int:
    """The size of the block."""
    return max((place.end for place in places), default=0)
