"""What a layer of 16 bits is worth beside one in float, on networks that collapse in int8.

    python benchmarks/lifting.py [CASE ...]

Each case of ``planted.py`` is built as in ``ladder.py``, but what could mend it without lifting layers is left out:
ranges are from minimum to maximum, weights rounded to the nearest integer. Then the ladder lifts the fewest layers with
which the artifacts of both formats lose at most a point, to int16 and to float.
"""

from __future__ import annotations

import sys
from typing import Any

import ladder as climbing
import planted
import shared
from diagnose import MOBILENET, RESNET

from edgekit import ladder


def main() -> None:
    """Climb for each case from the plainest rung straight to lifted layers."""
    cases = {cause.replace(" ", "-"): cause for cause in planted.CASES}
    wanted = sys.argv[1:] or [*cases]
    unknown = [name for name in wanted if name not in cases]
    if unknown:
        sys.exit(f"unknown case {', '.join(unknown)}; known: {', '.join(cases)}")
    networks = {network.name: network for network in shared.chosen((), (RESNET, MOBILENET))}
    ladder.WAYS = {"plain": ladder.WAYS["plain"]}
    results: dict[str, Any] = {}
    for name in wanted:
        plant = planted.CASES[cases[name]]
        network = networks[MOBILENET if plant is planted.depthwise_spread else RESNET]
        with shared.workplace() as folder:
            results[name] = climbing.climbed(plant, network, folder)
    shared.finish("lifting", results)


if __name__ == "__main__":
    main()
