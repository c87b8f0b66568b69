"""Half the MACs of ResNet56 by channel pruning: accuracy of each criterion, float and int8, against the same training.

    python benchmarks/channel_prune.py [--short]

The images went through JPEG, so training alone moves accuracy: the control is the unpruned network, trained alike.
``--short`` is a look at the order of things, without floors: two criteria, one epoch of 4,000 images, 1,000 judge.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import shared
import torch
from latency import facts as timing
from shared import DATA, NETWORKS, TFLITE

from edgekit.audit import audit_file
from edgekit.compress import channel_prune  # noqa: F401 - registers its method
from edgekit.compress.module import to_torch
from edgekit.compress.steps import Context, read_step
from edgekit.frontends import load_graph
from edgekit.measure import compare
from edgekit.passes import opened
from edgekit.progress import PlainProgress
from edgekit.reference import serialize
from edgekit.samples import Sample, Samples, open_samples
from edgekit.verify import ArtifactModel

NETWORK = NETWORKS["cifar10_resnet56"]
SHARE = 0.5
MOST_LOST = 0.015
BATCH = 200
TRAINING = {"optimizer": "nesterov", "rate": 0.01, "batch": 64, "schedule": "cosine"}
CONTROL = "unpruned"


@dataclass(frozen=True)
class Size:
    """How much is trained and judged, and which ways of choosing are tried, as (criterion, scope)."""

    epochs: int
    images: int
    judged: int
    ways: Sequence[tuple[str, str]]


FULL = Size(
    10,
    12_000,
    5_000,
    [(c, "global") for c in ("l1", "l2", "taylor", "random")] + [(c, "layer") for c in ("l1", "taylor")],
)
SHORT = Size(1, 4_000, 1_000, [("l1", "global"), ("taylor", "global"), ("l1", "layer")])


def main() -> None:
    """Train the control, then prune and train by each criterion."""
    shared.chosen((), ())
    size = SHORT if "--short" in sys.argv[1:] else FULL
    torch.set_num_threads(1)
    with shared.workplace() as folder:
        result = measured(size, folder)
    table(result["ways"])
    if size is SHORT:
        shared.save("channel_prune", {f"{NETWORK.name}, short": result})
    else:
        shared.finish("channel_prune", {NETWORK.name: result | {"floors": floors(result["ways"])}})


def measured(size: Size, folder: Path) -> dict[str, Any]:
    """Every way of choosing, and the control."""
    graph = opened(load_graph(f"definitions:{NETWORK.name}", None, {"x": (1, *NETWORK.shape)}, shared.MODELS))
    training, judging = data("cifar10_train", size.images), list(data("cifar10_test", size.judged))
    context = Context(training, training, PlainProgress())
    keys = TRAINING | {"epochs": size.epochs}

    def ran(model: ir.Model, step: Mapping[str, Any]) -> tuple[ir.Model, Mapping[str, Any]]:
        outcome = read_step(step, "benchmarks", 0).run(model, context)
        return outcome.graph, outcome.facts

    models = {CONTROL: graph}
    ways: dict[str, dict[str, Any]] = {CONTROL: {"macs": 1.0, "parameters": 1.0}}
    for criterion, scope in size.ways:
        name = f"{criterion}, {scope}"
        step = {"method": "channel-prune", "criterion": criterion, "scope": scope, "macs": SHARE, "fine_tune": False}
        models[name], facts = ran(graph, step)
        ways[name] = {key: facts[key][1] / facts[key][0] for key in ("macs", "parameters")}
    for name, model in models.items():
        ways[name]["before"] = accuracy(model, judging)
    trained = {name: ran(model, {"method": "fine-tune", **keys})[0] for name, model in models.items()}
    files = {name: artifact(model, name, folder) for name, model in trained.items()}
    for name, path in files.items():
        ways[name] |= {"float": accuracy(trained[name], judging), "int8": artifact_accuracy(path, judging)}
        ways[name] |= {"precision": audit_file(path).precision, "bytes": path.stat().st_size}
        if name != CONTROL:
            ways[name]["latency"] = timing(compare(path, files[CONTROL]))
    return {"epochs": size.epochs, "images": size.images, "judged": size.judged, "ways": ways}


def data(file: str, count: int) -> Samples:
    """Images of CIFAR-10."""
    configs = NETWORK.project(shared.MODELS).model.inputs
    return open_samples(str(DATA / f"{file}.npz"), {"x": (1, *NETWORK.shape)}, configs, limit=count)


def accuracy(graph: ir.Model, judging: Sequence[Sample]) -> float:
    """Top-1 in float."""
    module, right = to_torch(graph), 0
    for start in range(0, len(judging), BATCH):
        part = judging[start : start + BATCH]
        with torch.no_grad():
            found = module(torch.from_numpy(np.concatenate([sample.inputs["x"] for sample in part])))
        right += int((found.argmax(1).numpy() == [sample.label for sample in part]).sum())
    return right / len(judging)


def artifact(graph: ir.Model, name: str, folder: Path) -> Path:
    """The int8 TFLite file of a graph."""
    source = folder / f"{name.replace(', ', '-')}.onnx"
    source.write_bytes(serialize(graph))
    network = replace(NETWORK, name=source.stem, source=str(source), evaluation=None)
    return shared.built(network, (TFLITE,), folder)[TFLITE]


def artifact_accuracy(path: Path, judging: Sequence[Sample]) -> float:
    """Top-1 of an artifact."""
    runner = ArtifactModel(path.read_bytes())
    answers = [int(next(iter(runner.outputs(sample.inputs).values())).argmax()) for sample in judging]
    return float(np.mean([answer == sample.label for answer, sample in zip(answers, judging, strict=True)]))


def floors(ways: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Half the MACs, at most 1.5 points lost in int8, and better than chance."""
    judged = {name: way for name, way in ways.items() if name != CONTROL and not name.startswith("random")}
    best = max(judged, key=lambda name: judged[name]["int8"])
    chance = next(way["int8"] for name, way in ways.items() if name.startswith("random"))
    lost = ways[CONTROL]["int8"] - ways[best]["int8"]
    return [
        shared.at_most("share of MACs left, at most", max(way["macs"] for way in judged.values()), SHARE),
        shared.at_most(f"top-1 lost in int8 against the control ({best})", lost, MOST_LOST),
        shared.at_least(f"top-1 in int8 beyond random ({best})", ways[best]["int8"] - chance, 0.0),
    ]


def table(ways: Mapping[str, Mapping[str, Any]]) -> None:
    """Print all ways."""
    columns = ("way", "MACs", "parameters", "before training %", "float %", "int8 %", "bytes", "latency ratio")
    rows = [
        (
            name,
            f"{way['macs']:.3f}",
            f"{way['parameters']:.3f}",
            *(f"{100 * way[key]:.2f}" for key in ("before", "float", "int8")),
            f"{way['bytes']:,}",
            f"{way['latency']['ratio']:.3f}" if "latency" in way else "",
        )
        for name, way in ways.items()
    ]
    shared.table("Channel pruning of ResNet56", columns, rows)


if __name__ == "__main__":
    main()
