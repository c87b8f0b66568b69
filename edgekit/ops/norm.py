"""Normalisation over axes: always on real numbers, as no runtime has an integer kernel for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.ops.context import Operand, Tfl
from edgekit.ops.declare import Layout, Quant, Scale, op, unsupported


def normalise(tfl: Tfl, X: Any, axes: list[int], epsilon: float, shape: tuple[int, ...], output: Any = None) -> Any:
    """(x - mean) / sqrt(var + epsilon) over stored ``axes``: MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL."""
    small = tuple(1 if i in axes else n for i, n in enumerate(shape))
    none = {"fused_activation_function": "NONE"}
    over = np.asarray(axes)
    mean = tfl.add("MEAN", [X, over], tfl.temp(small, tfl.out), keep_dims=True)
    centred = tfl.add("SUB", [X, mean], tfl.temp(shape, tfl.out), **none)
    squares = tfl.add("MUL", [centred, centred], tfl.temp(shape, tfl.out), **none)
    variance = tfl.add("MEAN", [squares, over], tfl.temp(small, tfl.out), keep_dims=True)
    safe = tfl.add("ADD", [variance, tfl.number(epsilon, tfl.out)], tfl.temp(small, tfl.out), **none)
    inverse = tfl.add("RSQRT", [safe], tfl.temp(small, tfl.out))
    return tfl.add("MUL", [centred, inverse], output or tfl.temp(shape, tfl.out), **none)


@op("LayerNormalization", since=17, layout=Layout.SOURCE, quant=Quant(scale=Scale.NONE))
def layer_normalization(
    tfl: Tfl,
    X: Operand,
    Scale: Operand,
    B: Operand | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> None:
    """MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL, then MUL by the scale and ADD of the bias if not folded."""
    if len(tfl.outs) > 1:
        unsupported("the second and third outputs (mean, inverse deviation)")
    rank = len(X.shape)
    none = {"fused_activation_function": "NONE"}
    plain = Scale.array is not None and bool(np.all(Scale.array == 1)) and B is None
    result = normalise(tfl, X, list(range(axis % rank, rank)), epsilon, X.shape, tfl.out if plain else None)
    if plain:
        return
    if B is None:
        tfl.add("MUL", [result, Scale], **none)
    else:
        scaled = tfl.add("MUL", [result, Scale], tfl.temp(X.shape, tfl.out), **none)
        tfl.add("ADD", [scaled, B], **none)
