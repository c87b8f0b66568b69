"""Torch functions of what reads or writes at places that are given or found (see ``functions``)."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from edgekit.compress.functions import op

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _flat(indices: Tensor, sizes: torch.Size) -> Tensor:
    """Tuples along the last axis as places in a row of all that they may point to."""
    steps = [prod(sizes[i + 1 :]) for i in range(len(sizes))]
    parts = zip(indices.long().unbind(-1), sizes, steps, strict=True)
    return torch.stack([index % size * step for index, size, step in parts]).sum(0)


def _scattered(data: Tensor, axis: int, index: Tensor, updates: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return data.scatter(axis, index, updates)
    return data.scatter_reduce(axis, index, updates, REDUCTIONS[reduction])


@op("GatherElements")
def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Elements along an axis, by an index for each result."""
    return data.gather(axis, indices.long() % data.shape[axis])


@op("GatherND")
def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Parts of the data, by tuples of indices behind ``batch_dims`` axes in common."""
    depth = indices.shape[-1]
    lead, sizes, rest = (
        data.shape[:batch_dims],
        data.shape[batch_dims : batch_dims + depth],
        data.shape[batch_dims + depth :],
    )
    places = _flat(indices, sizes).reshape(prod(lead), -1)
    rows = torch.arange(len(places), device=data.device)[:, None]
    return data.reshape(prod(lead), prod(sizes), *rest)[rows, places].reshape(*indices.shape[:-1], *rest)


@op("ScatterElements")
def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """The data, with updates along an axis where the indices say."""
    return _scattered(data, axis, indices.long() % data.shape[axis], updates, reduction)


@op("ScatterND")
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """The data, with updates where tuples of indices say."""
    sizes = data.shape[: indices.shape[-1]]
    rows = data.reshape(prod(sizes), -1)
    places = _flat(indices, sizes).reshape(-1, 1).expand(-1, rows.shape[1])
    return _scattered(rows, 0, places, updates.reshape(places.shape), reduction).reshape(data.shape)


@op("TopK")
def top_k(X: Tensor, K: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, ...]:
    """The largest or smallest along an axis, and where they lie; the first of equal ones first."""
    values, places = torch.sort(X, dim=axis, descending=bool(largest), stable=True)
    count = int(K)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _first(data: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    found = (data.flip(axis) if last else data).argmax(axis, bool(keepdims))
    return data.shape[axis] - 1 - found if last else found


@op("ArgMax")
def arg_max(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the largest lies: the first of equal ones, or the last."""
    return _first(data, axis, keepdims, select_last_index)


@op("ArgMin")
def arg_min(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the smallest lies."""
    return _first(-data, axis, keepdims, select_last_index)
