"""Print the Markdown tables for the README from ``benchmarks/results``: runs nothing.

python benchmarks/table.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import shared

ORT = "onnxruntime.quantization"
TFLITE, ONNX = "edgekit TFLite", "edgekit ONNX, uint8 activations"
NONE = "-"


def main() -> None:
    """Print every table that there are results for."""
    latency, size, accuracy, detection = map(shared.load, ("latency", "size", "accuracy", "detection"))
    print("Int8 TFLite, one thread, LiteRT; the best of the other tools on each count:\n")
    heads = ("network", "latency", "best other", "ratio", "bytes", "smallest other", "XNNPACK partitions", "others")
    print_table(heads, [peer_row(name, latency[name], size[name]) for name in latency if name in size])
    print("\nInt8 ONNX (uint8 activations), one thread, ONNX Runtime:\n")
    onnx = [onnx_row(name, item["onnx"][ORT]) for name, item in latency.items() if "ratio" in item["onnx"][ORT]]
    print_table(("network", "latency", "`quantize_static`", "ratio"), onnx)
    print("\nAccuracy (top-1; agreement with float; signal-to-noise of the outputs):\n")
    judged = [row for name, item in accuracy.items() for row in accuracy_rows(name, item)]
    print_table(("network", "artifact", "precision", "top-1", "agrees with float", "SNR"), judged)
    print("\nDetection (AP50; signal-to-noise of the outputs):\n")
    found = [row for name, item in detection.items() for row in detection_rows(name, item)]
    print_table(("network", "artifact", "precision", "bytes", "AP50", "SNR"), found)
    print()
    print(provenance([*latency.values(), *size.values(), *accuracy.values(), *detection.values()]))


def peer_row(name: str, latency: dict[str, Any], size: dict[str, Any]) -> list[str]:
    """One network against the fastest and the smallest of the others."""
    timed, weighed, ours = latency["tflite"], size["others"], size["edgekit"]
    tool = max(timed, key=lambda key: float(timed[key]["ratio"]))
    small = min(weighed, key=lambda key: int(weighed[key]["bytes"]))
    fastest = timed[tool]
    return [
        f"`{name}`",
        f"{fastest['ours']['p50_ms']:.3g} ms",
        f"{fastest['theirs']['p50_ms']:.3g} ms ({tool})",
        f"{fastest['ratio']:.3f} ({fastest['low']:.3f} to {fastest['high']:.3f})",
        f"{ours['bytes']:,}",
        f"{weighed[small]['bytes']:,} ({small})",
        str(ours["partitions"]),
        ", ".join(str(item["partitions"]) for item in weighed.values()),
    ]


def onnx_row(name: str, found: dict[str, Any]) -> list[str]:
    """One network against ONNX Runtime's own quantizer."""
    ratio = f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    return [f"`{name}`", f"{found['ours']['p50_ms']:.3g} ms", f"{found['theirs']['p50_ms']:.3g} ms", ratio]


def accuracy_rows(name: str, result: dict[str, Any]) -> Iterable[list[str]]:
    """Float, both of our artifacts, and the others, on the same inputs."""
    artifacts = result["artifacts"]
    others = [key for key in artifacts if not key.startswith("edgekit") and key != "float"]
    for number, key in enumerate(("float", TFLITE, ONNX, *others)):
        item = artifacts[key]
        yield [
            f"`{name}`, {result['samples']:,} inputs" if number == 0 else "",
            key,
            item.get("precision", "float32"),
            f"{100 * item['top1']:.2f} %" if "top1" in item else NONE,
            f"{100 * item['agreement']:.2f} %" if key != "float" else "",
            f"{item['snr_db']:.1f} dB" if item["snr_db"] is not None else "",
        ]


def detection_rows(name: str, result: dict[str, Any]) -> Iterable[list[str]]:
    """Float, all of our artifacts, and the others, on the same images."""
    for number, (key, item) in enumerate(result["artifacts"].items()):
        yield [
            f"`{name}`, {result['samples']:,} images" if number == 0 else "",
            key,
            item.get("precision", "float32"),
            f"{item['bytes']:,}" if "bytes" in item else "",
            f"{100 * item['ap50']:.2f} %",
            f"{item['snr_db']:.1f} dB" if item["snr_db"] is not None else "",
        ]


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("|", " | ".join(heads), "|")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("|", " | ".join(row), "|")


def provenance(results: Iterable[dict[str, Any]]) -> str:
    """When, on what and with what the results were measured."""
    measured = [item["measured"] for item in results]
    if not measured:
        return "No results yet."
    dates = sorted({item["date"] for item in measured})
    machines = sorted({f"{item['machine']['cpu']}, {item['machine']['cores']} cores" for item in measured})
    versions = sorted({f"{key} {value}" for item in measured for key, value in item["versions"].items()})
    return f"Measured {' to '.join({dates[0]: 0, dates[-1]: 0})} on {'; '.join(machines)}, with {', '.join(versions)}."


if __name__ == "__main__":
    main()
