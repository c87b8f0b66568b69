"""Convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.ops.context import PLAIN, Array, Operand, Tfl
from edgekit.ops.declare import Layout, Quant, op, unsupported
from edgekit.ops.window import Window, surround, two_dimensional, window


def _kernel(W: Operand, most: int) -> Array:
    if W.array is None:
        unsupported(f"weights {W.name} are computed at run time; TFLite convolutions need constant weights")
    if not 3 <= W.array.ndim <= 2 + most:
        unsupported(f"weights {W.name} have {len(W.shape) - 2} spatial axes; 1 to {most} are supported")
    array: Array = W.array
    return array


def _square(weights: Array) -> Array:
    """Weights of a 1-D convolution with a spatial axis of length 1 put before."""
    return weights if weights.ndim == 4 else weights[:, :, None, :]


@op("Conv", since=11, layout=Layout.NHWC, quant=Quant(weight=1, channel_axis=0, bias=2, inputs=(0,)), fuses=True)
def conv(
    tfl: Tfl,
    X: Operand,
    W: Operand,
    B: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D when every group has one input channel; three axes as ``_deep`` says.

    Refused: computed weights; groups over three axes; more than three axes.
    """
    out_channels, group_channels, *kernel = _kernel(W, 3).shape
    attrs: dict[str, Any] = {"auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations}
    if len(kernel) == 3:
        if group > 1:
            unsupported("groups over three axes have no TFLite operator")
        _deep(tfl, X, W, B, window(tfl, X, tuple(kernel), attrs))
        return
    source, w = two_dimensional(tfl, X, window(tfl, X, tuple(kernel), attrs))
    source, padding = surround(tfl, source, w)
    depthwise = group > 1 and group_channels == 1
    order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
    weights = tfl.weight(W, lambda a: _square(a).transpose(order), axis)
    options = _options(tfl, w, padding)
    if depthwise:
        options["depth_multiplier"] = out_channels // group
    inputs = [source, weights, tfl.bias(B, out_channels, X, weights)]
    _emit(tfl, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, w, options)


def _options(tfl: Tfl, w: Window, padding: str) -> dict[str, Any]:
    return {
        "padding": padding,
        "stride_h": w.stride[0],
        "stride_w": w.stride[1],
        "dilation_h_factor": w.dilation[0],
        "dilation_w_factor": w.dilation[1],
        "fused_activation_function": tfl.activation,
    }


def _deep(tfl: Tfl, X: Operand, W: Operand, B: Operand | None, w: Window) -> None:
    """A convolution over depth, height and width: the depths that one output reads side by side as channels, CONV_2D.

    The integers are those of one sum, while CONV_3D is float only.
    """
    n, depth, height, width, channels = tfl.tensor(X).shape
    source: Any = X
    if w.begin[0] or w.end[0]:
        pads = np.asarray([(0, 0), (w.begin[0], w.end[0]), (0, 0), (0, 0), (0, 0)])
        source = tfl.add("PAD", [X, pads], tfl.temp((n, depth + int(pads.sum()), height, width, channels), X))
    count, out_channels = w.kernel[0], tfl.out.shape[-1]
    apart = (n, w.out[0], height, width, channels)
    parts = [_depths(tfl, source, i * w.dilation[0], w.stride[0], apart) for i in range(count)]
    beside = tfl.temp((*apart[:4], count * channels), X)
    read = tfl.add("CONCATENATION", parts, beside, axis=4, **PLAIN) if count > 1 else parts[0]
    images: Any = tfl.reshape(read, (n * w.out[0], height, width, count * channels))
    flat = Window(*(axes[1:] for axes in (w.size, w.out, w.kernel, w.stride, w.dilation, w.begin)))
    images, padding = surround(tfl, images, flat)
    weights = tfl.weight(W, lambda a: a.transpose(0, 3, 4, 2, 1).reshape(len(a), *a.shape[3:], -1), 0)
    inputs = [images, weights, tfl.bias(B, out_channels, X, weights)]
    result = tfl.temp((n * w.out[0], *w.out[1:], out_channels), tfl.out)
    tfl.reshape(tfl.add("CONV_2D", inputs, result, **_options(tfl, flat, padding)), tfl.out.shape, tfl.out)


def _depths(tfl: Tfl, source: Any, first: int, step: int, shape: tuple[int, ...]) -> Any:
    """As many depths as ``shape`` has, from ``first`` on."""
    begin, size = np.asarray([0, first, 0, 0, 0]), np.asarray(shape)
    if tfl.tensor(source).shape == shape:
        return source
    if step == 1:
        return tfl.add("SLICE", [source, begin, size], tfl.temp(shape, source))
    steps = np.asarray([1, step, 1, 1, 1])
    masks = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0)
    end = np.minimum(begin + steps * size, tfl.tensor(source).shape)
    return tfl.add("STRIDED_SLICE", [source, begin, end, steps], tfl.temp(shape, source), **masks)


def _emit(tfl: Tfl, code: str, inputs: list[Any], w: Window, options: dict[str, Any]) -> None:
    """Write the operator; a result without the extra axis of a 1-D convolution is reshaped from one with it."""
    if len(tfl.out.shape) == 4:
        tfl.add(code, inputs, **options)
        return
    n, length, channels = tfl.out.shape
    tfl.reshape(tfl.add(code, inputs, tfl.temp((n, 1, length, channels), tfl.out), **options), tfl.out.shape, tfl.out)


@op("ConvTranspose", since=11, layout=Layout.NHWC, quant=Quant(weight=1, channel_axis=1, bias=2, inputs=(0,)))
def conv_transpose(
    tfl: Tfl,
    X: Operand,
    W: Operand,
    B: Operand | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """TRANSPOSE_CONV over the whole reach of the kernel, cut to the asked size with SLICE when pads cut into it.

    Refused: computed weights; more than two axes.

    TFLite derives the padding from the output's shape and puts the odd element last, so only VALID, and SAME where it
    agrees with ONNX, can be named. Groups become blocks of a dense kernel, and dilation becomes zeros in the kernel.
    """
    kernel = _kernel(W, 2)
    rank = kernel.ndim - 2
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
    extent = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilation, strict=True)]
    size, out = X.shape[2:], tfl.shape[2:]
    reach = [(n - 1) * s + e for n, s, e in zip(size, stride, extent, strict=True)]
    begin = _cut(auto_pad, pads, output_shape, [r - o for r, o in zip(reach, out, strict=True)], output_padding)
    more = [max(0, b + o - r) for b, o, r in zip(begin, out, reach, strict=True)]  # output_padding: only the bias there
    extent, reach = ([n + m for n, m in zip(sizes, more, strict=True)] for sizes in (extent, reach))
    weights = tfl.weight(W, lambda a: _square(_dense(a, group, dilation, more)).transpose(1, 2, 3, 0), 0)
    channels = weights.shape[0]
    options: dict[str, Any] = {"fused_activation_function": "NONE"}
    options |= dict(zip(("stride_h", "stride_w"), (1, *stride)[-2:], strict=True))
    inputs = [weights, X if rank == 2 else tfl.reshape(X, (X.shape[0], 1, size[0], X.shape[1]))]
    bias = tfl.bias(B, channels, X, weights)

    def write(spatial: list[int], padding: str, output: Any) -> Any:
        shape = [int(X.shape[0]), *([1] * (2 - rank)), *spatial, channels]
        result = output if rank == 2 and output is not None else tfl.temp(shape, tfl.out)
        tfl.add("TRANSPOSE_CONV", [np.asarray(shape), *inputs, bias], result, padding=padding, **options)
        return tfl.reshape(result, (shape[0], *spatial, channels), output) if rank == 1 else result

    if reach == list(out):
        write(reach, "VALID", tfl.out)
    elif _is_same(size, out, stride, extent, begin):
        write(list(out), "SAME", tfl.out)
    else:
        whole = write(reach, "VALID", None)
        tfl.add("SLICE", [whole, np.asarray([0, *begin, 0]), np.asarray(tfl.out.shape)])


def _cut(auto_pad: str, pads: Any, output_shape: Any, surplus: list[int], output_padding: Any) -> list[int]:
    """How much of the kernel's reach is cut off where each axis starts (ONNX ConvTranspose, "pads", "auto_pad")."""
    if auto_pad in ("NOTSET", "VALID") and output_shape is None:
        return [int(p) for p in (pads or [0] * 2 * len(surplus))[: len(surplus)]]
    extra = output_padding or [0] * len(surplus)
    total = [max(0, s + int(e)) for s, e in zip(surplus, extra, strict=True)]
    return [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total]


def _is_same(size: Any, out: Any, stride: Any, extent: list[int], begin: list[int]) -> bool:
    rows = zip(size, out, stride, extent, begin, strict=True)
    return all(o == n * s and e >= s and b == ((n - 1) * s + e - o) // 2 for n, o, s, e, b in rows)


def _dense(weights: Array, group: int, dilation: tuple[int, ...], more: list[int]) -> Array:
    """Kernel (in, out / group, spatial...) as one group without gaps: blocks on the diagonal, zeros in the gaps.

    ``more`` zeros follow at the end of each axis.
    """
    inputs, outputs, *kernel = weights.shape
    if any(d > 1 for d in dilation):
        spread = np.zeros(
            (inputs, outputs, *((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))), weights.dtype
        )
        spread[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = weights
        weights = spread
    weights = np.pad(weights, [(0, 0), (0, 0), *((0, m) for m in more)])
    if group == 1:
        return weights
    dense = np.zeros((inputs, outputs * group, *weights.shape[2:]), weights.dtype)
    step = inputs // group
    for g in range(group):
        dense[g * step : (g + 1) * step, g * outputs : (g + 1) * outputs] = weights[g * step : (g + 1) * step]
    return dense
