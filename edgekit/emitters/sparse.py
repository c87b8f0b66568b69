"""Sparse tensors of a TFLite file: a pruned weight as its non-zeros, which DENSIFY spreads out when it is loaded.

The layout is SparsityParameters of schema.fbs, that of TACO (Chou, Kjolstad & Amarasinghe 2018, "Format abstraction for
sparse tensor algebra compilers"): level by level in a traversal order, each dense or compressed (CSR), some of blocks.
"""

from __future__ import annotations

from math import prod

import numpy as np

from edgekit.emitters.tflite_graph import Graph, Op, Sparsity, Tensor
from edgekit.graph import Array

# Which input of an operator may come out of a DENSIFY, and with which types of weight and result, each tried on
# ai-edge-litert 2.3: XNNPACK refuses to load int8 in FULLY_CONNECTED, and int8 weights of float activations anywhere.
SAME = (("float32", "float32"), ("int8", "int8"), ("int8", "int16"))
READERS = {
    "CONV_2D": (1, SAME),
    "DEPTHWISE_CONV_2D": (1, SAME),
    "TRANSPOSE_CONV": (1, SAME),
    "FULLY_CONNECTED": (1, SAME[:1]),
    "DEQUANTIZE": (0, (("float16", "float32"),)),  # weights of half precision
}
OVERHEAD = 360  # bytes of the second tensor but for its name, of its sparsity and the DENSIFY (measured: 285 to 350)


def store(graph: Graph) -> None:
    """Store the weights of a graph sparse where the file gets smaller, each with a DENSIFY in front of its reader."""
    other = {t for op in graph.ops for t in op.inputs if t is not None and t is not _weight(op)} | {*graph.outputs}
    made: dict[Tensor, Tensor] = {}
    ops: list[Op] = []
    for op in graph.ops:
        weight = _weight(op)
        how = None if weight is None or weight in other or weight in made else smaller(weight)
        if weight is not None and how is not None:
            kept = Tensor(f"{weight.name}/sparse", weight.shape, weight.dtype, weight.quant, weight.data, sparsity=how)
            made[weight] = Tensor(weight.name, weight.shape, weight.dtype, weight.quant)
            ops.append(Op("DENSIFY", (kept,), (made[weight],)))
        op.inputs = tuple(made.get(t, t) if t is not None else None for t in op.inputs)
        ops.append(op)
    graph.ops = ops


def _weight(op: Op) -> Tensor | None:
    """The input that may come out of a DENSIFY."""
    position, types = READERS.get(op.code, (0, ()))
    found = op.inputs[position] if types else None
    return found if found is not None and (found.dtype, op.outputs[0].dtype) in types else None


def smaller(tensor: Tensor) -> Sparsity | None:
    """How a tensor is stored sparse, where that saves more than it costs; None where it does not."""
    if tensor.data is None or not tensor.data.any():
        return None
    found = min((compressed(tensor.data, axis) for axis in range(tensor.data.ndim)), key=lambda s: s.nbytes)
    return found if found.nbytes + OVERHEAD + len(tensor.name) < tensor.data.nbytes else None


def compressed(array: Array, axis: int) -> Sparsity:
    """The non-zeros of each row along an axis, which is the last of the traversal; the others are dense."""
    order = (*(a for a in range(array.ndim) if a != axis), axis)
    moved = array.transpose(order)
    *dense, _ = moved.shape
    rows = moved.reshape(-1, moved.shape[-1])
    segments = np.concatenate([[0], np.cumsum((rows != 0).sum(1))])
    indices = np.nonzero(rows)[1]
    return Sparsity(order, (*map(int, dense), (_narrow(segments), _narrow(indices))), rows[rows != 0])


def _narrow(values: Array) -> Array:
    """Whole numbers in the narrowest type that an index has in the schema."""
    most = int(values.max(initial=0))
    return values.astype("uint8" if most < 1 << 8 else "uint16" if most < 1 << 16 else "int32")


def dense(shape: tuple[int, ...], how: Sparsity) -> Array:
    """The array behind a sparse tensor of any traversal. Raises ValueError or IndexError where it holds none."""
    rank = len(shape)
    at, where = np.zeros(1, np.int64), np.zeros((len(how.order), 1), np.int64)
    for level, kept in enumerate(how.levels):
        counts, chosen, at = _entered(at, kept, prod(shape))
        where = np.repeat(where, counts, axis=1)
        where[how.order[level]] = chosen
    sizes = dict(zip(how.blocks, (how.levels[how.order.index(rank + i)] for i in range(len(how.blocks))), strict=True))
    for block, axis in enumerate(how.blocks):
        where[axis] = where[axis] * sizes[axis] + where[rank + block]
    found = np.zeros(shape, how.values.dtype)
    found[tuple(where[:rank])] = how.values[at]
    return found


def _entered(at: Array, kept: int | tuple[Array, Array], room: int) -> tuple[Array, Array, Array]:
    """One level down from some places: how many each has below it, their coordinates, and where they lie."""
    if isinstance(kept, int):
        counts, starts = np.full(len(at), kept), at * kept
    else:
        segments = kept[0].astype(np.int64)
        counts, starts = segments[at + 1] - segments[at], segments[at]
    total = int(counts.sum())
    if total > room:
        raise ValueError(f"{total} places in a tensor of {room}")
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    below = np.repeat(starts, counts) + within
    return counts, within if isinstance(kept, int) else kept[1][below], below
