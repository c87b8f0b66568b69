"""Models that ONNX Runtime quantized, built as TFLite: how often the output integers agree, within a step.

    python benchmarks/from_qdq.py [NETWORK ...]

``quantize_static`` makes the QDQ file (int8 weights per channel, uint8 activations). ONNX Runtime runs that file, and
LiteRT what edgekit makes of it, on inputs that did not calibrate either where there are such, else on those that did.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import latency
import numpy as np
import shared
from shared import TFLITE, Network

from edgekit.build import build
from edgekit.errors import EdgekitError
from edgekit.frontends import load_source
from edgekit.graph import shape_of
from edgekit.quant.from_qdq import take_out
from edgekit.quant.numerics import quantize
from edgekit.samples import Samples, open_calibration, open_samples
from edgekit.verify import ArtifactModel

DEFAULT = (
    "cifar10_resnet20",
    "cifar10_resnet56",
    "cifar10_mobilenet_v3",
    "imagenet_mobilenet_v1_075",
    "ds_cnn",
    "unet",
)
COMPARED = 100
FLOOR = 0.999


def main() -> None:
    """Compare each network and print one table of all."""
    results = {}
    with shared.workplace() as folder:
        for network in shared.chosen(sys.argv[1:], DEFAULT):
            try:
                results[network.name] = compare(network, folder)
            except EdgekitError as error:
                print(f"{network.name}: not built: {str(error).splitlines()[0]}", file=sys.stderr)
    rows = [
        (name, f"{100 * r['within_one']:.3f}", f"{100 * r['equal']:.3f}", str(r["worst"]), r["said"])
        for name, r in results.items()
    ]
    shared.table("From QDQ", ("network", "within one step %", "equal %", "worst, steps", "scales"), rows)
    shared.finish("from_qdq", results)


def compare(network: Network, folder: Path) -> dict[str, Any]:
    """Quantize elsewhere, build here, and count."""
    path = folder / f"{network.name}.onnx"
    latency.quantize(network, path, folder)
    project = network.project(folder)
    project = replace(project, model=replace(project.model, source=str(path)))
    report = build(project, [TFLITE], folder / f"{network.name}-out")[0]
    theirs = load_source(str(path))
    ours = ArtifactModel(Path(report.artifact.path).read_bytes())
    given = take_out(theirs.model)
    steps = []
    for _, sample in zip(range(COMPARED), _samples(network, folder, theirs.model), strict=False):
        found = ours.outputs(sample.inputs)
        for (name, value), wanted in zip(found.items(), theirs.run(sample.inputs), strict=True):
            a, b = (quantize(array, given[name]).astype(np.int64) for array in (value, wanted))
            steps.append(np.abs(a - b).reshape(-1))
    differ = np.concatenate(steps)
    within, equal = float(np.mean(differ <= 1)), float(np.mean(differ == 0))
    said = next(line for line in report.warnings if "quantized elsewhere" in line).partition(": ")[2]
    return {
        "within_one": within,
        "equal": equal,
        "worst": int(differ.max()),
        "said": said,
        "floors": [shared.at_least("outputs within one step", within, FLOOR)],
    }


def _samples(network: Network, folder: Path, model: Any) -> Samples:
    """What judges the network, or what calibrated it where it has random weights."""
    project = network.project(folder)
    ports = {str(value.name): shape_of(value) for value in model.graph.inputs}
    if network.evaluation is None:
        return open_calibration(project, ports)
    configs = dict(project.model.inputs)
    return open_samples(network.evaluation, ports, configs, folder=shared.MODELS)


if __name__ == "__main__":
    main()
