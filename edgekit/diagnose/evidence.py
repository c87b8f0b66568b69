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
from edgekit.ops import OPS
from edgekit.progress import Progress
from edgekit.quant.kernels import computes_in_integers, weights_of
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
    "normalises": "1 where a Softmax or a normalisation computes in integers",
}
CHANNELS_FIRST = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
SOFTMAX = ("Softmax", "LogSoftmax")
ROOTS = ("Sqrt", "Reciprocal", "Pow")  # what a normalisation that is spelled out divides by goes through
MEANS = ("ReduceMean", "ReduceSum", "GlobalAveragePool")
LONGEST = 5  # ops from a mean to the last root
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
    found = {name: values.numbers() for name, values in seen.items() if name in plan}
    normalising = _normalising(model.graph)
    for unit in units(model.graph):
        name = str(unit.outputs[0].name)
        own = dict(_of_weights(unit, plan))
        q = plan.get(name)
        if q is not None and unit.node.op_type == "Concat":
            own |= _of_parts(unit.node, q, seen)
        if unit.node in normalising and computes_in_integers(unit, plan):
            own["normalises"] = 1.0
        if own:
            found.setdefault(name, {}).update(own)
    return found


def _of_weights(unit: Unit, plan: QuantPlan) -> Iterator[tuple[str, float]]:
    """How the weights of a layer lie in their integers."""
    weights = [value for value in weights_of(unit) if str(value.name) in plan]
    for weight in weights[:1]:
        q, array = plan[str(weight.name)], np.abs(np.asarray(constant(weight), np.float64))
        axis = OPS[unit.node.op_type].quant.channel_axis or 0
        bounds = array.max(tuple(i for i in range(array.ndim) if i != axis))
        live = bounds > 0
        if q.scale and live.any():
            yield "weight_levels", float(np.median((bounds / np.asarray(q.scale))[live]))
            if unit.node.op_type == "Conv" and int(attributes(unit.node).get("group", 1)) == len(bounds) > 1:
                yield "weight_spread", float(bounds.max() / np.median(bounds[live]))


def _of_parts(node: ir.Node, q: QParams, seen: Mapping[str, Seen]) -> Numbers:
    """How much of a Concat's scale its narrowest part has; one that is always zero needs none."""
    parts = [seen[str(value.name)].statistics for value in node.inputs if value is not None and str(value.name) in seen]
    spans = [span for s in parts if (span := max(s.high, 0.0) - min(s.low, 0.0)) > 0]
    return {"part_levels": min(spans) / q.scale[0] + 1} if len(spans) > 1 else {}


def _normalising(graph: ir.Graph) -> set[ir.Node]:
    """Softmax, and what lies between a square and the root of its mean: a normalisation that is spelled out."""
    found = {node for node in graph if node.op_type in SOFTMAX}
    for root in (node for node in graph if node.op_type in ROOTS):
        way = [root]
        while way[-1].op_type not in MEANS and (before := _computed(way[-1])) is not None and len(way) < LONGEST:
            way.append(before)
        square = _computed(way[-1]) if way[-1].op_type in MEANS else None
        if square is not None:
            found |= {*way, square}
    return found


def _computed(node: ir.Node) -> ir.Node | None:
    """The node that gives the first input which is computed."""
    return next((p for value in node.inputs if value is not None and (p := value.producer()) is not None), None)
