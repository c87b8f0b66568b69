"""Trained networks that collapse in int8, each for one cause that was planted: does ``edgekit diagnose`` name it?

    python benchmarks/diagnose.py [CASE ...]

The first six are in the network (``planted.py``): the same function in float. The others are in how it is calibrated.
Each is built in the plainest int8 (no equalizing, nearest rounding, all of the range), diagnosed through the command's
own road, and judged on held-out images; the healthy networks must have no cause.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import planted
import shared
from shared import TFLITE, Network

from edgekit.diagnose.diagnosis import Diagnosis
from edgekit.diagnose.run import run
from edgekit.frontends import load_graph
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.project import Project, parse_project
from edgekit.reference import serialize
from edgekit.runners import ArtifactModel, FloatModel
from edgekit.samples import open_samples
from edgekit.verify import evaluate, metric_of

JUDGED = 1000
PLAIN = {"equalize": False, "rounding": "nearest", "range": "minmax", "samples": 128}
RESNET, MOBILENET = "cifar10_resnet20", "cifar10_mobilenet_v3"


@dataclass(frozen=True)
class Case:
    """A network, what is planted in it, and how it is calibrated. ``cause`` "" is a healthy one."""

    network: str
    cause: str = ""
    plant: Callable[[ir.Model], planted.Planted] | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] | None = None


CASES = {
    "healthy": Case(RESNET),
    "healthy mobilenet": Case(MOBILENET),
    **{
        cause: Case(MOBILENET if plant is planted.depthwise_spread else RESNET, cause, plant)
        for cause, plant in planted.CASES.items()
    },
    "saturated activation": Case(
        RESNET, "saturated activation", calibration={"range": "percentile", "percentile": 97.0}
    ),
    "too little data": Case(RESNET, "too little data", calibration={"samples": 2}),
    "mean and std left out": Case(RESNET, "wrong preprocessing", preprocessing={}),
    "colours turned": Case(RESNET, "wrong preprocessing", preprocessing={**shared.CIFAR, "channels": "BGR"}),
}


def main() -> None:
    """Diagnose each case and print what was named."""
    wanted = sys.argv[1:] or list(CASES)
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        sys.exit(f"unknown case {', '.join(unknown)}; known: {', '.join(CASES)}")
    networks = {network.name: network for network in shared.chosen((), (RESNET, MOBILENET))}
    results = {}
    for name in wanted:
        with shared.workplace() as folder:
            results[name] = diagnosed(CASES[name], networks[CASES[name].network], folder)
    columns = ("case", "network", "named", "at", "float %", "int8 %", "SNR dB", "seconds")
    shared.table("Planted causes", columns, [row_of(name, result) for name, result in results.items()])
    shared.finish("diagnose", results)


def diagnosed(case: Case, network: Network, folder: Path) -> dict[str, Any]:
    """Plant, build, diagnose and judge one case."""
    project, where = project_of(case, network, folder)
    started = time.perf_counter()
    found = run(project, TFLITE, folder / "out", SilentProgress())
    seconds = time.perf_counter() - started
    reference, artifact = (judged(runner, network) for runner in runners(project, network, Path(found.artifact)))
    return {
        "network": network.name,
        "planted": {"cause": case.cause, "at": where},
        "named": [{"cause": f.cause, "at": list(f.tensors), "text": f.text} for f in found.diagnosis.findings],
        "float": reference,
        "int8": artifact,
        "snr_db": found.diagnosis.output_db,
        "tensors": len(found.diagnosis.tensors),
        "seconds": seconds,
        "floors": [shared.at_least("named rightly", float(rightly(case, where, found.diagnosis)), 1.0)],
    }


def rightly(case: Case, where: str, found: Diagnosis) -> bool:
    """Whether the planted cause is named first, at the tensor where it was planted, or nothing where nothing was."""
    if not case.cause:
        return not found.findings
    first = next(iter(found.findings), None)
    return first is not None and first.cause == case.cause and where in ("", *first.tensors[:1])


def project_of(case: Case, network: Network, folder: Path) -> tuple[Project, str]:
    """The project that builds a case, and the tensor at fault (nothing planted in the network: none)."""
    source, where = f"definitions:{network.name}", ""
    if case.plant is not None:
        graph, where = case.plant(
            prepare(load_graph(source, None, {network.input: (1, *network.shape)}, shared.MODELS))
        )
        (folder / "planted.onnx").write_bytes(serialize(graph))
        source = str(folder / "planted.onnx")
    inputs = network.preprocessing if case.preprocessing is None else case.preprocessing
    document = {
        "model": {"source": source, "inputs": {network.input: {"shape": [1, *network.shape], **inputs}}},
        "calibration": {"data": network.calibration, **PLAIN, **case.calibration},
        "evaluation": {"data": network.evaluation},
    }
    return parse_project(document, shared.MODELS, f"benchmarks ({network.name})"), where


def runners(project: Project, network: Network, artifact: Path) -> tuple[FloatModel, ArtifactModel]:
    """The float network and its artifact."""
    shapes = {network.input: (1, *network.shape)}
    graph = prepare(load_graph(project.model.source, None, shapes, shared.MODELS))
    return FloatModel(graph), ArtifactModel(artifact.read_bytes())


def judged(runner: FloatModel | ArtifactModel, network: Network) -> float:
    """Top-1 on held-out images, prepared as the network wants them."""
    configs = network.project(Path()).model.inputs
    samples = open_samples(
        str(network.evaluation), {network.input: (1, *network.shape)}, configs, limit=JUDGED, folder=shared.MODELS
    )
    return evaluate(runner, samples, metric_of("top1", shared.MODELS), SilentProgress(), "", JUDGED).value


def row_of(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    first = next(iter(result["named"]), {"cause": "nothing", "at": []})
    return (
        name,
        result["network"],
        first["cause"],
        next(iter(first["at"]), ""),
        f"{100 * result['float']:.1f}",
        f"{100 * result['int8']:.1f}",
        f"{result['snr_db']:.1f}",
        f"{result['seconds']:.1f}",
    )


if __name__ == "__main__":
    main()
