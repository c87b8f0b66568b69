"""Equalizing: the function stays, what is crushed in a wide tensor is saved, what cannot be scaled is left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import Builder, Outcome, quantized

from edgekit.graph import Array, constant
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant.equalize import STEPS, WIDEST, Channels, factors, scaled
from edgekit.reference import Reference
from edgekit.samples import Sample

SPREAD = np.geomspace(0.02, 5, 8).astype(np.float32)  # what the channels of the first layer are multiplied by


def uneven(b: Builder, x: str, channels_in: int = 3) -> str:
    """A convolution and a ReLU with channels of very different ranges."""
    weights = b.rng.normal(0, 0.3, (8, channels_in, 1, 1)) * SPREAD[:, None, None, None]
    return b.node("Relu", b.node("Conv", x, b.const(weights.astype(np.float32)), b.const(SPREAD / 4)))


def pair(b: Builder) -> str:
    return b.conv(uneven(b, b.input(1, 3, 8, 8)), 8, 4, (3, 3))


def depthwise(b: Builder) -> str:
    return b.conv(b.conv(uneven(b, b.input(1, 3, 8, 8)), 8, 8, (3, 3), group=8, pads=[1] * 4), 8, 4)


def grouped(b: Builder) -> str:
    return b.conv(b.conv(uneven(b, b.input(1, 3, 8, 8)), 8, 6, (3, 3), group=2), 6, 4)


def concat(b: Builder) -> str:
    x = b.input(1, 3, 8, 8)
    wide = b.node("Mul", b.node("Relu", b.conv(x, 3, 4)), b.const(np.float32(30)))
    return b.conv(b.node("Concat", wide, uneven(b, x), axis=1), 12, 4)


def shuffle(b: Builder) -> str:
    y = b.node("Reshape", uneven(b, b.input(1, 3, 8, 8)), b.const([4, 2, 8, 8]))
    parts = b.nodes("Split", 2, b.node("Transpose", y, perm=[1, 0, 2, 3]), axis=0, num_outputs=2)
    return b.conv(b.node("Concat", b.conv(parts[0], 4, 4), parts[1], axis=1), 8, 4)


def residual(b: Builder) -> str:
    y = uneven(b, b.input(1, 3, 8, 8))
    return b.conv(b.node("Relu", b.node("Add", y, b.conv(y, 8, 8))), 8, 4)


def pooled(b: Builder) -> str:
    y = b.node("MaxPool", uneven(b, b.input(1, 3, 8, 8)), kernel_shape=[2, 2], strides=[2, 2])
    y = b.node("Resize", y, "", b.const(np.asarray([1, 1, 2, 2], np.float32)), mode="nearest")
    y = b.node("AveragePool", y, kernel_shape=[3, 3], pads=[1] * 4)
    return b.conv(y, 8, 4)


def flattened(b: Builder) -> str:
    y = b.node("Flatten", uneven(b, b.input(1, 3, 4, 4)))
    y = b.node("Relu", b.node("Gemm", y, b.weights(16, 128), b.weights(16), transB=1))
    return b.node("MatMul", y, b.weights(16, 4))


def transposed(b: Builder) -> str:
    y = b.node("ConvTranspose", uneven(b, b.input(1, 3, 8, 8)), b.weights(8, 6, 2, 2), b.weights(6), strides=[2, 2])
    return b.conv(y, 6, 4)


def gated(b: Builder) -> str:
    y = uneven(b, b.input(1, 3, 8, 8))
    gate = b.node("Sigmoid", b.conv(b.node("GlobalAveragePool", y), 8, 8))
    return b.conv(b.node("Mul", y, gate), 8, 4)


def normalised(b: Builder) -> str:
    y = b.node("LayerNormalization", b.input(1, 6, 8), b.const(SPREAD), b.const(SPREAD / 4))
    return b.node("MatMul", y, b.weights(8, 4))


SCALED = [pair, depthwise, grouped, concat, shuffle, residual, pooled, flattened, transposed, gated, normalised]


def clipped(b: Builder) -> str:
    low, high = b.const(np.float32(0)), b.const(np.float32(6))
    return b.conv(b.node("Clip", b.conv(b.input(1, 3, 8, 8), 3, 8), low, high), 8, 4)


def squashed(b: Builder) -> str:
    return b.conv(b.node("Sigmoid", b.conv(b.input(1, 3, 8, 8), 3, 8)), 8, 4)


def squared(b: Builder) -> str:
    y = b.conv(b.input(1, 3, 8, 8), 3, 8)
    return b.conv(b.node("Mul", y, y), 8, 4)


def beside_the_input(b: Builder) -> str:
    x = b.input(1, 3, 8, 8)
    return b.conv(b.node("Concat", x, uneven(b, x), axis=1), 11, 4)


def padded(b: Builder) -> str:
    y = b.node("Pad", uneven(b, b.input(1, 3, 8, 8)), b.const([0, 0, 1, 1, 0, 0, 1, 1]), b.const(np.float32(1)))
    return b.conv(y, 8, 4)


def shared_weights(b: Builder) -> str:
    weights = b.weights(3, 3, 1, 1)
    return b.node("Conv", b.node("Conv", b.input(1, 3, 8, 8), weights), weights)


def normalised_alone(b: Builder) -> str:
    """What is normalised together, and what neither scales nor shifts."""
    y = b.node("MatMul", b.input(1, 6, 8), b.weights(8, 8))
    y = b.node("LayerNormalization", y, b.const(np.ones(8, np.float32)))
    return b.node("MatMul", y, b.weights(8, 4))


LEFT_ALONE = [clipped, squashed, squared, beside_the_input, padded, shared_weights, normalised_alone]
Net = Callable[[Builder], str]


def graph_of(net: Net) -> tuple[ir.Model, list[Sample]]:
    builder = Builder()
    return prepare(builder.model(net(builder))), [Sample(values) for values in builder.samples(16)]


def exponents_of(graph: ir.Model, samples: Sequence[Sample]) -> list[int]:
    return factors(graph, samples, SilentProgress(), len(samples))


def outputs(graph: ir.Model, samples: Sequence[Sample]) -> Array:
    reference = Reference(graph)
    return np.stack([reference.run(sample.inputs)[reference.outputs[0]] for sample in samples])


@pytest.mark.parametrize("net", SCALED, ids=lambda net: net.__name__)
def test_the_function_stays(net: Net) -> None:
    graph, samples = graph_of(net)
    exponents = exponents_of(graph, samples)
    changed = scaled(graph, exponents)
    assert any(exponents)
    wanted = outputs(graph, samples)
    np.testing.assert_allclose(outputs(changed, samples), wanted, rtol=0, atol=2e-6 * float(np.abs(wanted).max()))
    assert list(changed.graph.initializers) == list(graph.graph.initializers)
    assert max(exponents) == 0 and min(exponents) < -STEPS  # the widest stays; others grow by more than an octave


@pytest.mark.parametrize("net", LEFT_ALONE, ids=lambda net: net.__name__)
def test_what_cannot_be_scaled_is_left_alone(net: Net) -> None:
    graph, samples = graph_of(net)
    changed = scaled(graph, exponents_of(graph, samples))
    for name, value in graph.graph.initializers.items():
        np.testing.assert_array_equal(constant(changed.graph.initializers[name]), constant(value))


@pytest.mark.parametrize("net", [depthwise, concat, shuffle, normalised], ids=lambda net: net.__name__)
def test_both_artifacts_gain(net: Net) -> None:
    builder = Builder()
    model = builder.model(net(builder))
    values = builder.samples(16)
    prepared = prepare(model)
    equal = scaled(prepared, exponents_of(prepared, [Sample(v) for v in values]))

    def snr(graph: ir.Model) -> tuple[float, float]:
        outcome: Outcome = quantized(graph, values)
        return outcome.snr("onnx"), outcome.snr("tflite")

    for before, after in zip(snr(model), snr(equal), strict=True):
        assert after > before + 1.0


def test_no_factor_is_larger_than_samples_can_vouch_for() -> None:
    builder = Builder()
    weights = builder.rng.normal(0, 0.3, (4, 3, 1, 1)) * np.asarray([1, 1, 1e-6, 0]).reshape(4, 1, 1, 1)
    y = builder.node("Relu", builder.node("Conv", builder.input(1, 3, 8, 8), builder.const(weights)))
    graph = prepare(builder.model(builder.conv(y, 4, 4)))
    found = exponents_of(graph, [Sample(values) for values in builder.samples(8)])
    assert min(found) == -STEPS / 2 * np.log2(WIDEST)


def test_a_shuffle_is_followed_channel_by_channel() -> None:
    graph, _ = graph_of(shuffle)
    channels = Channels(graph.graph)
    first = next(node for node in graph.graph if node.op_type == "Relu").outputs[0]
    last = next(node for node in graph.graph if node.op_type == "Concat").outputs[0]
    before, after = channels.of(first).reshape(-1), channels.of(last).reshape(-1)
    np.testing.assert_array_equal(after[4:], before[1::2])
    assert not set(after[:4]) & set(before)
