"""What each way to calibrate makes of a network: signal and accuracy of the ONNX artifact in int8, and seconds.

    python benchmarks/methods.py [NETWORK ...]

Each variant changes ``[calibration]`` in what it says and leaves the rest at its default. Activations are uint8, as
ONNX Runtime on x86-64 wants them; the plan, and so what is lost, is the same in TFLite. Images, of the judging ones:
1,000 of CIFAR-10, all 400 of ImageNet, all 64 of COCO.
"""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import detection
import numpy as np
import shared
from accuracy import snr
from shared import ONNX, Array, Network

from edgekit.build import prepared
from edgekit.built import Prepared
from edgekit.graph import shape_of
from edgekit.runners import ArtifactModel, FloatModel, Runner
from edgekit.samples import Sample, open_samples

DEFAULT = (
    "cifar10_resnet20",
    "cifar10_resnet56",
    "cifar10_mobilenet_v3",
    "imagenet_mobilenet_v1_075",
    "coco_fastestdet",
)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **{f"range = {name}": {"range": name} for name in ("mse", "minmax", "moving-average", "percentile", "entropy")},
    "range = auto": {"range": "auto"},
    "weight_range = mse": {"weight_range": "mse"},
    "nearest": {"rounding": "nearest"},
    "nearest, weight_range = mse": {"rounding": "nearest", "weight_range": "mse"},
    "per_channel = false": {"per_channel": False},
    "per_channel = false, weight_range = mse": {"per_channel": False, "weight_range": "mse"},
    "equalize = false": {"equalize": False},
    "absorb = true": {"absorb": True},
    "absorb = true, range = auto": {"absorb": True, "range": "auto"},
}
IMAGES = 1000


def main() -> None:
    """Judge each network in every variant and print one table of all."""
    results = {}
    for network in shared.chosen(sys.argv[1:], DEFAULT):
        with shared.workplace() as folder:
            results[network.name] = judge(network, folder)
        columns = ("variant", "SNR dB", "agrees with float %", "lost, points", "seconds", "methods chosen")
        shared.table(network.name, columns, rows_of(results[network.name]))
    shared.finish("methods", results)


def judge(network: Network, folder: Path) -> dict[str, Any]:
    """Everything about one network."""
    made = prepared(network.project(folder), [ONNX], folder)
    ports = {str(value.name): shape_of(value) for value in made.graph.graph.inputs}
    inputs = made.work.project.model.inputs
    samples = list(open_samples(str(network.evaluation), ports, inputs, limit=IMAGES, folder=shared.MODELS))
    wanted = outputs(FloatModel(made.graph), samples)
    found = {}
    for name, keys in VARIANTS.items():
        data, about = variant(made, keys)
        found[name] = facts(wanted, outputs(ArtifactModel(data), samples), samples) | about
    return {"samples": len(samples), "variants": found}


def variant(made: Prepared, keys: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The artifact of a variant, the processor's seconds for what no variant before it did, and the methods chosen."""
    work, started = copy.copy(made.work), time.process_time()
    work.project = replace(work.project, calibration=replace(work.project.calibration, **keys))
    (built,) = work.built(made.lifted)
    seconds = time.process_time() - started
    return built.artifact.data, {"seconds": seconds, "methods": dict(Counter(built.methods.values()))}


def outputs(runner: Runner, samples: Iterable[Sample]) -> Array:
    """The first output for every sample."""
    return np.stack([next(iter(runner.outputs(sample.inputs).values()))[0] for sample in samples])


def facts(wanted: Array, found: Array, samples: Sequence[Sample]) -> dict[str, Any]:
    """SNR in dB, agreement with float, and what is lost of top-1 (of AP50 where there are boxes)."""
    if samples[0].label is None:
        first = len(shared.coco_calibration())
        whole = detection.facts(found, wanted, detection.boxes_of(range(first, first + len(samples))))
        return {key: whole[key] for key in ("snr_db", "agreement", "drop")}
    labels = np.asarray([sample.label for sample in samples])
    right = [float(np.mean(scores.argmax(1) == labels)) for scores in (wanted, found)]
    agreement = float(np.mean(wanted.argmax(1) == found.argmax(1)))
    return {"snr_db": snr(wanted, found), "agreement": agreement, "drop": right[0] - right[1]}


def rows_of(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table rows of one network."""
    for name, item in result["variants"].items():
        yield (
            name,
            f"{item['snr_db']:.2f}",
            f"{100 * item['agreement']:.2f}",
            f"{100 * item['drop']:+.2f}",
            f"{item['seconds']:.1f}",
            ", ".join(f"{count} {method}" for method, count in item["methods"].items()),
        )


if __name__ == "__main__":
    main()
