"""What is measured of the data: whether calibration shows what evaluation shows, and what the network was trained on.

The first BatchNormalization remembers the mean and variance of what it saw in training. Data that was prepared as it
was then gives the same again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx_ir as ir

from edgekit.diagnose.evidence import Numbers, Seen
from edgekit.graph import Array, attributes, constant
from edgekit.preprocess import Preprocess
from edgekit.reference import Reference
from edgekit.samples import Sample, Samples

MEASURES: Mapping[str, str] = {
    "output_db": "signal-to-noise of the artifact's worst output (dB)",
    "samples": "calibration samples",
    "half_ranges": "what the narrower half of the calibration samples spans, of what all span: the median of the "
    "tensors of which one sample spans an eighth",
    "unseen": "share of tensors of which evaluation data loses more than 1 % of the signal beyond the range, and "
    "calibration data did not",
    "odd_inputs": "inputs whose raw values do not fit the declared preprocessing",
    "input_shift": "how far an input channel's means in calibration and evaluation lie apart, in standard deviations",
    "input_stretch": "the quotient of an input channel's standard deviations in calibration and evaluation",
    "norm_shift": "how far the means before the first BatchNormalization lie from those in training, in standard "
    "deviations (root mean square over its channels)",
    "norm_turned": "norm_shift over what it is with the colours in the other order",
    "norm_stretch": "the quotient of the standard deviations there (the median channel)",
    "over_chance": "the float model's top-1 on evaluation data, over that of guessing",
}
LOOKED_AT = 64
FILLED = 0.125  # of what a tensor spans, by the median sample; else it is a few samples that are broken
LOST_DB = 20.0  # 1 % of the signal
SMALLEST = 1e-6
TRIMMED = 0.05  # of the samples, at either end: one that is broken says nothing of the others


@dataclass
class _Moments:
    """The mean and the mean square of each channel, by sample; the loudest and the quietest samples do not count."""

    means: list[Array] = field(default_factory=list)
    squares: list[Array] = field(default_factory=list)

    def add(self, value: Array) -> None:
        """Take in one sample, channels on the second axis."""
        real = np.asarray(value, np.float64)
        flat = real.reshape(real.shape[0], real.shape[1], -1) if real.ndim > 1 else real.reshape(1, 1, -1)
        self.means.append(flat.mean((0, 2)))
        self.squares.append(np.square(flat).mean((0, 2)))

    def _over(self, values: list[Array]) -> Array:
        """The mean over the samples that count."""
        left_out = int(TRIMMED * len(values))
        order = np.argsort([square.mean() for square in self.squares], kind="stable")
        return np.asarray(np.mean([values[i] for i in order[left_out : len(values) - left_out]], 0))

    @property
    def mean(self) -> Array:
        """The mean of each channel."""
        return self._over(self.means)

    @property
    def std(self) -> Array:
        """The standard deviation of each channel."""
        return np.asarray(np.sqrt(np.maximum(self._over(self.squares) - self.mean**2, 0.0)))


def of_inputs(calibration: Iterable[Sample], evaluation: Iterable[Sample]) -> Numbers:
    """How far the inputs of two data sets lie apart: the worst channel."""
    one, other = _moments(calibration), _moments(evaluation)
    shift, stretch = 0.0, 1.0
    for name in one:
        spread = np.maximum(np.maximum(one[name].std, other[name].std), SMALLEST)
        shift = max(shift, float((np.abs(one[name].mean - other[name].mean) / spread).max()))
        least = np.maximum(np.minimum(one[name].std, other[name].std), SMALLEST)
        stretch = max(stretch, float((spread / least).max()))
    return {"input_shift": shift, "input_stretch": stretch}


def _moments(samples: Iterable[Sample]) -> dict[str, _Moments]:
    found: dict[str, _Moments] = {}
    for sample in islice(samples, LOOKED_AT):
        for name, value in sample.inputs.items():
            if value.dtype.kind == "f":
                found.setdefault(name, _Moments()).add(value)
    return found


def of_training(source: ir.Model, samples: Samples) -> Numbers:
    """What the source model's first BatchNormalization sees of the data, against what it saw in training."""
    norm = next((node for node in source.graph if node.op_type == "BatchNormalization"), None)
    if norm is None or norm.inputs[0] is None:
        return {}
    mean, variance = constant(norm.inputs[3]), constant(norm.inputs[4])
    if mean is None or variance is None:
        return {}
    live = variance > SMALLEST * variance.max(initial=0.0)
    std = np.sqrt(variance.astype(np.float64) + float(attributes(norm).get("epsilon", 1e-5)))[live]
    name, found, turned = str(norm.inputs[0].name), _Moments(), _Moments()
    reference = Reference(source, [name])
    for sample in islice(samples, LOOKED_AT):
        found.add(reference.run(sample.inputs)[name])
        other = _turned(sample, samples.inputs)
        if other:
            turned.add(reference.run(other)[name])
    stretch = np.log(np.maximum(found.std[live], SMALLEST) / std)
    shifts = [_root_mean_square((moments.mean - mean)[live] / std) for moments in (found, turned) if moments.means]
    numbers = {"norm_shift": shifts[0], "norm_stretch": float(np.exp(abs(np.median(stretch))))}
    return numbers | ({"norm_turned": shifts[0] / max(shifts[1], SMALLEST)} if len(shifts) > 1 else {})


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _turned(sample: Sample, inputs: Mapping[str, Preprocess]) -> dict[str, Array]:
    """The sample with the colours of its images in the other order; empty where it has no colour images."""
    found: dict[str, Array] = {}
    for name, preprocess in inputs.items():
        if preprocess.channel_count == 3:
            axis = (preprocess.config.layout or "").index("C")
            value = np.moveaxis(sample.inputs[name], axis, -1)
            mean, std = (
                np.asarray(x, np.float32) for x in (preprocess.config.mean or 0.0, preprocess.config.std or 1.0)
            )
            value = ((value * std + mean)[..., ::-1] - mean) / std
            found[name] = np.ascontiguousarray(np.moveaxis(value, -1, axis))
    return {**sample.inputs, **found} if found else {}


def of_ranges(calibration: Mapping[str, Seen], evaluation: Mapping[str, Seen]) -> Numbers:
    """How steady the ranges are, and whether they hold on other data."""
    halves = [seen.half_range for seen in calibration.values() if seen.q is not None and seen.filled >= FILLED]
    found = {"half_ranges": float(np.median(halves))} if halves else {}
    quantized = [name for name, seen in evaluation.items() if seen.q is not None]
    if quantized:
        lost = [evaluation[name].clipped_db < LOST_DB <= calibration[name].clipped_db for name in quantized]
        found["unseen"] = float(np.mean(lost))
    return found
