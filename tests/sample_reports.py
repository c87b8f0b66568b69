"""Reports with made-up but plausible numbers, for the tests of their printed forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgekit.audit.facts import Audit, AuditedOp, precision
from edgekit.measure import Measurement
from edgekit.profile import LayerTime, LayerTimes
from edgekit.report.model import (
    ArtifactFacts,
    CalibrationFacts,
    Evaluation,
    Fidelity,
    ModelFacts,
    Parity,
    Report,
    Stage,
    TensorFidelity,
    Verdict,
)

MACHINE = {"cpu": "Intel(R) Xeon(R) CPU", "cores": 2, "architecture": "x86_64", "system": "Linux 6.1"}


def measurement(p50: float, **changes: Any) -> Measurement:
    """A measurement around a median of ``p50`` ms."""
    facts: dict[str, Any] = {
        "p50_ms": p50,
        "p90_ms": 1.07 * p50,
        "p99_ms": 1.31 * p50,
        "mean_ms": 1.02 * p50,
        "stdev_ms": 0.05 * p50,
        "min_ms": 0.97 * p50,
        "p50_interval_ms": (0.99 * p50, 1.02 * p50),
        "p90_interval_ms": (1.05 * p50, 1.09 * p50),
        "p99_interval_ms": (1.21 * p50, 1.44 * p50),
        "runs": 1200,
        "warmup_runs": 80,
        "steady": True,
        "load_ms": 3.2,
        "first_run_ms": 0.9,
        "cold_start_ms": 4.1,
        "peak_memory_bytes": 41_300_000,
        "model_memory_bytes": 2_100_000,
        "inputs": "random",
        "load_average": 0.4,
        "involuntary_switches": 3,
        "processes": 1,
        "threads": 1,
        "runtime": "litert",
        "runtime_version": "ai-edge-litert 2.3.0",
        "machine": MACHINE,
    }
    return Measurement(**{**facts, **changes})


def op(name: str, kind: str, macs: int = 0, integer: bool = True, weight_bytes: int = 0) -> AuditedOp:
    """One op of an audit."""
    dtype = ("int8",) if integer else ("float32",)
    return AuditedOp(name, kind, "integer" if integer else "float", dtype, dtype, dtype[0], weight_bytes, macs)


def audit(*ops: AuditedOp) -> dict[str, Any]:
    """The JSON of an audit of these ops."""
    weights = {"int8": sum(op.weight_bytes for op in ops)}
    return Audit("tflite", 304_944, precision(ops), ops, (), (), (), (), 269_722, weights).to_json()


def port(name: str, shape: list[int], scale: float, zero_point: int, layout: str = "") -> dict[str, Any]:
    """One input or output of a contract, int8."""
    return {
        "name": name,
        "shape": shape,
        "dtype": "int8",
        "perm": list(range(len(shape))),
        "layout": layout,
        "scale": scale,
        "zero_point": zero_point,
    }


OPS = (
    op("conv1", "CONV_2D", 442_368, weight_bytes=496),
    op("layer1.0.conv1", "CONV_2D", 2_359_296, weight_bytes=2_368),
    op("layer1.0.add", "ADD"),
    op("layer2.0.conv1", "CONV_2D", 1_179_648, weight_bytes=4_736),
    op("avg_pool", "MEAN"),
    op("linear", "FULLY_CONNECTED", 640, weight_bytes=680),
)

CONTRACT = {
    "inputs": [port("image", [1, 32, 32, 3], 0.0186584, -14, "NHWC")],
    "outputs": [port("logits", [1, 10], 0.1376, 22)],
    "preprocessing": {"image": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}},
    "labels": ["airplane", "automobile"],
}

TENSORS = (
    TensorFidelity("image", "", 41.2, "int8", 0.0186584, -14, 0.0),
    TensorFidelity("conv1", "Conv", 33.9, "int8", 0.0311, -128, 0.0002),
    TensorFidelity("layer1.0.conv1", "Conv", 24.4, "int8", 0.0452, -128, 0.0004),
    TensorFidelity("layer1.0.add", "Add", 19.1, "int8", 0.0617, -128, 0.0),
    TensorFidelity("layer2.0.conv1", "Conv", 8.3, "int8", 0.0523, -128, 0.031),
    TensorFidelity("avg_pool", "GlobalAveragePool", 29.5, "int8", 0.0512, -128, 0.0),
    TensorFidelity("logits", "Gemm", 27.8, "int8", 0.1376, 22, 0.0),
)

TIMES = LayerTimes(
    layers=(
        LayerTime("conv1", "CONV_2D", "conv1", 0.031, ("Convolution",)),
        LayerTime("layer1.0.conv1", "CONV_2D", "layer1.0.conv1", 0.092, ("Convolution",)),
        LayerTime("layer1.0.add", "ADD", "layer1.0.add", 0.0, ("Add", "Clamp")),
        LayerTime("layer2.0.conv1", "CONV_2D", "layer2.0.conv1", 0.064, ("Convolution",)),
        LayerTime("avg_pool", "MEAN", "avg_pool", 0.003, ("Mean",)),
        LayerTime("logits", "FULLY_CONNECTED", "logits", 0.004, ("Fully Connected",)),
        LayerTime("softmax", "SOFTMAX", "softmax", 0.002, ("SOFTMAX",)),
    ),
    elsewhere={"Transpose": 0.005, "Copy": 0.001},
    p50_ms=0.229,
    runs=395,
    threads=1,
    runtime="litert",
    runtime_version="ai-edge-litert 2.3.0",
    machine=MACHINE,
)

GATES = (
    Verdict("size", 320_000.0, 304_944.0, "pass", "304.9 KB, at most 320.0 KB"),
    Verdict("accuracy_drop", 0.005, 0.0006, "pass", "0.06 points, at most 0.50 points"),
)

FULL = Report(
    edgekit="0.1.0",
    reproduce="edgekit build models.resnet:resnet20 --target raspberry-pi-4-litert --config edgekit.toml",
    model=ModelFacts("models.resnet:resnet20", "a1" * 32, 269_722, 40_550_000, 1_102_832, 20),
    target={
        "name": "raspberry-pi-4-litert",
        "description": "Raspberry Pi 4 with LiteRT",
        "architecture": "arm64",
        "runtime": "litert",
        "threads": 1,
    },
    artifact=ArtifactFacts("build/raspberry-pi-4-litert/model.tflite", "tflite", 304_944, "b2" * 32, "int8"),
    audit=audit(*OPS),
    contract=CONTRACT,
    calibration=CalibrationFacts("calib.npz", 256, "mse", "c3" * 32),
    evaluation=Evaluation("top1", 5000, 0.8068, 0.8062, 0.0006, 0.986),
    fidelity=Fidelity(64, {"logits": 27.8}, TENSORS),
    source_check={"max_abs_difference": 3.8e-06, "snr_db": 128.4},
    parity=Parity("raspberry-pi-4-onnxruntime", 5000, 0.9962, 2, 0.942),
    latency=measurement(0.232),
    float_latency=measurement(
        0.717,
        runtime="onnxruntime",
        runtime_version="1.32.0",
        cold_start_ms=6.6,
        peak_memory_bytes=68_000_000,
        model_memory_bytes=9_600_000,
    ),
    layer_times=TIMES,
    gates=GATES,
    warnings=("calibration: 16 of 256 images are constant (every pixel 0)",),
    stages=(Stage("load", 2.31), Stage("calibrate", 3.4, cached=True), Stage("emit", 0.08), Stage("evaluate", 11.2)),
)

BARE = Report(
    edgekit="0.1.0",
    reproduce="edgekit build net.onnx --target linux-x86_64-onnxruntime",
    model=ModelFacts("nets/net.onnx", "d4" * 32, 12, 40, 1_048, 17),
    target={"name": "linux-x86_64-onnxruntime"},
    artifact=ArtifactFacts("build/linux-x86_64-onnxruntime/model.onnx", "onnx", 1_730, "e5" * 32, "float32"),
    audit=audit(op("gemm", "Gemm", 40, integer=False)),
    contract={"inputs": [], "outputs": [], "preprocessing": {}, "labels": []},
)

HOSTILE_NAME = "<script>alert(1)</script>|`*_[red]x[/red]& \"quoted\" 'single'"

FAILED = replace(
    FULL,
    target={**FULL.target, "name": "raspberry-pi-zero-2w-litert"},
    artifact=replace(FULL.artifact, path="build/raspberry-pi-zero-2w-litert/model.tflite", precision="mixed"),
    audit=audit(*OPS, op("head.softmax", "SOFTMAX", integer=False), op("head.exp", "EXP", integer=False)),
    gates=(
        Verdict("size", 300_000.0, 304_944.0, "fail", "304.9 KB, at most 300.0 KB"),
        Verdict("snr", 20.0, 27.8, "pass", "27.8 dB, at least 20.0 dB"),
        Verdict(
            "latency_p50",
            0.24,
            0.232,
            "inconclusive",
            "0.232 ms, at most 0.240 ms: measured on x86_64, not on the target's arm64",
        ),
        Verdict(
            "accuracy", 0.8, None, "fail", "at least 80.00 % wanted, nothing was measured: evaluation.data is not set"
        ),
    ),
)

HOSTILE = replace(
    FULL,
    model=replace(FULL.model, source=HOSTILE_NAME),
    target={"name": HOSTILE_NAME},
    audit=audit(op(HOSTILE_NAME, HOSTILE_NAME, 5), op("t", "TRANSPOSE")),
    contract={**CONTRACT, "inputs": [port(HOSTILE_NAME, [1], 0.1, 0, HOSTILE_NAME)]},
    fidelity=Fidelity(1, {HOSTILE_NAME: 3.0}, (TensorFidelity(HOSTILE_NAME, HOSTILE_NAME, 3.0, "int8", 0.1, 0),)),
    gates=(Verdict(HOSTILE_NAME, 1.0, 2.0, "fail", HOSTILE_NAME),),
    warnings=(HOSTILE_NAME,),
    stages=(Stage(HOSTILE_NAME, 1.0),),
    reproduce=HOSTILE_NAME,
)
