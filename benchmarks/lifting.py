"""What a layer of 16 bits is worth beside one in float, on networks that collapse in int8.

    python benchmarks/lifting.py [CASE ...]

Each case of ``planted.py`` is built as in ``ladder.py``, but what could mend it without lifting layers is left out:
ranges are from minimum to maximum, nothing is equalized, and weights are rounded to the nearest integer or by
``reconstruct``. Then the ladder lifts the fewest layers with which the artifacts of both formats lose at most a point,
to int16 and to float.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import ladder as climbing
import planted
import shared
from diagnose import MOBILENET, RESNET

from edgekit import ladder

ROUNDINGS = ("nearest", "reconstruct")


def main() -> None:
    """Climb for each case from the plainest rung straight to lifted layers."""
    cases = {cause.replace(" ", "-"): cause for cause in planted.CASES}
    wanted = sys.argv[1:] or [*cases]
    unknown = [name for name in wanted if name not in cases]
    if unknown:
        sys.exit(f"unknown case {', '.join(unknown)}; known: {', '.join(cases)}")
    networks = {network.name: network for network in shared.chosen((), (RESNET, MOBILENET))}
    results: dict[str, Any] = {}
    for name, rounding in product(wanted, ROUNDINGS):
        ladder.WAYS = {rounding: {"range": "minmax", "equalize": False, "rounding": rounding}}
        plant = planted.CASES[cases[name]]
        network = networks[MOBILENET if plant is planted.depthwise_spread else RESNET]
        with shared.workplace() as folder:
            results[f"{name}, {rounding}"] = climbing.climbed(plant, network, folder)
        shared.save("lifting", results)
    shared.finish("lifting", results)


if __name__ == "__main__":
    main()
