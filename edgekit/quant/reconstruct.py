"""Round weights with regard to what they multiply, and move the mean error that is left into the bias.

Rounding each weight to its nearest integer is blind to its inputs. Here the columns of a layer are rounded one by one,
and the error of each is made up for by those that are still to come, so that the layer's output changes least over the
calibration inputs: optimal brain surgery for quantization (Frantar et al. 2022, "GPTQ", with columns in the order of
their inputs' power). A layer is fed what the layers before it give in integers, and is to answer as it does in float:
its weights first move to where they do that best (least squares; Li et al. 2025, "GPTAQ"). What remains of the mean is
corrected in the bias (Nagel et al. 2019, section 4.2). Scales, and so the plan, stay as they are; nothing runs slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, Unit, activations, attributes, constant, shape_of, units
from edgekit.progress import Progress
from edgekit.quant.kernels import constant_weight
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.simulate import with_rounding
from edgekit.quant.walk import Walk, most_held
from edgekit.samples import Sample

SAMPLES = 128  # that are looked at
COLUMNS, MOST_COLUMNS = 16, 16_384  # input vectors: for each input of a layer, over all samples; and at most
FEWEST, MOST = 8, 256  # and for each sample
BLOCK = 64  # columns that are rounded before the rest is brought up to date
DAMPING = 0.01  # of the mean power, added to every input: few samples do not span a wide layer
TRUST = 5.0  # the same for what makes up for errors before the layer: with less, samples not looked at come out worse
MEMORY = 1 << 28  # bytes of what layers read and give, over all samples
FEWEST_SAMPLES = 8
ENOUGH = 4  # input vectors for each input of a layer, from which on its weights make up for its inputs' error
WIDEST = 4608  # inputs of a group; beyond, the second moments would not fit and nearest rounding stays


@dataclass
class Layer:
    """A layer with constant weights, seen as groups of matrices (group, out, in)."""

    unit: Unit
    weights: Array
    window: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def weight(self) -> ir.Value:
        """The weights as the model holds them."""
        value = constant_weight(self.unit)
        assert value is not None
        return value

    @property
    def bias(self) -> ir.Value | None:
        """The layer's own constant bias, where it has one."""
        value = self.unit.bias_value
        return value if value is not None and constant(value) is not None and len(value.uses()) == 1 else None

    def scales(self, plan: QuantPlan) -> Array:
        """The weight's scale for each output: (group, out)."""
        scale = np.asarray(plan[str(self.weight.name)].scale, np.float64)
        return np.broadcast_to(scale, (self.weights.shape[0] * self.weights.shape[1],)).reshape(self.weights.shape[:2])

    def constants(self, rounded: Array, error: Array) -> dict[str, Array]:
        """Weights (group, out, in), and the bias with the mean ``error`` (group, out) of outputs added, by name."""
        array = rounded.reshape(-1, rounded.shape[2])
        stored = array.T if self.unit.node.op_type == "MatMul" else array.reshape(shape_of(self.weight))
        found = {str(self.weight.name): stored.astype(np.float32)}
        bias = constant(self.bias)
        if self.bias is not None and bias is not None:
            found[str(self.bias.name)] = (bias + error.reshape(-1)).astype(np.float32)
        return found

    def columns(self, value: Array, draw: np.random.Generator, most: int) -> Array:
        """At most so many of the vectors that the weights multiply in one input: (group, in, positions)."""
        groups, _, width = self.weights.shape
        if not self.window:
            rows = value.reshape(-1, value.shape[-1])
            picks = draw.permutation(len(rows))[:most]
            return rows[picks].T[None]
        kernel, stride, dilation, pads = (self.window[k] for k in ("kernel", "strides", "dilations", "pads"))
        half = len(pads) // 2
        padded = np.pad(value[0], [(0, 0), *zip(pads[:half], pads[half:], strict=True)])
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        view = np.lib.stride_tricks.sliding_window_view(padded, extent, tuple(range(1, 1 + half)))
        steps = (*stride, *dilation)
        view = view[(slice(None), *(slice(None, None, step) for step in steps))]
        spatial = view.shape[1 : 1 + half]
        picks = draw.permutation(int(np.prod(spatial)))[:most]
        index: tuple[Any, ...] = (slice(None), *np.unravel_index(picks, spatial))
        patches: Array = view[index]  # (channels, positions, kernel...)
        columns: Array = np.moveaxis(patches, 1, -1).reshape(groups, width, len(picks))
        return columns


class _Moments:
    """Sums over what a layer reads: ``wanted`` in float, and ``given`` in integers, (group, in, positions) each."""

    def __init__(self, groups: int, width: int) -> None:
        self.power = np.zeros((groups, width, width))  # given given^T
        self.cross = np.zeros((groups, width, width))  # (wanted - given) given^T
        self.wanted, self.given = np.zeros((groups, width)), np.zeros((groups, width))
        self.count = 0
        self._waiting: list[tuple[Array, Array]] = []

    def add(self, wanted: Array, given: Array) -> None:
        """Take in the same positions of both; many at a time, or writing the sums would take most of the time."""
        self._waiting.append((wanted, given))
        if sum(columns.shape[2] for columns, _ in self._waiting) >= self.power.shape[1]:
            self.settle()

    def settle(self) -> None:
        """Add what waits."""
        if self._waiting:
            wanted, given = (np.concatenate(parts, 2) for parts in zip(*self._waiting, strict=True))
            turned = given.transpose(0, 2, 1)
            self.power += given @ turned
            self.cross += (wanted - given) @ turned
            self.wanted += wanted.sum(2)
            self.given += given.sum(2)
            self.count += given.shape[2]
            self._waiting = []


def reconstruct(
    model: ir.Model, plan: QuantPlan, samples: Iterable[Sample], progress: Progress, total: int
) -> dict[str, Array]:
    """The rounded weights and corrected biases of a prepared model's int8 layers, float32, by name.

    ``total`` is the number of ``samples``; of many, every n-th is looked at. Scales stay, so that ``plan`` holds for
    the model that ``with_constants`` makes of these.
    """

    def rounded(layer: Layer, wanted: Sequence[Array], given: Sequence[Array]) -> dict[str, Array]:
        return layer.constants(*least_change(layer, wanted, given, plan))

    return in_turn(model, plan, every_nth(model, samples, total, SAMPLES), rounded, progress, "round weights")


def every_nth(model: ir.Model, samples: Iterable[Sample], total: int, most: int) -> list[Mapping[str, Array]]:
    """The inputs of at most so many of ``total`` samples, fewer where what they make would not fit into memory."""
    fitting = MEMORY // max(2 * most_held(model.graph), 1)  # in float and in integers
    stride = -(-total // int(np.clip(fitting, FEWEST_SAMPLES, most)))
    return [sample.inputs for sample in islice(samples, 0, None, stride)]


def in_turn(
    model: ir.Model,
    plan: QuantPlan,
    inputs: Sequence[Mapping[str, Array]],
    round_layer: Callable[[Layer, Sequence[Array], Sequence[Array]], dict[str, Array]],
    progress: Progress,
    title: str,
) -> dict[str, Array]:
    """What ``round_layer`` makes of each layer, told what it reads in float, and in integers behind those before it."""
    found: dict[str, Array] = {}
    stored = {name: q for value in activations(model.graph) if (q := plan.get(name := str(value.name))) is not None}
    wanted, given = Walk(model, inputs), Walk(with_rounding(model, stored, {}), inputs)
    layers = layers_of(model, plan)
    with progress.task(title, len(layers)) as step:
        for layer in layers:
            name = str(layer.unit.node.name)
            constants = round_layer(layer, wanted.before(name), given.before(name))
            given.give(constants)
            found |= constants
            step()
    return found


def _observed(layer: Layer, wanted: Sequence[Array], given: Sequence[Array]) -> _Moments:
    """What the weights multiply, at the same positions of both."""
    groups, _, width = layer.weights.shape
    most = int(np.clip(min(COLUMNS * width, MOST_COLUMNS) / len(wanted), FEWEST, MOST))
    moments, draws = _Moments(groups, width), [np.random.default_rng(0) for _ in range(2)]
    for both in zip(wanted, given, strict=True):
        moments.add(*(layer.columns(value, draw, most) for value, draw in zip(both, draws, strict=True)))
    moments.settle()
    return moments


def weights_of(model: ir.Model, plan: QuantPlan) -> dict[str, QParams]:
    """The weights that ``reconstruct`` rounds, and how the plan quantizes them."""
    names = [str(layer.weight.name) for layer in layers_of(model, plan)]
    return {name: plan[name] for name in names}


def layers_of(model: ir.Model, plan: QuantPlan) -> list[Layer]:
    """Every layer whose constant weights, int8 in the plan, nobody else reads."""
    found = []
    for unit in units(model.graph):
        weight = constant_weight(unit)
        quant = plan.get(str(weight.name)) if weight is not None else None
        if weight is None or quant is None or quant.dtype != "int8" or len(weight.uses()) > 1:
            continue
        array = np.asarray(constant(weight), np.float64)
        layer = _conv(unit, array) if unit.node.op_type == "Conv" else _linear(unit, array)
        if layer is not None and layer.weights.shape[2] <= WIDEST:
            found.append(layer)
    return found


def _conv(unit: Unit, array: Array) -> Layer | None:
    attrs = attributes(unit.node)
    if attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    kernel, groups = array.shape[2:], int(attrs.get("group", 1))
    rank = len(kernel)
    window = {
        "kernel": tuple(kernel),
        "strides": tuple(attrs.get("strides") or (1,) * rank),
        "dilations": tuple(attrs.get("dilations") or (1,) * rank),
        "pads": tuple(attrs.get("pads") or (0,) * 2 * rank),
    }
    weights = array.reshape(groups, array.shape[0] // groups, -1)
    return Layer(unit, weights, window)


def _linear(unit: Unit, array: Array) -> Layer | None:
    if unit.node.op_type not in ("Gemm", "MatMul") or array.ndim != 2:
        return None
    weights = (array if unit.node.op_type == "Gemm" else array.T)[None]
    return Layer(unit, weights)


def least_change(layer: Layer, wanted: Sequence[Array], given: Sequence[Array], plan: QuantPlan) -> tuple[Array, Array]:
    """The weights on their grid (group, out, in) and the mean error that they leave (group, out).

    ``wanted`` and ``given`` are what the layer reads in float and in integers, sample by sample.
    """
    moments, width = _observed(layer, wanted, given), layer.weights.shape[2]
    power = moments.power / moments.count
    mean = np.einsum("gii->g", power)[:, None, None] / width + 1e-12
    real = layer.weights
    if moments.count >= ENOUGH * width:
        moved = np.linalg.solve(power + TRUST * mean * np.eye(width), moments.cross.transpose(0, 2, 1) / moments.count)
        real = np.where(real == 0, 0.0, real + real @ moved.transpose(0, 2, 1))
    power += DAMPING * mean * np.eye(width)
    rounded = _rounded(real, power, layer.scales(plan), plan[str(layer.weight.name)])
    sums = np.einsum("goi,gi->go", layer.weights, moments.wanted) - np.einsum("goi,gi->go", rounded, moments.given)
    return rounded, sums / moments.count


def _rounded(weights: Array, moments: Array, scales: Array, quant: QParams) -> Array:
    """The weights on their grid (group, out, in), rounded column by column with the error carried on."""
    groups, outs, width = weights.shape
    order = np.argsort(-np.einsum("gii->gi", moments), axis=1, kind="stable")
    group = np.arange(groups)[:, None]
    inverse = np.linalg.inv(moments[group[:, :, None], order[:, :, None], order[:, None, :]])
    factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)  # upper: inverse = factor^T factor
    rest = weights[group[:, :, None], np.arange(outs)[None, :, None], order[:, None, :]].copy()
    done, zero = np.empty_like(rest), rest == 0  # what was pruned stays so, as in SparseGPT (Frantar & Alistarh 2023)
    low, high = quant.limits
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = np.empty((groups, outs, end - start))
        for i in range(start, end):
            column = rest[:, :, i]
            done[:, :, i] = np.where(zero[:, :, i], 0.0, np.clip(np.rint(column / scales), low, high) * scales)
            errors[:, :, i - start] = (column - done[:, :, i]) / factor[:, None, i, i]
            rest[:, :, i:end] -= errors[:, :, i - start, None] * factor[:, None, i, i:end]
        rest[:, :, end:] -= errors @ factor[:, start:end, end:]
    result = np.empty_like(done)
    result[group[:, :, None], np.arange(outs)[None, :, None], order[:, None, :]] = done
    return result
