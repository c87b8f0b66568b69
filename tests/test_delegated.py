"""What is written otherwise where the runtime hands what it can to XNNPACK: one partition, and the same integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import Array, Builder, planned

from edgekit.emitters import Artifact, tflite, tflite_bytes
from edgekit.graph import attributes
from edgekit.passes import prepare
from edgekit.quant.plan import QuantPlan
from edgekit.reference import Reference
from edgekit.runtimes.litert import LiteRTSession

CHANNELS, SIDE = 8, 12
DOUBLED = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def doubled(g: Builder, x: str) -> str:
    return g.node("Resize", x, "", g.const([1.0, 1.0, 2.0, 2.0]), mode="nearest", **DOUBLED)


def beside(g: Builder, x: str) -> str:
    """A Relu whose input is read by others too, so that no operator takes it in."""
    return g.node("Concat", x, g.node("Relu", x), axis=1)


Build = Callable[[Builder, str], str]
# What is built between two convolutions; the operators without a delegate, and with one; by how much they may differ.
WAYS: dict[str, tuple[Build, list[str], list[str], int]] = {
    "HardSwish": (lambda g, x: g.node("HardSwish", x), ["HARD_SWISH"], ["ADD", "MUL", "MUL"], 1),
    "PRelu": (
        lambda g, x: g.node("PRelu", x, g.uniform(-0.2, 0.4, CHANNELS, 1, 1)),
        ["PRELU"],
        ["ADD", "SUB", "MUL", "ADD"],
        1,
    ),
    "Relu": (beside, ["RELU", "QUANTIZE", "CONCATENATION"], ["QUANTIZE", "QUANTIZE", "CONCATENATION"], 0),
    "AveragePool": (
        lambda g, x: g.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2]),
        ["AVERAGE_POOL_2D"],
        ["DEPTHWISE_CONV_2D"],
        1,
    ),
    "Resize": (doubled, ["RESIZE_NEAREST_NEIGHBOR"], ["CONCATENATION", "DEPTH_TO_SPACE"], 0),
}


def between(build: Build) -> tuple[ir.Model, list[dict[str, Array]]]:
    g = Builder()
    inner = build(g, g.conv(g.input(1, CHANNELS, SIDE, SIDE), CHANNELS, CHANNELS))
    channels = int(g.model(inner).graph.outputs[0].shape[1])  # type: ignore[index,arg-type]
    return g.model(g.conv(inner, channels, 4)), g.samples()


@pytest.mark.parametrize("name", WAYS)
def test_one_partition_and_the_same_integers(name: str) -> None:
    build, plain, otherwise, steps = WAYS[name]
    model, samples = between(build)
    graph, plan = planned(model, samples, "int8")
    quick, slow = (tflite.emit(graph, plan, tflite.Options(delegated=delegated)) for delegated in (True, False))
    for artifact, inner in ((quick, otherwise), (slow, plain)):
        codes = [op.code for op in tflite_bytes.read(artifact.data).ops]
        assert [c for c in codes if c != "CONV_2D"] == inner
    sessions = LiteRTSession(quick.data), LiteRTSession(slow.data)
    assert sessions[0].partitions == 1
    for sample in samples:
        a, b = (_integers(session, artifact, sample) for session, artifact in zip(sessions, (quick, slow), strict=True))
        assert np.abs(a - b).max() <= steps + 1  # the convolution behind may turn a step into another


def _integers(session: LiteRTSession, artifact: Artifact, sample: dict[str, Array]) -> Array:
    port = artifact.contract.inputs[0]
    assert port.scale is not None and port.zero_point is not None
    stored = np.clip(np.rint(sample[port.name] / port.scale) + port.zero_point, -128, 127).astype(np.int8)
    (found,) = session.run({port.name: stored.transpose(port.perm)}).values()
    return found.astype(np.int64)


def test_a_relu_in_a_scale_that_does_not_end_at_zero() -> None:
    g = Builder()
    model, samples = g.model(g.node("Relu", g.input(1, CHANNELS, SIDE, SIDE))), g.samples()
    graph, plan = planned(model, samples, "int8")
    wide = QuantPlan({**plan.tensors, str(graph.graph.outputs[0].name): plan[str(graph.graph.inputs[0].name)]})
    artifact = tflite.emit(graph, wide)
    (op,) = tflite_bytes.read(artifact.data).ops
    assert (op.code, op.options["fused_activation_function"]) == ("ADD", "RELU")
    for sample in samples:
        got = _integers(LiteRTSession(artifact.data), artifact, sample)
        zero = artifact.contract.outputs[0].zero_point
        assert got.min() == zero != -128


@pytest.mark.parametrize("between_them", ["", "Relu"])
def test_the_order_of_torchs_pixel_shuffle_goes_into_the_convolution(between_them: str) -> None:
    g = Builder()
    x = g.conv(g.input(1, CHANNELS, SIDE, SIDE), CHANNELS, CHANNELS)
    x = g.node(between_them, x) if between_them else x
    model = g.model(g.node("DepthToSpace", x, blocksize=2, mode="CRD"))
    prepared = prepare(model)
    (node,) = (node for node in prepared.graph if node.op_type == "DepthToSpace")
    assert attributes(node)["mode"] == "DCR"
    for sample in g.samples():
        (wanted,), (got,) = (Reference(m).run(sample).values() for m in (model, prepared))
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("why", ["read twice", "groups"])
def test_a_pixel_shuffle_that_keeps_its_order(why: str) -> None:
    g = Builder()
    group = 2 if why == "groups" else 1
    x = g.conv(g.input(1, CHANNELS, SIDE, SIDE), CHANNELS, CHANNELS, group=group)
    y = g.node("DepthToSpace", x, blocksize=2, mode="CRD")
    model = g.model(y, x) if why == "read twice" else g.model(y)
    (node,) = (node for node in prepare(model).graph if node.op_type == "DepthToSpace")
    assert attributes(node)["mode"] == "CRD"
