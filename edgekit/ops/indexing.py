"""Reading and writing at positions that a tensor names: all as rows of a matrix, by one flat index a row."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from edgekit.ops.context import PLAIN, Array, Operand, Tfl
from edgekit.ops.declare import ANYTHING, Layout, Quant, Scale, op, unsupported

SCATTER = Quant(scale=Scale.SHARED, inputs=(0, 2))


def _strides(sizes: tuple[int, ...]) -> Array:
    """How far apart neighbours along each axis lie, in elements."""
    return np.asarray([prod(sizes[i + 1 :]) for i in range(len(sizes))], np.int64)


def _narrow(tfl: Tfl, indices: Operand, sizes: Array) -> Any:
    """Computed indices as int32 from 0 on: negative ones count from the end, of ``sizes`` elements."""
    source: Any = tfl.tensor(indices)
    if source.dtype != "int32":
        narrow = tfl.temp(source.shape, dtype="int32")
        source = tfl.add("CAST", [source], narrow, in_data_type=source.dtype.upper(), out_data_type="INT32")
    return tfl.add("FLOOR_MOD", [source, sizes], tfl.temp(source.shape, dtype="int32"))


def _shifted(tfl: Tfl, index: Any, base: Array) -> Any:
    """``index + base``, where that changes something."""
    if not base.any():
        return index
    return tfl.add("ADD", [index, base], tfl.temp(np.broadcast_shapes(index.shape, base.shape), dtype="int32"), **PLAIN)


def _along(tfl: Tfl, indices: Operand, sizes: tuple[int, ...], axis: int, perm: tuple[int, ...]) -> Any:
    """The flat index of each element that ``indices`` name along the stored ``axis`` of a tensor of ``sizes``."""
    shape = tuple(indices.shape[a] for a in perm)
    strides = _strides(sizes)
    places = np.indices(shape)
    base = np.asarray(sum((places[i] * strides[i] for i in range(len(sizes)) if i != axis), np.zeros(shape, np.int64)))
    if indices.array is not None:
        return base + np.mod(indices.array.transpose(perm), sizes[axis]) * strides[axis]
    index = _narrow(tfl, indices, np.asarray(sizes[axis]))
    if strides[axis] != 1:
        index = tfl.add("MUL", [index, strides[axis]], tfl.temp(shape, dtype="int32"), **PLAIN)
    return _shifted(tfl, index, base)


def _tuples(tfl: Tfl, indices: Operand, sizes: tuple[int, ...], batch: int = 0) -> Any:
    """The flat index of each row that a tuple in the last axis of ``indices`` names; the first axes are ``batch``."""
    strides, shape = _strides(sizes), indices.shape[:-1]
    places = np.indices(shape)
    base = np.asarray(sum((places[i] * strides[i] for i in range(batch)), np.zeros(shape, np.int64)))
    if indices.array is not None:
        return base + (np.mod(indices.array, sizes[batch:]) * strides[batch:]).sum(-1)
    index = _narrow(tfl, indices, np.asarray(sizes[batch:]))
    if indices.shape[-1] == 1:
        return _shifted(tfl, tfl.reshape(index, shape), base)
    steps = tfl.add("MUL", [index, strides[batch:]], tfl.temp(indices.shape, dtype="int32"), **PLAIN)
    return _shifted(
        tfl, tfl.add("SUM", [steps, np.asarray([-1])], tfl.temp(shape, dtype="int32"), keep_dims=False), base
    )


def _shaped(tfl: Tfl, data: Operand, shape: tuple[int, ...], perm: tuple[int, ...]) -> Any:
    """An operand as it is stored in ``perm``, in another shape."""
    if data.array is not None:
        return tfl.weight(data, lambda a: a.transpose(perm).reshape(shape), None)
    return tfl.reshape(data, shape)


@op("GatherElements", since=13, layout=Layout.AXIS, quant=Quant(scale=Scale.SHARED, inputs=(0,)), types=ANYTHING)
def gather_elements(tfl: Tfl, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """RESHAPE and GATHER; computed indices through FLOOR_MOD, MUL and ADD."""
    sizes = tuple(data.shape[a] for a in tfl.out_perm)
    index = _along(tfl, indices, sizes, tfl.out_perm.index(axis % len(sizes)), tfl.out_perm)
    tfl.add("GATHER", [_shaped(tfl, data, (prod(sizes),), tfl.out_perm), index], axis=0, batch_dims=0)


@op("GatherND", since=13, layout=Layout.SOURCE, quant=Quant(scale=Scale.SHARED, inputs=(0,)), types=ANYTHING)
def gather_nd(tfl: Tfl, data: Operand, indices: Operand, *, batch_dims: int = 0) -> None:
    """RESHAPE and GATHER; computed indices through FLOOR_MOD, MUL, SUM and ADD."""
    depth = batch_dims + indices.shape[-1]
    sizes, row = data.shape[:depth], data.shape[depth:]
    rows = _shaped(tfl, data, (prod(sizes), *row), tuple(range(len(data.shape))))
    tfl.add("GATHER", [rows, _tuples(tfl, indices, sizes, batch_dims)], axis=0, batch_dims=0)


@op("ScatterND", since=18, layout=Layout.SOURCE, quant=SCATTER, types=ANYTHING)
def scatter_nd(tfl: Tfl, data: Operand, indices: Operand, updates: Operand, *, reduction: str = "none") -> None:
    """CONCATENATION of old and new rows and GATHER; with computed indices SCATTER_ND and SELECT_V2.

    Refused: reductions but add, and add in integers.
    """
    depth = indices.shape[-1]
    source = tuple(range(len(data.shape))), tuple(range(len(updates.shape)))
    count, row = prod(data.shape[:depth]), prod(data.shape[depth:])
    index = _tuples(tfl, indices, data.shape[:depth])
    old = _shaped(tfl, data, (count, row), source[0])
    new = _shaped(tfl, updates, (prod(indices.shape[:-1]), row), source[1])
    _scatter(tfl, old, index, new, reduction)


@op("ScatterElements", since=18, layout=Layout.AXIS, quant=SCATTER, types=ANYTHING)
def scatter_elements(
    tfl: Tfl, data: Operand, indices: Operand, updates: Operand, *, axis: int = 0, reduction: str = "none"
) -> None:
    """CONCATENATION of old and new elements and GATHER; with computed indices SCATTER_ND and SELECT_V2.

    Refused: reductions but add, and add in integers.
    """
    perm = tfl.out_perm
    sizes = tuple(data.shape[a] for a in perm)
    index = _along(tfl, indices, sizes, perm.index(axis % len(sizes)), perm)
    old = _shaped(tfl, data, (prod(sizes), 1), perm)
    _scatter(tfl, old, index, _shaped(tfl, updates, (prod(updates.shape), 1), perm), reduction)


def _scatter(tfl: Tfl, old: Any, index: Any, new: Any, reduction: str) -> None:
    """Put the rows ``new`` into ``old`` at ``index`` (an array, or a tensor), and fill the result."""
    if reduction not in ("none", "add"):
        unsupported(f"reduction {reduction}; TFLite's SCATTER_ND only adds")
    if reduction == "add" and tfl.quantized:
        unsupported("reduction add of integers with a scale; TFLite's SCATTER_ND does not look at it")
    (count, row), parts = old.shape, new.shape[0]
    result = tfl.temp((count, row), tfl.out)
    if isinstance(index, np.ndarray) and reduction == "none":
        order = np.arange(count)
        order[index.reshape(-1)] = count + np.arange(parts)
        both = tfl.add("CONCATENATION", [old, new], tfl.temp((count + parts, row), tfl.out), axis=0, **PLAIN)
        tfl.add("GATHER", [both, order], result, axis=0, batch_dims=0)
        tfl.reshape(result, tfl.out.shape, tfl.out)
        return
    at: Any = index.reshape(parts, 1) if isinstance(index, np.ndarray) else tfl.reshape(index, (parts, 1))
    spread = tfl.add("SCATTER_ND", [at, new, np.asarray([count, row])], tfl.temp((count, row), tfl.out))
    if reduction == "add":
        tfl.add("ADD", [old, spread], result, **PLAIN)
    else:
        ones = np.ones((parts, 1), np.int32)
        hits = tfl.add("SCATTER_ND", [at, ones, np.asarray([count, 1])], tfl.temp((count, 1), dtype="int32"))
        here = tfl.add("GREATER", [hits, np.asarray(0)], tfl.temp((count, 1), dtype="bool"))
        tfl.add("SELECT_V2", [here, spread, old], result)
    tfl.reshape(result, tfl.out.shape, tfl.out)
