"""Pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.ops.context import Operand, Tfl
from edgekit.ops.declare import Layout, Quant, Scale, op, unsupported
from edgekit.ops.window import Window, surround, two_dimensional, window

SHARED = Quant(scale=Scale.SHARED, inputs=(0,))


def _pool(tfl: Tfl, code: str, source: Any, w: Window, padding: str, output: Any = None) -> Any:
    target = output if output is not None else tfl.out
    flat = len(target.shape) == 3
    shape = (target.shape[0], 1, *target.shape[1:]) if flat else target.shape
    result = tfl.add(
        code,
        [source],
        tfl.temp(shape, target) if flat else target,
        padding=padding,
        stride_h=w.stride[0],
        stride_w=w.stride[1],
        filter_height=w.kernel[0],
        filter_width=w.kernel[1],
        fused_activation_function=tfl.activation,
    )
    return tfl.reshape(result, target.shape, target) if flat else result


def _window(tfl: Tfl, X: Operand, kernel: tuple[int, ...] | None, attrs: dict[str, Any]) -> tuple[Any, Window]:
    if any(int(d) != 1 for d in attrs.get("dilations") or ()):
        unsupported("dilated pooling has no TFLite operator")
    if kernel is None or len(kernel) > 2:
        unsupported(f"pooling over {len(kernel or ())} axes; 1 and 2 are supported")
    return two_dimensional(tfl, X, window(tfl, X, tuple(kernel), attrs))


@op("MaxPool", since=12, layout=Layout.NHWC, quant=SHARED, fuses=True)
def max_pool(
    tfl: Tfl,
    X: Operand,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
) -> None:
    """MAX_POOL_2D; explicit padding is zero where nothing is below zero, else the smallest value."""
    if len(tfl.outs) > 1:
        unsupported("the second output (indices) has no TFLite operator")
    attrs = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}
    source, w = _window(tfl, X, kernel_shape, attrs)
    source, padding = surround(tfl, source, w, lowest=not tfl.nonnegative(X))
    _pool(tfl, "MAX_POOL_2D", source, w, padding)


@op("AveragePool", since=19, layout=Layout.NHWC, quant=SHARED, fuses=True)
def average_pool(
    tfl: Tfl,
    X: Operand,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """AVERAGE_POOL_2D, which leaves SAME padding out of the mean.

    Other padding is written out as zeros; a factor for each position then corrects the divisor where it must.
    """
    attrs = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}
    source, w = _window(tfl, X, kernel_shape, attrs)
    end = _each_end(pads, w) if auto_pad == "NOTSET" else w.end
    wanted = _divisors(w, end if count_include_pad else (0, 0), bool(count_include_pad))
    if w.padding is not None and np.array_equal(wanted, _divisors(w, (0, 0), False)):
        _pool(tfl, "AVERAGE_POOL_2D", source, w, w.padding)
        return
    source, padding = _zeros_around(tfl, source, w)
    factor = w.kernel[0] * w.kernel[1] / wanted
    if np.all(factor == 1):
        _pool(tfl, "AVERAGE_POOL_2D", source, w, padding)
        return
    summed = _pool(tfl, "AVERAGE_POOL_2D", source, w, padding, tfl.temp(tfl.out.shape, X))
    spread = factor[None, :, :, None] if len(tfl.out.shape) == 4 else factor[0][None, :, None]
    tfl.add("MUL", [summed, tfl.number(spread, tfl.out)], fused_activation_function=tfl.activation)


def _each_end(pads: tuple[int, ...] | None, w: Window) -> tuple[int, ...]:
    rank = len(pads) // 2 if pads else 2
    end = tuple(int(p) for p in pads[rank:]) if pads else (0, 0)
    return (0,) * (2 - len(end)) + end


def _zeros_around(tfl: Tfl, source: Any, w: Window) -> tuple[Any, str]:
    pads = np.asarray([(0, 0), *zip(w.begin, w.end, strict=True), (0, 0)])
    if not pads.any():
        return source, "VALID"
    tensor = getattr(source, "tensor", None) or source
    shape = [n + int(p.sum()) for n, p in zip(tensor.shape, pads, strict=True)]
    return tfl.add("PAD", [source, pads], tfl.temp(shape, source)), "VALID"


def _divisors(w: Window, end: tuple[int, ...], include: bool) -> Any:
    """By how many elements ONNX divides at each output position, (out_h, out_w)."""

    def along(axis: int) -> Any:
        low = -w.begin[axis] if include else 0
        high = w.size[axis] + (end[axis] if include else 0)
        start = np.arange(w.out[axis]) * w.stride[axis] - w.begin[axis]
        return np.minimum(start + w.kernel[axis], high) - np.maximum(start, low)

    return np.outer(along(0), along(1)).astype(np.float64)


@op("GlobalAveragePool", since=1, layout=Layout.NHWC, quant=Quant(inputs=(0,)))
def global_average_pool(tfl: Tfl, X: Operand) -> None:
    """MEAN over the spatial axes."""
    tfl.add("MEAN", [X, np.arange(1, len(X.shape) - 1)], keep_dims=True)


@op("GlobalMaxPool", since=1, layout=Layout.NHWC, quant=SHARED)
def global_max_pool(tfl: Tfl, X: Operand) -> None:
    """REDUCE_MAX over the spatial axes."""
    tfl.add("REDUCE_MAX", [X, np.arange(1, len(X.shape) - 1)], keep_dims=True)
