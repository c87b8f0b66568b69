"""The forms in which a transformer can be built, beside what other tools make of it: latency in turns, and accuracy.

    python benchmarks/attention.py [NETWORK ...]

Each form is timed in turns (``edgekit.measure.compare``) against one file: under LiteRT the other tools' dynamic-range
file, or our default form where there is none; under ONNX Runtime what its static quantization makes in this run.
Trained networks are judged on their test images, others on 32 inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import shared
from accuracy import Peer, predictions, samples_of, snr
from latency import ORT, SECONDS, quantize
from latency import facts as timing
from shared import ONNX, TFLITE, Network

from edgekit.audit import audit_file
from edgekit.frontends import load_graph
from edgekit.graph import shape_of
from edgekit.measure import compare
from edgekit.passes import prepare
from edgekit.runners import ArtifactModel, FloatModel, Runner
from edgekit.runtimes.litert import LiteRTSession

DEFAULT = ("vit", "fashion_mnist_vit")
FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "mixed": {"precision": "mixed"},
    "int8": {"precision": "int8"},
    "int8, float normalisation": {"precision": "int8", "allow_float": True},
}
LEAST_DB = 26.0  # of the default form
MOST_DROP = {"default": 0.002, "int8": 0.01}


def main() -> None:
    """Measure each network and print one table of all."""
    results: dict[str, Any] = {}
    with shared.workplace() as folder:
        for network in shared.chosen(sys.argv[1:], DEFAULT):
            forms = built(network, folder)
            tflite, onnx = measured(network, folder, forms[TFLITE]), measured(network, folder, forms[ONNX])
            found = {"tflite": tflite, "onnx": onnx, "floors": floors(tflite) + floors(onnx)}
            results[network.name] = found
            shared.save("attention", {network.name: found})
    columns = ("network", "form", "against", "ms", "ratio", "interval", "partitions", "top-1 %", "SNR dB")
    shared.table("Transformers, one thread", columns, [row for item in results.items() for row in rows_of(*item)])
    shared.finish("attention", results)


def built(network: Network, folder: Path) -> dict[str, dict[str, Path]]:
    """Every form's file, by target; one folder for all, so that they share what is cached."""
    found: dict[str, dict[str, Path]] = {TFLITE: {}, ONNX: {}}
    for form, asked in FORMS.items():
        for target, path in shared.built(network, tuple(found), folder, asked).items():
            found[target][form] = path.rename(folder / f"{network.name}.{form}{path.suffix}")
    return found


def measured(network: Network, folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Every form in one format: what it is timed against, its latency, partitions and accuracy."""
    name, other = opponent(network, folder, files)
    kept = judged(network, folder, {**files, name: other})
    found: dict[str, Any] = {}
    for form, path in files.items():
        found[form] = {"bytes": path.stat().st_size, "precision": audit_file(path).precision, **kept[form]}
        if path.suffix == ".tflite":
            found[form]["partitions"] = LiteRTSession(path).partitions
        if path != other:
            found[form] |= timing(compare(path, other, seconds=SECONDS))
    return {"against": name, "forms": found, "other": kept[name]}


def opponent(network: Network, folder: Path, files: Mapping[str, Path]) -> tuple[str, Path]:
    """The file that all forms are timed against, and what made it."""
    if files["default"].suffix == ".tflite":
        dynamic = [path for path in network.peers if "dynamic" in path.name]
        return (dynamic[0].name.split(".")[1], dynamic[0]) if dynamic else ("default", files["default"])
    path = folder / f"{network.name}.onnxruntime.onnx"
    quantize(network, path, folder)
    return ORT, path


def judged(network: Network, folder: Path, files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Signal-to-noise of the outputs and, of a trained network, top-1 and its drop, of every file."""
    project = network.project(folder)
    graph = prepare(load_graph(project.model.source, None, {network.input: (1, *network.shape)}, project.folder))
    ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
    wanted = {str(value.name): shape_of(value) for value in graph.graph.outputs}
    runners: dict[str, Runner] = {"float": FloatModel(graph)}
    for name, path in files.items():
        foreign = name not in FORMS and path.suffix == ".tflite"
        runners[name] = Peer(path, ports, wanted) if foreign else ArtifactModel(path.read_bytes())
    scores, labels = predictions(runners, samples_of(network, ports, project.model.inputs))
    found: dict[str, dict[str, Any]] = {name: {"snr_db": snr(scores["float"], scores[name])} for name in files}
    if labels[0] is not None:
        right = {name: float((values.argmax(1) == labels).mean()) for name, values in scores.items()}
        for name, item in found.items():
            item |= {"top1": right[name], "drop": right["float"] - right[name]}
    return found


def floors(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The default form keeps the signal and beats its opponent; int8 is all integers; both keep accuracy."""
    forms = result["forms"]
    default, precision = forms["default"], forms["int8"]["precision"]
    found = [shared.at_least("SNR of the default form, dB", default["snr_db"], LEAST_DB)]
    if "ratio" in default:
        found.append(shared.at_most(f"default form over {result['against']}", default["ratio"], 1.0))
    if "drop" in default:
        found += [shared.at_most(f"drop of {form}", forms[form]["drop"], most) for form, most in MOST_DROP.items()]
    return [*found, shared.floor("int8 is all integers", float(precision == "int8"), 1.0, precision == "int8")]


def rows_of(network: str, results: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table rows of one network."""
    for kind in ("tflite", "onnx"):
        result = results[kind]
        for form, item in {result["against"]: result["other"], **result["forms"]}.items():
            timed = ("", "", "", "")
            if "ratio" in item:
                interval = f"{item['low']:.3f} .. {item['high']:.3f}"
                timed = (result["against"], f"{item['ours']['p50_ms']:.4g}", f"{item['ratio']:.3f}", interval)
            top1 = f"{100 * item['top1']:.2f}" if "top1" in item else ""
            yield f"{network} {kind}", form, *timed, str(item.get("partitions", "")), top1, f"{item['snr_db']:.1f}"


if __name__ == "__main__":
    main()
