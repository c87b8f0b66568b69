"""Layers with activations of 16 bits in an artifact of 8 (``[quantization] int16_nodes``), in both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_graphs import Builder, Outcome, outcome

from edgekit import emit
from edgekit.audit import audit
from edgekit.build import prepared
from edgekit.emitters import tflite_bytes
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.passes import prepare, steps
from edgekit.progress import SilentProgress
from edgekit.project import QuantizationConfig, load_project
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.precision import plan_for
from edgekit.quant.ranges import Method
from edgekit.reference import serialize
from edgekit.samples import Sample
from edgekit.target import load_target

LITERT = load_target("raspberry-pi-4-litert")
TARGETS = (LITERT.name, "raspberry-pi-4-onnxruntime")


OFFSET = 500.0
Net = tuple[Builder, str]  # and its output


def net() -> Net:
    """Two convolutions with values far from zero between them, a branch around them, and a classifier."""
    b = Builder(5)
    x, weight = b.input(1, 3, 8, 8), b.rng.integers(-126, 127, (8, 8, 1, 1)) * 0.005
    weight[:, 0] = 127 * 0.005  # so that weights lose nothing
    first = b.node("Relu", b.node("Conv", x, b.weights(8, 3, 3, 3), b.const(np.full(8, OFFSET)), pads=[1, 1, 1, 1]))
    second = b.node("Conv", first, b.const(weight), b.const(-OFFSET * weight.sum((1, 2, 3))))
    total = b.node("Add", second, b.node("MaxPool", b.conv(x, 3, 8), kernel_shape=[1, 1]))
    flat = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", total)))
    return b, b.node("Softmax", b.node("Gemm", flat, b.weights(5, 8), transB=1))


def built(net: Net, *names: str, precision: str = "int8", float_nodes: tuple[str, ...] = ()) -> Outcome:
    """Both artifacts with these nodes lifted to 16 bits."""
    b, end = net
    model, samples, how = b.model(end), b.samples(8), Method("minmax")
    graph = prepare(model)
    config = emit.resolved(graph, QuantizationConfig(int16_nodes=names, float_nodes=float_nodes), "edgekit.toml")
    stepped = steps.shaped(graph, lambda _: "unrolled")
    ranges = ranges_of(observe(stepped.model, [Sample(s) for s in samples], how, SilentProgress(), 8), how)
    form = emit.form(graph, LITERT, precision, config)
    kept = steps.across_steps(ranges, stepped.shared)
    rules = emit.rules_of(LITERT, form, config)
    plan = plan_for(form.model, precision, steps.ranges_of(form, ranges, kept), rules)
    return outcome(form.model, plan, model, samples)


def widths(found: Outcome) -> dict[str, int]:
    """How many operators of the TFLite file give each type."""
    kinds = [op.outputs[0].dtype for op in tflite_bytes.read(found.artifacts[1].data).ops if op.code != "QUANTIZE"]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def test_two_layers_around_a_tensor_keep_what_eight_bits_lose() -> None:
    plain, lifted = built(net()), built(net(), "conv0", "conv2")
    assert lifted.snr("tflite") > plain.snr("tflite") + 10 and lifted.snr("onnx") > plain.snr("onnx") + 10
    assert lifted.steps() <= 1
    assert widths(lifted) == {"int16": 2, "int8": widths(plain)["int8"] - 2}
    assert lifted.codes.count("QUANTIZE") - plain.codes.count("QUANTIZE") == 2
    for artifact in lifted.artifacts:
        checked = audit(artifact.data)
        assert checked.precision == "int8+int16x8" and not checked.float_ops
    assert [audit(artifact.data).precision for artifact in plain.artifacts] == ["int8", "int8"]


@pytest.mark.parametrize("names", [("*",), ("Conv", "Gemm"), ("softmax*",), ("MaxPool", "Add"), ("Flatten",)], ids=str)
def test_the_edges_of_the_model_stay_as_they_were(names: tuple[str, ...]) -> None:
    plain, lifted = built(net()), built(net(), *names)
    assert lifted.steps() <= 1 and lifted.snr("onnx") > plain.snr("onnx") - 1
    for before, after in zip(plain.artifacts, lifted.artifacts, strict=True):
        assert before.contract == after.contract


def test_a_constant_that_two_widths_read_is_stored_in_both() -> None:
    b = Builder()
    x, addend = b.input(1, 4, 6, 6), b.uniform(-1, 1, 4, 1, 1)
    found = built((b, b.node("Concat", b.node("Add", x, addend), b.node("Mul", x, addend), axis=1)), "mul1")
    assert found.plan["c0"].dtype == "int8" and found.plan["c0.mul1"].dtype == "int16"
    assert found.steps() <= 1 and found.snr("tflite") > 35


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_a_recurrent_layer_is_lifted_whole(op: str) -> None:
    b, gates = Builder(), {"LSTM": 4, "GRU": 3}[op]
    x = b.input(6, 1, 4)
    rest = [b.weights(1, gates * 8, 4), b.weights(1, gates * 8, 8)]
    end = b.node("Squeeze", b.node(op, x, *rest, hidden_size=8), b.const([1]))
    plain, lifted = (built((b, end), *names) for names in ((), (op,)))
    assert lifted.snr("tflite") > plain.snr("tflite") and lifted.snr("onnx") > plain.snr("onnx")


def test_float_nodes_read_sixteen_bits_as_they_are() -> None:
    found = built(net(), "conv0", float_nodes=("conv2",))
    assert found.codes.count("DEQUANTIZE") == 1 and "relu1/int8" not in found.plan
    assert found.snr("tflite") > built(net()).snr("tflite") + 10


def test_what_cannot_be_lifted_is_refused_before_work_starts() -> None:
    b = Builder()
    graph = prepare(b.model(b.node("Elu", b.conv(b.input(1, 3, 6, 6), 3, 4))))

    def refused(target: str, precision: str, *names: str) -> str:
        config = emit.resolved(graph, QuantizationConfig(int16_nodes=names), "edgekit.toml")
        with pytest.raises(UnsupportedError) as caught:
            emit.refuse_unsupported(graph, {load_target(target): precision}, config)
        return "\n".join(caught.value.problems)

    assert "Elu: ELU has no sound int16 kernel in LiteRT" in refused(LITERT.name, "int8", "Elu")
    assert refused("microcontroller-tflm", "int8", "conv0") == (
        "microcontroller-tflm: int16_nodes: this target has int8, not int16x8"
    )
    said = "int16_nodes are for int8 and mixed; its precision is float16"
    assert refused(LITERT.name, "float16", "conv0") == f"{LITERT.name}: {said}"


def test_what_is_named_twice_or_not_there_is_an_error() -> None:
    b, end = net()
    graph = prepare(b.model(end))
    config = QuantizationConfig(float_nodes=("Conv",), int16_nodes=("conv2",))
    with pytest.raises(ConfigError, match=r"^edgekit.toml:quantization.int16_nodes: conv2 is one of the float_nodes$"):
        emit.resolved(graph, config, "edgekit.toml")
    with pytest.raises(ConfigError, match=r"quantization.int16_nodes: no node has the name or op Convv; did you mean"):
        emit.resolved(graph, QuantizationConfig(int16_nodes=("Convv",)), "edgekit.toml")


PROJECT = """[model]
source = "net.onnx"
[calibration]
data = "data.npz"
[quantization]
int16_nodes = ["conv0", "conv2"]
"""


def test_a_build_lifts_what_the_project_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(0, 1, (8, 3, 8, 8)).astype(np.float32))
    b, end = net()
    (tmp_path / "net.onnx").write_bytes(serialize(b.model(end)))
    (tmp_path / "edgekit.toml").write_text(PROJECT)
    made = prepared(load_project(tmp_path / "edgekit.toml"), TARGETS, tmp_path / "out")
    found = made.work.built(made.lifted)
    assert [audit(one.artifact.data).precision for one in found] == ["int8+int16x8"] * 2
    assert found[0].plan == found[1].plan
    (tmp_path / "edgekit.toml").write_text(PROJECT + '[[compress]]\nmethod = "quantize-aware"\n')
    said = "edgekit.toml:quantization.int16_nodes: quantize-aware trains for 8 bits in all layers"
    with pytest.raises(ConfigError, match=said):
        prepared(load_project(tmp_path / "edgekit.toml"), TARGETS, tmp_path / "out")
