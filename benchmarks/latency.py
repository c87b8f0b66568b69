"""Latency of our int8 artifacts against every artifact of another tool for the same network, in turns, one thread.

    python benchmarks/latency.py [NETWORK ...]

TFLite runs under LiteRT; each ratio is ours over theirs with its interval (``edgekit.measure.compare``). Our ONNX with
uint8 activations runs under ONNX Runtime, against what ``onnxruntime.quantization`` makes in this run of the same float
graph and the same samples (QDQ, per channel, uint8 activations, its default ranges).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import shared
from shared import ONNX, TFLITE, Network

from edgekit.errors import EdgekitError
from edgekit.frontends import load_graph
from edgekit.graph import shape_of
from edgekit.measure import Comparison, Measurement, compare
from edgekit.passes import prepare
from edgekit.reference import serialize
from edgekit.samples import Samples, open_calibration

DEFAULT = (
    "cifar10_resnet20",
    "cifar10_resnet56",
    "imagenet_mobilenet_v1_075",
    "resnet20",
    "mobilenet_v2",
    "ds_cnn",
    "unet",
    "coco_fastestdet",
    "vit",
    "gru",
    "lstm",
)
LIMIT = 1.02
SECONDS = 3.0
ORT = "onnxruntime.quantization"


def main() -> None:
    """Time each network and print one table of all."""
    results: dict[str, Any] = {}
    with shared.workplace() as folder:
        for network in shared.chosen(sys.argv[1:], DEFAULT):
            found = timed(network, folder)
            if found:
                results[network.name] = found
                shared.save("latency", {network.name: found})
    columns = ("network", "runtime", "against", "ours ms", "theirs ms", "ratio", "interval", "floor")
    rows = [row for name, result in results.items() for row in rows_of(name, result)]
    shared.table("Latency, one thread", columns, rows)
    shared.finish("latency", results)


def timed(network: Network, folder: Path) -> dict[str, Any]:
    """Every comparison of one network, or nothing where it cannot be built."""
    paths = shared.built(network, (TFLITE, ONNX), folder)
    if not paths:
        return {}
    ours = paths[TFLITE]
    tflite = {path.name.split(".")[1]: facts(compare(ours, path, seconds=SECONDS)) for path in network.peers}
    result: dict[str, Any] = {"tflite": tflite, "onnx": {ORT: against_onnxruntime(network, paths[ONNX], folder)}}
    return result | {"floors": floors(tflite)}


def floors(tflite: dict[str, Any]) -> list[dict[str, Any]]:
    """Our TFLite against the fastest of the others: the one that ours has the highest ratio to."""
    if not tflite:
        return []
    tool = max(tflite, key=lambda name: float(tflite[name]["ratio"]))
    fastest = tflite[tool]
    judged = shared.at_most(f"TFLite latency over {tool}", fastest["ratio"], LIMIT)
    return [judged | {"low": fastest["low"], "high": fastest["high"], "verdict": fastest["verdict"]}]


def against_onnxruntime(network: Network, ours: Path, folder: Path) -> dict[str, Any]:
    """Our ONNX against ONNX Runtime's own quantizer, or why there is nothing to compare with."""
    theirs = folder / f"{network.name}.onnxruntime.onnx"
    quantize(network, theirs, folder)
    try:
        return facts(compare(ours, theirs, seconds=SECONDS)) | {"bytes": [ours.stat().st_size, theirs.stat().st_size]}
    except EdgekitError as error:
        return {"error": str(error)}


def quantize(network: Network, path: Path, folder: Path) -> None:
    """ONNX Runtime's static quantization of the float graph, calibrated on the same samples."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    project = network.project(folder)
    graph = prepare(load_graph(project.model.source, None, {network.input: (1, *network.shape)}, project.folder))
    ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
    source = path.with_suffix(".float.onnx")
    source.write_bytes(serialize(graph))
    quantize_static(
        source,
        path,
        reader(open_calibration(project, ports)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def reader(samples: Samples) -> Any:
    """The samples as ONNX Runtime's quantizer reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.stream = iter(samples)

        def get_next(self) -> Any:
            """The next sample, or None."""
            sample = next(self.stream, None)
            return None if sample is None else dict(sample.inputs)

    return Reader()


def facts(found: Comparison) -> dict[str, Any]:
    """A comparison in brief."""
    return {
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "verdict": found.verdict(LIMIT),
        "ours": brief(found.a),
        "theirs": brief(found.b),
    }


def brief(found: Measurement) -> dict[str, Any]:
    """One side of a comparison in brief."""
    keys = ("p50_ms", "p50_interval_ms", "p90_ms", "min_ms", "runs", "processes", "runtime_version", "load_average")
    return {key: getattr(found, key) for key in keys}


def rows_of(network: str, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table rows of one network."""
    rows: list[tuple[str, ...]] = []
    for runtime, others in (("LiteRT", result["tflite"]), ("ONNX Runtime", result["onnx"])):
        for tool, item in others.items():
            first = network if not rows else ""
            if "error" in item:
                rows.append((first, runtime, tool, "", "", "", item["error"][:40], ""))
                continue
            times = (f"{item['ours']['p50_ms']:.4g}", f"{item['theirs']['p50_ms']:.4g}")
            interval = f"{item['low']:.3f} .. {item['high']:.3f}"
            rows.append((first, runtime, tool, *times, f"{item['ratio']:.3f}", interval, item["verdict"]))
    return rows


if __name__ == "__main__":
    main()
