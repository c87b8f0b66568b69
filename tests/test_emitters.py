"""Both emitters on one plan: integers only, the same integers, the same bytes every time, and all that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_graphs
from nets import Array, Both, both, cnn, inputs_of
from small_graphs import Builder

from edgekit import __version__
from edgekit.artifact import read_artifact
from edgekit.audit import audit
from edgekit.contract import Contract
from edgekit.emitters import Artifact, onnx_qdq, tflite, tflite_bytes
from edgekit.errors import UnsupportedError
from edgekit.quant import numerics
from edgekit.quant.plan import QuantPlan
from edgekit.reference import serialize
from edgekit.runners import ArtifactModel
from edgekit.runtimes import open_session

NEARLY_ALL = 0.999
FACTS = {"source": "net.onnx", "precision": "int8"}
PREPROCESSING = {"image": {"layout": "NCHW", "mean": [0.5, 0.5, 0.5], "scale": {"uint8": 1 / 255}}}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both(cnn(tmp_path_factory.mktemp("net") / "net.onnx"))


def ends(net: Both) -> list[Artifact]:
    return [net.onnx, net.tflite]


def steps_apart(net: Both, one: Artifact, other: Artifact) -> Array:
    """How many integers lie between two artifacts' scores, over many samples that were not calibrated on."""
    first, second = ArtifactModel(one.data), ArtifactModel(other.data)
    samples = inputs_of(net.graph, 200, seed=9)
    gaps = [first.outputs(s.inputs)["scores"] - second.outputs(s.inputs)["scores"] for s in samples]
    return np.rint(np.abs(np.concatenate(gaps)) / net.plan["scores"].scale[0])


# -- what the files hold --------------------------------------------------------------------------------------------


def test_the_tflite_is_integer_from_end_to_end(net: Both) -> None:
    graph = tflite_bytes.read(net.tflite.data)
    codes = [op.code for op in graph.ops]
    assert codes == ["CONV_2D", "MAX_POOL_2D", "CONV_2D", "ADD", "MEAN", "RESHAPE", "FULLY_CONNECTED"]
    assert {tensor.dtype for tensor in graph.tensors()} == {"int8", "int32"}
    assert [t.dtype for t in (*graph.inputs, *graph.outputs)] == ["int8", "int8"]
    found = audit(net.tflite.data)
    assert found.precision == "int8" and not found.float_ops and not found.transposes and not found.boundary


def test_the_onnx_has_no_float_op(net: Both) -> None:
    found = audit(net.onnx.data)
    assert found.precision == "int8" and not found.float_ops and not found.transposes
    assert {"Conv", "Add", "MaxPool", "Gemm"} <= set(found.counts) and "Relu" not in found.counts
    proto = onnx.load_model_from_string(net.onnx.data)
    onnx.checker.check_model(proto, full_check=True)
    large = [i.name for i in proto.graph.initializer if i.data_type == onnx.TensorProto.FLOAT and "scale" not in i.name]
    assert large == []  # every float that is left is a scale


def test_both_files_hold_the_plans_integers(net: Both) -> None:
    proto = onnx.load_model_from_string(net.onnx.data)
    theirs = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    ours = {t.name: t for t in tflite_bytes.read(net.tflite.data).tensors() if t.data is not None}
    for name in ("w1", "w2", "head", "b2", "bias"):
        q, value = net.plan[name], net.graph.graph.initializers[name].const_value
        assert value is not None
        stored = numerics.quantize(value.numpy(), q)
        np.testing.assert_array_equal(theirs[f"{name}/int"], stored)
        np.testing.assert_array_equal(ours[name].data, stored.transpose(0, 2, 3, 1) if stored.ndim == 4 else stored)
        assert ours[name].quant is not None and ours[name].quant.scale == q.scale
    for data in (net.onnx.data, net.tflite.data):
        read = read_artifact(data).quant
        assert {name: read[name] for name in ("image", "r1", "c2", "r2", "scores")} == {
            name: net.plan[name] for name in ("image", "r1", "c2", "r2", "scores")
        }


# -- what they compute ----------------------------------------------------------------------------------------------


def test_both_are_true_to_the_source(net: Both) -> None:
    assert net.snr(net.onnx)["scores"] > 40 and net.snr(net.tflite)["scores"] > 40


def test_both_agree_within_one_step(net: Both) -> None:
    steps = steps_apart(net, net.onnx, net.tflite)
    assert np.mean(steps <= 1) >= NEARLY_ALL and steps.max() <= 2


def test_without_a_plan_both_are_the_float_model(net: Both) -> None:
    for artifact in (onnx_qdq.emit(net.graph, QuantPlan({})), tflite.emit(net.graph, QuantPlan({}))):
        assert audit(artifact.data).precision == "float32"
        assert net.snr(artifact)["scores"] > 100


def test_uint8_activations_are_the_same_integers_moved(net: Both) -> None:
    unsigned = onnx_qdq.emit(net.graph, net.plan, onnx_qdq.Options("uint8"))
    proto = onnx.load_model_from_string(unsigned.data)
    zeros = {i.data_type for i in proto.graph.initializer if i.name.startswith("zero_point")}
    assert zeros == {onnx.TensorProto.UINT8, onnx.TensorProto.INT8}  # activations, weights
    assert audit(unsigned.data).precision == "int8"
    assert np.mean(steps_apart(net, unsigned, net.onnx) <= 1) >= NEARLY_ALL


@pytest.mark.parametrize(("low", "high"), [(0.5, np.inf), (-np.inf, -0.5)])
def test_a_clip_stays_where_the_scale_is_wider(low: float, high: float) -> None:
    """A scale always holds zero, so that here the limits of the integers do not clip as the activation does."""
    g = Builder(1)
    limits = [g.const(low) if np.isfinite(low) else "", g.const(high) if np.isfinite(high) else ""]
    found = small_graphs.quantized(g.model(g.node("Clip", g.conv(g.input(1, 4, 6, 6), 4, 4), *limits)), g.samples(8))
    assert found.snr("onnx") > 25 and found.snr("tflite") > 25 and found.steps() < 1.01
    step = found.artifacts[1].contract.outputs[0].scale or 0.0
    for sample in (*found.onnx, *found.tflite):
        assert low - step <= sample[0].min() and sample[0].max() <= high + step


# -- the same every time --------------------------------------------------------------------------------------------


def test_a_second_emission_gives_the_same_bytes_and_changes_no_graph(net: Both) -> None:
    before = serialize(net.graph)
    assert onnx_qdq.emit(net.graph, net.plan).data == net.onnx.data
    assert tflite.emit(net.graph, net.plan).data == net.tflite.data
    assert serialize(net.graph) == before


def test_the_order_of_the_plan_does_not_matter(net: Both) -> None:
    turned = QuantPlan(dict(reversed(net.plan.tensors.items())))
    assert onnx_qdq.emit(net.graph, turned).data == net.onnx.data
    assert tflite.emit(net.graph, turned).data == net.tflite.data


def test_reading_and_writing_a_tflite_gives_the_same_bytes(net: Both) -> None:
    graph = tflite_bytes.read(net.tflite.data)
    again = tflite_bytes.read(tflite_bytes.write(graph))
    assert [op.code for op in again.ops] == [op.code for op in graph.ops]
    for mine, theirs in zip(again.tensors(), graph.tensors(), strict=True):
        assert (mine.name, mine.shape, mine.dtype, mine.quant) == (
            theirs.name,
            theirs.shape,
            theirs.dtype,
            theirs.quant,
        )
        np.testing.assert_array_equal(mine.data, theirs.data)
    assert again.metadata == graph.metadata and again.description == graph.description


# -- inputs and outputs ---------------------------------------------------------------------------------------------


def test_names_and_layouts_of_the_ends(net: Both) -> None:
    (image,), (scores,) = net.tflite.contract.inputs, net.tflite.contract.outputs
    assert (image.name, image.shape, image.layout, image.dtype) == ("image", (1, 8, 8, 3), "NHWC", "int8")
    assert (scores.name, scores.shape, scores.dtype) == ("scores", (1, 5), "int8")
    assert (image.scale, image.zero_point) == (net.plan["image"].scale[0], net.plan["image"].zero_point[0])
    (image,) = net.onnx.contract.inputs
    assert (image.name, image.shape, image.layout, image.dtype) == ("image", (1, 3, 8, 8), "NCHW", "float32")
    for artifact in ends(net):
        session = open_session(artifact.data, "onnxruntime" if artifact.format == "onnx" else "litert")
        ports = (*artifact.contract.inputs, *artifact.contract.outputs)
        assert [(p.name, p.shape, p.dtype) for p in ports] == [
            (i.name, i.shape, i.dtype) for i in (*session.inputs, *session.outputs)
        ]


def test_channels_first_on_request(net: Both) -> None:
    asked = tflite.emit(net.graph, net.plan, tflite.Options(input_layout="NCHW"))
    (image,) = asked.contract.inputs
    assert (image.shape, image.layout, image.dtype) == ((1, 3, 8, 8), "NCHW", "int8")
    found = audit(asked.data)
    assert len(found.transposes) == 1 and found.ops[0].op == "TRANSPOSE" and found.precision == "int8"
    assert steps_apart(net, asked, net.tflite).max() == 0


def test_float_ends_on_request(net: Both) -> None:
    asked = tflite.emit(net.graph, net.plan, tflite.Options(io_dtype="float32"))
    ports = (*asked.contract.inputs, *asked.contract.outputs)
    assert [(p.name, p.dtype, p.scale) for p in ports] == [("image", "float32", None), ("scores", "float32", None)]
    found = audit(asked.data)
    assert [op.op for op in found.boundary] == ["QUANTIZE", "DEQUANTIZE"] and found.precision == "int8"
    assert steps_apart(net, asked, net.tflite).max() == 0


def test_what_the_runtime_lacks_is_said_all_at_once(net: Both) -> None:
    with pytest.raises(UnsupportedError) as caught:
        tflite.emit(net.graph, net.plan, tflite.Options(ops=("CONV_2D", "ADD", "RESHAPE", "FULLY_CONNECTED")))
    assert [line.split(",")[0] for line in caught.value.problems] == ["operator MAX_POOL_2D", "operator MEAN"]


# -- what they say of themselves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_an_artifact_describes_itself(net: Both, kind: str) -> None:
    said = {"preprocessing": PREPROCESSING, "labels": ("cat", "dog"), "facts": FACTS}
    if kind == "onnx":
        artifact = onnx_qdq.emit(net.graph, net.plan, onnx_qdq.Options(**said))  # type: ignore[arg-type]
    else:
        artifact = tflite.emit(net.graph, net.plan, tflite.Options(**said))  # type: ignore[arg-type]
    found = read_artifact(artifact.data)
    assert (
        found.contract == artifact.contract == Contract.from_json(json.loads(json.dumps(artifact.contract.to_json())))
    )
    assert found.contract.preprocessing == PREPROCESSING and found.contract.labels == ("cat", "dog")
    assert {key: found.metadata[key] for key in FACTS} == FACTS
    assert found.metadata["edgekit"] == __version__ and found.metadata["plan_sha256"] == net.plan.sha256
    assert audit(artifact.data).metadata["edgekit"] == found.metadata


def test_nothing_tells_where_a_file_was_written(tmp_path: Path) -> None:
    one, other = (both(cnn(tmp_path / name)) for name in ("a.onnx", "b.onnx"))
    for mine, theirs in zip(ends(one), ends(other), strict=True):
        assert mine.data == theirs.data
        assert str(tmp_path).encode() not in mine.data


# -- the shortcut of a ResNet without parameters ---------------------------------------------------------------------


def shortcut(g: Builder, first: str) -> str:
    """Every second pixel, with channels of zeros on either side, added to a strided convolution."""
    x = g.node(first, g.conv(g.input(1, 3, 8, 8), 3, 8, (3, 3), pads=[1, 1, 1, 1]))
    far = g.node("Relu", g.conv(x, 8, 16, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    inner = g.conv(far, 16, 16, (3, 3), pads=[1, 1, 1, 1])
    fewer = g.node("Slice", x, g.const([0, 0]), g.const([8, 8]), g.const([2, 3]), g.const([2, 2]))
    wide = g.node("Pad", fewer, g.const([0, 4, 0, 0, 0, 4, 0, 0]), g.const(np.float32(0.0)))
    return g.node("Add", inner, wide)


@pytest.mark.parametrize("first", ["Relu", "LeakyRelu"])  # zero is the lowest integer, and is not
def test_a_strided_slice_and_padded_channels_are_right_in_both(first: str) -> None:
    g = Builder(3)
    model = g.model(shortcut(g, first))
    exact = small_graphs.floating(model, g.samples(8))
    assert exact.snr("onnx") > 100 and exact.snr("tflite") > 100
    found = small_graphs.quantized(model, g.samples(8))
    assert found.snr("onnx") > 30 and found.snr("tflite") > 30 and found.steps() < 1.01
    assert "TRANSPOSE" not in found.codes
    for artifact in found.artifacts:
        assert audit(artifact.data).precision == "int8" and not audit(artifact.data).float_ops


@pytest.mark.parametrize("op", ["Add", "Sub", "Max", "Where"])
def test_a_constant_that_alone_has_all_axes_keeps_them(op: str) -> None:
    """LiteRT computes shapes anew: without the constant's axes of length 1 the result would lose them."""
    b = Builder()
    x, wide = b.input(1, 8), b.weights(1, 1, 8)
    out = b.node("Where", b.node("Greater", x, b.const(0.0)), x, wide) if op == "Where" else b.node(op, wide, x)
    for run in (small_graphs.floating, small_graphs.quantized):
        outcome = run(b.model(out), b.samples())
        assert [value.shape for (value,) in outcome.tflite] == [value.shape for (value,) in outcome.wanted]
        assert outcome.snr("tflite") > 27
