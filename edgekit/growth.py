"""``[baseline]`` of edgekit.toml: where earlier reports lie, and what may be lost against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from edgekit.toml_table import Table

TOLERANCE = 0.01
"""What may be lost against a baseline: a share of costs and latency, and in accuracy this much of it all (1 point)."""

EXACT = ("size", "macs", "parameters", "moved", "arena")
"""Costs that the bytes tell: the same on every machine, and so gates of their own against any baseline."""

SHARES = (*EXACT, "instructions", "memory", "latency_p50", "latency_p90", "latency_p99")
"""The gates whose growth is a share of what it was; that of DIFFERENCES is in the gate's own unit."""

DIFFERENCES = ("accuracy", "accuracy_drop", "agreement", "snr", "float_ops")

TIMED = ("latency_p50",)
"""A gate of its own where a device timed both: the times of a build machine are not what it is for."""


@dataclass(frozen=True)
class Growth:
    """What may be lost, by gate: a share of what it was (costs, latency, memory), else a difference in its own unit.

    ``limits`` holds what the project says; None there is no gate. What it does not say follows ``tolerance``, for the
    costs that the bytes tell, accuracy, float ops (none more), instructions and what a device timed. ``folder`` has
    TARGET.json of each target.
    """

    folder: str | None = None
    tolerance: float = TOLERANCE
    limits: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))

    def path(self, home: Path, target: str) -> Path | None:
        """The baseline of a target; None where the project keeps none."""
        return home / self.folder / f"{target}.json" if self.folder else None

    def asked(self, gate: str) -> bool:
        """Whether the project itself names a growth of that gate."""
        return self.limits.get(gate) is not None

    def allowed(self, gate: str) -> float | None:
        """What may be lost; None where the project turned the gate off."""
        if gate in self.limits:
            return self.limits[gate]
        return 0.0 if gate == "float_ops" else self.tolerance


def read_growth(table: Table | None) -> Growth:
    """The table as it was written. Raises ConfigError."""
    if table is None:
        return Growth()
    folder, tolerance = table.text("folder"), table.number("tolerance")
    limits = {gate: _limit(table, gate) for gate in (*SHARES, *DIFFERENCES) if table.value(gate) is not None}
    table.close()
    return Growth(folder, TOLERANCE if tolerance is None else tolerance, MappingProxyType(limits))


def _limit(table: Table, gate: str) -> float | None:
    return None if table.data[gate] is False else table.number(gate)
