"""Bytes of our int8 TFLite against the other tools', the integer audit of both, and how XNNPACK partitions them.

    python benchmarks/size.py [NETWORK ...]

The size without metadata is that of the same graph written without edgekit's metadata: what it costs is the difference.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import shared
from shared import ONNX, ONNX_INT8, TFLITE, Network

from edgekit.audit import audit
from edgekit.emitters import tflite_bytes
from edgekit.runtimes.litert import LiteRTSession

DEFAULT = (
    "cifar10_resnet20",
    "cifar10_resnet56",
    "cifar10_mobilenet_v3",
    "imagenet_mobilenet_v1_075",
    "resnet20",
    "mobilenet_v2",
    "ds_cnn",
    "unet",
    "coco_fastestdet",
    "fashion_mnist_vit",
    "vit",
    "gru",
    "lstm",
)
OURS = "edgekit"
SHUFFLED = ("coco_fastestdet",)  # its graph itself moves channels; no fewer TRANSPOSE are asked than the others need


def main() -> None:
    """Weigh and audit each network's artifacts and print one table of all."""
    results: dict[str, Any] = {}
    with shared.workplace() as folder:
        for network in shared.chosen(sys.argv[1:], DEFAULT):
            found = weighed(network, folder)
            if found:
                results[network.name] = found
    columns = (
        "network",
        "artifact",
        "precision",
        "bytes",
        "ours over it",
        "integer ops",
        "I/O",
        "TRANSPOSE",
        "XNNPACK partitions",
    )
    rows = [row for name, result in results.items() for row in rows_of(name, result)]
    shared.table("Size and audit of the TFLite artifacts", columns, rows)
    shared.finish("size", results)


def weighed(network: Network, folder: Path) -> dict[str, Any]:
    """Facts of our artifacts and of the others, or nothing where the network cannot be built."""
    paths = shared.built(network, (TFLITE, ONNX, ONNX_INT8), folder)
    if not paths:
        return {}
    ours = facts(paths[TFLITE])
    ours["bytes_without_metadata"] = len(bare(paths[TFLITE].read_bytes()))
    others = {path.name.split(".")[1]: facts(path) for path in network.peers}
    onnx = {target: paths[target].stat().st_size for target in (ONNX, ONNX_INT8)}
    return {OURS: ours, "onnx_bytes": onnx, "others": others, "floors": floors(network, ours, others)}


def bare(data: bytes) -> bytes:
    """The same artifact without edgekit's metadata."""
    graph = tflite_bytes.read(data)
    kept = {name: value for name, value in graph.metadata.items() if name != "edgekit"}
    return tflite_bytes.write(replace(graph, metadata=kept))


def facts(path: Path) -> dict[str, Any]:
    """What the bytes say, and how many groups of ops XNNPACK takes over."""
    data = path.read_bytes()
    found = audit(data, path.name)
    return {
        "bytes": len(data),
        "precision": found.precision,
        "ops": len(found.ops),
        "integer_ops": sum(item.integer for item in found.ops),
        "boundary": len(found.boundary),
        "transposes": found.counts.get("TRANSPOSE", 0),
        "counts": found.counts,
        "inputs": [terminal.dtype for terminal in found.inputs],
        "outputs": [terminal.dtype for terminal in found.outputs],
        "partitions": LiteRTSession(data).partitions,
    }


def floors(network: Network, ours: dict[str, Any], others: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """All integer, no TRANSPOSE, int8 in and out; no more bytes or partitions than the best of the others.

    Where edgekit chose another precision than int8 by itself, as it does for transformers, only the last two are asked.
    """
    kinds = {*ours["inputs"], *ours["outputs"]}
    forced = min((int(item["transposes"]) for item in others.values()), default=0) if network.name in SHUFFLED else 0
    judged = [
        shared.at_most("ops that are not integer", ours["ops"] - ours["integer_ops"] + ours["boundary"], 0),
        shared.at_most("inputs and outputs that are not int8", len(kinds - {"int8"}), 0),
        shared.at_most("TRANSPOSE ops", ours["transposes"], forced),
    ]
    if ours["precision"] == "dynamic-int8":
        judged = []
    if others:
        tool = min(others, key=lambda name: int(others[name]["bytes"]))
        smallest = others[tool]["bytes"]
        partitions = min(int(item["partitions"]) for item in others.values())
        judged += [
            shared.at_most(f"bytes without metadata over {tool}", ours["bytes_without_metadata"] / smallest, 1.0),
            shared.at_most("XNNPACK partitions, against the fewest", ours["partitions"], partitions),
        ]
    return judged


def rows_of(network: str, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table rows of one network."""
    rows: list[tuple[str, ...]] = []
    mine = result[OURS]["bytes_without_metadata"]
    artifacts = {OURS: result[OURS], f"{OURS} without metadata": result[OURS] | {"bytes": mine}, **result["others"]}
    for name, item in artifacts.items():
        ports = "/".join(sorted({*item["inputs"], *item["outputs"]}))
        share = f"{item['integer_ops']} of {item['ops']}"
        ratio = "" if name.startswith(OURS) else f"{mine / item['bytes']:.3f}"
        counts = (str(item["transposes"]), str(item["partitions"]))
        first = network if not rows else ""
        rows.append((first, name, item["precision"], f"{item['bytes']:,}", ratio, share, ports, *counts))
    return rows


if __name__ == "__main__":
    main()
