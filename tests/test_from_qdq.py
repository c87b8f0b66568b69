"""Models quantized elsewhere: the same integers in TFLite, and one line where a form has no plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_onnx
from nets import Array, cnn, const, inputs_of, node, plan_of, port, save
from small_graphs import Builder

from edgekit.build import build
from edgekit.emitters import onnx_qdq, tflite, tflite_bytes
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.frontends import Loaded, load_graph, load_source
from edgekit.graph import constant
from edgekit.passes import prepare
from edgekit.project import Project
from edgekit.quant.from_qdq import Lifted, lift
from edgekit.quant.numerics import quantize
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.solve import Rules
from edgekit.reference import serialize
from edgekit.runners import ArtifactModel
from edgekit.runtimes import open_session
from edgekit.samples import Sample

WITHIN_ONE_STEP = 0.999
ORT = pytest.importorskip("onnxruntime.quantization")
quant_pre_process = pytest.importorskip("onnxruntime.quantization.shape_inference").quant_pre_process


class Reader(ORT.CalibrationDataReader):  # type: ignore[name-defined,misc]
    """Samples, as ONNX Runtime's quantizer wants them."""

    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantized(source: Path, target: Path, samples: list[dict[str, Array]], **options: Any) -> Path:
    """ONNX Runtime's own static quantization of a file, in QDQ form."""
    folded = target.with_suffix(".folded.onnx")
    quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
    ORT.quantize_static(str(folded), str(target), Reader(samples), quant_format=ORT.QuantFormat.QDQ, **options)
    return target


def built(path: Path, samples: list[dict[str, Array]], **more: Any) -> Any:
    """The report of a TFLite build of that file, beside it."""
    np.savez(path.with_suffix(".npz"), **{name: np.concatenate([s[name] for s in samples]) for name in samples[0]})
    settings = {"calibration.data": str(path.with_suffix(".npz")), **more}
    project = Project.from_flags(str(path), None, settings)
    return build(project, ["linux-x86_64-litert"], path.parent / "out")[0]


INT8, UINT8 = ORT.QuantType.QInt8, ORT.QuantType.QUInt8


OPTIONS: dict[str, dict[str, Any]] = {
    "int8": {"activation_type": INT8, "weight_type": INT8},
    "uint8": {"activation_type": UINT8, "weight_type": INT8},
    "per-channel": {"activation_type": INT8, "weight_type": INT8, "per_channel": True},
    "float-bias": {"activation_type": INT8, "weight_type": INT8, "extra_options": {"QuantizeBias": False}},
    "symmetric": {"activation_type": INT8, "weight_type": INT8, "extra_options": {"ActivationSymmetric": True}},
    "pairs-at-weights": {
        "activation_type": INT8,
        "weight_type": INT8,
        "extra_options": {"AddQDQPairToWeight": True, "DedicatedQDQPair": True},
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_same_integers(tmp_path: Path, options: dict[str, Any]) -> None:
    source = cnn(tmp_path / "float.onnx", opset=17)
    samples = [sample.inputs for sample in inputs_of(load_graph(str(source)), 200)]
    path = quantized(source, tmp_path / "net.onnx", samples[:32], **options)
    report = built(path, samples[:32])
    assert report.artifact.precision == "int8" and report.audit["float_ops"] == []
    session = open_session((tmp_path / "out/linux-x86_64-litert/model.tflite").read_bytes(), "litert")
    theirs = load_source(str(path))
    given = lift(theirs.model).scales
    near = []
    for sample in samples:
        feeds = {"image": quantize(sample["image"].transpose(0, 2, 3, 1), given["image"])}
        found = next(iter(session.run({session.inputs[0].name: feeds["image"]}).values()))
        wanted = quantize(theirs.run(sample)[0], given["scores"])
        near.append(np.abs(found.astype(int) - wanted.astype(int)) <= 1)
    assert np.mean(near) >= WITHIN_ONE_STEP
    assert f"{len(given)} of its {len(given)} scales are kept" in " ".join(report.warnings)


def conv(g: Builder, x: str, inputs: int, outputs: int, kernel: int = 3) -> str:
    return g.node("Conv", x, g.weights(outputs, inputs, kernel, kernel), g.weights(outputs), pads=[kernel // 2] * 4)


def silu(g: Builder, x: str) -> str:
    h = conv(g, x, 4, 8)
    return conv(g, g.node("Mul", h, g.node("Sigmoid", h)), 8, 4)


def concat(g: Builder, x: str) -> str:
    """Three scales: of either input and of the result; one input is read elsewhere too."""
    h = g.node("Relu", conv(g, x, 4, 8))
    return conv(g, g.node("Concat", h, conv(g, h, 8, 4), axis=1), 12, 4)


def upwards(g: Builder, x: str) -> str:
    h = g.node("Relu", conv(g, x, 4, 8))
    up = g.node(
        "ConvTranspose",
        g.node("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2]),
        g.weights(8, 4, 2, 2),
        strides=[2, 2],
    )
    return conv(g, g.node("Concat", h, up, axis=1), 12, 4)


def gate(g: Builder, x: str) -> str:
    """Squeeze and excitation between HardSwish."""
    h = g.node("HardSwish", conv(g, x, 4, 8))
    s = conv(g, g.node("GlobalAveragePool", h), 8, 8, 1)
    return conv(g, g.node("Mul", h, g.node("HardSigmoid", s, alpha=1 / 6, beta=0.5)), 8, 4)


def norm(g: Builder, x: str) -> str:
    """BatchNormalization, quantized apart from what comes before."""
    p = [g.const(np.linspace(low, high, 4)) for low, high in ((-1, 1.5), (-0.2, 0.3), (-0.1, 0.1), (0.8, 1.2))]
    return g.node("Relu", g.node("BatchNormalization", g.node("MaxPool", conv(g, x, 4, 4), kernel_shape=[2, 2]), *p))


def head(g: Builder, x: str) -> str:
    h = g.node("Flatten", g.node("GlobalAveragePool", conv(g, x, 4, 8)))
    return g.node("Add", g.node("MatMul", h, g.weights(8, 5)), g.weights(5))


def pooled(g: Builder, x: str) -> str:
    return g.node("AveragePool", g.node("Relu", conv(g, x, 4, 8)), kernel_shape=[2, 2], strides=[2, 2])


def leaky(g: Builder, x: str) -> str:
    return conv(g, g.node("LeakyRelu", conv(g, x, 4, 8), alpha=0.1), 8, 4)


def clipped(g: Builder, x: str) -> str:
    return conv(g, g.node("Clip", conv(g, x, 4, 8), g.const(np.float32(0)), g.const(np.float32(6))), 8, 4)


def residual(g: Builder, x: str) -> str:
    h = g.node("Relu", conv(g, x, 4, 8))
    return g.node("Relu", g.node("Add", h, conv(g, h, 8, 8)))


def tanh(g: Builder, x: str) -> str:
    return conv(g, g.node("Tanh", conv(g, x, 4, 8)), 8, 4)


def probabilities(g: Builder, x: str) -> str:
    return g.node("Softmax", head(g, x), axis=1)


NETS = [silu, concat, upwards, gate, norm, head, pooled, leaky, clipped, residual, tanh, probabilities]


@pytest.mark.parametrize("options", ["uint8", "symmetric"])
@pytest.mark.parametrize("net", NETS, ids=lambda f: f.__name__)
def test_each_unit_stays_what_it_was(tmp_path: Path, net: Callable[[Builder, str], str], options: str) -> None:
    """All scales are kept, none is added, and outputs agree; ONNX of the plan agrees in every integer."""
    g = Builder()
    out = net(g, g.input(1, 4, 16, 16))
    source = tmp_path / "float.onnx"
    source.write_bytes(serialize(g.model(out)))
    samples = [sample.inputs for sample in inputs_of(load_graph(str(source)), 24)]
    path = tmp_path / "net.onnx"
    ORT.quantize_static(str(source), str(path), Reader(samples), quant_format=ORT.QuantFormat.QDQ, **OPTIONS[options])
    theirs, lifted, plan = planned(path, samples)
    q = plan[out]
    assert {name: plan[name].scale for name in lifted.scales} == {n: q.scale for n, q in lifted.scales.items()}
    tflite_steps, onnx_steps = [], []
    runner = ArtifactModel(tflite.emit(lifted.graph, plan).data)
    ours = ArtifactModel(onnx_qdq.emit(lifted.graph, plan, onnx_qdq.Options("uint8")).data)
    for sample in samples:
        wanted = quantize(theirs.run(sample)[0], q).astype(int)
        tflite_steps.append(np.abs(quantize(runner.outputs(sample)[out], q) - wanted))
        onnx_steps.append(np.abs(quantize(ours.outputs(sample)[out], q) - wanted))
    assert np.mean(np.concatenate(tflite_steps) <= 1) >= WITHIN_ONE_STEP
    assert np.mean(np.concatenate(onnx_steps) <= 1) >= WITHIN_ONE_STEP


def planned(path: Path, samples: list[dict[str, Array]]) -> tuple[Loaded, Lifted, QuantPlan]:
    """A QDQ file, lifted and planned."""
    loaded = load_source(str(path))
    lifted = lift(loaded.model)
    rules = Rules(given={**lifted.scales, **lifted.copies})
    return loaded, lifted, plan_of(lifted.graph, [Sample(s) for s in samples[:4]], rules)


def test_float_models_are_left_alone(tmp_path: Path) -> None:
    model = load_graph(str(cnn(tmp_path / "net.onnx")))
    lifted = lift(model)
    assert not lifted.scales and not lifted.copies
    assert serialize(lifted.graph) == serialize(prepare(model))


def test_a_relu_that_the_integers_do_comes_back(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xr"]),
        node("DequantizeLinear", ["wq", "s", "z8"], ["w"]),
        node("Gemm", ["xr", "w"], ["h"]),
        node("QuantizeLinear", ["h", "s", "low"], ["hq"]),
        node("DequantizeLinear", ["hq", "s", "low"], ["y"]),
    ]
    held = [const("s", 0.1, np.float32), const("z", 3, np.int8), const("z8", 0, np.int8), const("low", -128, np.int8)]
    held += [const("wq", np.arange(-8, 8).reshape(4, 4), np.int8)]
    path = save(tmp_path / "net.onnx", nodes, X_Y, held)
    model = load_graph(str(path))
    lifted = lift(model)
    given = lifted.scales
    assert [n.op_type for n in lifted.graph.graph] == ["Gemm", "Relu"]
    assert given["x"].zero_point == (3,) and given["y"].zero_point == (-128,) and set(given) == {"x", "w", "y"}


SCALES = [const("s", 0.1, np.float32), const("s2", 0.05, np.float32), const("none", 0, np.int8)]
SCALES += [const("z", 3, np.int8), const("low", -128, np.int8)]
X_Y = [port("x", [1, 4])], [port("y", [1, 4])]
X_SAMPLES = [Sample({"x": np.random.default_rng(i).normal(size=(1, 4)).astype(np.float32)}) for i in range(8)]


def pair(name: str, scale: str, zero: str, real: str = "") -> list[Any]:
    """``name`` in integers and back: ``name``/real."""
    stored = node("QuantizeLinear", [name, scale, zero], [f"{name}/stored"])
    return [stored, node("DequantizeLinear", [f"{name}/stored", scale, zero], [real or f"{name}/real"])]


def qdq(tmp_path: Path, **changes: Any) -> Path:
    """A product of x, in integers and back before and behind it; ``changes`` spoil it."""
    zero, weight_zero = (np.asarray(changes.get(key, default)) for key, default in (("zero", 3), ("weight_zero", 0)))
    kinds = [array.dtype if array.dtype.kind == "u" else np.dtype(np.int8) for array in (zero, weight_zero)]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", changes.get("read", "z")], ["xr"]),
        node("DequantizeLinear", ["wq", "s", "wz"], ["w"]),
        node("MatMul", ["xr", "w"], ["h"]),
        *pair("h", "s", "z", "y"),
    ]
    held = [const("s", 0.1, np.float32), const("z", zero, kinds[0]), const("other", 4, kinds[0])]
    held += [const("wq", np.full((4, 4), changes.get("weight", 1)), kinds[1]), const("wz", weight_zero, kinds[1])]
    ends = [port("x", [1, 4])], [port("y", [1, 4])]
    if changes.get("again"):
        nodes += [*pair("x", "other", "z"), node("Abs", ["x/real"], ["y2"])]
        held[2] = const("other", 0.2, np.float32)
        ends[1].append(port("y2", [1, 4]))
    if changes.get("scale"):
        nodes[1] = node("DequantizeLinear", ["xq", "fed", "z"], ["xr"], name="dequantize")
        ends[0].append(port("fed", []))
    return save(tmp_path / "net.onnx", nodes, ends, held, changes.get("opset", 21))


@pytest.mark.parametrize("more", [{"quantization.precision": "int16x8"}, {"quantization.int16_nodes": ["MatMul"]}])
def test_integers_of_eight_bits_become_no_others(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="quantized to int8 already; another precision needs the float model"):
        built(qdq(tmp_path), [{"x": np.ones((1, 4), np.float32)}] * 4, **more)


@pytest.mark.parametrize("opset", [10, 11, 12, 13, 19, 21])
def test_every_opset_with_the_pair(tmp_path: Path, opset: int) -> None:
    lifted = lift(load_graph(str(qdq(tmp_path, opset=opset))))
    assert lifted.scales["x"] == QParams("int8", (float(np.float32(0.1)),), (3,))
    assert set(lifted.scales) == {"x", "w", "y"}


def test_unsigned_integers_are_moved_by_128(tmp_path: Path) -> None:
    lifted = lift(load_graph(str(qdq(tmp_path, zero=np.uint8(131), weight_zero=np.uint8(128), weight=130))))
    assert lifted.scales["x"].zero_point == (3,) and lifted.scales["w"].zero_point == (0,)
    np.testing.assert_allclose(constant(lifted.graph.graph.initializers["w"]), 0.2 * np.ones((4, 4)), rtol=1e-6)


def test_weights_that_are_turned_or_quantized_as_the_model_runs(tmp_path: Path) -> None:
    """torch writes DequantizeLinear, Transpose, MatMul; NNCF and torch QuantizeLinear behind float weights."""
    scales = np.float32([0.1, 0.2, 0.3])
    nodes = [
        *pair("x", "s", "z"),
        node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wr"], axis=0),
        node("Transpose", ["wr"], ["wt"]),
        node("MatMul", ["x/real", "wt"], ["h"]),
        *pair("h", "s", "z", "y"),
    ]
    held = [*SCALES, const("w", np.arange(12).reshape(3, 4) * 0.1, np.float32), const("ws", scales, np.float32)]
    held.append(const("wz", [0, 0, 0], np.int8))
    lifted = lift(load_graph(str(save(tmp_path / "net.onnx", nodes, ([port("x", [1, 4])], [port("y", [1, 3])]), held))))
    assert lifted.scales["wt"].axis == 1 and lifted.scales["wt"].scale == tuple(scales.tolist())
    assert plan_of(lifted.graph, X_SAMPLES, Rules(given=lifted.scales))["wt"].scale == tuple(scales.tolist())


def test_a_pair_between_an_op_and_its_relu_keeps_them_apart(tmp_path: Path) -> None:
    nodes = [
        *pair("x", "s", "z"),
        node("Add", ["x/real", "x/real"], ["h"]),
        *pair("h", "s2", "z"),
        node("Relu", ["h/real"], ["r"]),
        *pair("r", "s", "low", "y"),
    ]
    lifted = lift(load_graph(str(save(tmp_path / "net.onnx", nodes, X_Y, SCALES))))
    assert [n.op_type for n in lifted.graph.graph] == ["Add", "Identity", "Relu"]
    plan = plan_of(lifted.graph, X_SAMPLES, Rules(given={**lifted.scales, **lifted.copies}))
    assert plan["h"].scale != plan["y"].scale and {"x", "h", "y"} == set(lifted.scales)
    codes = [op.code for op in tflite_bytes.read(tflite.emit(lifted.graph, plan).data).ops]
    assert codes == ["ADD", "MUL"]  # by one: what lies below zero ends at the zero point of the result


def test_a_tensor_quantized_anew_in_another_scale(tmp_path: Path) -> None:
    nodes = [
        *pair("x", "s", "z"),
        *pair("x/real", "s2", "z"),
        node("Abs", ["x/real/real"], ["h"]),
        *pair("h", "s", "z", "y"),
    ]
    lifted = lift(load_graph(str(save(tmp_path / "net.onnx", nodes, X_Y, SCALES))))
    assert [n.op_type for n in lifted.graph.graph] == ["Identity", "Abs"]
    plan = plan_of(lifted.graph, X_SAMPLES, Rules(given={**lifted.scales, **lifted.copies}))
    codes = [op.code for op in tflite_bytes.read(tflite.emit(lifted.graph, plan).data).ops]
    assert codes == ["MUL", "ABS"] and len(lifted.scales) == 3  # a product by one rounds exactly; QUANTIZE does not


def test_factors_folded_into_weights_keep_their_integers(tmp_path: Path) -> None:
    """A BatchNormalization behind a convolution whose result is not stored."""
    factors = np.float32([0.5, -2.0, 1.0, 3.0])
    nodes = [
        *pair("x", "s", "z"),
        node("DequantizeLinear", ["wq", "s", "none"], ["w"]),
        node("Conv", ["x/real", "w"], ["c"]),
        node("BatchNormalization", ["c", "gamma", "zero", "zero", "one"], ["n"], epsilon=0.0),
        *pair("n", "s", "z", "y"),
    ]
    held = [
        *SCALES,
        const("gamma", factors),
        const("zero", np.zeros(4, np.float32)),
        const("one", np.ones(4, np.float32)),
    ]
    integers = np.random.default_rng(0).integers(-127, 128, (4, 3, 1, 1))
    held.append(const("wq", integers, np.int8))
    ends = [port("x", [1, 3, 4, 4])], [port("y", [1, 4, 4, 4])]
    lifted = lift(load_graph(str(save(tmp_path / "net.onnx", nodes, ends, held))))
    q = lifted.scales["w"]
    np.testing.assert_allclose(q.scale, 0.1 * np.abs(factors), rtol=1e-6)
    stored = quantize(np.asarray(constant(lifted.graph.graph.initializers["w"])), replace(q, axis=0))
    np.testing.assert_array_equal(stored, integers * np.sign(factors).astype(int)[:, None, None, None])


LEFT_REAL = "came without a scale, so it would be float in int8; allow it (--allow-float)"


@pytest.mark.parametrize("place", ["between", "weight", "read twice"])
def test_what_came_without_a_scale_stays_real_and_must_be_allowed(tmp_path: Path, place: str) -> None:
    nodes = [*pair("x", "s", "z"), node("DequantizeLinear", ["wq", "s", "none"], ["w"])]
    nodes.append(node("MatMul", ["x/real", "w2" if place == "weight" else "w"], ["h"]))
    if place == "between":
        nodes += [node("Abs", ["h"], ["a"]), *pair("a", "s", "z", "y")]
    elif place == "weight":
        nodes += pair("h", "s", "z", "y")
    else:
        nodes += [*pair("h", "s", "z"), node("Mul", ["h", "h/real"], ["a"]), *pair("a", "s", "z", "y")]
    held = [*SCALES, const("wq", np.ones((4, 4)), np.int8), const("w2", np.eye(4), np.float32)]
    path = save(tmp_path / "net.onnx", nodes, X_Y, held)
    samples = [sample.inputs for sample in X_SAMPLES]
    with pytest.raises(UnsupportedError) as caught:
        built(path, samples)
    assert LEFT_REAL in str(caught.value)
    report = built(path, samples, **{"quantization.allow_float": True})
    assert report.audit["float_ops"]


def test_outputs_without_a_scale_get_one_and_that_is_said(tmp_path: Path) -> None:
    """NNCF quantizes what operators read, and leaves the outputs of a model alone."""
    nodes = [*pair("x", "s", "z"), node("DequantizeLinear", ["wq", "s", "none"], ["w"])]
    nodes.append(node("MatMul", ["x/real", "w"], ["y"]))
    held = [*SCALES, const("wq", np.ones((4, 4)), np.int8)]
    path = save(tmp_path / "net.onnx", nodes, X_Y, held)
    report = built(path, [sample.inputs for sample in X_SAMPLES])
    assert report.audit["float_ops"] == []
    assert "2 of its 2 scales are kept; that of y is from calibration" in " ".join(report.warnings)


def test_torch_exports_its_quantized_form(tmp_path: Path) -> None:
    """``quantized_decomposed`` ops, per tensor and per channel, become pairs."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    import quantized_torch

    program = torch.export.export(quantized_torch.net(), (torch.zeros(1, 3, 8, 8),))
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    loaded = load_source(str(path))
    lifted = lift(loaded.model)
    samples = inputs_of(lifted.graph, 8)
    plan = plan_of(lifted.graph, samples, Rules(given={**lifted.scales, **lifted.copies}))
    found = sorted(q.scale[0] for q in lifted.scales.values() if q.axis is None)
    np.testing.assert_allclose(found, sorted(quantized_torch.SCALES), rtol=1e-6)
    out = str(lifted.graph.graph.outputs[0].name)
    runner = ArtifactModel(tflite.emit(lifted.graph, plan).data)
    for sample in samples:
        a, b = runner.outputs(sample.inputs)[out], loaded.run(sample.inputs)[0]
        assert np.abs(quantize(a, plan[out]).astype(int) - quantize(b, plan[out])).max() <= 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"read": "other"}, "tensor xq: is written in one scale and read in another"),
        ({"weight_zero": 7}, "weight wq: int8 with a zero point; integer kernels take symmetric int8"),
        ({"weight_zero": np.uint16(0)}, "weight wq: uint16; integer kernels take int8, and int32 as a bias"),
        (
            {"zero": np.uint16(3)},
            "; ".join(f"tensor {name}: uint16, scales: 1; expected int8 or uint8, and one" for name in "xh"),
        ),
        ({"again": True}, "tensor x: is quantized twice, in two scales"),
        ({"scale": True}, "node dequantize: its scale is not constant, or given for blocks"),
    ],
)
def test_forms_without_a_plan(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        lift(load_graph(str(qdq(tmp_path, **changes))))
    assert str(caught.value) == line


def test_integers_at_the_edge(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(small_onnx.qdq_conv_relu(False))
    with pytest.raises(UnsupportedError, match=r"integers at the model's edge; give a model with float edges"):
        lift(load_graph(str(path)))
