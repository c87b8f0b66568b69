"""The values of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """What a runtime executed as one piece.

    ``node`` is its index in the file and ``makes`` the names of its outputs, where the runtime says so.
    """

    name: str
    op: str
    node: int | None
    ms: float
    makes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTime:
    """One op of the artifact. ``tensor`` is what it makes, by the source model's name; ``kernels`` ran for it."""

    name: str
    op: str
    tensor: str
    ms: float
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTimes:
    """The time of every layer of one run, on the machine that profiled it.

    ``elsewhere`` is what belongs to no layer, in ms by kind of kernel, such as the runtime's own moves of data.
    ``p50_ms`` is the median of plain runs in the same process, without the profiler.
    """

    layers: tuple[LayerTime, ...]
    elsewhere: Mapping[str, float]
    p50_ms: float
    runs: int
    threads: int
    runtime: str
    runtime_version: str
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elsewhere_ms(self) -> float:
        """What could not be attributed to a layer."""
        return sum(self.elsewhere.values())

    def by_tensor(self) -> dict[str, float]:
        """The time of what makes each tensor, in ms."""
        found: dict[str, float] = {}
        for layer in self.layers:
            found[layer.tensor] = found.get(layer.tensor, 0.0) + layer.ms
        return found

    @property
    def total_ms(self) -> float:
        """All kernels."""
        return sum(layer.ms for layer in self.layers) + self.elsewhere_ms
