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
from edgekit.reference import Reference
from edgekit.samples import Sample

MEASURES: Mapping[str, str] = {
    "output_db": "signal-to-noise of the artifact's worst output (dB)",
    "samples": "calibration samples",
    "half_ranges": "what the narrower half of the calibration samples spans, of what all span: the median tensor",
    "unseen": "share of tensors of which evaluation data loses more than 1 % of the signal beyond the range, and "
    "calibration data did not",
    "odd_inputs": "inputs whose raw values do not fit the declared preprocessing",
    "input_shift": "how far an input channel's means in calibration and evaluation lie apart, in standard deviations",
    "input_stretch": "the quotient of an input channel's standard deviations in calibration and evaluation",
    "norm_shift": "how far the means before the first BatchNormalization lie from those in training, in standard "
    "deviations (root mean square over its channels)",
    "norm_stretch": "the quotient of the standard deviations there (the median channel)",
    "over_chance": "the float model's top-1 on evaluation data, over that of guessing",
}
LOOKED_AT = 64
LOST_DB = 20.0  # 1 % of the signal
SMALLEST = 1e-6


@dataclass
class _Moments:
    """Sums of each channel."""

    count: int = 0
    total: Array = field(default_factory=lambda: np.zeros(1))
    squares: Array = field(default_factory=lambda: np.zeros(1))

    def add(self, value: Array) -> None:
        """Take in one sample, channels on the second axis."""
        flat = np.asarray(value, np.float64)
        flat = flat.reshape(flat.shape[0], flat.shape[1], -1) if flat.ndim > 1 else flat.reshape(1, 1, -1)
        self.total = self.total + flat.sum((0, 2))
        self.squares = self.squares + np.square(flat).sum((0, 2))
        self.count += flat.shape[0] * flat.shape[2]

    @property
    def mean(self) -> Array:
        """The mean of each channel."""
        return self.total / max(self.count, 1)

    @property
    def std(self) -> Array:
        """The standard deviation of each channel."""
        return np.asarray(np.sqrt(np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0.0)))


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


def of_training(source: ir.Model, samples: Iterable[Sample]) -> Numbers:
    """What the source model's first BatchNormalization sees of the data, against what it saw in training."""
    norm = next((node for node in source.graph if node.op_type == "BatchNormalization"), None)
    if norm is None or norm.inputs[0] is None:
        return {}
    mean, variance = constant(norm.inputs[3]), constant(norm.inputs[4])
    if mean is None or variance is None:
        return {}
    name, moments = str(norm.inputs[0].name), _Moments()
    reference = Reference(source, [name])
    for sample in islice(samples, LOOKED_AT):
        moments.add(reference.run(sample.inputs)[name])
    std = np.sqrt(variance.astype(np.float64) + float(attributes(norm).get("epsilon", 1e-5)))
    live = variance > SMALLEST * variance.max(initial=0.0)
    shift = (moments.mean - mean)[live] / std[live]
    stretch = np.log(np.maximum(moments.std[live], SMALLEST) / std[live])
    return {
        "norm_shift": float(np.sqrt(np.mean(shift**2))),
        "norm_stretch": float(np.exp(abs(np.median(stretch)))),
    }


def of_ranges(calibration: Mapping[str, Seen], evaluation: Mapping[str, Seen]) -> Numbers:
    """How steady the ranges are, and whether they hold on other data."""
    halves = [seen.half_range for seen in calibration.values() if seen.q is not None]
    found = {"half_ranges": float(np.median(halves))} if halves else {}
    quantized = [name for name, seen in evaluation.items() if seen.q is not None]
    if quantized:
        lost = [evaluation[name].clipped_db < LOST_DB <= calibration[name].clipped_db for name in quantized]
        found["unseen"] = float(np.mean(lost))
    return found
