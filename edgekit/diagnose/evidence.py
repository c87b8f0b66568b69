"""What is measured of each quantized tensor: how the values of the data lie in the integers that the plan gives them.

One pass over the samples through the float graph; what is kept are sums, the extremes of each channel, and a number a
sample. ``MEASURES`` says what each figure is; a tensor that a figure makes no sense for has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, Unit, activations, attributes, constant, shape_of, units
from edgekit.progress import Progress
from edgekit.quant.kernels import computes_in_integers, constant_weight, weights_of
from edgekit.quant.masks import SURE
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.ranges import Statistics, percentile
from edgekit.reference import Reference
from edgekit.samples import Sample

MEASURES: Mapping[str, str] = {
    "alone_db": "signal-to-noise of the outputs (dB) when only what shares the tensor's scale is quantized",
    "weights_db": "the same when only the layer's weights are",
    "levels": "integers between the smallest and the largest value that calibration showed",
    "sample_levels": "integers that the median sample spans",
    "bulk_levels": "integers between which 99.9 % of the values lie",
    "channel_levels": "integers that the median channel spans",
    "widest": "the span of the widest channel over that of the median one",
    "wide_share": "share of channels that span more than a quarter of the widest",
    "clipped_db": "signal over what the range cuts off, on the calibration data (dB)",
    "half_range": "what the narrower half of the calibration samples spans, of what all span",
    "weight_levels": "of 127, the integers that the median output channel of the weights reaches",
    "weight_spread": "of a depthwise convolution: the largest weight of the widest channel over that of the median one",
    "part_levels": "of a Concat: integers that its narrowest part spans",
    "lowest": "the smallest value that calibration showed",
    "shown_levels": "integers that the values above -1,000 span, where some lie below",
    "sums_to_one": "1 where a Softmax or a normalisation computes in integers",
}
DEPTHWISE, CONCAT = "Conv", "Concat"
CHANNELS_FIRST = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
SOFTMAX = ("Softmax", "LogSoftmax")
ROOTS = ("Sqrt", "Reciprocal", "Pow")  # what a normalisation that is spelled out divides by goes through
BULK = 99.9
WIDE = 0.25
Numbers = dict[str, float]


@dataclass
class Seen:
    """The values of one tensor: extremes by channel and by half of the samples, a histogram, and what is clipped."""

    axis: int | None
    q: QParams | None
    low: Array = field(default_factory=lambda: np.asarray(np.inf))
    high: Array = field(default_factory=lambda: np.asarray(-np.inf))
    halves: Array = field(default_factory=lambda: np.asarray([[np.inf, np.inf], [-np.inf, -np.inf]]))
    statistics: Statistics = field(default_factory=Statistics)
    spans: list[float] = field(default_factory=list)
    signal: float = 0.0
    clipped: float = 0.0
    shown: tuple[float, float] = (math.inf, -math.inf)

    def add(self, value: Array, half: int) -> None:
        """Take in the values of one sample."""
        alike = tuple(axis for axis in range(value.ndim) if axis != self.axis)
        low, high = value.min(alike), value.max(alike)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.halves[0, half] = min(self.halves[0, half], float(low.min()))
        self.halves[1, half] = max(self.halves[1, half], float(high.max()))
        self.statistics.update(value)
        self.spans.append(float(high.max() - low.min()))
        self.signal += float(np.square(value, dtype=np.float64).sum())
        if float(low.min()) < SURE:
            shown = value[value > SURE]
            if shown.size:
                self.shown = min(self.shown[0], float(shown.min())), max(self.shown[1], float(shown.max()))
        if self.q is not None:
            cut = value - np.clip(value, *self.q.range)
            self.clipped += float(np.square(cut, dtype=np.float64).sum())

    @property
    def clipped_db(self) -> float:
        """Signal over what the range cuts off."""
        return 10 * math.log10(self.signal / self.clipped) if self.clipped and self.signal else math.inf

    @property
    def half_range(self) -> float:
        """What the narrower half of the samples spans, of what all span; 1 where nothing varies."""
        spans = self.halves[1] - self.halves[0]
        whole = float(self.halves[1].max() - self.halves[0].min())
        return float(spans.min()) / whole if whole > 0 and np.isfinite(spans).all() else 1.0

    @property
    def filled(self) -> float:
        """What the median sample spans, of what all span; 1 where nothing varies."""
        whole = self.statistics.high - self.statistics.low
        return float(np.median(self.spans)) / whole if whole > 0 else 1.0

    def numbers(self) -> Numbers:
        """All figures of a quantized tensor."""
        found: Numbers = {"clipped_db": self.clipped_db, "half_range": self.half_range, "lowest": float(self.low.min())}
        if self.q is None:
            return found
        step = self.q.scale[0]
        low, high = percentile(self.statistics, BULK)
        found |= {
            "levels": (self.statistics.high - self.statistics.low) / step + 1,
            "sample_levels": float(np.median(self.spans)) / step + 1,
            "bulk_levels": (high - low) / step + 1,
        }
        if math.isfinite(self.shown[0]) and float(self.low.min()) < SURE:
            found["shown_levels"] = (self.shown[1] - self.shown[0]) / step + 1
        spans = np.atleast_1d(self.high - self.low)
        live = spans[spans > 0]
        if live.size > 1:
            found |= {
                "channel_levels": float(np.median(live)) / step + 1,
                "widest": float(live.max() / np.median(live)),
                "wide_share": float(np.mean(live > WIDE * live.max())),
            }
        return found


def look(
    model: ir.Model, plan: QuantPlan, samples: Iterable[Sample], progress: Progress, total: int
) -> dict[str, Seen]:
    """What the samples show of every activation of a float graph, by name."""
    values = {str(value.name): value for value in activations(model.graph)}
    seen = {name: Seen(channel_axis(value), plan.get(name)) for name, value in values.items()}
    reference = Reference(model, list(values))
    with progress.task("look at tensors", total) as step:
        for number, sample in enumerate(samples):
            for name, value in reference.run(sample.inputs).items():
                if name in seen and value.size:
                    seen[name].add(value, number % 2)
            step()
    return {name: found for name, found in seen.items() if found.statistics.count}


def channel_axis(value: ir.Value) -> int | None:
    """Where a tensor's channels lie: behind the batch in images, last in sequences; None in a tensor without axes."""
    rank = len(shape_of(value))
    node = value.producer()
    while node is not None and node.op_type in ("Relu", "Clip") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if rank == 3 and (node is None or node.op_type not in CHANNELS_FIRST):
        return 2
    return 1 if rank > 1 else rank - 1 if rank else None


def numbers(model: ir.Model, plan: QuantPlan, seen: Mapping[str, Seen]) -> dict[str, Numbers]:
    """The figures of every activation that is quantized, or whose layer has quantized weights, by name."""
    found: dict[str, Numbers] = {}
    own: dict[str, Unit | None] = {str(value.name): None for value in model.graph.inputs}
    own |= {str(value.name): unit for unit in units(model.graph) for value in unit.outputs}
    for name, values in seen.items():
        unit = own.get(name)
        weight = constant_weight(unit) if unit is not None else None
        if name not in plan and (weight is None or str(weight.name) not in plan):
            continue
        found[name] = values.numbers() | (dict(_of_unit(unit, plan, seen)) if unit is not None else {})
    return found


def _of_unit(unit: Unit, plan: QuantPlan, seen: Mapping[str, Seen]) -> Iterator[tuple[str, float]]:
    """What the op that gives a tensor says."""
    node, weights = unit.node, [value for value in weights_of(unit) if str(value.name) in plan]
    for weight in weights[:1]:
        bounds, levels = _reach(weight, plan[str(weight.name)])
        if levels is not None:
            yield "weight_levels", levels
        if int(attributes(node).get("group", 1)) == shape_of(weight)[0] > 1 and node.op_type == DEPTHWISE:
            yield "weight_spread", float(bounds.max() / max(float(np.median(bounds)), 1e-30))
    q = plan.get(str(unit.outputs[0].name))
    if node.op_type == CONCAT and q is not None:
        spans = [
            float(seen[str(v.name)].high.max() - seen[str(v.name)].low.min())
            for v in node.inputs
            if v is not None and str(v.name) in seen
        ]
        if len(spans) > 1:
            yield "part_levels", min(spans) / q.scale[0] + 1
    if computes_in_integers(unit, plan) and (node.op_type in SOFTMAX or _normalises(node)):
        yield "sums_to_one", 1.0


def _reach(weight: ir.Value, q: QParams) -> tuple[Array, float | None]:
    """The largest weight of each output channel, and how many integers that of the median channel has."""
    array = np.abs(np.asarray(constant(weight), np.float64))
    axis = 0 if q.axis is None else q.axis
    bounds = (
        array.reshape(array.shape[0], -1).max(1)
        if axis == 0
        else array.max(tuple(i for i in range(array.ndim) if i != axis))
    )
    if not q.scale or not bounds.any():
        return bounds, None
    return bounds, float(np.median((bounds / np.asarray(q.scale))[bounds > 0]))


def _normalises(node: ir.Node) -> bool:
    """Whether a node is on the way of a normalisation that is spelled out: a mean on its way to a root."""
    if node.op_type in ROOTS:
        return any(_from_mean(value) for value in node.inputs)
    return node.op_type == "ReduceMean" and any(_to_root(value) for value in node.outputs)


def _from_mean(value: ir.Value | None, depth: int = 3) -> bool:
    node = value.producer() if value is not None else None
    if node is None or not depth:
        return False
    return node.op_type == "ReduceMean" or any(_from_mean(v, depth - 1) for v in node.inputs)


def _to_root(value: ir.Value, depth: int = 3) -> bool:
    readers = [use.node for use in value.uses()]
    if not depth:
        return False
    return any(n.op_type in ROOTS or (n.op_type == "Add" and _to_root(n.outputs[0], depth - 1)) for n in readers)
