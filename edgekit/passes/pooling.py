"""Pooling and its kin that no runtime has as one operator everywhere, from operators that all have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.errors import UnsupportedError
from edgekit.graph import attributes, shape_of
from edgekit.passes.rewrite import Writer, drop, put_in_place

PADDING = ("auto_pad", "pads", "strides", "dilations")


def spell_out_pools(model: ir.Model) -> bool:
    """Ensures: no LpPool, GlobalLpPool or LRN."""
    ways: dict[str, Callable[[_Writer, ir.Node], ir.Value]] = {
        "LpPool": _lp_pool,
        "GlobalLpPool": _global_lp_pool,
        "LRN": _local_response,
    }
    graph, changed = model.graph, False
    for node in [n for n in graph if n.op_type in ways]:
        put_in_place(graph, node.outputs[0], ways[node.op_type](_Writer(graph, node), node))
        drop(graph, node)
        changed = True
    return changed


def refuse_outer_windows(model: ir.Model) -> bool:
    """Refuses a pool that rounds up to a window that begins beyond its input: runtimes leave that one out."""
    problems = []
    for node in model.graph:
        attrs = attributes(node)
        if node.op_type in ("MaxPool", "AveragePool", "LpPool") and attrs.get("ceil_mode", 0) and node.inputs[0]:
            axes = zip(shape_of(node.inputs[0])[2:], shape_of(node.outputs[0])[2:], _axes(attrs), strict=True)
            if any((out - 1) * stride >= size + begin for size, out, (_, stride, _, begin, _) in axes):
                problems.append(
                    f"node {node.name}: {node.op_type}: with ceil_mode its last window begins in the padding"
                )
    if problems:
        raise UnsupportedError(problems)
    return False


def pad_before_means(model: ir.Model) -> bool:
    """Padding that a mean counts, while its windows may reach beyond -> a Pad before it.

    ONNX Runtime's integer kernel would count what lies beyond. It is not done where a window that begins in the
    padding was left out: behind a Pad it would be one more.
    """
    changed = False
    for node in model.graph:
        attrs = attributes(node)
        counts = node.op_type == "AveragePool" and attrs.get("ceil_mode", 0) and attrs.get("count_include_pad", 0)
        if not counts or attrs.get("auto_pad", "NOTSET") != "NOTSET":
            continue
        writer, pads = _Writer(model.graph, node), np.reshape(attrs.get("pads") or (), (2, -1)).astype(np.int64)
        if pads.any():
            size = shape_of(writer.source)
            amounts = np.pad(pads, [(0, 0), (2, 0)])
            along = zip((size + amounts.sum(0))[2:], shape_of(node.outputs[0])[2:], _axes(attrs), strict=True)
            if any((out - 1) * stride < n - (kernel - 1) * apart - 1 for n, out, (kernel, stride, apart, *_) in along):
                continue
            padded = writer.add("Pad", [writer.source, writer.constant(amounts.reshape(-1))], size + amounts.sum(0))
            node.replace_input_with(0, padded)
            del node.attributes["pads"]
        del node.attributes["count_include_pad"]
        changed = True
    return changed


class _Writer(Writer):
    """Adds nodes before one of these."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        super().__init__(graph, node)
        self.source: ir.Value = node.inputs[0]  # type: ignore[assignment]
        self.out = node.outputs[0]

    def number(self, value: float) -> ir.Value:
        return self.constant(np.asarray(value, np.float32))

    def power(self, value: ir.Value, exponent: float) -> ir.Value:
        return value if exponent == 1 else self.add("Pow", [value, self.number(exponent)], shape_of(value))


def _lp_pool(w: _Writer, node: ir.Node) -> ir.Value:
    """(sum |x|^p)^(1/p): the sum is a depthwise convolution of ones."""
    attrs, shape, out = attributes(node), shape_of(w.source), shape_of(w.out)
    kernel, p = [int(k) for k in attrs["kernel_shape"]], int(attrs.get("p", 2))
    given = {name: attrs[name] for name in PADDING if name in attrs}
    if attrs.get("ceil_mode", 0):
        given["pads"] = _to_the_end(shape[2:], out[2:], attrs)
    ones = w.constant(np.ones((shape[1], 1, *kernel), np.float32))
    summed = w.add("Conv", [_powers(w, p), ones], out, kernel_shape=kernel, group=shape[1], **given)
    return w.power(summed, 1 / p)


def _to_the_end(size: Sequence[int], out: Sequence[int], attrs: dict[str, Any]) -> list[int]:
    """Pads with which rounding down gives the windows that rounding up gave."""
    rows = [(i, o, *axis) for i, o, axis in zip(size, out, _axes(attrs), strict=True)]
    ends = [max(0, (o - 1) * s + (k - 1) * d + 1 - i - b) for i, o, k, s, d, b, _ in rows]
    return [row[5] for row in rows] + ends


def _powers(w: _Writer, p: int) -> ir.Value:
    """|x|^p."""
    if p == 2:
        return w.add("Mul", [w.source, w.source], shape_of(w.source))
    return w.power(w.add("Abs", [w.source], shape_of(w.source)), p)


def _global_lp_pool(w: _Writer, node: ir.Node) -> ir.Value:
    """(sum |x|^p)^(1/p) over all of space."""
    p, rank = int(attributes(node).get("p", 2)), len(shape_of(w.source))
    space = w.constant(np.arange(2, rank))
    return w.power(w.add("ReduceSum", [_powers(w, p), space], shape_of(w.out), keepdims=1), 1 / p)


def _local_response(w: _Writer, node: ir.Node) -> ir.Value:
    """x (bias + alpha / size sum x^2)^-beta over ``size`` neighbouring channels: the sum is a 1x1 convolution."""
    attrs, shape = attributes(node), shape_of(w.source)
    channels, size = shape[1], int(attrs["size"])
    apart = np.arange(channels) - np.arange(channels)[:, None]
    near = (apart >= -((size - 1) // 2)) & (apart <= size // 2)
    factor = float(attrs.get("alpha", 1e-4)) / size
    kernel = w.constant((near * factor).astype(np.float32).reshape(channels, channels, *[1] * (len(shape) - 2)))
    bias = w.constant(np.full(channels, attrs.get("bias", 1.0), np.float32))
    summed = w.add("Conv", [_powers(w, 2), kernel, bias], shape)
    return w.add("Mul", [w.source, w.power(summed, -float(attrs.get("beta", 0.75)))], shape)


def _axes(attrs: dict[str, Any]) -> list[tuple[int, ...]]:
    """Kernel, stride, dilation and pads of each axis."""
    n = len(attrs["kernel_shape"])
    pads = attrs.get("pads", [0] * 2 * n)
    columns = attrs["kernel_shape"], attrs.get("strides", [1] * n), attrs.get("dilations", [1] * n), pads[:n], pads[n:]
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]
