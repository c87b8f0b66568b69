"""The only place that rounds: affine quantization of arrays, and scales from ranges.

Rules: LiteRT 8-bit quantization specification (https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec)
and ONNX QuantizeLinear, which rounds half to even. Scales are float32 values, as both formats store them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.plan import LIMITS, QParams

Array = NDArray[Any]
SMALLEST_RANGE = 1e-20
SMALLEST_SCALE = float(np.finfo(np.float32).tiny) * 2.0**20


def _along(values: tuple[Any, ...], axis: int | None, ndim: int, dtype: str) -> Array:
    array = np.asarray(values, dtype)
    if axis is None:
        return array.reshape(()) if array.size == 1 else array
    return array.reshape([-1 if i == axis else 1 for i in range(ndim)])


def quantize(real: Array, q: QParams) -> Array:
    """Real values -> integers of ``q.dtype``: clip(round_half_even(real / scale) + zero_point)."""
    scale = _along(q.scale, q.axis, real.ndim, "float64" if q.dtype in ("int32", "int64") else "float32")
    zero_point = _along(q.zero_point, q.axis, real.ndim, "int64")
    low, high = q.limits
    with np.errstate(over="ignore"):  # what is too large is cut off below
        stored = np.rint(real.astype(scale.dtype) / scale) + zero_point
    result: Array = np.clip(stored, low, high).astype(q.dtype)
    return result


def dequantize(stored: Array, q: QParams) -> Array:
    """Integers -> real values, float32."""
    scale = _along(q.scale, q.axis, stored.ndim, "float32")
    zero_point = _along(q.zero_point, q.axis, stored.ndim, "int64")
    real: Array = ((stored.astype(np.int64) - zero_point) * scale).astype(np.float32)
    return real


def affine(low: float, high: float, dtype: str = "int8") -> QParams:
    """Asymmetric per-tensor parameters for the range [low, high], widened so that it holds zero exactly."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high - low < SMALLEST_RANGE:  # never anything but zero: runtimes cannot hold what divides by such a scale
        high = 1.0
    first, last = LIMITS[dtype]
    if dtype == "int16":  # symmetric, as the specification demands of 16-bit activations
        return QParams(dtype, (_float32(max(-low, high) / last),), (0,))
    scale = _float32((high - low) / (last - first))
    zero_point = int(np.clip(np.rint(first - low / scale), first, last))
    return QParams(dtype, (scale,), (zero_point,))


def symmetric(bound: Array, axis: int | None, dtype: str = "int8") -> QParams:
    """Symmetric parameters without the most negative integer; ``bound`` is max |w|, one a channel or a scalar."""
    high = LIMITS[dtype][1]
    scales = tuple(_float32(value / high) for value in np.atleast_1d(np.asarray(bound, np.float64)))
    return QParams(dtype, scales, (0,) * len(scales), axis, narrow=True)


def bias(source: QParams, weight: QParams) -> QParams:
    """Parameters of a bias: scale = input scale x weight scale, for each channel of the weight.

    int32, or int64 behind 16-bit activations, whose kernels add up in 64 bits.
    """
    scales = tuple(_float32(np.float64(source.scale[0]) * s) for s in weight.scale)
    dtype = "int64" if source.dtype == "int16" else "int32"
    return QParams(dtype, scales, (0,) * len(scales), 0 if len(scales) > 1 else None)


def power_of_two(bound: float) -> QParams:
    """Symmetric int16 parameters for [-bound, bound], the scale a power of two, as LSTM kernels want it."""
    return QParams("int16", (2.0 ** (math.ceil(math.log2(max(bound, 2.0**-8))) - 15),), (0,))


def fixed(scale: float, zero_point: int, dtype: str = "int8") -> QParams:
    """Parameters that the specification fixes for int8; int16 keeps the range, symmetric."""
    if dtype == "int16":
        return QParams(dtype, (_float32(scale * (128 + abs(zero_point)) / 32768),), (0,))
    return QParams(dtype, (_float32(scale),), (zero_point,))


def times(q: QParams, factor: float) -> QParams:
    """Parameters under which the same integers are ``factor`` times as large."""
    return replace(q, scale=tuple(_float32(scale * factor) for scale in q.scale))


def as_unsigned(q: QParams) -> QParams:
    """The same scale with uint8 integers: stored + 128."""
    return QParams("uint8", q.scale, tuple(z + 128 for z in q.zero_point), q.axis)


def _float32(value: float) -> float:
    """A positive scale as the float32 that the files store; zero and denormal ranges get the smallest usable one."""
    return float(np.float32(max(float(value), SMALLEST_SCALE)))
