"""Comparisons, logic, and the choice between two tensors. Bool tensors have no scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgekit.ops.context import Array, Operand, Tfl
from edgekit.ops.declare import ANYTHING, NUMBERS, Layout, Quant, Scale, Types, op
from edgekit.quant import numerics
from edgekit.quant.plan import QParams

BOOL: Types = ("bool",)


def _from(real: Array, q: QParams) -> Array:
    """The first integer (from 0 on) whose value is ``real`` or more."""
    return np.searchsorted(_values(q), real, "left")


def _upto(real: Array, q: QParams) -> Array:
    """The last integer (from 0 on; else -1) whose value is ``real`` or less."""
    return np.searchsorted(_values(q), real, "right") - 1


def _only(real: Array, q: QParams) -> Array:
    """The integer (from 0 on) whose value is ``real``, or -1, which none is."""
    return np.where(_from(real, q) == _upto(real, q), _upto(real, q), -1)


def _values(q: QParams) -> Array:
    low, high = q.limits
    return numerics.dequantize(np.arange(low, high + 1), q)


# TFLite operator -> which of the stored integers stands for a constant on its right; what it is with its sides swapped.
PLACE: dict[str, Callable[[Array, QParams], Array]] = {
    "EQUAL": _only,
    "GREATER": _upto,
    "GREATER_EQUAL": _from,
    "LESS": _from,
    "LESS_EQUAL": _upto,
}
SWAPPED = {"GREATER": "LESS", "GREATER_EQUAL": "LESS_EQUAL", "LESS": "GREATER", "LESS_EQUAL": "GREATER_EQUAL"}
COMPARISONS: list[tuple[str, int, str, Types]] = [  # ONNX op, since, TFLite operator, element types
    ("Equal", 19, "EQUAL", (*NUMBERS, "bool")),
    ("Greater", 13, "GREATER", NUMBERS),
    ("GreaterOrEqual", 16, "GREATER_EQUAL", NUMBERS),
    ("Less", 13, "LESS", NUMBERS),
    ("LessOrEqual", 16, "LESS_EQUAL", NUMBERS),
]


def _comparison(name: str, since: int, code: str, types: Types) -> None:
    def lower(tfl: Tfl, A: Operand, B: Operand) -> None:
        left, right, what = (A, B, code) if A.array is None else (B, A, SWAPPED.get(code, code))
        q = tfl.tensor(left).quant
        if q is None:
            tfl.add(code, [tfl.aligned(A), tfl.aligned(B)])
        elif right.array is None:
            tfl.add(code, [_integers(tfl, left), _integers(tfl, right)])
        else:
            own = tfl.tensor(right).quant
            real = right.array if own is None else numerics.dequantize(numerics.quantize(right.array, own), own)
            limit = np.asarray(PLACE[what](real, q) + q.limits[0], np.int32)
            named = replace(right, name=f"{right.name}/to/{tfl.out.name}", array=limit, dtype="int32")
            tfl.add(what, [_integers(tfl, left), tfl.aligned(named)])

    lower.__doc__ = f"{code}; of integers with a scale after CAST to int32, as LiteRT's int8 kernel rounds to 1/256."
    op(name, since=since, layout=Layout.ANY, quant=Quant(scale=Scale.SHARED), types=types)(lower)


def _integers(tfl: Tfl, X: Operand) -> Any:
    """The stored integers of X, in 32 bits."""
    source = tfl.tensor(X)
    wide = tfl.temp(source.shape, dtype="int32")
    return tfl.add("CAST", [X], wide, in_data_type=source.dtype.upper(), out_data_type="INT32")


for row in COMPARISONS:
    _comparison(*row)


def _logical(name: str, code: str) -> None:
    def lower(tfl: Tfl, A: Operand, B: Operand) -> None:
        tfl.add(code, [tfl.aligned(A), tfl.aligned(B)])

    lower.__doc__ = f"{code}."
    op(name, since=7, layout=Layout.ANY, types=BOOL)(lower)


for name, code in (("And", "LOGICAL_AND"), ("Or", "LOGICAL_OR"), ("Xor", "NOT_EQUAL")):
    _logical(name, code)


@op("Not", since=1, layout=Layout.ANY, types=BOOL)
def not_(tfl: Tfl, X: Operand) -> None:
    """LOGICAL_NOT."""
    tfl.add("LOGICAL_NOT", [X])


@op("Where", since=16, layout=Layout.ANY, quant=Quant(scale=Scale.SHARED, inputs=(1, 2)), types=ANYTHING)
def where(tfl: Tfl, condition: Operand, X: Operand, Y: Operand) -> None:
    """SELECT_V2."""
    tfl.add("SELECT_V2", [tfl.aligned(condition), tfl.aligned(X), tfl.aligned(Y)])


@op("IsNaN", since=20, layout=Layout.ANY)
def is_nan(tfl: Tfl, X: Operand) -> None:
    """NOT_EQUAL of X and itself; in int8 a table."""
    if tfl.tensor(X).quant is not None:
        tfl.lookup(X, np.isnan)
    else:
        tfl.add("NOT_EQUAL", [X, X])


@op("IsInf", since=20, layout=Layout.ANY)
def is_inf(tfl: Tfl, X: Operand, *, detect_negative: int = 1, detect_positive: int = 1) -> None:
    """EQUAL to infinity, of ABS for both signs; in int8 a table."""
    if tfl.tensor(X).quant is not None:
        tfl.lookup(X, np.isinf)
        return
    both = detect_negative and detect_positive
    source: Any = tfl.add("ABS", [X], tfl.temp(tfl.out.shape, X)) if both else X
    sign = 1 if detect_positive else -1 if detect_negative else math.nan
    tfl.add("EQUAL", [source, tfl.number(sign * math.inf, X)])
