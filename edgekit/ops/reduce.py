"""Reductions over axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from edgekit.ops.context import Operand, Tfl, full
from edgekit.ops.declare import NUMBERS, Layout, Quant, Scale, op, unsupported
from edgekit.quant import numerics

LONGEST_SUM = 1024  # elements of a running sum in int8: its triangle of weights has the square of that

LOGICAL = {"REDUCE_MAX": "REDUCE_ANY", "REDUCE_MIN": "REDUCE_ALL"}  # the same, of bool
REDUCTIONS = [  # ONNX op, since, TFLite operator, activation scales
    ("ReduceMean", 18, "MEAN", Quant(inputs=(0,))),
    ("ReduceSum", 13, "SUM", Quant(inputs=(0,))),
    ("ReduceMax", 20, "REDUCE_MAX", Quant(scale=Scale.SHARED, inputs=(0,))),
    ("ReduceMin", 20, "REDUCE_MIN", Quant(scale=Scale.SHARED, inputs=(0,))),
    ("ReduceProd", 18, "REDUCE_PROD", Quant(inputs=(0,))),
]


def _reduction(name: str, since: int, code: str, quant: Quant) -> None:
    def lower(
        tfl: Tfl, data: Operand, axes: Operand | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> None:
        if (
            code == "REDUCE_PROD" and tfl.quantized
        ):  # measured on ai-edge-litert 2.3: the int8 kernel gives other values
            unsupported("a product of integers with a scale has no sound kernel in LiteRT")
        which = full(axes, np.zeros(0, np.int64)).reshape(-1)
        if which.size == 0 and noop_with_empty_axes:
            tfl.reshape(data, tfl.out.shape, tfl.out)
            return
        stored = sorted(data.at(int(a)) for a in (which if which.size else range(len(data.shape))))
        kernel = LOGICAL.get(code, code) if data.dtype == "bool" else code
        tfl.add(kernel, [data, np.asarray(stored)], keep_dims=bool(keepdims))

    lower.__doc__ = (f"{code}; of bool {LOGICAL[code]}" if code in LOGICAL else code) + "\n\nRefused: computed axes."
    types = (*NUMBERS, "bool") if code in LOGICAL else NUMBERS
    op(name, since=since, layout=Layout.AXIS, quant=quant, types=types)(lower)


for row in REDUCTIONS:
    _reduction(*row)


def _position(name: str, code: str) -> None:
    def lower(tfl: Tfl, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> None:
        if select_last_index:
            unsupported(f"select_last_index; TFLite's {code} gives the first")
        where = data.at(axis)
        shape = list(tfl.tensor(data).shape)
        del shape[where]
        result: Any = tfl.temp(shape, dtype=tfl.out.dtype) if keepdims else tfl.out
        tfl.add(code, [data, np.asarray(where)], result, output_type=tfl.out.dtype.upper())
        if keepdims:
            tfl.reshape(result, tfl.out.shape, tfl.out)

    lower.__doc__ = f"{code}, then RESHAPE where the axis is kept.\n\nRefused: select_last_index."
    op(name, since=13, layout=Layout.AXIS, types=("float32", "int32"))(lower)


_position("ArgMax", "ARG_MAX")
_position("ArgMin", "ARG_MIN")


@op("TopK", since=11, layout=Layout.LAST, quant=Quant(scale=Scale.SHARED, inputs=(0,)), types=NUMBERS)
def top_k(tfl: Tfl, X: Operand, K: Operand, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> None:
    """TOPK_V2 over the axis that is stored last, and CAST of the indices to int64.

    Refused: a computed number of elements.
    """
    if not largest:
        unsupported("the smallest elements; TFLite's TOPK_V2 gives the largest")
    count = full(K, np.ones(1)).reshape(())
    values, indices = tfl.outs
    narrow = tfl.temp(indices.shape, dtype="int32")
    tfl.add_many("TOPK_V2", [X, count], [values, narrow])
    tfl.add("CAST", [narrow], indices, in_data_type="INT32", out_data_type="INT64")


@op("CumSum", since=14, layout=Layout.LAST, quant=Quant(inputs=(0,)), types=NUMBERS)
def cum_sum(tfl: Tfl, x: Operand, axis: Operand, *, exclusive: int = 0, reverse: int = 0) -> None:
    """CUMSUM; in int8 FULLY_CONNECTED with a triangle of ones, whose sums are exact.

    Refused: a computed axis; int8 sums of more than 1024.
    """
    last = tfl.out.shape[-1]
    if not tfl.quantized:
        full(axis, np.zeros(1))
        where = np.asarray(len(x.shape) - 1)
        tfl.add("CUMSUM", [x, where], exclusive=bool(exclusive), reverse=bool(reverse))
        return
    if last > LONGEST_SUM:
        unsupported(f"a sum along {last} integers with a scale; at most {LONGEST_SUM} can be lowered")
    triangle = np.tril(np.ones((last, last), np.float32), -exclusive)
    whole = tfl.temp((), dtype="int8", quant=numerics.fixed(1.0, 0))
    weights = tfl.integers(whole, triangle.T if reverse else triangle)
    rows = tfl.reshape(x, (prod(x.shape) // last, last))
    result = tfl.temp(rows.shape, tfl.out)
    tfl.add("FULLY_CONNECTED", [rows, weights, None], result, fused_activation_function="NONE", weights_format=0)
    tfl.reshape(result, tfl.out.shape, tfl.out)
