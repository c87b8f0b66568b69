"""Equalize channels: scale each so that all of a tensor use its integers, and undo it in the weights that read them.

A positive factor of a channel passes through ReLU, pooling, concatenation and shuffles. So it can be divided out of the
weights that make the channel and multiplied into those that read it: the same function, and nothing runs slower (Nagel
et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1; here from observed
activations, and along the whole graph instead of between two layers). Weights have a scale for each channel,
activations have one: it is the activations that gain, most of all where a Concat joins parts of different ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.classes import MOVES, PINNED, Classes, Numbering
from edgekit.graph import Array, activations, attributes, clip_bounds, constant, is_float, shape_of, with_constants
from edgekit.progress import Progress
from edgekit.reference import Reference
from edgekit.samples import Sample

WIDEST = 16.0  # a channel counts as at least 1 / so much of the widest beside it: samples may not show its peak
STEPS = 8  # of a factor in each octave: the same on every machine
SWAPPED = ("MatMul", "ConvTranspose")  # their weights have inputs before outputs


class Channels(Numbering):
    """The channels of a graph as classes that must have one factor each; the pinned ones have none."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__()
        self.pin(graph.inputs)
        for node in graph:
            self._pass(node)
        self.pin(graph.outputs)
        self._pin_mixed()

    def join(self, values: Sequence[ir.Value]) -> Array:
        """One factor for what lies at the same place of all."""
        first, *rest = (self.numbers[str(value.name)] for value in values)
        for numbers in rest:
            self.classes.join(first, numbers)
        return np.broadcast_arrays(first, *rest)[0]

    def _pass(self, node: ir.Node) -> None:
        """Number the outputs of a node."""
        read = [value for value in node.inputs if value is not None and str(value.name) in self.numbers]
        found: Sequence[Array] | None = None
        if weights_of(node) is not None:
            axis, out = channel_axis(node), node.outputs[0]
            self.along(read[0], axis)
            numbers = self.classes.new(shape_of(out)[axis])
            found = [numbers.reshape([-1 if i == axis else 1 for i in range(len(shape_of(out)))])]
        elif node.op_type in RULES and read and is_float(node.outputs[0]):
            found = RULES[node.op_type](self, node, read)
        if found is None:
            self.pin((*read, *node.outputs))
            return
        self.give(node.outputs, found)

    def _pin_mixed(self) -> None:
        """A tensor with a channel that has no factor has none at all: its parts would drift apart."""
        before = -1
        while before != (before := int(np.count_nonzero(self.classes.of(np.arange(len(self.classes))) == PINNED))):
            for numbers in self.numbers.values():
                if (self.classes.of(numbers) == PINNED).any():
                    self.classes.join(numbers, np.asarray(PINNED))


def weights_of(node: ir.Node) -> Array | None:
    """Constant weights that only this node reads, as (outputs, inputs of a group, ...); None where there are none."""
    grouped = node.op_type == "ConvTranspose" and int(attributes(node).get("group", 1)) > 1
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or grouped:
        return None
    held = [value for value in node.inputs[1:] if value is not None]
    weight = constant(held[0]) if held else None
    if weight is None or weight.ndim < 2 or (node.op_type == "MatMul" and weight.ndim > 2):
        return None
    if any(constant(v) is None or len(v.uses()) > 1 or v.is_graph_output() for v in held):
        return None
    return weight.swapaxes(0, 1) if node.op_type in SWAPPED else weight


def channel_axis(node: ir.Node) -> int:
    """Where the channels of a node with weights lie, in its input and its output."""
    return len(shape_of(node.outputs[0])) - 1 if node.op_type == "MatMul" else 1


def normalised_by(node: ir.Node) -> list[ir.Value]:
    """The constants of a LayerNormalization, one number a channel, that its channels can be divided in; else nothing.

    Factors between a normalisation and the products that read it are those of SmoothQuant (Xiao et al. 2022). One that
    neither scales nor shifts stays so: a scale would cost it more time than the factors are worth.
    """
    held = [value for value in node.inputs[1:] if value is not None]
    found = [constant(value) for value in held]
    shape = shape_of(node.outputs[0])[-1:]
    private = all(len(value.uses()) == 1 and not value.is_graph_output() for value in held)
    if not private or any(array is None or array.shape != shape for array in found):
        return []
    return held if len(held) > 1 or not np.all(found[0] == 1) else []


Rule = Callable[[Channels, ir.Node, list[ir.Value]], "Sequence[Array] | None"]


def _same(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    return [channels.numbers[str(read[0].name)]]


def _clip(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    bounds = clip_bounds(node)
    return None if bounds is None or any(b and np.isfinite(b) for b in bounds) else _same(channels, node, read)


def _normalised(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    """Channels of their own: what is normalised together keeps its scale."""
    channels.pin(read)
    out = node.outputs[0]
    if not normalised_by(node):
        return None
    return [channels.classes.new(shape_of(out)[-1]).reshape([1] * (len(shape_of(out)) - 1) + [-1])]


def _spatial(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    """Sums, copies and maxima within a channel."""
    out, source, attrs = node.outputs[0], read[0], attributes(node)
    if len(node.outputs) > 1 or len(shape_of(source)) < 3 or shape_of(out)[:2] != shape_of(source)[:2]:
        return None
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    filled = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
    if filled is not None and (array := constant(filled)) is not None and array.any():
        return None
    numbers = channels.along(source, 1)
    return [numbers.reshape(1, -1, *(1,) * (len(shape_of(out)) - 2))]


def _together(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    ranks = {len(shape_of(value)) for value in read}
    return [channels.join(read)] if len(read) == len(node.inputs) and len(ranks) == 1 else None


def _product(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    """What the larger side has; the smaller one is left as it is."""
    larger, *smaller = sorted(read, key=lambda value: -int(np.prod(shape_of(value))))
    channels.pin(smaller)
    return _same(channels, node, [larger]) if len(shape_of(larger)) == len(shape_of(node.outputs[0])) else None


def _concat(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Sequence[Array] | None:
    if len(read) < len(node.inputs):
        return None
    return [np.concatenate([channels.full(value) for value in read], attributes(node)["axis"])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Identity", "LeakyRelu", "PRelu", "Abs", "Neg"), _same),
    **dict.fromkeys(("Relu", "Clip"), _clip),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Pad"), _spatial),
    **dict.fromkeys(("Add", "Sub", "Max", "Min"), _together),
    **MOVES,
    "Concat": _concat,
    "Mul": _product,
    "LayerNormalization": _normalised,
}


def factors(model: ir.Model, samples: Iterable[Sample], progress: Progress, total: int) -> list[int]:
    """The factor of every class of a prepared model's channels, as an exponent: 2 ** (exponent / ``STEPS``).

    It is the root of the channel's peak over that of the widest channel that it is connected with, so half of the
    difference goes into the weights. One sample is in memory at a time.
    """
    channels = Channels(model.graph)
    classes = {str(v.name): channels.of(v) for v in activations(model.graph)}
    classes = {name: found for name, found in classes.items() if found.any()}
    peaks = np.zeros(len(channels.classes))
    reference = Reference(model, list(classes))
    with progress.task("equalize", total) as step:
        for sample in samples if classes else ():
            values = reference.run(sample.inputs)
            for name, found in classes.items():
                alike = tuple(axis for axis, size in enumerate(found.shape) if size == 1)
                np.maximum.at(peaks, found, np.abs(values[name]).max(alike, keepdims=True))
            step()
    beside = np.zeros_like(peaks)
    tensors, connected = [np.unique(found) for found in classes.values()], Classes()
    connected.new(len(peaks) - 1)
    for members in tensors:
        beside[members] = np.maximum(beside[members], peaks[members].max())
        connected.join(members[:1], members)
    group = connected.of(np.arange(len(peaks)))
    widest = np.zeros_like(peaks)
    np.maximum.at(widest, group, peaks)
    ratio = np.maximum(peaks, beside / WIDEST) / np.where(widest > 0, widest, 1.0)[group]
    ratio[ratio == 0] = 1.0
    exponents: list[int] = np.rint(STEPS / 2 * np.log2(ratio)).astype(int).tolist()
    return exponents


def scaled(model: ir.Model, exponents: Sequence[int]) -> ir.Model:
    """A copy of a model with its channels divided by their factors, in the weights around them."""
    channels = Channels(model.graph)
    factor = 2.0 ** (np.asarray(exponents, np.float64) / STEPS)
    found: dict[str, Array] = {}
    for node in model.graph:
        weights, source = weights_of(node), node.inputs[0] if node.inputs else None
        if node.op_type == "LayerNormalization":
            given = factor[channels.along(node.outputs[0], len(shape_of(node.outputs[0])) - 1)]
            found |= {str(v.name): (np.asarray(constant(v)) / given).astype(np.float32) for v in normalised_by(node)}
        if weights is None or source is None:
            continue
        axis = channel_axis(node)
        read, given = factor[channels.along(source, axis)], factor[channels.along(node.outputs[0], axis)]
        groups = len(read) // weights.shape[1]
        columns = np.repeat(read.reshape(groups, -1), len(given) // groups, 0) / given[:, None]
        weights = weights * columns.reshape(columns.shape + (1,) * (weights.ndim - 2))
        weights = weights.swapaxes(0, 1) if node.op_type in SWAPPED else weights
        found[str(node.inputs[1].name)] = weights.astype(np.float32)  # type: ignore[union-attr]
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            found[str(node.inputs[2].name)] = (bias / given).astype(np.float32)  # type: ignore[union-attr]
    return with_constants(model, found)
