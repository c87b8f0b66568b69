"""Moving data: reshape, transpose, concat, split, slice, gather, pad, depth and space."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.ops.context import Operand, Tfl, full
from edgekit.ops.declare import ANYTHING, NUMBERS, Layout, Quant, Scale, op

SHARED = Quant(scale=Scale.SHARED, inputs=(0,))


@op("Reshape", since=21, layout=Layout.RESHAPE, quant=SHARED, types=ANYTHING)
def reshape(tfl: Tfl, data: Operand, shape: Operand, *, allowzero: int = 0) -> None:
    """RESHAPE."""
    tfl.reshape(data, tfl.out.shape, tfl.out)


@op("Flatten", since=21, layout=Layout.RESHAPE, quant=SHARED, types=ANYTHING)
def flatten(tfl: Tfl, input: Operand, *, axis: int = 1) -> None:
    """RESHAPE."""
    tfl.reshape(input, tfl.out.shape, tfl.out)


@op("Squeeze", since=21, layout=Layout.RESHAPE, quant=SHARED, types=ANYTHING)
def squeeze(tfl: Tfl, data: Operand, axes: Operand | None = None) -> None:
    """RESHAPE."""
    tfl.reshape(data, tfl.out.shape, tfl.out)


@op("Unsqueeze", since=21, layout=Layout.RESHAPE, quant=SHARED, types=ANYTHING)
def unsqueeze(tfl: Tfl, data: Operand, axes: Operand) -> None:
    """RESHAPE."""
    tfl.reshape(data, tfl.out.shape, tfl.out)


@op("Transpose", since=21, layout=Layout.TRANSPOSE, quant=SHARED, types=ANYTHING)
def transpose(tfl: Tfl, data: Operand, *, perm: tuple[int, ...] | None = None) -> None:
    """Nothing: the layout decision has renamed the axes."""
    tfl.reshape(data, tfl.out.shape, tfl.out)


@op("Expand", since=13, layout=Layout.ANY, quant=SHARED, types=ANYTHING)
def expand(tfl: Tfl, input: Operand, shape: Operand) -> None:
    """BROADCAST_TO."""
    tfl.add("BROADCAST_TO", [input, np.asarray(tfl.out.shape)])


@op("Tile", since=13, layout=Layout.AXIS, quant=SHARED, types=ANYTHING)
def tile(tfl: Tfl, input: Operand, repeats: Operand) -> None:
    """TILE.

    Refused: computed repeats.
    """
    counts = full(repeats, np.ones(1))
    tfl.add("TILE", [input, np.asarray([counts[axis] for axis in input.perm])])


@op("Concat", since=13, layout=Layout.AXIS, quant=Quant(scale=Scale.SHARED), types=ANYTHING)
def concat(tfl: Tfl, *inputs: Operand, axis: int | None = None) -> None:
    """CONCATENATION."""
    items = [tfl.aligned(item, trim=False) for item in inputs]
    where = tfl.out_perm.index(int(axis or 0) % len(tfl.out_perm))
    tfl.add("CONCATENATION", items, axis=where, fused_activation_function="NONE")


@op("Split", since=18, layout=Layout.AXIS, quant=SHARED, types=ANYTHING)
def split(
    tfl: Tfl, input: Operand, split: Operand | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> None:
    """SPLIT into equal parts, else SPLIT_V."""
    where = np.asarray(input.at(axis))
    sizes = [out.shape[int(where)] for out in tfl.outs]
    if len(set(sizes)) == 1:
        tfl.add_many("SPLIT", [where, input], tfl.outs, num_splits=len(sizes))
    else:
        tfl.add_many("SPLIT_V", [input, np.asarray(sizes), where], tfl.outs, num_splits=len(sizes))


@op("Slice", since=13, layout=Layout.AXIS, quant=SHARED, types=ANYTHING)
def slice_(
    tfl: Tfl,
    data: Operand,
    starts: Operand,
    ends: Operand,
    axes: Operand | None = None,
    steps: Operand | None = None,
) -> None:
    """SLICE; STRIDED_SLICE with steps; a stride over the image is a convolution that copies (``_subsample``).

    Refused: computed starts, axes or steps.
    """
    first = full(starts, np.zeros(0)).reshape(-1)
    which = full(axes, np.arange(len(first))).reshape(-1)
    step_of = full(steps, np.ones(len(first), np.int64)).reshape(-1)
    rank = len(data.shape)
    begin, step = np.zeros(rank, np.int64), np.ones(rank, np.int64)
    for axis, start, by in zip(which, first, step_of, strict=True):
        size, at = data.shape[int(axis) % rank], data.at(int(axis))
        low, high = (0, size) if by > 0 else (0, size - 1)
        begin[at] = np.clip(start + size if start < 0 else start, low, high)
        step[at] = by
    shape = np.asarray(tfl.out.shape)
    if np.all(step == 1):
        tfl.add("SLICE", [data, begin, shape])
    elif rank == 4 and not begin.any() and step[0] == step[3] == 1 and step[1] > 0 and step[2] > 0 and _images(data):
        _subsample(tfl, data, step)
    else:
        end = begin + step * shape
        mask = sum(1 << i for i in range(rank) if step[i] < 0 and end[i] < 0)
        end = np.where(end < 0, 0, end)
        tfl.add(
            "STRIDED_SLICE",
            [data, begin, end, step],
            begin_mask=0,
            end_mask=mask,
            ellipsis_mask=0,
            new_axis_mask=0,
            shrink_axis_mask=0,
        )


def _images(data: Operand) -> bool:
    return data.perm == (0, 2, 3, 1)


def _subsample(tfl: Tfl, data: Operand, step: Any) -> None:
    """Every n-th row and column, as DEPTHWISE_CONV_2D with a 1x1 kernel of ones: exact, and XNNPACK takes it.

    STRIDED_SLICE would end the delegate's partition; the product with one at scale one changes no integer.
    """
    source = tfl.tensor(data)
    channels = source.shape[3]
    weights, bias = tfl.ones(channels, source)
    tfl.add(
        "DEPTHWISE_CONV_2D",
        [data, weights, bias],
        padding="VALID",
        stride_h=int(step[1]),
        stride_w=int(step[2]),
        depth_multiplier=1,
        dilation_h_factor=1,
        dilation_w_factor=1,
        fused_activation_function="NONE",
    )


@op("Gather", since=13, layout=Layout.AXIS, quant=SHARED, types=ANYTHING)
def gather(tfl: Tfl, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """GATHER; SLICE and RESHAPE for one index; SLICE or STRIDED_SLICE for evenly spaced ones."""
    if indices.array is None:
        tfl.add("GATHER", [data, indices], axis=data.at(axis), batch_dims=0)
        return
    index = np.where(indices.array < 0, indices.array + data.shape[axis % len(data.shape)], indices.array)
    source, at = tfl.tensor(data), data.at(axis)
    steps = np.unique(np.diff(index)) if index.ndim == 1 and index.size > 1 else np.asarray([1])
    if index.ndim > 1 or len(steps) != 1 or steps[0] < 1:
        tfl.add("GATHER", [data, index], axis=at, batch_dims=0)
        return
    begin, size = np.zeros(len(source.shape), np.int64), np.asarray(source.shape)
    begin[at], size[at] = index.reshape(-1)[0], index.size
    if steps[0] > 1:
        step = np.ones(len(size), np.int64)
        step[at] = steps[0]
        end = begin + step * np.asarray(tfl.out.shape)
        tfl.add(
            "STRIDED_SLICE",
            [data, begin, end, step],
            begin_mask=0,
            end_mask=0,
            ellipsis_mask=0,
            new_axis_mask=0,
            shrink_axis_mask=0,
        )
    elif index.ndim == 1:
        tfl.add("SLICE", [data, begin, size])
    else:
        tfl.reshape(tfl.add("SLICE", [data, begin, size], tfl.temp(list(size), data)), tfl.out.shape, tfl.out)


@op("Pad", since=21, layout=Layout.AXIS, quant=SHARED, types=ANYTHING)
def pad(
    tfl: Tfl,
    data: Operand,
    pads: Operand,
    constant_value: Operand | None = None,
    axes: Operand | None = None,
    *,
    mode: str = "constant",
) -> None:
    """PAD with zero, PADV2 with a constant, MIRROR_PAD for reflect, GATHER for edge and wrap; a negative pad: SLICE.

    Refused: computed pads.
    """
    rank = len(data.shape)
    amounts = full(pads, np.zeros(0)).reshape(2, -1)
    which = full(axes, np.arange(rank)).reshape(-1)
    table = np.zeros((rank, 2), np.int64)
    for i, axis in enumerate(which):
        table[data.at(int(axis))] = amounts[:, i]
    source: Any = data
    if (table < 0).any():
        cut = np.minimum(table, 0)
        shape = np.asarray(tfl.tensor(data).shape) + cut.sum(1)
        rest = (table > 0).any()
        source = tfl.add("SLICE", [data, -cut[:, 0], shape], tfl.temp(shape, data) if rest else tfl.out)
        table = np.maximum(table, 0)
        if not rest:
            return
    if mode == "reflect":
        tfl.add("MIRROR_PAD", [source, table], mode="REFLECT")
    elif mode == "constant":
        value = float(full(constant_value, np.zeros(())))
        inputs = [source, table] if value == 0 else [source, table, tfl.integers(data, np.asarray([value], np.float32))]
        tfl.add("PAD" if value == 0 else "PADV2", inputs)
    else:
        _copy_around(tfl, source, table, mode)


def _copy_around(tfl: Tfl, source: Any, table: Any, mode: str) -> None:
    """Pad by copies of the edge, or of the other side (wrap): GATHER along each padded axis."""
    padded = [axis for axis in range(len(table)) if table[axis].any()]
    for axis in padded:
        shape = list(tfl.tensor(source).shape)
        index = np.arange(-table[axis, 0], shape[axis] + table[axis, 1])
        index = np.clip(index, 0, shape[axis] - 1) if mode == "edge" else index % shape[axis]
        shape[axis] = len(index)
        target = tfl.out if axis == padded[-1] else tfl.temp(shape, source)
        source = tfl.add("GATHER", [source, index], target, axis=axis, batch_dims=0)


@op("DepthToSpace", since=13, layout=Layout.NHWC, quant=SHARED, types=NUMBERS)
def depth_to_space(tfl: Tfl, input: Operand, *, blocksize: int | None = None, mode: str = "DCR") -> None:
    """DEPTH_TO_SPACE, which is ONNX's mode DCR; for CRD the channels are put into its order first."""
    block = int(blocksize or 1)
    source: Any = input
    if mode == "CRD":
        order = np.arange(input.shape[1]).reshape(-1, block * block).T.reshape(-1)
        source = tfl.add("GATHER", [input, order], tfl.temp(tfl.tensor(input).shape, input), axis=3, batch_dims=0)
    tfl.add("DEPTH_TO_SPACE", [source], block_size=block)


@op("SpaceToDepth", since=13, layout=Layout.NHWC, quant=SHARED, types=NUMBERS)
def space_to_depth(tfl: Tfl, input: Operand, *, blocksize: int | None = None) -> None:
    """SPACE_TO_DEPTH."""
    tfl.add("SPACE_TO_DEPTH", [input], block_size=int(blocksize or 1))
