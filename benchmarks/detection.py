"""AP50 of a detector in both artifacts, beside float and the artifacts of other tools on the same images.

    python benchmarks/detection.py

The network's one output holds parts of very different ranges. The second build gives each as an output of its own
(``[model] outputs``). What can be compared is joined to the source's output again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shared
from accuracy import FLOAT, OURS, Peer, samples_of, snr, tool
from shared import ONNX, TFLITE, Array, Network

from edgekit.audit import audit_file
from edgekit.frontends import load_graph
from edgekit.graph import shape_of
from edgekit.passes import prepare
from edgekit.runners import ArtifactModel, FloatModel, Runner

NETWORK = "coco_fastestdet"
PARTS = ("onnx::Concat_744", "onnx::Concat_960", "onnx::Concat_757")  # objectness, box, classes
APART = ", three outputs"
CELLS, OVERLAP, CONFIDENCE = 22, 0.45, 0.001
LARGEST_DROP, LEAST_SNR = 0.010, 15.0


def main() -> None:
    """Build, judge, and print one table."""
    (network,) = shared.chosen((), (NETWORK,))
    with shared.workplace() as folder:
        results = {network.name: judge(network, folder)}
    columns = ("artifact", "precision", "bytes", "AP50 %", "drop", "SNR dB", "agrees with float %")
    rows = [row for result in results.values() for row in rows_of(result)]
    shared.table(f"Detection, {network.name} ({results[network.name]['samples']} images)", columns, rows)
    shared.finish("detection", results)


def judge(network: Network, folder: Path) -> dict[str, Any]:
    """Everything about the detector."""
    project = network.project(folder)
    graph = prepare(load_graph(project.model.source, None, {network.input: (1, *network.shape)}, project.folder))
    ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
    wanted = {str(value.name): shape_of(value) for value in graph.graph.outputs}
    apart = replace(network, outputs=PARTS)
    files = {OURS[target]: path for target, path in shared.built(network, tuple(OURS), folder).items()}
    built = shared.built(apart, (TFLITE, ONNX), folder / "apart")
    files |= {OURS[target] + APART: path for target, path in built.items()}
    runners: dict[str, Runner] = {FLOAT: FloatModel(graph)}
    runners |= {name: ArtifactModel(path.read_bytes()) for name, path in files.items()}
    peers = {tool(path): path for path in network.peers}
    runners |= {name: Peer(path, ports, wanted) for name, path in peers.items()}
    samples = list(samples_of(network, ports, project.model.inputs))
    heads = {name: np.stack([head(runner.outputs(s.inputs)) for s in samples]) for name, runner in runners.items()}
    truth = boxes_of(range(64, 64 + len(samples)))
    found = {name: facts(values, heads[FLOAT], truth) for name, values in heads.items()}
    for name, path in (files | peers).items():
        found[name] |= {"precision": audit_file(path).precision, "bytes": path.stat().st_size}
    return {"samples": len(samples), "artifacts": found, "floors": floors(found)}


def head(outputs: Mapping[str, Array]) -> Array:
    """The source's output, (85, rows, columns), from it or from its parts."""
    parts = [outputs[name] for name in PARTS] if PARTS[0] in outputs else list(outputs.values())
    joined: Array = np.concatenate(parts, 1)[0]
    return joined


def boxes_of(images: Iterable[int]) -> list[Array]:
    """Of each image the true boxes: rows of class, x1, y1, x2, y2 as shares of the image."""
    with np.load(shared.DATA / "coco_128.npz") as data:
        rows, sizes = data["boxes"].astype(np.float64), data["wh"].astype(np.float64)
    found = []
    for image in images:
        mine = rows[rows[:, 0] == image]
        found.append(np.concatenate([mine[:, 1:2], mine[:, 2:] / np.tile(sizes[image], 2)], 1))
    return found


def facts(values: Array, reference: Array, truth: list[Array]) -> dict[str, Any]:
    """Of one artifact: AP50, its drop, the SNR in dB of all and of each part, and agreement of the cells' classes."""
    exact = average_precision([detections(item) for item in reference], truth)
    value = average_precision([detections(item) for item in values], truth)
    parts = {"objectness": slice(0, 1), "box": slice(1, 5), "classes": slice(5, None)}
    return {
        "ap50": value,
        "drop": exact - value,
        "snr_db": snr(reference, values),
        "snr_parts_db": {name: snr(reference[:, part], values[:, part]) for name, part in parts.items()},
        "agreement": float(np.mean(values[:, 5:].argmax(1) == reference[:, 5:].argmax(1))),
    }


def detections(values: Array) -> Array:
    """Rows of class, score, x1, y1, x2, y2 (shares of the image), after suppression, from one head (85, 22, 22)."""
    objectness, box, scores = values[0], values[1:5].astype(np.float64), values[5:]
    row, column = np.mgrid[:CELLS, :CELLS]
    best = scores.argmax(0)
    score = np.clip(objectness, 0, None) ** 0.6 * np.clip(scores.max(0), 0, None) ** 0.4
    x, y = (np.tanh(box[0]) + column) / CELLS, (np.tanh(box[1]) + row) / CELLS
    width, height = 1 / (1 + np.exp(-box[2])), 1 / (1 + np.exp(-box[3]))
    rows = np.stack([best, score, x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1).reshape(-1, 6)
    rows = rows[rows[:, 1] > CONFIDENCE]
    kept = [suppressed(rows[rows[:, 0] == kind]) for kind in np.unique(rows[:, 0])]
    return np.concatenate(kept) if kept else np.zeros((0, 6))


def suppressed(rows: Array) -> Array:
    """Of one class the detections that overlap no better one."""
    rest = rows[np.argsort(-rows[:, 1], kind="stable")]
    kept = []
    while len(rest):
        kept.append(rest[0])
        rest = rest[1:][overlaps(rest[0, 2:], rest[1:, 2:]) <= OVERLAP]
    return np.stack(kept)


def overlaps(box: Array, others: Array) -> Array:
    """Intersection over union of a box (x1, y1, x2, y2) with others."""
    corners = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared_area = np.clip(corners, 0, None).prod(1)
    both = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return np.asarray(shared_area / np.maximum(both - shared_area, 1e-12))


def average_precision(found: list[Array], truth: list[Array]) -> float:
    """Mean over the classes that occur of the precision at 101 recalls (COCO), at an overlap of one half."""
    kinds = np.unique(np.concatenate([boxes[:, 0] for boxes in truth]))
    return float(np.mean([_class_precision(found, truth, kind) for kind in kinds]))


def _class_precision(found: list[Array], truth: list[Array], kind: float) -> float:
    wanted = [boxes[boxes[:, 0] == kind, 1:] for boxes in truth]
    mine = [(row[1], image, row[2:]) for image, rows in enumerate(found) for row in rows[rows[:, 0] == kind]]
    free = [np.ones(len(boxes), bool) for boxes in wanted]
    hits = np.zeros(len(mine))
    for i, (_, image, box) in enumerate(sorted(mine, key=lambda item: -item[0])):
        share = np.where(free[image], overlaps(box, wanted[image]), 0.0)
        if share.max(initial=0.0) >= 0.5:
            free[image][share.argmax()] = False
            hits[i] = 1
    right = np.cumsum(hits)
    recall, precision = right / sum(map(len, wanted)), right / np.arange(1, len(mine) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, np.linspace(0, 1, 101))].mean())


def floors(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every artifact of ours keeps AP50 and signal."""
    ours = {name: item for name, item in found.items() if name.startswith("edgekit")}
    drops = [shared.at_most(f"drop of AP50, {name}", item["drop"], LARGEST_DROP) for name, item in ours.items()]
    return drops + [shared.at_least(f"SNR in dB, {name}", item["snr_db"], LEAST_SNR) for name, item in ours.items()]


def rows_of(result: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    """The table rows."""
    for name, item in result["artifacts"].items():
        ratio = "" if item["snr_db"] is None else f"{item['snr_db']:.1f}"
        size = f"{item['bytes']:,}" if "bytes" in item else ""
        yield (
            name,
            item.get("precision", "float32"),
            size,
            f"{100 * item['ap50']:.2f}",
            f"{100 * item['drop']:.2f}",
            ratio,
            f"{100 * item['agreement']:.2f}",
        )


if __name__ == "__main__":
    main()
