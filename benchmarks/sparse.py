"""Pruned weights stored as sparse TFLite tensors: bytes, latency, loading time and memory against the dense file.

    python benchmarks/sparse.py [NETWORK ...]

The smallest weights of the whole network are zeroed at once, untrained, and it is built in int8 and in float32. The two
files are timed in turns (``edgekit.measure.compare``), one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shared
from latency import SECONDS
from latency import facts as timing
from shared import TFLITE, Network

from edgekit.build import build
from edgekit.emitters import tflite_bytes
from edgekit.measure import compare
from edgekit.runtimes.litert import LiteRTSession

DEFAULT = ("cifar10_resnet20", "imagenet_mobilenet_v1_075")
SHARES = (0.5, 0.7, 0.8, 0.9)
TIMED = 0.8  # the share at which files are timed
LIMIT = 1.02  # of the dense file's latency
PRECISIONS = ("int8", "float32")


def main() -> None:
    """Measure each network and print one table of all."""
    results: dict[str, Any] = {}
    with shared.workplace() as folder:
        for network in shared.chosen(sys.argv[1:], DEFAULT):
            found = {f"{p}, {s:.0%}": measured(network, p, s, folder) for p in PRECISIONS for s in SHARES}
            floors = [
                shared.at_most(f"{name}: {what}", value, limit)
                for name, item in found.items()
                for what, value, limit in judged(item)
            ]
            results[network.name] = {"files": found, "floors": floors}
            shared.save("sparse", {network.name: results[network.name]})
    columns = ("network", "zeros", "bytes", "dense", "share", "latency", "load ms", "dense", "memory MB", "dense")
    rows = [row(name, zeros, item) for name, value in results.items() for zeros, item in value["files"].items()]
    shared.table("Sparse TFLite tensors, one thread", columns, rows)
    shared.finish("sparse", results)


def measured(network: Network, precision: str, share: float, folder: Path) -> dict[str, Any]:
    """One network pruned by a share: the file as it is built, against the same with dense weights."""
    project = network.project(folder, quantization={"precision": precision})
    steps = ({"method": "prune", "sparsity": share, "scope": "global", "epochs": 0},) if share else ()
    (report,) = build(replace(project, compress=steps), (TFLITE,), folder / network.name)
    held, spread = Path(report.artifact.path), folder / "dense.tflite"
    spread.write_bytes(dense(held.read_bytes()))
    sessions = LiteRTSession(held), LiteRTSession(spread)
    feeds = {
        port.name: np.random.default_rng(0).integers(-100, 100, port.shape).astype(port.dtype)
        for port in sessions[0].inputs
    }
    outputs = [session.run(feeds) for session in sessions]
    return {
        "bytes": held.stat().st_size,
        "dense_bytes": spread.stat().st_size,
        "partitions": [session.partitions for session in sessions],
        "same": all(np.array_equal(value, outputs[1][name]) for name, value in outputs[0].items()),
        **(against(held, spread) if share == TIMED else {}),
    }


def dense(data: bytes) -> bytes:
    """A file with every sparse tensor as a dense one, and without DENSIFY."""
    graph = tflite_bytes.read(data)
    made = {op.outputs[0]: op for op in graph.ops if op.code == "DENSIFY"}
    for spread, op in made.items():
        spread.data = op.inputs[0].data if op.inputs[0] is not None else None
    graph.ops = [op for op in graph.ops if op.code != "DENSIFY"]
    return tflite_bytes.write(graph)


def against(held: Path, spread: Path) -> dict[str, Any]:
    """Latency, loading and memory of the two."""
    found = compare(held, spread, seconds=SECONDS)
    sides = {"": found.a, "dense_": found.b}
    more = {f"{side}load_ms": item.load_ms for side, item in sides.items()}
    more |= {f"{side}memory_bytes": item.model_memory_bytes for side, item in sides.items()}
    return {"latency": timing(found), **more}


def judged(item: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """What must hold: never larger, the same numbers and partitions, and no latency lost (the interval's low end)."""
    found = [
        ("share of the dense bytes", item["bytes"] / item["dense_bytes"], 1.0),
        ("outputs that differ", float(not item["same"]), 0.0),
        ("partitions more", float(item["partitions"][0] - item["partitions"][1]), 0.0),
    ]
    return [*found, *([("latency, low end", item["latency"]["low"], LIMIT)] if "latency" in item else [])]


def row(name: str, zeros: str, item: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    cells = [
        name,
        zeros,
        f"{item['bytes']:,}",
        f"{item['dense_bytes']:,}",
        f"{item['bytes'] / item['dense_bytes']:.3f}",
    ]
    if "latency" not in item:
        return [*cells, *[""] * 5]
    timed = item["latency"]
    megabytes = [f"{item[key] / 1e6:.1f}" for key in ("memory_bytes", "dense_memory_bytes")]
    loads = [f"{item[key]:.1f}" for key in ("load_ms", "dense_load_ms")]
    return [*cells, f"{timed['ratio']:.3f} ({timed['low']:.3f} to {timed['high']:.3f})", *loads, *megabytes]


if __name__ == "__main__":
    main()
