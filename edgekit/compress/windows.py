"""Torch functions of convolutions, pools and resizing (see ``functions``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.compress.functions import Ints, op
from edgekit.ops.resize import kernel_of, nearest, shares_of, source_positions

ALIKE = ("half_pixel", "pytorch_half_pixel", "align_corners")  # where ``F.interpolate`` reads what Resize does


def pads_of(pads: Ints) -> list[int]:
    """ONNX's begins and ends as ``F.pad`` wants them: of the last axis first."""
    half = len(pads) // 2
    return [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[half + axis])]


def _same(X: Tensor, kernel: Ints, strides: Ints, dilations: Ints, auto_pad: str) -> list[int]:
    """The pads of SAME_UPPER or SAME_LOWER; none of VALID."""
    begins, ends = [], []
    for size, k, s, d in zip(X.shape[2:], kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0) if auto_pad != "VALID" else 0
        first = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        begins.append(first)
        ends.append(total - first)
    return [*begins, *ends]


def _padded(X: Tensor, pads: Ints, value: float = 0.0) -> Tensor:
    return F.pad(X, pads_of(pads), value=value) if any(pads) else X


@op("Conv")
def conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """A convolution over one, two or three axes."""
    rank = W.ndim - 2
    steps, apart = list(strides or [1] * rank), list(dilations or [1] * rank)
    around = list(pads or [0] * 2 * rank)
    if auto_pad != "NOTSET":
        around = _same(X, W.shape[2:], steps, apart, auto_pad)
    run = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    if around[:rank] == around[rank:]:
        return run(X, W, B, steps, around[:rank], apart, group)
    return run(_padded(X, around), W, B, steps, 0, apart, group)


@op("ConvTranspose")
def conv_transpose(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """A transposed convolution with explicit pads: computed whole, then cut."""
    rank = W.ndim - 2
    around = list(pads or [0] * 2 * rank)
    extra = list(output_padding or [0] * rank)
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    steps, apart = list(strides or [1] * rank), list(dilations or [1] * rank)
    if auto_pad.startswith("SAME"):
        total = [max((k - 1) * d + 1 - s, 0) for k, d, s in zip(W.shape[2:], apart, steps, strict=True)]
        less = [n // 2 for n in total]
        more = [n - first for n, first in zip(total, less, strict=True)]
        around = [*less, *more] if auto_pad == "SAME_UPPER" else [*more, *less]
    if around[:rank] == around[rank:]:
        return run(X, W, B, steps, around[:rank], extra, group, apart)
    whole = run(X, W, B, steps, 0, extra, group, apart)
    for axis in range(rank):
        whole = whole.narrow(axis + 2, around[axis], whole.shape[axis + 2] - around[axis] - around[rank + axis])
    return whole


@op("MaxPool")
def max_pool(
    X: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
) -> Tensor:
    """The largest of each window; what is padded is never it."""
    rank = len(kernel_shape)
    steps, apart = list(strides or [1] * rank), list(dilations or [1] * rank)
    around = list(pads or [0] * 2 * rank)
    if auto_pad != "NOTSET":
        around = _same(X, kernel_shape, steps, apart, auto_pad)
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    padded = _padded(X, around, torch.finfo(X.dtype).min)
    result: Tensor = run(padded, list(kernel_shape), steps, 0, apart, bool(ceil_mode))
    return result


@op("AveragePool")
def average_pool(
    X: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """The mean of each window, of which what is padded is part or not."""
    rank = len(kernel_shape)
    steps, around = list(strides or [1] * rank), list(pads or [0] * 2 * rank)
    if auto_pad != "NOTSET":
        around = _same(X, kernel_shape, steps, [1] * rank, auto_pad)
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    if around[:rank] == around[rank:]:
        return run(X, list(kernel_shape), steps, around[:rank], bool(ceil_mode), bool(count_include_pad))
    total = run(_padded(X, around), list(kernel_shape), steps, 0, bool(ceil_mode))
    if count_include_pad:
        return total
    return total / run(_padded(torch.ones_like(X), around), list(kernel_shape), steps, 0, bool(ceil_mode))


@op("GlobalAveragePool")
def global_average_pool(X: Tensor) -> Tensor:
    """The mean over space."""
    return X.mean(tuple(range(2, X.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(X: Tensor) -> Tensor:
    """The largest over space."""
    return X.amax(tuple(range(2, X.ndim)), keepdim=True)


def resizable(before: Sequence[int], after: Sequence[int], given: Mapping[str, Any]) -> bool:
    """Whether ``resize`` has this form of a Resize: over space, and not of a part."""
    cropped = given.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    fitted = given.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    return list(before[:2]) == list(after[:2]) and not cropped and not fitted


@op("Resize")
def resize(
    X: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Over space, one axis after another."""
    which = [axis % X.ndim for axis in axes] if axes is not None else list(range(X.ndim))
    if sizes is not None and sizes.numel():
        lengths = dict(zip(which, map(int, sizes), strict=True))
        ratios = {axis: length / X.shape[axis] for axis, length in lengths.items()}
    else:
        assert scales is not None
        ratios = dict(zip(which, scales.tolist(), strict=True))
        lengths = {axis: int(X.shape[axis] * ratio) for axis, ratio in ratios.items()}
    space = [axis for axis in range(2, X.ndim) if axis in which]
    whole = all(lengths[axis] == X.shape[axis] * ratios[axis] for axis in space)
    if mode == "linear" and whole and not antialias and coordinate_transformation_mode in ALIKE:
        kind = {1: "linear", 2: "bilinear", 3: "trilinear"}[X.ndim - 2]
        size = [lengths.get(axis, X.shape[axis]) for axis in range(2, X.ndim)]
        return F.interpolate(X, size, mode=kind, align_corners=coordinate_transformation_mode == "align_corners")
    kernel = kernel_of(mode, cubic_coeff_a)
    for axis in space:
        m, n, ratio = X.shape[axis], lengths[axis], ratios[axis]
        if n == m and ratio == 1.0:
            continue
        positions = source_positions(coordinate_transformation_mode, np.arange(n, dtype=np.float64), m, n, ratio)
        if mode == "nearest":
            X = X.index_select(axis, torch.from_numpy(nearest(positions, nearest_mode, m)).to(X.device))
        else:
            scale = min(ratio, 1.0) if antialias else 1.0
            shares = torch.from_numpy(shares_of(kernel, positions, m, scale, bool(exclude_outside))).to(X)
            X = (X.movedim(axis, -1) @ shares.T).movedim(-1, axis)
    return X
