"""Peak memory of calibrating with 100 and with 10,000 samples: it must not grow with their number.

    python benchmarks/calibration_memory.py

Each case is a process of its own that only loads, prepares and calibrates. The samples come from a Python generator,
and from an .npz (of random pixels; 10,000 of them are 31 MB). Needs nothing but edgekit: the network is made here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import shared
from shared import Array

SHAPE = (3, 32, 32)
COUNTS = (100, 10_000)
ALLOWED = 8e6  # what the allocator may hold back: a thousandth of the samples' 123 MB as floats is far below it


def main() -> None:
    """Run each case and compare."""
    if len(sys.argv) > 1:
        print(json.dumps(calibrated(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
        return
    results, rows = {}, []
    with shared.workplace() as folder:
        network(folder / "net.onnx")
        pixels = np.random.default_rng(0).integers(0, 256, (max(COUNTS), *SHAPE[1:], SHAPE[0]), np.uint8)
        np.savez_compressed(folder / "images.npz", images=pixels)
        for kind in ("generator", "npz"):
            found = [case(kind, folder, count) for count in COUNTS]
            grown = found[-1]["peak_bytes"] - found[0]["peak_bytes"]
            what = f"MB more with {COUNTS[-1]:,} samples than with {COUNTS[0]}"
            floors = [shared.at_most(what, grown / 1e6, ALLOWED / 1e6)]
            results[kind] = {"cases": found, "grown_bytes": grown, "floors": floors}
            rows += [(kind, f"{c['samples']:,}", f"{c['peak_bytes'] / 1e6:.1f}", f"{c['seconds']:.1f}") for c in found]
    shared.table("Calibration", ("samples from", "samples", "peak MB", "s"), rows)
    shared.finish("calibration_memory", results)


def case(kind: str, folder: Path, count: int) -> dict[str, Any]:
    """One case in a process of its own."""
    command = [sys.executable, __file__, kind, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def calibrated(kind: str, folder: Path, count: int) -> dict[str, Any]:
    """Calibrate here, and say what this process held at most."""
    import time

    from edgekit.agent import peak_memory
    from edgekit.frontends import load_graph
    from edgekit.graph import shape_of
    from edgekit.passes import prepare
    from edgekit.progress import SilentProgress
    from edgekit.quant.calibrate import observe, ranges_of
    from edgekit.quant.ranges import Method
    from edgekit.samples import look, open_samples

    started = time.perf_counter()
    graph = prepare(load_graph("net.onnx", folder=folder))
    ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
    data = "images.npz" if kind == "npz" else f"calibration_memory:draw_{count}"
    samples = open_samples(data, ports, limit=count, folder=folder)
    look(samples)
    ranges = ranges_of(observe(graph, samples, Method("mse"), SilentProgress(), count), Method("mse"))
    seconds = time.perf_counter() - started
    return {"samples": len(samples), "tensors": len(ranges), "peak_bytes": peak_memory(), "seconds": seconds}


def drawn(count: int) -> Iterator[Array]:
    """Random images, one at a time."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield generator.standard_normal(SHAPE, np.float32)


def draw_100() -> Iterator[Array]:
    """100 random images."""
    return drawn(100)


def draw_10000() -> Iterator[Array]:
    """10,000 random images."""
    return drawn(10_000)


def network(path: Path) -> None:
    """Six convolutions of 32 channels, with random weights."""
    generator = np.random.default_rng(0)
    nodes, weights, channels, last = [], [], SHAPE[0], "x"
    for number in range(6):
        weight = generator.standard_normal((32, channels, 3, 3), np.float32) * np.float32((2 / (9 * channels)) ** 0.5)
        weights.append(onnx.numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(onnx.helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(onnx.helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        channels, last = 32, f"r{number}"
    value = onnx.helper.make_tensor_value_info
    inputs = [value("x", onnx.TensorProto.FLOAT, [1, *SHAPE])]
    outputs = [value(last, onnx.TensorProto.FLOAT, [1, channels, *SHAPE[1:]])]
    graph = onnx.helper.make_graph(nodes, "net", inputs, outputs, weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]), path)


if __name__ == "__main__":
    main()
