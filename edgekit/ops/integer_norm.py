"""(x - mean) / sqrt(var + epsilon) of int8 values, in operators on 32-bit integers that every LiteRT has.

The stored integers are summed as they are: neither scale nor zero point changes what is normalised, only epsilon is
brought into their units. Deviations are kept ``finer`` times as large as the integers, as a mean lies between those;
their squares add up in 32 bits without loss. The inverse root is a table of ``ENTRIES`` values, the same for all nodes:
its index is the sum of squares in ``VALUES`` equal parts, one by one up to ``FINE`` and beyond that 32 together.
"""

from __future__ import annotations

from math import isqrt, prod, sqrt
from typing import Any

import numpy as np

from edgekit.ops.context import PLAIN, Array, Operand, Tfl, full
from edgekit.ops.declare import unsupported
from edgekit.quant import numerics
from edgekit.quant.plan import LIMITS, QParams

LARGEST = LIMITS["int32"][1]
WIDEST = 127.5**2  # no variance of int8 integers is larger (Popoviciu's inequality)
FINEST = LIMITS["int16"][1] // 128  # the mean is rounded to 16 bits
VALUES, FINE, COARSE = 65536, 2048, 32
ENTRIES = FINE - 1 + VALUES // COARSE
ONE = 2.0**20  # stands for 1 in the table


def normalise(
    tfl: Tfl, X: Operand, axes: list[int], epsilon: float, parameters: tuple[Operand, Operand | None] | None
) -> None:
    """Fill ``out`` with X normalised over stored ``axes``, then scaled and shifted by constants unless that is None."""
    source, read = tfl.tensor(X), tfl.tensor(X).quant
    if read is None or read.dtype != "int8":
        unsupported("no 32-bit sum holds the squares of int16 values; name it in quantization.float_nodes")
    count = prod(source.shape[axis] for axis in axes)
    if count * WIDEST > LARGEST:
        unsupported(f"a mean of {count} integers with a scale; at most {int(LARGEST / WIDEST)} can be lowered")
    wanted = epsilon / read.scale[0] ** 2
    added = min(wanted, LARGEST / count - WIDEST)  # beyond that the variance is nothing beside it
    finer = min(FINEST, isqrt(int(LARGEST / (count * (WIDEST + added)))))
    squares = count * finer**2
    part = -(-int(squares * (WIDEST + added)) // VALUES)
    centred = _centred(tfl, X, axes, count, finer)
    small = tuple(1 if i in axes else n for i, n in enumerate(source.shape))
    total = tfl.add("SUM", [_int32(tfl, "MUL", centred, centred), np.asarray(axes)], _temp(tfl, small), keep_dims=True)
    inverse = _inverse_root(tfl, _int32(tfl, "ADD", total, np.asarray(round(squares * added))), part)
    result = _int32(tfl, "MUL", centred, inverse)
    unit = sqrt(count / part) / ONE * (sqrt(added / wanted) if wanted else 1.0)
    result.quant = QParams("int32", (float(np.float32(unit)),), (0,))
    if parameters is None:
        tfl.add("QUANTIZE", [result])
    else:
        largest = sqrt(min(count, 255**2 / wanted) if wanted else count)
        _scaled(tfl, result, largest, *parameters)


def _temp(tfl: Tfl, shape: Any, quant: QParams | None = None) -> Any:
    return tfl.temp(shape, dtype=quant.dtype if quant is not None else "int32", quant=quant)


def _int32(tfl: Tfl, code: str, *inputs: Any) -> Any:
    """An operator on plain integers."""
    shape = np.broadcast_shapes(*(tfl.tensor(item).shape for item in inputs))
    return tfl.add(code, inputs, _temp(tfl, shape), **({} if code in ("MINIMUM", "FLOOR_DIV") else PLAIN))


def _wide(tfl: Tfl, source: Any) -> Any:
    tensor = tfl.tensor(source)
    kinds = {"in_data_type": tensor.dtype.upper(), "out_data_type": "INT32"}
    return tfl.add("CAST", [tensor], _temp(tfl, tensor.shape), **kinds)


def _centred(tfl: Tfl, X: Operand, axes: list[int], count: int, finer: int) -> Any:
    """(x - mean) * finer, with the mean rounded to 1 / finer of a step."""
    stored = _wide(tfl, X)
    small = tuple(1 if i in axes else n for i, n in enumerate(stored.shape))
    total = tfl.add("SUM", [stored, np.asarray(axes)], _temp(tfl, small), keep_dims=True)
    total.quant = QParams("int32", (float(np.float32(finer / count)),), (0,))
    mean = tfl.add("QUANTIZE", [total], _temp(tfl, small, QParams("int16", (1.0,), (0,))))
    return _int32(tfl, "SUB", _int32(tfl, "MUL", stored, np.asarray(finer)), _wide(tfl, mean))


def _inverse_root(tfl: Tfl, total: Any, part: int) -> Any:
    """ONE / sqrt(total / part)."""
    parts = _int32(tfl, "FLOOR_DIV", total, np.asarray(part))
    coarse = _int32(tfl, "FLOOR_DIV", parts, np.asarray(COARSE))
    index = _int32(tfl, "ADD", _int32(tfl, "MINIMUM", parts, np.asarray(FINE - 1)), coarse)
    return tfl.add("GATHER", [inverse_roots(), index], _temp(tfl, index.shape), axis=0)


def inverse_roots() -> Array:
    """The table: for each index ONE / sqrt of the middle of the parts that have it."""
    parts = np.arange(VALUES)
    index = np.minimum(parts, FINE - 1) + parts // COARSE
    middle = np.bincount(index, parts + 0.5) / np.maximum(np.bincount(index), 1)
    return np.rint(ONE / np.sqrt(np.maximum(middle, 0.5))).astype(np.int32)


def _scaled(tfl: Tfl, source: Any, largest: float, scale: Operand, bias: Operand | None) -> None:
    """Fill ``out`` with source * scale + bias, of the integers in which the plan stores both."""
    factors, quant = _planned(tfl, scale)
    addends = np.zeros(1) if bias is None else numerics.dequantize(*_planned(tfl, bias))
    step = max(largest / LIMITS["int16"][1], 2 * float(np.abs(addends).max()) / LARGEST / quant.scale[0])
    unit = QParams("int16", (float(np.float32(step)),), (0,))
    wide = _wide(tfl, tfl.add("QUANTIZE", [source], _temp(tfl, source.shape, unit)))
    result = _int32(tfl, "MUL", wide, factors.astype(np.int32) - quant.zero_point[0])
    product = QParams("int32", (float(np.float32(unit.scale[0] * quant.scale[0])),), (0,))
    if bias is not None:
        result = _int32(tfl, "ADD", result, numerics.quantize(addends, product))
    result.quant = product
    tfl.add("QUANTIZE", [result])


def _planned(tfl: Tfl, operand: Operand) -> tuple[Array, QParams]:
    """The integers of a constant, and what they stand for."""
    real, quant = full(operand, np.ones(1)), tfl.tensor(operand).quant
    assert quant is not None
    return numerics.quantize(real, quant), quant
