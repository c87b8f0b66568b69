"""Normalisation over axes, on real numbers; of LayerNormalization there is an integer form (``integer_norm``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgekit.ops import integer_norm
from edgekit.ops.context import PLAIN, Operand, Tfl
from edgekit.ops.declare import Layout, Quant, Scale, op, unsupported

Mean = Callable[[Any], Any]
NEVER = Quant(scale=Scale.NONE)


def _parts(tfl: Tfl, X: Any, mean: Mean, epsilon: float, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """x - mean and 1 / sqrt(var + epsilon), the means taken by ``mean``: SUB, MUL, ADD, RSQRT."""
    centred = tfl.add("SUB", [X, mean(X)], tfl.temp(shape, tfl.out), **PLAIN)
    variance = mean(tfl.add("MUL", [centred, centred], tfl.temp(shape, tfl.out), **PLAIN))
    safe = tfl.add("ADD", [variance, tfl.number(epsilon, tfl.out)], tfl.temp(variance.shape, tfl.out), **PLAIN)
    return centred, tfl.add("RSQRT", [safe], tfl.temp(variance.shape, tfl.out))


def normalise(tfl: Tfl, X: Any, axes: list[int], epsilon: float, shape: tuple[int, ...], output: Any = None) -> Any:
    """(x - mean) / sqrt(var + epsilon) over stored ``axes``: MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL."""

    def mean(source: Any) -> Any:
        return _mean(tfl, source, axes, shape)

    return tfl.add("MUL", _parts(tfl, X, mean, epsilon, shape), output or tfl.temp(shape, tfl.out), **PLAIN)


def _mean(tfl: Tfl, source: Any, axes: Sequence[int], shape: Sequence[int]) -> Any:
    small = [1 if i in axes else n for i, n in enumerate(shape)]
    return tfl.add("MEAN", [source, np.asarray(axes)], tfl.temp(small, tfl.out), keep_dims=True) if axes else source


@op("LayerNormalization", since=17, layout=Layout.SOURCE)
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
    """MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL, then MUL by the scale and ADD of the bias if not folded; in int8 CAST,
    SUM, MUL, SUB, ADD, FLOOR_DIV and MINIMUM of 32 bits, GATHER from a table of inverse roots, and QUANTIZE.

    Refused: the second and third output; in integers a computed scale or bias, and means of more than 132,102.
    """
    if len(tfl.outs) > 1:
        unsupported("the second and third outputs (mean, inverse deviation)")
    rank = len(X.shape)
    axes = list(range(axis % rank, rank))
    plain = Scale.array is not None and bool(np.all(Scale.array == 1)) and B is None
    if tfl.quantized:
        integer_norm.normalise(tfl, X, axes, epsilon, None if plain else (Scale, B))
        return
    result = normalise(tfl, X, axes, epsilon, X.shape, tfl.out if plain else None)
    if plain:
        return
    if B is None:
        tfl.add("MUL", [result, Scale], **PLAIN)
    else:
        scaled = tfl.add("MUL", [result, Scale], tfl.temp(X.shape, tfl.out), **PLAIN)
        tfl.add("ADD", [scaled, B], **PLAIN)


def _grouped(tfl: Tfl, X: Operand, scale: Operand, bias: Operand, groups: int, epsilon: float) -> None:
    """Normalise each of ``groups`` runs of channels over itself and all of space; stored channels last.

    Space is averaged first, at full size; the groups then average and spread one number a channel.
    """
    shape, channels = tfl.out.shape, tfl.out.shape[-1]
    space, apart = list(range(1, len(shape) - 1)), (shape[0], groups, channels // groups)

    def mean(source: Any) -> Any:
        each = _mean(tfl, source, space, shape)
        if groups == channels:
            return each
        one = _mean(tfl, tfl.reshape(each, apart), [2], apart)
        ones = tfl.number(np.ones((1, 1, apart[2])), tfl.out)
        return tfl.reshape(tfl.add("MUL", [one, ones], tfl.temp(apart, tfl.out), **PLAIN), tfl.tensor(each).shape)

    centred, inverse = _parts(tfl, X, mean, epsilon, shape)
    factor = tfl.add("MUL", [inverse, scale], tfl.temp(inverse.shape, tfl.out), **PLAIN)
    last = bias.array is not None and not bias.array.any()
    scaled = tfl.add("MUL", [centred, factor], tfl.out if last else tfl.temp(shape, tfl.out), **PLAIN)
    if not last:
        tfl.add("ADD", [scaled, bias], **PLAIN)


@op("InstanceNormalization", since=6, layout=Layout.NHWC, quant=NEVER)
def instance_normalization(tfl: Tfl, input: Operand, scale: Operand, B: Operand, *, epsilon: float = 1e-5) -> None:
    """MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL by the scale, MUL, then ADD of the bias if there is one."""
    _grouped(tfl, input, scale, B, input.shape[1], epsilon)


@op("GroupNormalization", since=21, layout=Layout.NHWC, quant=NEVER)
def group_normalization(
    tfl: Tfl,
    X: Operand,
    scale: Operand,
    bias: Operand,
    *,
    epsilon: float = 1e-5,
    num_groups: int | None = None,
    stash_type: int = 1,
) -> None:
    """As InstanceNormalization; the means of space become means of groups by RESHAPE, MEAN and MUL."""
    _grouped(tfl, X, scale, bias, int(num_groups or 1), epsilon)


@op("MeanVarianceNormalization", since=13, layout=Layout.AXIS, quant=NEVER)
def mean_variance_normalization(tfl: Tfl, X: Operand, *, axes: tuple[int, ...] = (0, 2, 3)) -> None:
    """MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL; its epsilon is added to the deviation, so here its square."""
    normalise(tfl, X, sorted(X.at(axis) for axis in axes), 1e-18, tfl.out.shape, tfl.out)
