"""Accuracy of both artifacts on real images, beside float and the artifacts of other tools on the same images.

    python benchmarks/accuracy.py [NETWORK ...]

Of networks with random weights there is no accuracy: agreement with float and signal-to-noise on 32 inputs. Of the
detector, signal-to-noise only: what agrees there is the largest of 85 channels in each cell.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shared
from shared import ONNX, ONNX_INT8, TFLITE, Array, Network

from edgekit.artifact import read_artifact
from edgekit.audit import audit_file
from edgekit.contract import Port
from edgekit.frontends import load_graph
from edgekit.graph import shape_of
from edgekit.layout import identity
from edgekit.passes import prepare
from edgekit.runners import ArtifactModel, FloatModel, Runner
from edgekit.runtimes import open_session
from edgekit.samples import Sample, Samples, open_samples

DEFAULT = (
    "cifar10_resnet20",
    "cifar10_resnet56",
    "cifar10_mobilenet_v3",
    "imagenet_mobilenet_v1_075",
    "fashion_mnist_vit",
    "resnet20",
    "mobilenet_v2",
    "ds_cnn",
    "unet",
    "coco_fastestdet",
)
OURS = {TFLITE: "edgekit TFLite", ONNX: "edgekit ONNX, uint8 activations", ONNX_INT8: "edgekit ONNX, int8 activations"}
FLOAT = "float"
PARITY = 0.99
FLOORS: dict[str, dict[str, float]] = {  # ``above_db``: over the best other tool's artifact
    "cifar10_resnet20": {"drop": 0.002, "agreement": 0.985, "above_db": 1.0},
    "cifar10_resnet56": {"drop": 0.002, "agreement": 0.985, "above_db": 1.0},
    "imagenet_mobilenet_v1_075": {"drop": 0.0075, "agreement": 0.955, "snr_db": 18.0},
    "cifar10_mobilenet_v3": {"drop": 0.005},
    "fashion_mnist_vit": {"drop": 0.002},
}
CHANNELS_LAST = (0, 2, 3, 1)


def main() -> None:
    """Judge each network and print one table of all."""
    results = {}
    with shared.workplace() as folder:
        for network in shared.chosen(sys.argv[1:], DEFAULT):
            found = judge(network, folder)
            if found:
                results[network.name] = found
    rows = [row for name, result in results.items() for row in rows_of(name, result)]
    columns = (
        "network",
        "artifact",
        "precision",
        "top-1 %",
        "drop",
        "agrees with float %",
        "SNR dB",
        "agrees with our TFLite %",
    )
    shared.table("Accuracy", columns, rows)
    shared.finish("accuracy", results)


def judge(network: Network, folder: Path) -> dict[str, Any]:
    """Everything about one network, or nothing where it cannot be built."""
    paths = shared.built(network, tuple(OURS), folder)
    if not paths:
        return {}
    project = network.project(folder)
    shapes = {network.input: (1, *network.shape)}
    graph = prepare(load_graph(project.model.source, None, shapes, project.folder))
    ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
    runners: dict[str, Runner] = {FLOAT: FloatModel(graph)}
    runners |= {OURS[target]: ArtifactModel(path.read_bytes()) for target, path in paths.items()}
    wanted = {str(value.name): shape_of(value) for value in graph.graph.outputs}
    for path in network.peers:
        runners[tool(path)] = Peer(path, ports, wanted)
    scores, labels = predictions(runners, samples_of(network, ports, project.model.inputs))
    files = {OURS[target]: path for target, path in paths.items()} | {tool(path): path for path in network.peers}
    found = {name: facts(values, scores, labels) for name, values in scores.items()}
    for name, path in files.items():
        found[name]["precision"] = audit_file(path).precision
    return {"samples": len(labels), "artifacts": found, "floors": floors(network.name, found)}


def tool(path: Path) -> str:
    """What made a peer's artifact."""
    return path.name.split(".")[1]


def samples_of(network: Network, ports: Mapping[str, Any], configs: Mapping[str, Any]) -> Samples | list[Sample]:
    """What judges the network: its evaluation data, or inputs drawn for it."""
    if network.evaluation:
        return open_samples(network.evaluation, ports, configs, folder=shared.MODELS)
    name = next(iter(ports))
    return [Sample({name: x[None]}) for x in shared.definitions().inputs(network.name, shared.JUDGED, 2)]


class Peer:
    """Another tool's artifact as a Runner: ports in the source's order, channels-last where their shapes say so."""

    def __init__(self, path: Path, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        data = path.read_bytes()
        contract = read_artifact(data, path.name).contract
        self.inputs = {name: _moved(p, s) for p, (name, s) in zip(contract.inputs, inputs.items(), strict=True)}
        self.results = {name: _moved(p, s) for p, (name, s) in zip(contract.outputs, outputs.items(), strict=True)}
        self.session = open_session(data, "litert")

    def outputs(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for one sample."""
        found = self.session.run({port.name: port.encode(sample[name]) for name, port in self.inputs.items()})
        return {name: port.decode(found[port.name]) for name, port in self.results.items()}


def _moved(port: Port, shape: tuple[int, ...]) -> Port:
    same = tuple(port.shape) == tuple(shape)
    perm = identity(len(port.shape)) if same or len(shape) != 4 else CHANNELS_LAST
    return Port(port.name, port.shape, port.dtype, perm, "", port.scale, port.zero_point)


def predictions(runners: Mapping[str, Runner], samples: Iterable[Sample]) -> tuple[dict[str, Array], list[Any]]:
    """The first output of every runner for every sample, (samples, ...), and the labels."""
    scores: dict[str, list[Array]] = {name: [] for name in runners}
    labels = []
    for sample in samples:
        labels.append(sample.label)
        for name, runner in runners.items():
            scores[name].append(next(iter(runner.outputs(sample.inputs).values()))[0])
    return {name: np.stack(values) for name, values in scores.items()}, labels


def facts(values: Array, scores: Mapping[str, Array], labels: list[Any]) -> dict[str, Any]:
    """Of one artifact: top-1, its drop, agreement with float and with our TFLite, and the mean-free SNR in dB."""
    reference = scores[FLOAT]
    choice = values.argmax(1)
    found: dict[str, Any] = {
        "agreement": float(np.mean(choice == reference.argmax(1))),
        "agreement_tflite": float(np.mean(choice == scores[OURS[TFLITE]].argmax(1))),
        "snr_db": snr(reference, values),
    }
    if labels[0] is not None:
        truth = np.asarray(labels)
        found["top1"] = float(np.mean(choice == truth))
        found["drop"] = float(np.mean(reference.argmax(1) == truth)) - found["top1"]
    return found


def snr(reference: Array, found: Array) -> float | None:
    """Signal-to-noise in dB of the outputs free of their mean over the samples; None when there is no noise."""
    wanted = reference.astype(np.float64)
    noise = float(np.sum((wanted - found) ** 2))
    signal = float(np.sum((wanted - wanted.mean(0)) ** 2))
    return 10 * float(np.log10(signal / noise)) if noise else None


def floors(name: str, found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The floors of a network, where it has any, for each of our artifacts."""
    wanted = FLOORS.get(name, {})
    others = [item["snr_db"] for key, item in found.items() if key not in (FLOAT, *OURS.values())]
    least_db = wanted.get("snr_db", max(others, default=0.0) + wanted.get("above_db", 0.0))
    judged = []
    for key in OURS.values() if wanted else ():
        item = found[key]
        judged.append(shared.at_most(f"drop, {key}", item["drop"], wanted["drop"]))
        if "agreement" in wanted:
            judged.append(shared.at_least(f"agreement with float, {key}", item["agreement"], wanted["agreement"]))
            judged.append(shared.at_least(f"SNR in dB, {key}", item["snr_db"], least_db))
            judged.append(shared.at_least(f"agrees with TFLite, {key}", item["agreement_tflite"], PARITY))
    return judged


def rows_of(network: str, result: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    """The table rows of one network."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f}"

    for number, (name, item) in enumerate(result["artifacts"].items()):
        ratio = "" if item["snr_db"] is None else f"{item['snr_db']:.1f}"
        yield (
            f"{network} ({result['samples']})" if number == 0 else "",
            name,
            item.get("precision", "float32"),
            percent(item.get("top1")),
            percent(item.get("drop")),
            percent(item["agreement"]),
            ratio,
            percent(item["agreement_tflite"]),
        )


if __name__ == "__main__":
    main()
