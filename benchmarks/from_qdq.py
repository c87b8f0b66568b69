"""Models that ONNX Runtime quantized, built as TFLite: how often the output integers agree, and layer by layer why.

    python benchmarks/from_qdq.py [NETWORK ...]

``quantize_static`` makes the QDQ file (int8 weights per channel, uint8 activations). ONNX Runtime runs that file, and
LiteRT what edgekit makes of it, on inputs that did not calibrate either where there are such, else on those that did.

A step that one kernel rounds otherwise grows along a deep network, in any pair of runtimes. Three more figures tell
such rounding from a plan that was not kept:

* ``onnx``: edgekit's own ONNX of the plan against the source, both as ONNX Runtime computes them node by node (its
  optimizations off). Anything but equality is a fault of the plan.
* ``itself``: the source under ONNX Runtime with its optimizations against the same without, which is how far one
  runtime agrees with itself.
* ``layers``: each layer of the TFLite file against ONNX Runtime fed with the very integers that LiteRT's layer read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import latency
import numpy as np
import onnx
import onnxruntime
import shared
from shared import TFLITE, Array, Network

from edgekit.build import build
from edgekit.emitters import onnx_qdq
from edgekit.errors import EdgekitError
from edgekit.frontends import load_source
from edgekit.graph import shape_of
from edgekit.quant.from_qdq import Lifted, lift
from edgekit.quant.numerics import as_unsigned, quantize
from edgekit.quant.plan import QuantPlan
from edgekit.runners import ArtifactModel
from edgekit.samples import Samples, open_calibration, open_samples

DEFAULT = (
    "cifar10_resnet20",
    "cifar10_resnet56",
    "cifar10_mobilenet_v3",
    "imagenet_mobilenet_v1_075",
    "ds_cnn",
    "unet",
)
COMPARED, LOOKED_INTO = 100, 8  # samples for the outputs, and for the layers
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
    columns = (
        "network",
        "within one step %",
        "equal %",
        "worst",
        "ORT itself %",
        "onnx equal %",
        "layers % of integers",
    )
    rows = [
        (
            name,
            *(f"{100 * r[key]:.3f}" for key in ("within_one", "equal")),
            str(r["worst"]),
            f"{100 * r['itself']['within_one']:.3f}",
            f"{100 * r['onnx']['equal']:.3f}",
            f"{100 * r['layers']['differ']:.4f} by {r['layers']['worst_steps']}",
        )
        for name, r in results.items()
    ]
    shared.table("From QDQ", columns, rows)
    shared.finish("from_qdq", results)


def compare(network: Network, folder: Path) -> dict[str, Any]:
    """Quantize elsewhere, build here, and count."""
    path, out = folder / f"{network.name}.onnx", folder / f"{network.name}-out"
    latency.quantize(network, path, folder)
    project = network.project(folder)
    project = replace(project, model=replace(project.model, source=str(path)))
    report = build(project, [TFLITE], out)[0]
    plan = QuantPlan.from_json(json.loads((out / TFLITE / "plan.json").read_text()))
    source = load_source(str(path))
    lifted = lift(source.model)
    ours = onnx_qdq.emit(lifted.graph, plan, onnx_qdq.Options("uint8")).data
    samples = [s.inputs for _, s in zip(range(COMPARED), _samples(network, folder, lifted), strict=False)]
    tflite = Path(report.artifact.path).read_bytes()
    runner, plain, mine = ArtifactModel(tflite), _session(path.read_bytes()), _session(ours)
    steps: dict[str, list[Array]] = {"tflite": [], "itself": [], "onnx": []}
    names = [str(value.name) for value in lifted.graph.graph.outputs]
    for sample in samples:
        wanted = _integers(names, source.run(sample), plan)
        apart = _integers(names, plain.run(None, sample), plan)
        steps["tflite"].append(_integers(names, runner.outputs(sample).values(), plan) - wanted)
        steps["itself"].append(apart - wanted)
        steps["onnx"].append(_integers(names, mine.run(None, sample), plan) - apart)
    found = {key: _agreement(np.concatenate(value)) for key, value in steps.items()}
    layers = _layers(lifted, plan, (tflite, ours), samples[:LOOKED_INTO])
    said = next(line for line in report.warnings if "quantized elsewhere" in line).partition(": ")[2]
    within = found["tflite"]["within_one"]
    floors = [
        shared.at_least("outputs within one step", within, FLOOR),
        shared.at_least("the same plan in ONNX, equal", found["onnx"]["equal"], 1.0),
        shared.at_most("steps that a layer differs by, fed the same", layers["worst_steps"], 1),
    ]
    return {**found.pop("tflite"), **found, "layers": layers, "said": said, "floors": floors}


def _session(data: bytes) -> Any:
    """ONNX Runtime, node by node as the file says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _integers(names: list[str], values: Any, plan: QuantPlan) -> Array:
    """All outputs as the integers of the plan, one after another."""
    found = [quantize(value, plan[name]).astype(int).reshape(-1) for name, value in zip(names, values, strict=True)]
    return np.concatenate(found)


def _agreement(steps: Array) -> dict[str, Any]:
    size = np.abs(steps)
    return {"within_one": float(np.mean(size <= 1)), "equal": float(np.mean(size == 0)), "worst": int(size.max())}


def _layers(
    lifted: Lifted, plan: QuantPlan, artifacts: tuple[bytes, bytes], samples: list[Mapping[str, Array]]
) -> dict[str, Any]:
    """How many integers of all layers differ when each layer reads the same; and the layers that differ most."""
    tflite, ours = artifacts
    runner, session = ArtifactModel(tflite, lifted.graph), _session(_cut(ours))
    kinds = {str(value.name): node.op_type for node in lifted.graph.graph for value in node.outputs}
    steps: dict[str, list[Array]] = {}
    for sample in samples:
        tensors = {**sample, **runner.outputs(sample), **runner.tensors()}
        stored = {name: quantize(value, as_unsigned(plan[name])) for name, value in tensors.items() if name in plan}
        feeds = {info.name: stored[info.name.removesuffix(FED)] for info in session.get_inputs()}
        names = [info.name for info in session.get_outputs()]
        for name, value in zip(names, session.run(None, feeds), strict=True):
            layer = name.removesuffix(STORED)
            if layer in stored:
                steps.setdefault(layer, []).append((stored[layer].astype(int) - value.astype(int)).reshape(-1))
    all_steps = {layer: np.abs(np.concatenate(found)) for layer, found in steps.items()}
    shares = {layer: float(np.mean(found > 0)) for layer, found in all_steps.items()}
    most = sorted(shares, key=lambda layer: -shares[layer])[:3]
    return {
        "compared": len(shares),
        "differ": float(np.mean(np.concatenate(list(all_steps.values())) > 0)),
        "worst_steps": max(int(found.max()) for found in all_steps.values()),
        "most": [{"tensor": n, "op": kinds.get(n, "?"), "differ": shares[n]} for n in most if shares[n]],
    }


FED, STORED = "/int/fed", "/int"  # endings of names in a cut model, and of stored tensors in edgekit's ONNX


def _cut(data: bytes) -> bytes:
    """The QDQ model cut at every stored activation: its integers become an input, and what is computed an output."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data))
    graph = model.graph
    types = {value.name: value for value in graph.value_info}
    written = dict.fromkeys(node.output[0] for node in graph.node if node.op_type == "QuantizeLinear")
    fed: dict[str, None] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in written:
            fed[node.input[0]] = None
            node.input[0] = f"{node.input[0].removesuffix(STORED)}{FED}"
    source = {value.name for value in graph.input}
    first = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in source]
    for node in first:  # what quantizes the model's inputs is no layer
        del written[node.output[0]]
        graph.node.remove(node)
    del graph.output[:], graph.input[:]
    graph.output.extend(types[name] for name in written)
    for name in fed:
        value = onnx.ValueInfoProto()
        value.CopyFrom(types[name])
        value.name = f"{name.removesuffix(STORED)}{FED}"
        graph.input.append(value)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _samples(network: Network, folder: Path, lifted: Lifted) -> Samples:
    """What judges the network, or what calibrated it where it has random weights."""
    project = network.project(folder)
    ports = {str(value.name): shape_of(value) for value in lifted.graph.graph.inputs}
    if network.evaluation is None:
        return open_calibration(project, ports)
    configs = dict(project.model.inputs)
    return open_samples(network.evaluation, ports, configs, folder=shared.MODELS)


if __name__ == "__main__":
    main()
