"""Reductions over axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.ops.context import Operand, Tfl, full
from edgekit.ops.declare import NUMBERS, Layout, Quant, Scale, op, unsupported

REDUCTIONS = [  # ONNX op, since, TFLite operator, activation scales
    ("ReduceMean", 18, "MEAN", Quant(inputs=(0,))),
    ("ReduceSum", 13, "SUM", Quant(inputs=(0,))),
    ("ReduceMax", 20, "REDUCE_MAX", Quant(scale=Scale.SHARED, inputs=(0,))),
    ("ReduceMin", 20, "REDUCE_MIN", Quant(scale=Scale.SHARED, inputs=(0,))),
]


def _reduction(name: str, since: int, code: str, quant: Quant) -> None:
    def lower(
        tfl: Tfl, data: Operand, axes: Operand | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> None:
        which = full(axes, np.zeros(0, np.int64)).reshape(-1)
        if which.size == 0 and noop_with_empty_axes:
            tfl.reshape(data, tfl.out.shape, tfl.out)
            return
        stored = sorted(data.at(int(a)) for a in (which if which.size else range(len(data.shape))))
        tfl.add(code, [data, np.asarray(stored)], keep_dims=bool(keepdims))

    lower.__doc__ = code
    op(name, since=since, layout=Layout.AXIS, quant=quant, types=NUMBERS)(lower)


for row in REDUCTIONS:
    _reduction(*row)


@op("ArgMax", since=13, layout=Layout.AXIS, types=("float32", "int32"))
def arg_max(tfl: Tfl, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> None:
    """ARG_MAX, then RESHAPE where the axis is kept."""
    if select_last_index:
        unsupported("select_last_index; TFLite's ARG_MAX gives the first")
    where = data.at(axis)
    shape = list(tfl.tensor(data).shape)
    del shape[where]
    result: Any = tfl.temp(shape, dtype=tfl.out.dtype) if keepdims else tfl.out
    tfl.add("ARG_MAX", [data, np.asarray(where)], result, output_type=tfl.out.dtype.upper())
    if keepdims:
        tfl.reshape(result, tfl.out.shape, tfl.out)
