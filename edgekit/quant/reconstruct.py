"""Round weights with regard to what they multiply, and move the mean error that is left into the bias.

Rounding each weight to its nearest integer is blind to its inputs. Here the columns of a layer are rounded one by one,
and the error of each is made up for by those that are still to come, so that the layer's output changes least over the
calibration inputs: optimal brain surgery for quantization (Frantar et al. 2022, "GPTQ", with columns in the order of
their inputs' power). What remains of the mean is corrected in the bias (Nagel et al. 2019, section 4.2). Scales, and so
the plan, stay as they are; nothing runs slower for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, Unit, attributes, constant, shape_of, units
from edgekit.progress import Progress
from edgekit.quant.kernels import constant_weight
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.reference import Reference
from edgekit.samples import Sample

SAMPLES = 128  # that are looked at
COLUMNS, MOST_COLUMNS = 16, 16_384  # input vectors: for each input of a layer, over all samples; and at most
FEWEST, MOST = 8, 256  # and for each sample
BLOCK = 64  # columns that are rounded before the rest is brought up to date
DAMPING = 0.01  # of the mean power, added to every input: few samples do not span a wide layer
MEMORY = 1 << 28  # bytes of second moments in one pass over the samples
WIDEST = 4608  # inputs of a group; beyond, the second moments would not fit and nearest rounding stays


@dataclass
class Layer:
    """A layer with constant weights, seen as groups of matrices (group, out, in), and the moments of its inputs."""

    unit: Unit
    weights: Array
    moments: Array
    mean: Array
    count: int = 0
    waiting: list[Array] = field(default_factory=list)
    window: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, value: Array, draw: np.random.Generator, samples: int) -> None:
        """Take in one input of the layer, source layout, of so many samples."""
        wanted = min(COLUMNS * self.weights.shape[2], MOST_COLUMNS)
        most = int(np.clip(wanted / samples, FEWEST, MOST))
        self.waiting.append(self.columns(value, draw, most))
        if sum(columns.shape[2] for columns in self.waiting) >= self.weights.shape[2]:
            self.settle()

    @property
    def input(self) -> str:
        """The name of what the weights multiply."""
        value = self.unit.node.inputs[0]
        assert value is not None
        return str(value.name)

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

    def settle(self) -> None:
        """Add what waits to the moments: many columns at a time, or writing the moments would take most of the time."""
        if self.waiting:
            columns = np.concatenate(self.waiting, 2)  # (group, in, positions)
            self.moments += columns @ columns.transpose(0, 2, 1)
            self.mean += columns.sum(2)
            self.count += columns.shape[2]
            self.waiting = []

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


def reconstruct(
    model: ir.Model, plan: QuantPlan, samples: Iterable[Sample], progress: Progress, total: int
) -> dict[str, Array]:
    """The rounded weights and corrected biases of a prepared model's int8 layers, float32, by name.

    ``total`` is the number of ``samples``; of many, every n-th is looked at. Scales stay, so that ``plan`` holds for
    the model that ``with_constants`` makes of these.
    """
    found: dict[str, Array] = {}
    stride = -(-total // SAMPLES)
    passes = list(_passes(layers_of(model, plan)))
    looked_at = -(-total // stride)
    with progress.task("round weights", len(passes) * looked_at) as step:
        for layers in passes:
            reference = Reference(model, list(dict.fromkeys(layer.input for layer in layers)))
            draw = np.random.default_rng(0)
            for sample in islice(samples, 0, None, stride):
                values = reference.run(sample.inputs)
                for layer in layers:
                    layer.add(values[layer.input], draw, looked_at)
                step()
            while layers:
                found |= _rounded_layer(layers.pop(0), plan)
    return found


def _passes(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """The layers, as many at a time as their second moments may take memory."""
    now: list[Layer] = []
    for layer in layers:
        if now and sum(item.moments.nbytes for item in (*now, layer)) > MEMORY:
            yield now
            now = []
        now.append(layer)
    if now:
        yield now


def with_constants(model: ir.Model, constants: Mapping[str, Array]) -> ir.Model:
    """A copy of a model whose named constants hold other numbers of the same shape."""
    copy = model.clone()
    for name, array in constants.items():
        copy.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return copy


def weights_of(model: ir.Model, plan: QuantPlan) -> dict[str, QParams]:
    """The weights that ``reconstruct`` rounds, and how the plan quantizes them: all that the result depends on."""
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
    width = weights.shape[2]
    return Layer(unit, weights, np.zeros((groups, width, width)), np.zeros((groups, width)), window=window)


def _linear(unit: Unit, array: Array) -> Layer | None:
    if unit.node.op_type not in ("Gemm", "MatMul") or array.ndim != 2:
        return None
    weights = (array if unit.node.op_type == "Gemm" else array.T)[None]
    width = weights.shape[2]
    return Layer(unit, weights, np.zeros((1, width, width)), np.zeros((1, width)))


def _rounded_layer(layer: Layer, plan: QuantPlan) -> dict[str, Array]:
    """The layer's weight, and its bias where it has one of its own that is constant."""
    layer.settle()
    if layer.count == 0:
        return {}
    rounded = _rounded(layer, layer.scales(plan), plan[str(layer.weight.name)])
    return layer.constants(rounded, np.einsum("goi,gi->go", layer.weights - rounded, layer.mean / layer.count))


def _rounded(layer: Layer, scales: Array, quant: QParams) -> Array:
    """The weights on their grid (group, out, in), rounded column by column with the error carried on."""
    groups, outs, width = layer.weights.shape
    moments = layer.moments / layer.count
    power = np.einsum("gii->gi", moments)
    moments = moments + np.eye(width) * (DAMPING * power.mean(1) + 1e-12)[:, None, None]
    order = np.argsort(-power, axis=1, kind="stable")
    group = np.arange(groups)[:, None]
    inverse = np.linalg.inv(moments[group[:, :, None], order[:, :, None], order[:, None, :]])
    factor = np.linalg.cholesky(inverse).transpose(0, 2, 1)  # upper: inverse = factor^T factor
    rest = layer.weights[group[:, :, None], np.arange(outs)[None, :, None], order[:, None, :]].copy()
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
