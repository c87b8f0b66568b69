"""How far the integers of a weight reach: to its largest value, or to where its rounding costs least.

A few weights, as a depthwise convolution has for each channel, lie nearer to the integers of some scales than of
others, below and above that of the largest value; of many, the largest may be cut where coarser steps would cost more.

Both give the bound of symmetric scales: one for each index along an axis, or one for the whole tensor (axis None).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.graph import Array
from edgekit.quant import numerics

SHARES = (1.0, *np.linspace(1.06, 0.94, 31), 0.9, 0.85, 0.8, 0.7, 0.6)  # of the largest value: bounds to try


def largest(weights: Array, axis: int | None) -> Array:
    """The largest absolute value."""
    bound: Array = np.abs(weights).max(axis=_others(weights, axis)) if weights.size else np.zeros(1)
    return bound


def least_error(weights: Array, axis: int | None) -> Array:
    """The bound of int8 with the least squared error of the weights (Nagel et al. 2021, "A white paper on neural
    network quantization", section 3.1.1); the largest value where no other is better.
    """
    widest = largest(weights, axis)
    best, least = widest, np.full_like(widest, np.inf)
    for share in SHARES if weights.size else ():
        q = numerics.symmetric(widest * share, axis)
        error = np.square(numerics.dequantize(numerics.quantize(weights, q), q) - weights).sum(_others(weights, axis))
        best, least = np.where(error < least, widest * share, best), np.minimum(error, least)
    return best


def _others(weights: Array, axis: int | None) -> tuple[int, ...]:
    return tuple(i for i in range(weights.ndim) if i != axis)


BOUNDS: dict[str, Callable[[Array, int | None], Array]] = {"minmax": largest, "mse": least_error}
