"""Why int8 hurts: each cause with the figures that give it away, and what to do about it.

The first of ``CAUSES`` whose figures fit is the cause of a tensor's loss, so what is special stands before what is
general. ``docs/accuracy.md`` says of each what it looks like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.diagnose import data, evidence

HURTS = 20.0  # dB of the outputs: what loses less than 1 % of their signal is no reason to look further
WEAK = 25.0  # dB of the artifact's outputs: above, the data may be as it is


@dataclass(frozen=True)
class Limit:
    """A figure (of ``MEASURES``) and the values of it that fit."""

    measure: str
    least: float = -math.inf
    most: float = math.inf

    def fits(self, numbers: Mapping[str, float]) -> bool:
        """Whether the figure is there and in between."""
        value = numbers.get(self.measure, math.nan)
        return self.least <= value <= self.most

    def __str__(self) -> str:
        """``channel_levels <= 16``."""
        if self.least == self.most:
            return f"{self.measure} = {self.most:g}"
        return f"{self.measure} <= {self.most:g}" if self.most < math.inf else f"{self.measure} >= {self.least:g}"


@dataclass(frozen=True)
class Cause:
    """A cause: any one of ``when`` gives it away, and all figures of that one have to fit.

    ``fix`` is what to do: the key of edgekit.toml or the command. ``anchor`` is the heading in docs/accuracy.md.
    """

    name: str
    when: tuple[tuple[Limit, ...], ...]
    fix: str
    anchor: str

    def evidence(self, numbers: Mapping[str, float]) -> tuple[str, ...]:
        """The figures that give it away, by name; empty when it is not the cause."""
        for limits in self.when:
            if all(limit.fits(numbers) for limit in limits):
                return tuple(limit.measure for limit in limits)
        return ()


ALONE, BY_WEIGHTS = Limit("alone_db", most=HURTS), Limit("weights_db", most=HURTS)
OUTPUT, ENOUGH = Limit("output_db", most=WEAK), Limit("samples", least=16)

OF_DATA: tuple[Cause, ...] = (
    Cause(
        "wrong preprocessing",
        (
            (Limit("odd_inputs", least=1),),
            (Limit("norm_turned", least=1.3), Limit("norm_shift", least=0.2)),
            (Limit("norm_shift", least=1.0),),
            (Limit("norm_stretch", least=2.0),),
            (ENOUGH, Limit("input_shift", least=1.0)),
            (ENOUGH, Limit("input_stretch", least=2.0)),
            (Limit("over_chance", most=1.5),),
        ),
        "[model.inputs.NAME] mean, std, scale, channels: what training used, for calibration and evaluation alike",
        "wrong-preprocessing",
    ),
    Cause(
        "too little data",
        (
            (OUTPUT, Limit("samples", most=31)),
            (OUTPUT, Limit("half_ranges", most=0.7)),
            (OUTPUT, Limit("unseen", least=0.1)),
        ),
        "[calibration] data, samples: 128 or more, of all kinds that the device will see",
        "too-little-data",
    ),
)
CAUSES: tuple[Cause, ...] = (
    Cause(
        "minus-infinity padding or mask",
        ((ALONE, Limit("lowest", most=-1e3), Limit("shown_levels", most=32)),),
        "pad with the smallest value that occurs, or keep the masked nodes real: [quantization] float_nodes",
        "minus-infinity-padding-or-mask",
    ),
    Cause(
        "softmax/normalisation in int8",
        ((ALONE, Limit("normalises", least=1, most=1)),),
        '[quantization] precision = "mixed", or float_nodes = ["Softmax", ...]',
        "softmaxnormalisation-in-int8",
    ),
    Cause(
        "mixed-range concat",
        ((ALONE, Limit("part_levels", most=32)),),
        "[calibration] equalize = true; of an output: [quantization] split_outputs = true",
        "mixed-range-concat",
    ),
    Cause(
        "depthwise weight spread",
        (
            (ALONE, Limit("weight_spread", least=8), Limit("channel_levels", most=16)),
            (BY_WEIGHTS, Limit("weight_spread", least=8), Limit("weight_levels", most=16)),
        ),
        "[calibration] equalize = true; a target with a scale per channel; or float_nodes for this layer",
        "depthwise-weight-spread",
    ),
    Cause(
        "saturated activation",
        ((ALONE, Limit("clipped_db", most=HURTS)),),
        '[calibration] range = "mse" or "minmax", or a percentile nearer to 100',
        "saturated-activation",
    ),
    Cause(
        "outlier channel",
        ((ALONE, Limit("channel_levels", most=16), Limit("widest", least=8), Limit("wide_share", most=0.25)),),
        "[calibration] equalize = true; or int16_nodes or float_nodes for the layers that give and read it",
        "outlier-channel",
    ),
    Cause(
        "dead range",
        tuple((ALONE, Limit(name, most=32)) for name in ("levels", "sample_levels", "bulk_levels")),
        '[calibration] range = "mse" or "percentile"; or absorb = true, where values lie far from zero',
        "dead-range",
    ),
)
MEASURES: Mapping[str, str] = {**data.MEASURES, **evidence.MEASURES}


def cause_of(causes: tuple[Cause, ...], numbers: Mapping[str, float]) -> tuple[Cause, tuple[str, ...]] | None:
    """The first cause that the figures give away, and by which of them."""
    for cause in causes:
        found = cause.evidence(numbers)
        if found:
            return cause, found
    return None
