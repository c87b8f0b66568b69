"""What writing an operator for XNNPACK gains over the operator that TFLite has for it, in int8 under LiteRT.

    python benchmarks/delegated.py

Each stands behind a convolution to 32 channels of 56 x 56. Both files are timed in turns, and the ratio counts the
convolution too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shared
from shared import ROOT

from edgekit.emitters import tflite
from edgekit.measure import compare

sys.path.append(str(ROOT / "tests"))

from small_graphs import Builder, planned

CHANNELS, SIDE = 32, 56
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
OPS: dict[str, Callable[[Builder, str], str]] = {
    "HardSwish": lambda g, x: g.node("HardSwish", x),
    "PRelu": lambda g, x: g.node("PRelu", x, g.uniform(-0.2, 0.4, CHANNELS, 1, 1)),
    "Relu read beside its input": lambda g, x: g.node("Concat", x, g.node("Relu", x), axis=1),
    "AveragePool 2x2": lambda g, x: g.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]),
    "Resize, nearest, twice as large": lambda g, x: g.node("Resize", x, "", g.const([1.0, 1.0, 2.0, 2.0]), **NEAREST),
}


def main() -> None:
    """Measure each op and print."""
    found: dict[str, Any] = {}
    with shared.workplace() as folder:
        for name, build in OPS.items():
            g = Builder()
            model = g.model(build(g, g.conv(g.input(1, 16, SIDE, SIDE), 16, CHANNELS)))
            graph, plan = planned(model, g.samples(), "int8")
            files = [folder / f"{way}.tflite" for way in ("quick", "plain")]
            for file in files:
                options = tflite.Options(delegated=file.stem == "quick")
                file.write_bytes(tflite.emit(graph, plan, options).data)
            found[name] = measured(*files)
    rows = [
        (name, f"{one['p50_ms']:.3f}", f"{one['plain_ms']:.3f}", f"{one['ratio']:.3f}") for name, one in found.items()
    ]
    shared.table("a convolution and ...", ("op", "p50 ms", "TFLite's own operator, ms", "ratio"), rows)
    shared.finish(
        "delegated",
        {
            "ops": {
                "found": found,
                "floors": [shared.at_most(f"{name}: ratio", one["ratio"], 1.0) for name, one in found.items()],
            }
        },
    )


def measured(quick: Path, plain: Path) -> dict[str, Any]:
    """Both in turns."""
    found = compare(quick, plain)
    return {
        "p50_ms": found.a.p50_ms,
        "plain_ms": found.b.p50_ms,
        "ratio": found.ratio,
        "interval": [found.low, found.high],
    }


if __name__ == "__main__":
    main()
