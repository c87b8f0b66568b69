"""Torch functions of what only moves data (see ``functions``)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.compress.functions import Ints, op
from edgekit.compress.windows import pads_of


@op("Concat")
def concat(*inputs: Tensor, axis: int) -> Tensor:
    """One behind another along an axis."""
    return torch.cat(inputs, axis)


@op("Split")
def split(
    input: Tensor, split: Tensor | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Parts of given sizes, or equal ones (the last may be smaller)."""
    if split is not None:
        return torch.split(input, [int(n) for n in split], axis)
    return torch.split(input, math.ceil(input.shape[axis] / int(num_outputs or 1)), axis)


@op("Transpose")
def transpose(data: Tensor, *, perm: Ints | None = None) -> Tensor:
    """The axes in another order; by default reversed."""
    return data.permute(*(perm if perm is not None else range(data.ndim)[::-1]))


@op("Flatten")
def flatten(input: Tensor, *, axis: int = 1) -> Tensor:
    """Two axes: those before ``axis`` and those from it on."""
    return input.reshape(math.prod(input.shape[:axis]), -1)


@op("Squeeze")
def squeeze(data: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without axes of length 1."""
    return data.squeeze() if axes is None else data.squeeze(tuple(int(a) for a in axes))


@op("Unsqueeze")
def unsqueeze(data: Tensor, axes: Tensor) -> Tensor:
    """With axes of length 1 at places of the result."""
    rank = data.ndim + axes.numel()
    for axis in sorted(int(a) % rank for a in axes.reshape(-1)):
        data = data.unsqueeze(axis)
    return data


@op("Slice")
def slice_(
    data: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Ranges along axes; a negative step goes backwards."""
    which = range(starts.numel()) if axes is None else [int(a) for a in axes]
    by = [1] * starts.numel() if steps is None else [int(s) for s in steps]
    for axis, start, end, step in zip(which, starts.tolist(), ends.tolist(), by, strict=True):
        picks = range(data.shape[axis])[slice(start, None if step < 0 and end < -data.shape[axis] else end, step)]
        if step == 1:
            data = data.narrow(axis, picks.start, len(picks))
        else:
            data = data.index_select(axis, torch.tensor(list(picks), device=data.device))
    return data


@op("Gather")
def gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Elements along an axis, by indices of any shape."""
    axis %= data.ndim
    found = data.index_select(axis, (indices.reshape(-1).long() % data.shape[axis]).to(data.device))
    return found.reshape(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])


@op("Pad")
def pad(
    data: Tensor,
    pads: Tensor,
    constant_value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Around axes: with a constant, the edge, a mirror or the other side; a negative pad cuts."""
    amounts = [0] * 2 * data.ndim
    which = list(range(data.ndim)) if axes is None else [int(a) % data.ndim for a in axes]
    for i, axis in enumerate(which):
        amounts[axis], amounts[data.ndim + axis] = int(pads[i]), int(pads[len(which) + i])
    if mode == "constant":
        return F.pad(data, pads_of(amounts), value=0.0 if constant_value is None else float(constant_value))
    for axis in range(data.ndim):
        before, after, size = amounts[axis], amounts[data.ndim + axis], data.shape[axis]
        index = torch.arange(-before, size + after)
        if mode == "edge":
            index = index.clamp(0, size - 1)
        elif mode == "reflect":
            index = (size - 1 - (index % (2 * size - 2) - (size - 1)).abs()) if size > 1 else index * 0
        data = data.index_select(axis, (index % size).to(data.device)) if before or after else data
    return data


@op("Tile")
def tile(input: Tensor, repeats: Tensor) -> Tensor:
    """Copies along each axis."""
    return input.repeat(*(int(n) for n in repeats))


@op("DepthToSpace")
def depth_to_space(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels as blocks of the image."""
    n, c, h, w = input.shape
    if mode == "CRD":
        return F.pixel_shuffle(input, blocksize)
    parts = input.reshape(n, blocksize, blocksize, c // blocksize**2, h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@op("SpaceToDepth")
def space_to_depth(input: Tensor, *, blocksize: int) -> Tensor:
    """Blocks of the image as channels."""
    n, c, h, w = input.shape
    parts = input.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * blocksize**2, h // blocksize, w // blocksize)
