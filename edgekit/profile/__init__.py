"""How long each layer of an artifact takes, as the runtime's own profiler says.

A profiler slows what it watches, so nothing here is mixed with latency figures: it runs in a process and a session of
its own, after plain runs of the same model, whose median says how far the sum of the layers can be trusted.

- ONNX Runtime writes a trace of the nodes of its optimized graph (``SessionOptions.enable_profiling``).
- LiteRT has a profiler in its C interface (``litert/c/litert_profiler.h``); XNNPACK tells it the time of every kernel.

Both count whole microseconds: what is far below one reads as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import measure
from edgekit.profile.facts import Kernel, LayerTime, LayerTimes
from edgekit.runtimes import read

__all__ = ["Kernel", "LayerTime", "LayerTimes", "profile"]

ROOT = Path(__file__).resolve().parents[2]  # where this edgekit is, whatever else the new process could import
PROCESS = (
    "-c",
    f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from edgekit.profile.process import main; os._exit(main())",
)


def profile(
    path: Path, runtime: str | None = None, threads: int = 1, seconds: float = 0.6, inputs: str = "random"
) -> LayerTimes:
    """The time of every layer of an artifact on this machine, from about ``seconds`` of profiled runs.

    ``runtime`` and ``inputs`` as in ``measure.measure``. Raises ModelError, DataError, InputError, and DeviceError
    where the runtime has no profiler that can be reached from Python.
    """
    request = measure.request_for([path], runtime, threads, inputs) | {"seconds": seconds}
    answer = measure.ask(request, program=PROCESS)
    chosen = request["artifacts"][0]["runtime"]
    kernels = [
        Kernel(k["name"], k["op"], k["node"], middle(k["us"]) / 1e3, tuple(k.get("makes", ())))
        for k in answer["kernels"]
    ]
    layers, elsewhere = _attributed(chosen, read(path), kernels)
    return LayerTimes(
        layers=layers,
        elsewhere=elsewhere,
        p50_ms=float(np.median(answer["plain_ns"])) / 1e6,
        runs=answer["runs"],
        threads=threads,
        runtime=chosen,
        runtime_version=answer["runtime_version"],
        machine=answer["machine"],
    )


def _attributed(
    runtime: str, data: bytes, kernels: Sequence[Kernel]
) -> tuple[tuple[LayerTime, ...], Mapping[str, float]]:
    """Kernels to layers, and what is left by kind of kernel, in ms."""
    attribute: Any
    if runtime == "litert":
        from edgekit.profile.tflite import attribute
    else:
        from edgekit.profile.onnx import attribute
    layers, left = attribute(data, kernels)
    elsewhere: dict[str, float] = {}
    for kernel in left:
        elsewhere[kernel.op] = elsewhere.get(kernel.op, 0.0) + kernel.ms
    return layers, elsewhere


def middle(values: Sequence[float]) -> float:
    """The mean of the middle half: as sturdy as a median, and finer than the whole steps in which it was counted."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))
