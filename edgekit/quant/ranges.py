"""Streaming statistics of one tensor, and the ways to draw a range from them. Memory does not grow with the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BINS = 4096
LEVELS = 256
CLIPPING_WEIGHT = 4.0  # clipping errs to one side, so it adds up along a network where rounding averages out
AVERAGED = 0.01  # what a sample counts in a moving average, as in PyTorch's observer


class Statistics:
    """Extremes, the moving average of each sample's extremes, exact zeros, and a histogram over [-reach, reach].

    The histogram doubles when it must. Doubling merges bins in pairs, so nothing is lost but resolution, and one pass
    over the data suffices.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.average: Array = np.zeros(2)
        self.samples = self.count = self.zeros = 0
        self.reach = 0.0
        self.bins: Array = np.zeros(BINS, np.int64)

    def update(self, values: Array, histogram: bool = True) -> None:
        """Take in the values of one sample (any shape, float32). Values that are not finite raise ValueError."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("values that are not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples += 1
        share = max(1 / self.samples, AVERAGED)
        self.average += share * ((low, high) - self.average)
        self.count += flat.size
        if not histogram:
            return
        self._widen(max(-low, high))
        index = (flat * np.float32(BINS / 2 / self.reach) + np.float32(BINS / 2)).astype(np.int32)
        np.clip(index, 0, BINS - 1, out=index)
        self.bins += np.bincount(index, minlength=BINS)
        self.zeros += flat.size - int(np.count_nonzero(flat))

    def _widen(self, needed: float) -> None:
        if self.reach == 0.0:
            self.reach = max(needed, 1e-30)
        while self.reach < needed:
            half = self.bins.reshape(-1, 2).sum(1)
            self.bins = np.zeros(BINS, np.int64)
            self.bins[BINS // 4 : BINS // 4 + BINS // 2] = half
            self.reach *= 2

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        return (np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach


Range = tuple[float, float]


def minmax(statistics: Statistics) -> Range:
    """All that was seen."""
    return statistics.low, statistics.high


def moving_average(statistics: Statistics) -> Range:
    """The moving average of what each sample spans, the last ones counting most.

    Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
    section 3.1. The first ``1 / AVERAGED`` samples count alike, so that the first of them does not outweigh the others.
    """
    low, high = statistics.average.tolist()
    return low, high


def percentile(statistics: Statistics, keep: float = 99.99) -> Range:
    """The narrowest range that leaves at most (100 - ``keep``) / 2 percent of the values out on either side."""
    total = np.cumsum(statistics.bins)
    tail = (1 - keep / 100) / 2 * total[-1]
    width = 2 * statistics.reach / BINS
    low = -statistics.reach + width * int(np.searchsorted(total, tail, side="right"))
    high = -statistics.reach + width * (int(np.searchsorted(total, total[-1] - tail, side="left")) + 1)
    return max(low, statistics.low), min(high, statistics.high)


def mse(statistics: Statistics) -> Range:
    """The range with the smallest expected squared error: step^2 / 12 inside, the distance to the edge outside.

    Exact zeros cost nothing, as zero is always represented (Banner et al. 2019, "Post training 4-bit quantization",
    section 3, with the clipping error taken from the histogram in place of a fitted distribution).
    """
    return _search(statistics, _squared_error)


def entropy(statistics: Statistics) -> Range:
    """The range with the smallest Kullback-Leibler divergence between the values and their 256 levels.

    S. Migacz, "8-bit inference with TensorRT" (GTC 2017), on a histogram of signed values.
    """
    return _search(statistics, _divergence)


def _search(s: Statistics, cost: Callable[[Statistics, Array, Array], Array]) -> Range:
    """Shrink the upper, then the lower end, twice: costs are smooth enough for one end at a time."""
    steps = np.linspace(0.2, 1.0, 81)
    low, high = min(s.low, 0.0), max(s.high, 0.0)
    best = [low, high]
    for end in (1, 0, 1, 0):
        limit = (low, high)[end]
        if limit == 0.0:
            continue
        candidates = limit * steps
        ends = [np.full_like(candidates, best[0]), np.full_like(candidates, best[1])]
        ends[end] = candidates
        best[end] = float(candidates[int(np.argmin(cost(s, ends[0], ends[1])))])
    return best[0], best[1]


def _squared_error(s: Statistics, low: Array, high: Array) -> Array:
    """The cost of each candidate from running sums of count, value and value squared, not from all bins again."""
    centres, counts = s.centres, s.bins.astype(np.float64)
    counts[BINS // 2] = max(counts[BINS // 2] - s.zeros, 0)
    sums = np.zeros((3, BINS + 1))
    np.cumsum([counts, counts * centres, counts * centres**2], axis=1, out=sums[:, 1:])
    below, upto = sums[:, np.searchsorted(centres, low)], sums[:, np.searchsorted(centres, high, side="right")]
    above, step = sums[:, -1:] - upto, (high - low) / (LEVELS - 1)
    clipped = sum(tail[2] - 2 * end * tail[1] + end**2 * tail[0] for tail, end in ((below, low), (above, high)))
    return np.asarray((upto[0] - below[0]) * step**2 / 12 + CLIPPING_WEIGHT * clipped)


def _divergence(s: Statistics, low: Array, high: Array) -> Array:
    centres, counts = s.centres, s.bins.astype(np.float64)
    counts[BINS // 2] = max(counts[BINS // 2] - s.zeros, 0)
    first, last = np.searchsorted(centres, low), np.searchsorted(centres, high, side="right")
    return np.asarray([_divergence_of(counts, int(a), int(b)) for a, b in zip(first, last, strict=True)])


def _divergence_of(counts: Array, first: int, last: int) -> float:
    """KL(P || Q): P is the histogram with what lies outside moved to its edges, Q what 256 levels keep of it."""
    size = last - first
    if size < 2:
        return math.inf
    kept = counts[first:last]
    level = np.minimum((np.arange(size) * LEVELS) // size, LEVELS - 1)
    filled = kept > 0
    mass, members = np.bincount(level, kept, LEVELS), np.bincount(level, filled, LEVELS)
    q = np.where(filled, mass[level] / np.maximum(members[level], 1), 0)
    p = kept.copy()
    p[0] += counts[:first].sum()
    p[-1] += counts[last:].sum()
    if not p.sum() or not q.sum():
        return math.inf
    p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-12)
    used = p > 0
    return float((p[used] * np.log(p[used] / q[used])).sum())


@dataclass(frozen=True)
class Method:
    """A way to draw a range: its name, and what it is told."""

    name: str = "mse"
    percentile: float = 99.99

    def range_of(self, statistics: Statistics) -> Range:
        """The range of one tensor. Raises KeyError for a name that is not in ``METHODS``."""
        if self.name == "percentile":
            return percentile(statistics, self.percentile)
        return METHODS[self.name](statistics)

    @property
    def needs_histogram(self) -> bool:
        """Whether minimum and maximum are not enough."""
        return self.name not in ("minmax", "moving-average")


METHODS: dict[str, Callable[[Statistics], Range]] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
