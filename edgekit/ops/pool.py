"""Pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.ops.context import Operand, Tfl
from edgekit.ops.declare import Layout, Quant, Scale, op, unsupported
from edgekit.ops.window import Window, surround, two_dimensional, window

One = Callable[[Any, Window, tuple[int, ...], Any, str], Any]
LARGEST_MEAN = 25  # elements of a window whose equal weights are worth their bytes
SHARED = Quant(scale=Scale.SHARED, inputs=(0,))


def _pool(tfl: Tfl, code: str, source: Any, w: Window, padding: str, output: Any, activation: str) -> Any:
    sizes = {"padding": padding, "filter_height": w.kernel[0], "filter_width": w.kernel[1]}
    return _strided(tfl, code, [source], w, output, fused_activation_function=activation, **sizes)


def _mean(tfl: Tfl, source: Any, w: Window, output: Any, activation: str) -> Any:
    """AVERAGE_POOL_2D of whole windows; in int8 DEPTHWISE_CONV_2D of equal weights, where the runtime is faster so."""
    tensor = tfl.tensor(source)
    count = w.kernel[0] * w.kernel[1]
    if not tfl.delegated or tensor.dtype != "int8" or tensor.quant is None or count > LARGEST_MEAN:
        return _pool(tfl, "AVERAGE_POOL_2D", source, w, "VALID", output, activation)
    inputs = [source, *tfl.ones(tensor.shape[3], tensor, w.kernel, 1 / count)]
    options = {"padding": "VALID", "depth_multiplier": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
    return _strided(tfl, "DEPTHWISE_CONV_2D", inputs, w, output, fused_activation_function=activation, **options)


def _strided(tfl: Tfl, code: str, inputs: list[Any], w: Window, output: Any, **options: Any) -> Any:
    flat = len(output.shape) == 3
    shape = (output.shape[0], 1, *output.shape[1:]) if flat else output.shape
    result = tfl.temp(shape, output) if flat else output
    tfl.add(code, inputs, result, stride_h=w.stride[0], stride_w=w.stride[1], **options)
    return tfl.reshape(result, output.shape, output) if flat else result


def _windows(tfl: Tfl, X: Operand, kernel: tuple[int, ...] | None, attrs: dict[str, Any], one: One) -> None:
    """Pool with ``one``, once; over three axes twice, first over height and width, then over depth."""
    if any(int(d) != 1 for d in attrs.get("dilations") or ()):
        unsupported("dilated pooling has no TFLite operator")
    if kernel is None or len(kernel) > 3:
        unsupported(f"pooling over {len(kernel or ())} axes; 1 to 3 are supported")
    w = window(tfl, X, tuple(kernel), attrs)
    pads = attrs.get("pads") or (0,) * 2 * len(kernel)
    end = tuple(map(int, pads[len(kernel) :])) if attrs["auto_pad"] == "NOTSET" else w.end
    if len(kernel) < 3:
        source, w = two_dimensional(tfl, X, w)
        one(source, w, (0,) * (2 - len(end)) + end, tfl.out, tfl.activation)
        return
    n, depth, *image, channels = tfl.tensor(X).shape
    flat = Window(*(axes[1:] for axes in (w.size, w.out, w.kernel, w.stride, w.dilation, w.begin)))
    area = flat.out[0] * flat.out[1]
    deep = Window((depth, area), (w.out[0], area), (w.kernel[0], 1), (w.stride[0], 1), (1, 1), (w.begin[0], 0))
    value: Any = X
    last = _still(deep) and not _still(flat)
    if not _still(flat):
        value = tfl.temp((n * depth, *flat.out, channels), X)
        images = tfl.reshape(X, (n * depth, *image, channels))
        value = one(images, flat, end[1:], value, tfl.activation if last else "NONE")
    if not last:
        lines = tfl.reshape(value, (n, depth, area, channels))
        value = one(lines, deep, (end[0], 0), tfl.temp((n, w.out[0], area, channels), tfl.out), tfl.activation)
    tfl.reshape(value, tfl.out.shape, tfl.out)


def _still(w: Window) -> bool:
    """Whether each window is one element, and all are there."""
    return set(w.kernel) == set(w.stride) == {1} and not any(w.begin) and not any(w.end)


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
    """MAX_POOL_2D; explicit padding is zero where nothing is below zero, else the smallest value.

    Refused: dilations; more than three axes; the second output.
    """
    if len(tfl.outs) > 1:
        unsupported("the second output (indices) has no TFLite operator")
    attrs = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}

    def one(source: Any, w: Window, end: tuple[int, ...], output: Any, activation: str) -> Any:
        source, padding = surround(tfl, source, w, lowest=not tfl.nonnegative(X))
        return _pool(tfl, "MAX_POOL_2D", source, w, padding, output, activation)

    _windows(tfl, X, kernel_shape, attrs, one)


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

    Refused: dilations; more than three axes.

    Other padding is written out as zeros; a factor for each position then corrects the divisor where it must.
    """
    attrs = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}

    def one(source: Any, w: Window, end: tuple[int, ...], output: Any, activation: str) -> Any:
        wanted = _divisors(w, end if count_include_pad else (0, 0), bool(count_include_pad))
        if w.padding == "SAME" and np.array_equal(wanted, _divisors(w, (0, 0), False)):
            return _pool(tfl, "AVERAGE_POOL_2D", source, w, w.padding, output, activation)
        source = _zeros_around(tfl, source, w)
        factor = w.kernel[0] * w.kernel[1] / wanted
        if np.all(factor == 1):
            return _mean(tfl, source, w, output, activation)
        summed = _mean(tfl, source, w, tfl.temp(output.shape, X), activation)
        spread = factor[None, :, :, None] if len(output.shape) == 4 else factor[0][None, :, None]
        return tfl.add("MUL", [summed, tfl.number(spread, tfl.out)], output, fused_activation_function=activation)

    _windows(tfl, X, kernel_shape, attrs, one)


def _zeros_around(tfl: Tfl, source: Any, w: Window) -> Any:
    pads = np.asarray([(0, 0), *zip(w.begin, w.end, strict=True), (0, 0)])
    if not pads.any():
        return source
    tensor = getattr(source, "tensor", None) or source
    shape = [n + int(p.sum()) for n, p in zip(tensor.shape, pads, strict=True)]
    return tfl.add("PAD", [source, pads], tfl.temp(shape, source))


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
