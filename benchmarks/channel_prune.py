"""Half the MACs, and 0.7 of the latency, of ResNet56 by channel pruning, against the same training without it.

    python benchmarks/channel_prune.py [--short | --after EPOCHS] [--folder FOLDER] [WAY ...]

The images went through JPEG, so training alone moves accuracy. So the network is trained on them first; what comes out
is what every way of pruning starts from and is then taught by, and so is the control, which is not pruned. ``FOLDER``
keeps trained networks, so that a run can go on where it ended; ways already judged with as many epochs and images stay.
``EPOCHS`` after pruning are 7 by default, which makes 10 in all; ``--short`` is a look at the order of things.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import shared
import torch
from latency import facts as timing
from shared import DATA, NETWORKS, TFLITE

from edgekit.audit import audit
from edgekit.compress import channel_prune, distill  # noqa: F401 - they register their methods
from edgekit.compress.module import to_torch
from edgekit.compress.steps import Context, read_step
from edgekit.frontends import load_graph
from edgekit.measure import compare
from edgekit.passes import opened
from edgekit.progress import PlainProgress
from edgekit.reference import serialize
from edgekit.runners import ArtifactModel
from edgekit.samples import Sample, Samples, open_samples
from edgekit.target import load_target
from edgekit.timing import Timer

NETWORK = NETWORKS["cifar10_resnet56"]
MACS, LATENCY, MOST_LOST = 0.5, 0.7, 0.015
BATCH = 200
TRAINING = {"optimizer": "nesterov", "rate": 0.02, "batch": 64, "schedule": "cosine", "mixed": True}
TAUGHT = {"method": "distill", "alpha": 0.7, "temperature": 4.0}
PRUNING = {"method": "channel-prune", "samples": 1024, "scan": 256, "reconstruct": True, "fine_tune": False}
BASE, CONTROL, FAST = "base", "unpruned", "taylor, latency"
WAYS: Mapping[str, Mapping[str, Any]] = {
    CONTROL: {},
    **{name: {"criterion": name, "macs": MACS, "multiple": 1} for name in ("taylor", "l1", "l2", "random")},
    FAST: {"criterion": "taylor", "latency": LATENCY},
}


@dataclass(frozen=True)
class Size:
    """How much is trained and judged: epochs before and after pruning, training images, test images."""

    first: int
    after: int
    images: int
    judged: int


FULL, SHORT = Size(3, 7, 12_000, 5_000), Size(1, 1, 4_000, 1_000)


def main() -> None:
    """Train, prune and judge."""
    shared.chosen((), ())
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--after", type=int, default=FULL.after, metavar="EPOCHS")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("ways", nargs="*", metavar="WAY")
    given = parser.parse_args()
    if unknown := set(given.ways) - set(WAYS):
        parser.error(f"unknown way {', '.join(unknown)}; known: {'; '.join(WAYS)}")
    size = SHORT if given.short else replace(FULL, after=given.after)
    key = NETWORK.name + (", short" if given.short else "")
    torch.set_num_threads(1)
    with shared.workplace() as folder:
        kept = (given.folder or folder).resolve()
        kept.mkdir(parents=True, exist_ok=True)
        run = Run(size, kept, folder)
        for name in given.ways or WAYS:
            found = run.judged(name)
            before = shared.load("channel_prune").get(key, {})
            ways = before.get("ways", {}) if before.get("size") == asdict(size) else {}
            result = {"size": asdict(size), "ways": {**ways, name: found}}
            shared.save("channel_prune", {key: result})
    table(result["ways"])
    shared.finish("channel_prune", {key: result | ({} if given.short else {"floors": floors(result["ways"])})})


class Run:
    """One run: networks as graphs, and what is said of them."""

    def __init__(self, size: Size, kept: Path, folder: Path) -> None:
        self.size, self.kept, self.folder = size, kept, folder
        self.training, self.judging = data("cifar10_train", size.images), list(data("cifar10_test", size.judged))
        self.graph = opened(load_graph(f"definitions:{NETWORK.name}", None, {"x": (1, *NETWORK.shape)}, shared.MODELS))
        timer = Timer({load_target(TFLITE): "int8"})
        self.context = Context(self.training, self.training, PlainProgress(), source=self.graph, latency=timer)

    def step(self, graph: ir.Model, step: Mapping[str, Any], name: str) -> ir.Model:
        """The graph after a compression step, kept under a name."""
        path = self.kept / f"{name.replace(', ', '-')}.onnx"
        if not path.is_file():
            path.write_bytes(serialize(read_step(step, "benchmarks", 0).run(graph, self.context).graph))
        return opened(load_graph(str(path), None, {}, shared.MODELS))

    def judged(self, name: str) -> dict[str, Any]:
        """One way of pruning, before training goes on and after it, in float and in int8."""
        base = self.step(self.graph, {"method": "fine-tune", **TRAINING, "epochs": self.size.first}, BASE)
        cut = self.step(base, {**PRUNING, **WAYS[name]}, f"{name} cut") if WAYS[name] else base
        teacher = {"teacher": str(self.kept / f"{BASE}.onnx")}
        trained = self.step(cut, TAUGHT | TRAINING | teacher | {"epochs": self.size.after}, name)
        path, costs = artifact(trained, name, self.folder), audit(serialize(trained))
        whole = audit(serialize(base))
        found = {
            "macs": costs.macs / whole.macs,
            "parameters": costs.parameters / whole.parameters,
            "before": accuracy(cut, self.judging),
            "float": accuracy(trained, self.judging),
            "int8": artifact_accuracy(path, self.judging),
            "precision": audit(path.read_bytes()).precision,
            "bytes": path.stat().st_size,
        }
        if WAYS[name]:
            found["latency"] = timing(compare(path, artifact(base, BASE, self.folder)))
        return found


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
    """Half the MACs, and 0.7 of the latency, at most 1.5 points lost in int8; and better than chance."""
    found = []
    if CONTROL in ways and "taylor" in ways:
        way, lost = ways["taylor"], ways[CONTROL]["int8"] - ways["taylor"]["int8"]
        found += [
            shared.at_most("share of MACs left, at most", way["macs"], MACS),
            shared.at_most("top-1 lost in int8 against the control, half the MACs", lost, MOST_LOST),
        ]
    if "random" in ways and "taylor" in ways:
        gained = ways["taylor"]["int8"] - ways["random"]["int8"]
        found.append(shared.at_least("top-1 in int8 beyond random", gained, 0.0))
    if CONTROL in ways and FAST in ways:
        way, lost = ways[FAST], ways[CONTROL]["int8"] - ways[FAST]["int8"]
        found += [
            shared.at_most("share of int8 latency left, at most", way["latency"]["ratio"], LATENCY),
            shared.at_most("top-1 lost in int8 against the control, by latency", lost, MOST_LOST),
        ]
    return found


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
