"""What the ladder makes of networks that collapse in int8, and how long AdaRound takes.

    python benchmarks/ladder.py [CASE ...]

Each case of ``planted.py`` is a trained network whose plain int8 loses its accuracy for one cause. It is built for both
formats with ``[calibration] method = "auto"`` and a gate of one point, and judged on held-out images. *adaround*: how
long the rounding takes on a ResNet20, with 256 images.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import planted
import shared
from diagnose import JUDGED, MOBILENET, RESNET
from shared import ONNX, TFLITE, Network

from edgekit.build import build
from edgekit.compress.adaround import adaround
from edgekit.frontends import load_graph
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.project import parse_project
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.ranges import Method
from edgekit.quant.solve import Rules, solve
from edgekit.reference import serialize
from edgekit.report.model import Report
from edgekit.samples import open_samples

MOST_LOST = 0.01
ADAROUND, IMAGES, MOST_SECONDS = "adaround", 256, 180.0


def main() -> None:
    """Climb for each case and print the rungs."""
    cases = {cause.replace(" ", "-"): cause for cause in planted.CASES}
    wanted = sys.argv[1:] or [*cases, ADAROUND]
    unknown = [name for name in wanted if name not in (*cases, ADAROUND)]
    if unknown:
        sys.exit(f"unknown case {', '.join(unknown)}; known: {', '.join((*cases, ADAROUND))}")
    networks = {network.name: network for network in shared.chosen((), (RESNET, MOBILENET))}
    results: dict[str, Any] = {}
    for name in wanted:
        if name == ADAROUND:
            results[name] = rounded(networks[RESNET])
            continue
        plant = planted.CASES[cases[name]]
        network = networks[MOBILENET if plant is planted.depthwise_spread else RESNET]
        with shared.workplace() as folder:
            results[name] = climbed(plant, network, folder)
    shared.finish("ladder", results)


def climbed(plant: Any, network: Network, folder: Path) -> dict[str, Any]:
    """Build a case by the ladder."""
    source = f"definitions:{network.name}"
    graph, _ = plant(prepare(load_graph(source, None, {network.input: (1, *network.shape)}, shared.MODELS)))
    (folder / "planted.onnx").write_bytes(serialize(graph))
    inputs = {network.input: {"shape": [1, *network.shape], **network.preprocessing}}
    document = {
        "model": {"source": str(folder / "planted.onnx"), "inputs": inputs},
        "calibration": {"data": network.calibration, "samples": 128, "method": "auto"},
        "evaluation": {"data": network.evaluation, "samples": JUDGED},
        "gates": {"accuracy_drop": MOST_LOST},
    }
    started = time.perf_counter()
    reports = build(parse_project(document, shared.MODELS, "benchmarks"), (TFLITE, ONNX), folder / "out")
    seconds = time.perf_counter() - started
    lost = max(report.evaluation.drop for report in reports if report.evaluation is not None)
    show(reports[0])
    return {
        "network": network.name,
        "seconds": seconds,
        "precision": [report.artifact.precision for report in reports],
        "rungs": [
            {"name": rung.name, "target": rung.target, "top1": rung.metric, "snr_db": rung.snr_db, "bytes": rung.bytes,
             "p50_ms": rung.p50_ms, "seconds": rung.seconds, "holds": rung.holds, "chosen": rung.chosen}
            for rung in reports[0].rungs
        ],
        "floors": [shared.at_most("top-1 lost, both artifacts", lost, MOST_LOST)],
    }  # fmt: skip


def show(report: Report) -> None:
    """Print the rungs."""
    rows = [
        (rung.name, rung.target, f"{100 * (rung.metric or 0):.1f}", f"{rung.snr_db or 0:.1f}", f"{rung.seconds:.1f}")
        for rung in report.rungs
    ]
    shared.table(report.model.source, ("rung", "target", "top-1 %", "SNR dB", "seconds"), rows)


def rounded(network: Network) -> dict[str, Any]:
    """The seconds that AdaRound takes."""
    shapes = {network.input: (1, *network.shape)}
    graph = prepare(load_graph(f"definitions:{network.name}", None, shapes, shared.MODELS))
    configs = network.project(Path()).model.inputs
    samples = list(open_samples(str(network.calibration), shapes, configs, limit=IMAGES, folder=shared.MODELS))
    method = Method("mse")
    plan = solve(graph, ranges_of(observe(graph, samples, method, SilentProgress(), IMAGES), method), Rules())
    started = time.perf_counter()
    adaround(graph, plan, samples, SilentProgress(), IMAGES)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "floors": [shared.at_most("seconds of AdaRound", seconds, MOST_SECONDS)]}


if __name__ == "__main__":
    main()
