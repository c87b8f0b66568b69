"""Removing channels: what is left computes what the whole did with them at zero, on every kind of coupling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_graphs import Builder, floating, quantized

from edgekit.classes import PINNED
from edgekit.compress.channel_cut import Cut, without
from edgekit.compress.channel_prune import Masked
from edgekit.compress.channels import Channels
from edgekit.compress.importance import Criterion, importance
from edgekit.frontends import load_source
from edgekit.graph import GATES, Array, attributes, constant, shape_of
from edgekit.passes import opened
from edgekit.reference import Reference
from edgekit.samples import Sample


def norm(b: Builder, x: str, channels: int) -> str:
    values = [b.uniform(low, 1.5, channels) for low in (0.5, -0.5, -0.5, 0.5)]
    return b.node("BatchNormalization", x, *values)


def block(b: Builder, x: str, ins: int, outs: int, **attributes: object) -> str:
    return b.node("Relu", norm(b, b.conv(x, ins, outs, (3, 3), pads=[1] * 4, **attributes), outs))


def head(b: Builder, x: str, channels: int) -> str:
    y = b.node("Flatten", b.node("GlobalAveragePool", x))
    return b.node("Gemm", y, b.weights(5, channels), b.weights(5), transB=1)


def plain(b: Builder) -> str:
    return head(b, block(b, block(b, b.input(1, 3, 8, 8), 3, 8), 8, 8), 8)


def residual(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 8)
    y = b.node("Relu", b.node("Add", y, norm(b, b.conv(block(b, y, 8, 6), 6, 8), 8)))
    return head(b, b.node("Add", block(b, y, 8, 8), y), 8)


def padded_shortcut(b: Builder) -> str:
    """ResNet's option A: every other pixel, and zeros as further channels."""
    y = block(b, b.input(1, 3, 8, 8), 3, 4)
    half = b.node("Slice", y, b.const([0, 0]), b.const([8, 8]), b.const([2, 3]), b.const([2, 2]))
    half = b.node("Pad", half, b.const([0, 2, 0, 0, 0, 2, 0, 0]))
    return head(b, b.node("Add", block(b, y, 4, 8, strides=[2, 2]), half), 8)


def depthwise(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 8)
    y = block(b, block(b, y, 8, 8, group=8), 8, 6)
    return head(b, b.conv(y, 6, 12, (3, 3), group=6), 12)


def grouped(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 8)
    return head(b, block(b, y, 8, 12, group=2), 12)


def many_groups(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 12)
    return head(b, block(b, y, 12, 12, group=6), 12)


def concat(b: Builder) -> str:
    x = b.input(1, 3, 8, 8)
    y = block(b, x, 3, 6)
    return head(b, block(b, b.node("Concat", y, block(b, y, 6, 4), x, axis=1), 13, 6), 6)


def split(b: Builder) -> str:
    parts = b.nodes("Split", 2, block(b, b.input(1, 3, 8, 8), 3, 8), b.const([3, 5]), axis=1)
    y = b.node("Concat", block(b, parts[0], 3, 3), parts[1], axis=1)
    return head(b, block(b, y, 8, 4), 4)


def halves(b: Builder) -> str:
    """Split by number; one half gates the other."""
    a, gate = b.nodes("Split", 2, block(b, b.input(1, 3, 8, 8), 3, 8), axis=1, num_outputs=2)
    return head(b, block(b, b.node("Mul", a, b.node("Sigmoid", gate)), 4, 4), 4)


def sliced(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 8)
    one = b.node("Slice", y, b.const([1]), b.const([4]), b.const([1]))
    two = b.node("Gather", y, b.const([7, 0, -2]), axis=1)
    return head(b, b.conv(b.node("Concat", one, two, axis=1), 6, 4), 4)


def shuffle(b: Builder) -> str:
    y = b.node("Reshape", block(b, b.input(1, 3, 8, 8), 3, 8), b.const([1, 2, 4, 8, 8]))
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3, 4]), b.const([1, 8, 8, 8]))
    return head(b, block(b, y, 8, 6), 6)


def flattened(b: Builder) -> str:
    y = b.node("MaxPool", block(b, b.input(1, 3, 8, 8), 3, 6), kernel_shape=[2, 2], strides=[2, 2])
    y = b.node(
        "Relu", b.node("Gemm", b.node("Reshape", y, b.const([1, -1])), b.weights(10, 96), b.weights(10), transB=1)
    )
    return b.node("Add", b.node("MatMul", y, b.weights(10, 4)), b.weights(4))


def squeeze_excite(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 8)
    gate = b.node("ReduceMean", y, b.const([2, 3]), keepdims=1)
    gate = b.node("HardSigmoid", b.conv(b.node("Relu", b.conv(gate, 8, 4)), 4, 8))
    return head(b, block(b, b.node("Mul", y, gate), 8, 4), 4)


def spatial_gate(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 8)
    gate = b.node("Sigmoid", b.conv(block(b, y, 8, 4), 4, 1))
    return head(b, block(b, b.node("Mul", y, gate), 8, 4), 4)


def sloped(b: Builder) -> str:
    y = b.node("PRelu", b.conv(b.input(1, 3, 8, 8), 3, 8), b.uniform(0.1, 0.4, 8, 1, 1))
    y = b.node("Mul", y, b.uniform(0.5, 1.5, 1, 8, 1, 1))
    return head(b, b.node("Sub", b.node("Tanh", y), b.uniform(0.1, 0.2, 8, 1, 1)), 8)


def upsampled(b: Builder) -> str:
    y = block(b, b.input(1, 3, 8, 8), 3, 8)
    y = b.node("Resize", y, "", "", b.const([1, 8, 16, 16]), mode="nearest", nearest_mode="floor",
               coordinate_transformation_mode="asymmetric")  # fmt: skip
    y = b.node("ConvTranspose", y, b.weights(8, 6, 2, 2), b.weights(6), strides=[2, 2])
    y = b.node("ConvTranspose", y, b.weights(6, 1, 2, 2), group=6)
    return head(b, b.node("AveragePool", y, kernel_shape=[2, 2]), 6)


def blocks(b: Builder) -> str:
    y = b.node("DepthToSpace", block(b, b.input(1, 3, 8, 8), 3, 16), blocksize=2)
    y = b.node("SpaceToDepth", block(b, y, 4, 4), blocksize=2)
    return head(b, b.node("DepthToSpace", block(b, y, 16, 16), blocksize=2, mode="CRD"), 4)


def normed_groups(b: Builder) -> str:
    y = b.conv(b.input(1, 3, 8, 8), 3, 8, (3, 3))
    y = b.node("GroupNormalization", y, b.uniform(0.5, 1.5, 8), b.weights(8), num_groups=4)
    y = b.node("InstanceNormalization", b.conv(y, 8, 6), b.uniform(0.5, 1.5, 6), b.weights(6))
    return head(b, y, 6)


def shared_weights(b: Builder) -> str:
    y, weights = block(b, b.input(1, 3, 8, 8), 3, 8), b.weights(8, 8, 1, 1)
    return head(b, b.node("Relu", b.node("Conv", b.node("Relu", b.node("Conv", y, weights)), weights)), 8)


def dense(b: Builder, x: str, ins: int, outs: int) -> str:
    return b.node("Add", b.node("MatMul", x, b.weights(ins, outs)), b.uniform(-0.2, 0.2, outs))


def perceptron(b: Builder) -> str:
    x = b.input(1, 5, 12)
    y = b.node("LayerNormalization", x, b.uniform(0.5, 1.5, 12), b.weights(12))
    return b.node("Add", x, dense(b, b.node("Gelu", dense(b, y, 12, 16)), 16, 12))


def fused_heads(b: Builder) -> str:
    """Queries, keys and values of all heads from one layer."""
    x = b.input(1, 5, 12)
    y = b.node("Reshape", dense(b, x, 12, 36), b.const([1, 5, 3, 4, 3]))
    y = b.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.node("Gather", y, b.const(np.int64(i)), axis=0) for i in range(3))
    scores = b.node("MatMul", b.node("Mul", q, b.const(np.float32(0.6))), b.node("Transpose", k, perm=[0, 1, 3, 2]))
    y = b.node("MatMul", b.node("Softmax", b.node("Add", scores, b.weights(4, 5, 5)), axis=-1), v)
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.const([1, 5, 12]))
    return b.node("Add", x, dense(b, y, 12, 12))


def one_head(b: Builder) -> str:
    x = b.input(1, 5, 12)
    q, k, v = (dense(b, x, 12, 8) for _ in range(3))
    scores = b.node("Softmax", b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 1])), axis=-1)
    return dense(b, b.node("MatMul", scores, v), 8, 4)


def apart(b: Builder, x: str) -> list[str]:
    """Queries, keys (turned) and values of four heads, each from a layer of its own."""
    parts = [b.node("Reshape", dense(b, x, 12, 12), b.const([1, 5, 4, 3])) for _ in range(3)]
    return [b.node("Transpose", y, perm=[0, 2, *last]) for y, last in zip(parts, ((1, 3), (3, 1), (1, 3)), strict=True)]


def scored(b: Builder, scores: str, v: str) -> str:
    """What heads of three channels say, one beside another."""
    y = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    return b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.const([1, 5, 12]))


def placed_heads(b: Builder) -> str:
    """A bias of each head for each place, beside a mask of places that is one for all of them."""
    x, mask = b.input(1, 5, 12), b.node("Add", b.input(1, 1, 1, 5), b.weights(1, 1, 5, 5))
    q, k, v = apart(b, x)
    table = b.node("Add", b.weights(1, 4, 5, 5), mask)
    return b.node("Add", x, dense(b, scored(b, b.node("Add", b.node("MatMul", q, k), table), v), 12, 12))


def relative_heads(b: Builder) -> str:
    """Keys of distances, constants of each head, of which each place picks its own; some rows are written anew."""
    x = b.input(1, 5, 12)
    q, k, v = apart(b, x)
    far = b.node("MatMul", b.node("Squeeze", q, b.const([0])), b.weights(4, 3, 9))
    places = np.broadcast_to(np.arange(5)[:, None] - np.arange(5) + 4, (4, 5, 5))
    far = b.node("Unsqueeze", b.node("GatherElements", far, b.const(places), axis=2), b.const([0]))
    rows = b.node("Transpose", far, perm=[2, 1, 0, 3])
    first = b.node("Mul", b.node("Slice", rows, b.const([0]), b.const([2]), b.const([0])), b.const(np.float32(2)))
    rows = b.node("ScatterND", rows, b.const([[4], [1]]), first)
    far = b.node("Transpose", rows, perm=[2, 1, 0, 3])
    return b.node("Add", x, dense(b, scored(b, b.node("Add", b.node("MatMul", q, k), far), v), 12, 12))


def grouped_heads(b: Builder) -> str:
    """Heads from a grouped convolution: the input stays, and so do the groups."""
    x = b.input(1, 12, 5)
    q, k, v = (b.node("Reshape", b.conv(x, 12, 12, (1,), group=3), b.const([1, 3, 4, 5])) for _ in range(3))
    y = b.node("MatMul", b.node("Softmax", b.node("MatMul", b.node("Transpose", q, perm=[0, 1, 3, 2]), k), axis=-1),
               b.node("Transpose", v, perm=[0, 1, 3, 2]))  # fmt: skip
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 1, 3, 2]), b.const([1, 12, 5]))
    return b.node("Add", x, b.conv(y, 12, 12, (1,)))


def ranker(b: Builder) -> str:
    """Products of what tables say with what a layer says."""
    rows = b.node("ArgMax", b.input(1, 9), axis=1, keepdims=0)
    parts = [b.node("Gather", b.weights(9, 6), rows, axis=0) for _ in range(2)]
    parts.append(b.node("Gemm", b.input(1, 4), b.weights(6, 4), b.weights(6), transB=1))
    stack = b.node("Concat", *(b.node("Unsqueeze", part, b.const([1])) for part in parts), axis=1)
    y = b.node("MatMul", stack, b.node("Transpose", stack, perm=[0, 2, 1]))
    return b.node("Gemm", b.node("Reshape", y, b.const([1, 9])), b.weights(2, 9), b.weights(2), transB=1)


def class_token(b: Builder) -> str:
    """Patches and a token beside them; the first row is read."""
    y = b.node("Transpose", b.node("Reshape", b.conv(b.input(1, 3, 4, 4), 3, 8), b.const([1, 8, 16])), perm=[0, 2, 1])
    y = b.node("Add", b.node("Concat", b.weights(1, 1, 8), y, axis=1), b.weights(1, 17, 8))
    return dense(b, b.node("Gather", b.node("Relu", y), b.const(np.int64(0)), axis=1), 8, 4)


def layer(b: Builder, op: str, x: str, ins: int, hidden: int, *states: str, **given: Any) -> list[str]:
    """A recurrent layer: all that it gives."""
    ways, rows = 2 if given.get("direction") == "bidirectional" else 1, GATES[op] * hidden
    weights = [b.weights(ways, rows, ins), b.weights(ways, rows, hidden), b.uniform(-0.3, 0.3, ways, 2 * rows)]
    return b.nodes(op, 3 if op == "LSTM" else 2, x, *weights, "", *states, hidden_size=hidden, **given)


def in_order(b: Builder, op: str, x: str, ins: int, hidden: int, **given: Any) -> str:
    """All steps of a recurrent layer, (steps, batch, features) as it was fed."""
    y, ways = layer(b, op, x, ins, hidden, **given)[0], 2 if given.get("direction") == "bidirectional" else 1
    return b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.const([0, 0, ways * hidden]))


def tagger(b: Builder) -> str:
    """Features of a layer before, and a layer that reads every step."""
    y = b.node("Relu", dense(b, b.input(6, 1, 5), 5, 8))
    return dense(b, in_order(b, "LSTM", y, 8, 7), 7, 4)


def both_ways(b: Builder) -> str:
    y = in_order(b, "GRU", b.input(6, 1, 5), 5, 6, direction="bidirectional", linear_before_reset=1)
    y = in_order(b, "LSTM", y, 12, 5, direction="bidirectional")
    return dense(b, y, 10, 4)


def reset_before(b: Builder) -> str:
    return dense(b, in_order(b, "RNN", in_order(b, "GRU", b.input(6, 1, 5), 5, 6), 6, 8, direction="reverse"), 8, 4)


def last_states(b: Builder) -> str:
    """A classifier of a sequence, batch first, that reads the states at the end."""
    _, hidden, memory = layer(b, "LSTM", b.input(1, 6, 5), 5, 8, layout=1)
    y = b.node("Concat", b.node("Squeeze", hidden, b.const([1])), b.node("Squeeze", memory, b.const([1])), axis=1)
    return b.node("Gemm", y, b.weights(4, 16), b.weights(4), transB=1)


def decoder(b: Builder) -> str:
    """A layer that starts where another ended, and one that starts from constants."""
    x = b.input(6, 1, 5)
    _, hidden, memory = layer(b, "LSTM", x, 5, 8)
    y, *_ = layer(b, "LSTM", x, 5, 8, hidden, memory)
    y = b.node("Squeeze", y, b.const([1]))
    y, *_ = layer(b, "RNN", y, 8, 6, b.uniform(-0.9, 0.9, 1, 1, 6), activations=["Sigmoid"])
    return dense(b, b.node("Squeeze", y, b.const([1])), 6, 4)


CUT = [
    plain, residual, padded_shortcut, depthwise, grouped, many_groups, concat, split, halves, sliced, shuffle,
    flattened, squeeze_excite, spatial_gate, sloped, upsampled, blocks, normed_groups, shared_weights, perceptron,
    fused_heads, placed_heads, relative_heads, grouped_heads, one_head, ranker, class_token, tagger, both_ways,
    reset_before, last_states, decoder,
]  # fmt: skip
Net = Callable[[Builder], str]


def channels_of(net: Net) -> tuple[Builder, Channels]:
    builder = Builder()
    return builder, Channels(opened(builder.model(net(builder))))


def drawn(channels: Channels, seed: int) -> set[int]:
    """Of every layer some channels, but never all."""
    rng = np.random.default_rng(seed)
    return {
        int(one)
        for layer in channels.layers
        for one in rng.choice(layer.classes, rng.integers(1, len(layer.classes)), replace=False)
    }


def ran(model: ir.Model, sample: dict[str, Array]) -> Array:
    reference = Reference(model)
    return reference.run(sample)[reference.outputs[0]]


def cut_and_compared(channels: Channels, seed: int, samples: list[dict[str, Array]]) -> tuple[set[int], ir.Model]:
    """What is removed, and the graph without it, which says what the whole says with those channels at zero."""
    removed = drawn(channels, seed)
    cut = without(channels, removed)
    masked = Masked(channels)
    masked.remove(removed)
    for sample in samples:
        with torch.no_grad():
            wanted = masked(*(torch.from_numpy(value) for value in sample.values())).numpy()
        np.testing.assert_allclose(ran(cut, sample), wanted, rtol=0, atol=2e-6 * max(1, float(np.abs(wanted).max())))
    return removed, cut


@pytest.mark.parametrize("net", CUT, ids=lambda net: net.__name__)
def test_what_is_left_is_the_whole_with_those_channels_at_zero(net: Net) -> None:
    builder, channels = channels_of(net)
    assert channels.layers
    for seed in range(3):
        removed, cut = cut_and_compared(channels, seed, builder.samples(2))
        assert [shape_of(v) for v in cut.graph.outputs] == [shape_of(v) for v in channels.graph.outputs]
        counted = sum(v.const_value.size for v in cut.graph.initializers.values() if v.dtype == ir.DataType.FLOAT)  # type: ignore[union-attr]
        assert counted == Cut(channels, removed).cost("parameters") < Cut(channels, ()).cost("parameters")


@pytest.mark.parametrize(("net", "found"), [
    (fused_heads, [(3, 12)]),  # queries, keys and values lie in one tensor
    (placed_heads, [(3, 4), (3, 4)]),  # queries with keys, values
    (grouped_heads, [(4, 3), (4, 3)]),
])  # fmt: skip
def test_the_same_channels_within_all_heads_may_go(net: Net, found: list[tuple[int, int]]) -> None:
    builder = Builder()
    channels = Channels(opened(builder.model(net(builder))), inner=True)
    assert [(len(layer.classes), layer.width) for layer in channels.layers] == found
    for seed in range(3):
        cut_and_compared(channels, seed, builder.samples(2))


@pytest.mark.parametrize(("name", "shape", "widths"), [
    ("attentive", (1, 5, 12), [(4, 9), (4, 3)]),
    ("tagger", (1, 6, 5), [(8, 1), (6, 1), (6, 1), (7, 1)]),
])  # fmt: skip
def test_what_torch_exports_is_followed(name: str, shape: tuple[int, ...], widths: list[tuple[int, int]]) -> None:
    loaded = load_source(f"torch_nets:{name}", None, {"x": shape}, Path(__file__).parent)
    channels = Channels(opened(loaded.model))
    assert [(len(layer.classes), layer.width) for layer in channels.layers] == widths
    draw = np.random.default_rng(0)
    for seed in range(2):
        cut_and_compared(channels, seed, [{"x": draw.normal(0, 1, shape).astype(np.float32)}])


@pytest.mark.parametrize("net", CUT, ids=lambda net: net.__name__)
def test_one_channel_of_each_layer_is_enough(net: Net) -> None:
    builder, channels = channels_of(net)
    cut = without(channels, [one for layer in channels.layers for one in layer.classes[1:]])
    (sample,) = builder.samples(1)
    assert np.isfinite(ran(cut, sample)).all()


@pytest.mark.parametrize("net", [residual, depthwise, split, flattened, squeeze_excite], ids=lambda net: net.__name__)
def test_what_is_left_goes_into_both_artifacts(net: Net) -> None:
    builder, channels = channels_of(net)
    cut = without(channels, drawn(channels, 1))
    samples = builder.samples(8)
    assert min(floating(cut, samples).snr(which) for which in ("onnx", "tflite")) > 80
    assert min(quantized(cut, samples).snr(which) for which in ("onnx", "tflite")) > 12


def sizes(net: Net) -> list[tuple[int, int]]:
    return [(len(layer.classes), layer.width) for layer in channels_of(net)[1].layers]


def test_layers_are_as_fine_as_the_graph_allows() -> None:
    assert sizes(plain) == [(8, 1), (8, 1)]
    assert sizes(residual) == [(8, 1), (6, 1)]
    assert sizes(padded_shortcut) == [(4, 1), (4, 1)]  # further channels have no shortcut
    assert sizes(depthwise) == [(8, 1), (6, 1)]
    assert sizes(grouped) == [(4, 2), (6, 2)]  # the same channels of both groups
    assert sizes(many_groups) == [(6, 2)]  # whole groups
    assert sizes(shuffle) == [(4, 2), (6, 1)]
    assert sizes(flattened) == [(6, 1), (10, 1)]
    assert sizes(perceptron) == [(16, 1)]  # what LayerNormalization reads stays
    assert sizes(fused_heads) == [(4, 9)]  # whole heads of queries, keys and values
    assert sizes(placed_heads) == sizes(relative_heads) == [(4, 3)]
    assert sizes(grouped_heads) == [(4, 3), (4, 3)]  # groups stay with the input, so the same channels of all heads
    assert sizes(ranker) == [(6, 1)]
    assert sizes(one_head) == [(8, 1), (8, 1)]  # queries with keys, values
    assert sizes(shared_weights) == [(8, 1)]
    assert sizes(tagger) == [(8, 1), (7, 1)]
    assert sizes(both_ways) == [(6, 1), (5, 1)]  # both directions lie in one tensor
    assert sizes(last_states) == [(8, 1)]
    assert sizes(decoder) == [(8, 1), (6, 1)]  # the states of one layer are those of the next


def test_groups_and_heads_are_counted_anew() -> None:
    def cut(net: Net) -> ir.Model:
        channels = channels_of(net)[1]
        return without(channels, [layer.classes[0] for layer in channels.layers])

    def groups(net: Net) -> list[int]:
        return [attributes(node).get("group", 1) for node in cut(net).graph if node.op_type == "Conv"]

    assert groups(depthwise) == [1, 7, 1, 5]
    assert groups(grouped) == [1, 2]
    assert groups(many_groups) == [1, 5]
    norms = [node for node in cut(normed_groups).graph if node.op_type == "GroupNormalization"]
    assert [attributes(node)["num_groups"] for node in norms] == [3]
    first = next(node for node in cut(fused_heads).graph if node.op_type == "Reshape")
    assert constant(first.inputs[1]).tolist() == [1, 5, 3, 3, 3]  # type: ignore[union-attr]


def normalised(b: Builder) -> str:
    return dense(b, b.node("LayerNormalization", dense(b, b.input(1, 5, 6), 6, 8), b.uniform(0.5, 1.5, 8)), 8, 4)


def averaged(b: Builder) -> str:
    y = b.conv(b.input(1, 3, 8, 8), 3, 8)
    return b.conv(b.node("Mul", y, b.node("ReduceMean", y, b.const([1]))), 8, 1)


def every_other(b: Builder) -> str:
    y = b.node("Slice", b.conv(b.input(1, 3, 8, 8), 3, 8), b.const([0]), b.const([8]), b.const([1]), b.const([2]))
    return b.conv(y, 4, 1)


def summed_with_the_input(b: Builder) -> str:
    x = b.input(1, 8, 8, 8)
    return b.conv(b.node("Add", x, b.conv(x, 8, 8)), 8, 1)


def added_up(b: Builder) -> str:
    return b.conv(b.node("CumSum", b.conv(b.input(1, 3, 8, 8), 3, 8), b.const(np.int64(1))), 8, 1)


def gated_both_ways(b: Builder) -> str:
    """Rows by columns: no element belongs to one channel."""
    x = b.input(1, 6)
    row, column = dense(b, x, 6, 4), b.node("Reshape", dense(b, x, 6, 5), b.const([5, 1]))
    return dense(b, b.node("Reshape", b.node("Mul", row, column), b.const([1, 20])), 20, 3)


def squeezed(b: Builder) -> str:
    y = b.node("Squeeze", b.node("GlobalAveragePool", b.conv(b.input(1, 3, 8, 8), 3, 8)))
    return b.node("MatMul", b.node("Reshape", y, b.const([1, 8])), b.weights(8, 4))


def an_output(b: Builder) -> str:
    return b.conv(b.input(1, 3, 8, 8), 3, 8)


LEFT_ALONE = [
    normalised, averaged, every_other, summed_with_the_input, added_up, gated_both_ways, squeezed, an_output,
]  # fmt: skip


@pytest.mark.parametrize("net", LEFT_ALONE, ids=lambda net: net.__name__)
def test_what_cannot_be_followed_is_left_alone(net: Net) -> None:
    _, channels = channels_of(net)
    assert channels.layers == ()
    assert not any((classes != PINNED).any() for axes in channels.constants.values() for classes in axes.values())


def test_equal_biases_do_not_tie_layers_together() -> None:
    b = Builder()
    bias = b.const(np.zeros(8, np.float32))
    y = b.node("Conv", b.input(1, 3, 8, 8), b.weights(8, 3, 1, 1), bias)
    y = b.node("Relu", b.node("Conv", b.node("Relu", y), b.weights(8, 8, 1, 1), bias))
    assert len(Channels(opened(b.model(b.conv(y, 8, 1)))).layers) == 2


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor"])
def test_a_hidden_unit_matters_by_what_makes_it_in_all_gates(criterion: Criterion) -> None:
    builder = Builder()
    graph = opened(builder.model(last_states(builder)))
    node = next(node for node in graph.graph if node.op_type == "LSTM")
    for value in node.inputs[1:4]:
        array = np.array(constant(value))
        array.reshape(-1, 8, *array.shape[2:])[:, 3] = 0  # rows lie gate by gate
        value.const_value = ir.tensor(array, name=value.name)  # type: ignore[union-attr]
    channels = Channels(graph)
    samples = [Sample(values, i % 4) for i, values in enumerate(builder.samples(16))]
    (layer,) = channels.layers
    scores = importance(channels, criterion, samples, 0)[list(layer.classes)]
    assert scores[3] == 0 and (np.delete(scores, 3) > 0).all()
