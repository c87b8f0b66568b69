"""How many bytes numbers take: as they are, deflated, and in a code for their own frequencies.

A dense file does not shrink by zeros or by few distinct values; an archive, an update over the air or a decoder on the
device does. What is counted says each function; the structure of a file never is.
"""

from __future__ import annotations

import gzip
import heapq
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, constant, is_float
from edgekit.quant import numerics
from edgekit.quant.plan import QuantPlan

TABLE = 2  # bytes of a distinct value in a code's table: its index and the length of its code word


def packed(data: bytes) -> dict[str, int]:
    """Bytes raw, as gzip (RFC 1952, level 9) and, where Python's own library has it (3.14), as zstd."""
    sizes = {"raw": len(data), "gzip": len(gzip.compress(data, 9, mtime=0))}
    if sys.version_info >= (3, 14):
        from compression import zstd

        sizes["zstd"] = len(zstd.compress(data, 19))
    return sizes


def constants(graph: ir.Model) -> bytes:
    """All floating-point constants of a graph, one behind another."""
    arrays = (constant(value) for value in graph.graph.initializers.values() if is_float(value))
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays if array is not None)


def entropy(values: Array) -> float:
    """Shannon's bound on the bits of one value, each coded by itself (Shannon 1948, section 6)."""
    share = np.unique(values, return_counts=True)[1] / max(values.size, 1)
    return float(-(share * np.log2(share)).sum()) + 0.0


def huffman_bits(values: Array) -> int:
    """The bits of all values in a Huffman code for their frequencies (Huffman 1952); one each where all are equal."""
    heap = np.unique(values, return_counts=True)[1].tolist()
    if len(heap) == 1:
        return int(heap[0])
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        bits += joined
        heapq.heappush(heap, joined)
    return bits


def huffman_bytes(values: Array) -> int:
    """The bytes of all values in a Huffman code, whole, with its table (``TABLE`` bytes a distinct value)."""
    return -(-huffman_bits(values) // 8) + TABLE * len(np.unique(values))


def clustered_bytes(graph: ir.Model, weights: Mapping[str, Array]) -> dict[str, Any]:
    """The constants of a graph whose ``weights`` have few values each.

    ``indices`` in a Huffman code with its tables (``entropy`` is the bound on that, without tables), ``codebooks`` and
    ``rest`` (biases, normalisation, weights that were left) as float32; ``coded`` is their sum, ``ratio`` what ``raw``
    is of it.
    """
    raw = len(constants(graph))
    found: dict[str, Any] = {
        "raw": raw,
        "indices": sum(map(huffman_bytes, weights.values())),
        "entropy": int(np.ceil(sum(entropy(array) * array.size for array in weights.values()) / 8)),
        "codebooks": sum(4 * len(np.unique(array)) for array in weights.values()),
        "rest": raw - sum(array.nbytes for array in weights.values()),
    }
    coded = found["indices"] + found["codebooks"] + found["rest"]
    return found | {"coded": coded, "ratio": raw / coded}


def artifact_bytes(data: bytes, graph: ir.Model, plan: QuantPlan) -> dict[str, int]:
    """An artifact as gzip, and ``coded``: its int8 weights (of two axes or more) in a Huffman code each."""
    saved = 0
    for name, value in graph.graph.initializers.items():
        array, q = constant(value), plan.get(name)
        if array is not None and array.ndim >= 2 and q is not None and q.dtype == "int8":
            saved += max(0, array.size - huffman_bytes(numerics.quantize(array, q)))
    return {"gzip": len(gzip.compress(data, 9, mtime=0)), "coded": len(data) - saved}


def integers_bytes(prepared: ir.Model, plan: QuantPlan) -> dict[str, Any]:
    """The constants of a prepared graph as a plan stores them.

    ``weights``: planned tensors of two axes or more in a Huffman code each, with its table; ``scales`` of theirs, four
    bytes each; ``rest``: biases and what else is constant, at the size at which it is stored. ``raw`` counts all that
    is stored without a code or scales, ``float`` all as float32, and ``ratio`` is what ``float`` is of ``coded``.
    """
    found = dict.fromkeys(("raw", "weights", "scales", "rest", "float"), 0)
    for name, value in prepared.graph.initializers.items():
        array, q = constant(value), plan.get(name)
        if array is None or not is_float(value):
            continue
        found["float"] += array.nbytes
        stored = numerics.quantize(array, q) if q is not None else array
        found["raw"] += stored.nbytes
        if q is not None and array.ndim >= 2 and q.dtype == "int8":
            found["weights"] += min(huffman_bytes(stored), stored.nbytes)
            found["scales"] += 4 * len(q.scale)
        else:
            found["rest"] += stored.nbytes
    coded = found["weights"] + found["scales"] + found["rest"]
    return found | {"coded": coded, "ratio": found["float"] / coded}
