"""Networks that collapse in int8, each for one cause: a healthy prepared graph -> the same function, badly spread.

In float nothing changes but the order of rounding. Each returns a copy, and the name of the tensor at fault. Used by
``diagnose.py`` beside this file, and by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgekit.frontends.onnx import infer_shapes
from edgekit.graph import attributes, constant, shape_of
from edgekit.passes.rewrite import add_constant, make, put_in_place, single_reader

Array = NDArray[Any]
Planted = tuple[ir.Model, str]

OUTLIER = 100.0  # by how much one channel is larger than the others
SPREAD = (2.0**-9, 2.0**5)  # the smallest and the largest factor of a depthwise convolution's channels
MIXED = 500.0  # by how much one part of a Concat is larger than the other
OFFSET = 500.0  # what is added to features, and taken off again behind them
HIDDEN = -1e4  # what a border is filled with
SINK = 2_000.0  # how much more of a softmax goes to one position than to all others together


def outlier_channel(model: ir.Model) -> Planted:
    """One channel between two convolutions is far larger than the others, and the next weights make up for it."""
    copy = model.clone()
    first, relu, second = next(pair for pair in _pairs(copy.graph) if _groups(pair[0]) == 1)
    factors = np.ones(shape_of(first.outputs[0])[1])
    factors[0] = OUTLIER
    _scale(copy.graph, first, second, factors)
    return copy, str(relu.outputs[0].name)


def depthwise_spread(model: ir.Model) -> Planted:
    """The channels of a depthwise convolution have weights of very different size."""
    copy = model.clone()
    first, relu, second = next(pair for pair in _pairs(copy.graph) if _groups(pair[0]) > 1)
    count = shape_of(first.outputs[0])[1]
    factors = np.random.default_rng(0).permutation(np.geomspace(*SPREAD, count))
    _scale(copy.graph, first, second, factors)
    return copy, str(relu.outputs[0].name)


def mixed_range_concat(model: ir.Model) -> Planted:
    """A convolution is cut into two by its channels, one of them far larger, and a Concat joins what they give."""
    copy = model.clone()
    graph = copy.graph
    first, relu, second = next(pair for pair in _pairs(graph) if _groups(pair[0]) == 1)
    count = shape_of(first.outputs[0])[1]
    factors = np.where(np.arange(count) < count // 2, MIXED, 1.0)
    _scale(graph, first, second, factors)
    weight, bias = np.asarray(constant(first.inputs[1])), np.asarray(constant(first.inputs[2]))
    parts = []
    for number, part in enumerate((slice(0, count // 2), slice(count // 2, count))):
        name = f"{relu.outputs[0].name}/part{number}"
        held = [add_constant(graph, f"{name}/{kind}", array[part]) for kind, array in (("w", weight), ("b", bias))]
        conv = make("Conv", [first.inputs[0], *held], first.outputs[0], f"{name}/conv", **attributes(first))
        clip = make("Relu", conv.outputs, first.outputs[0], name)
        graph.insert_before(first, [conv, clip])
        parts.append(clip.outputs[0])
    concat = make("Concat", parts, relu.outputs[0], "joined", axis=1)
    graph.insert_after(relu, concat)
    put_in_place(graph, relu.outputs[0], concat.outputs[0])
    graph.remove([relu, first], safe=True)
    return infer_shapes(copy), "joined"


def dead_range(model: ir.Model) -> Planted:
    """Features lie far from zero, which the range has to hold; the last layer takes the offset off again."""
    copy = model.clone()
    graph, last = copy.graph, _last(copy.graph)
    value = last.inputs[0]
    assert value is not None
    offset = add_constant(graph, "offset", np.full(shape_of(value)[1:], OFFSET, np.float32))
    moved = make("Add", [value, offset], value, "moved")
    graph.insert_before(last, moved)
    last.replace_input_with(0, moved.outputs[0])
    weight, bias = np.asarray(constant(last.inputs[1]), np.float64), np.asarray(constant(last.inputs[2]), np.float64)
    _set(graph, last, 2, bias - OFFSET * weight.sum(1))
    return infer_shapes(copy), "moved"


def hidden_border(model: ir.Model) -> Planted:
    """A border of -10,000 is put around an image and cut off again."""
    copy = model.clone()
    graph = copy.graph
    _, relu, reader = next(_pairs(graph))
    value = relu.outputs[0]
    size = np.asarray(shape_of(value)[2:])
    axes, ones = np.arange(2, 2 + len(size)), np.ones(len(size), np.int64)
    pads = add_constant(graph, "border/pads", np.asarray([0, 0, *ones] * 2))
    fill = add_constant(graph, "border/fill", np.asarray(HIDDEN, np.float32))
    pad = make("Pad", [value, pads, fill], value, "border")
    pad.outputs[0].shape = None
    cut = {"starts": ones, "ends": size + 1, "axes": axes}
    bounds = [add_constant(graph, f"cut/{name}", array) for name, array in cut.items()]
    crop = make("Slice", [pad.outputs[0], *bounds], value, "cut")
    graph.insert_before(reader, [pad, crop])
    reader.replace_input_with(0, crop.outputs[0])
    return infer_shapes(copy), "border"


def attention_sink(model: ir.Model) -> Planted:
    """The mean over an image is taken by a softmax most of which goes to a position of its own, where all is zero."""
    copy = model.clone()
    graph = copy.graph
    pool = next(node for node in graph if node.op_type == "GlobalAveragePool")
    source, out = pool.inputs[0], pool.outputs[0]
    assert source is not None
    _, channels, *extent = shape_of(source)
    count = int(np.prod(extent))

    def add(op_type: str, inputs: list[Any], name: str, **more: Any) -> ir.Value:
        values = [v if isinstance(v, ir.Value) else add_constant(graph, f"{name}/{i}", v) for i, v in enumerate(inputs)]
        node = make(op_type, values, source, name, **more)
        node.outputs[0].shape = None
        graph.insert_before(pool, node)
        return node.outputs[0]

    tokens = add("Reshape", [source, np.asarray([1, channels, count])], "tokens")
    tokens = add("Concat", [tokens, np.zeros((1, channels, 1), np.float32)], "with_sink", axis=2)
    scores = add("ReduceMean", [tokens, np.asarray([1])], "scores", keepdims=1)
    scores = add("Mul", [scores, np.asarray(0.01, np.float32)], "small")
    sink = np.zeros((1, 1, count + 1), np.float32)
    sink[..., -1] = np.log(SINK * count)
    shares = add("Softmax", [add("Add", [scores, sink], "biased")], "shares", axis=-1)
    product = add("MatMul", [tokens, add("Transpose", [shares], "column", perm=[0, 2, 1])], "attended")
    scaled = add("Mul", [product, np.asarray(SINK + 1, np.float32)], "scaled")
    result = add("Reshape", [scaled, np.asarray(shape_of(out))], "pooled")
    put_in_place(graph, out, result)
    graph.remove([pool], safe=True)
    return infer_shapes(copy), "shares"


CASES: Mapping[str, Callable[[ir.Model], Planted]] = {
    "outlier channel": outlier_channel,
    "depthwise weight spread": depthwise_spread,
    "mixed-range concat": mixed_range_concat,
    "dead range": dead_range,
    "minus-infinity padding or mask": hidden_border,
    "softmax/normalisation in int8": attention_sink,
}


def _pairs(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node, ir.Node]]:
    """Each convolution, the ReLU that alone reads it, and the plain convolution that alone reads that."""
    for node in graph:
        relu = single_reader(node.outputs[0]) if node.op_type == "Conv" and len(node.inputs) > 2 else None
        reader = single_reader(relu.outputs[0]) if relu is not None and relu.op_type == "Relu" else None
        if relu is not None and reader is not None and reader.op_type == "Conv" and _groups(reader) == 1:
            yield node, relu, reader


def _groups(node: ir.Node) -> int:
    return int(attributes(node).get("group", 1))


def _last(graph: ir.Graph) -> ir.Node:
    """The layer that gives the output: a Gemm with a bias."""
    node = graph.outputs[0].producer()
    assert node is not None and node.op_type == "Gemm"
    return node


def _scale(graph: ir.Graph, first: ir.Node, second: ir.Node, factors: Array) -> None:
    """Multiply the channels between two layers by positive factors."""
    weight, bias, after = (np.asarray(constant(v), np.float64) for v in (*first.inputs[1:3], second.inputs[1]))
    shape = (-1, *(1,) * (weight.ndim - 1))
    _set(graph, first, 1, weight * factors.reshape(shape))
    _set(graph, first, 2, bias * factors)
    _set(graph, second, 1, after / factors.reshape(1, -1, *(1,) * (after.ndim - 2)))


def _set(graph: ir.Graph, node: ir.Node, position: int, array: Array) -> None:
    value = node.inputs[position]
    assert value is not None
    graph.initializers[str(value.name)].const_value = ir.tensor(array.astype(np.float32), name=value.name)
