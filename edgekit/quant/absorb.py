"""Absorb high biases: what a channel never falls below is taken from it, and added where it is read.

A layer whose channels lie at different heights needs a scale for all of them together. A constant that is taken from a
channel's bias and given, times the weights that read the channel, to the bias of the next layer leaves the function as
it is and the range narrower (Nagel et al. 2019, "Data-free quantization through weight equalization and bias
correction", section 4.1.3; here from observed activations in place of BatchNormalization's statistics). Behind a ReLU
that constant is the least value seen, so that what is cut at zero was never there; a layer without an activation may
give away any constant, and each of its channels comes to lie evenly about zero.

A ReLU6 passes it on where the channel never reached six. Nothing passes HardSwish or Sigmoid, and no reader may pad: at
the border zeros stand for values that would now be the constant less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, Unit, attributes, constant, shape_of, units, with_constants
from edgekit.progress import Progress
from edgekit.quant.calibrate import rounded
from edgekit.quant.equalize import channel_axis, weights_of
from edgekit.reference import Reference
from edgekit.samples import Sample

READERS = ("Conv", "Gemm", "MatMul")
SURE = 0.99  # of the least value seen: what a channel behind a ReLU gives away, so that rounding cuts nothing
WORTH = 0.9  # of the range before: what may be left at most where it is done


@dataclass(frozen=True)
class Site:
    """A layer that can give constants away, and the layers that take them in."""

    maker: Unit
    readers: tuple[Unit, ...]

    @property
    def name(self) -> str:
        """What lies between."""
        return str(self.maker.outputs[0].name)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of what lies between along which a channel lies."""
        axis = channel_axis(self.maker.node)
        return tuple(i for i in range(len(shape_of(self.maker.outputs[0]))) if i != axis)


def sites(graph: ir.Graph) -> list[Site]:
    """Where a constant can pass from bias to bias."""
    whole = units(graph)
    by_node = {unit.node: unit for unit in whole}
    found = []
    for unit in whole:
        out = unit.outputs[0]
        if weights_of(unit.node) is None or _bias(unit) is None or unit.bounds[0] not in (0.0, -math.inf):
            continue
        uses, axis = list(out.uses()), channel_axis(unit.node)
        readers = [by_node[use.node] for use in uses if use.node in by_node and use.idx == 0]
        if uses and len(readers) == len(uses) and not out.is_graph_output() and all(_takes(r, axis) for r in readers):
            found.append(Site(unit, tuple(readers)))
    return found


def _bias(unit: Unit) -> Array | None:
    """A unit's bias, where it is a constant that nobody else reads."""
    value = unit.bias_value
    return constant(value) if value is not None and len(value.uses()) == 1 else None


def _takes(unit: Unit, axis: int) -> bool:
    """Whether a unit can take in constants of the channels along an axis of what it reads."""
    if unit.node.op_type not in READERS or weights_of(unit.node) is None or _bias(unit) is None:
        return False
    attrs = attributes(unit.node)
    pads = any(attrs.get("pads") or ()) or attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return channel_axis(unit.node) == axis and not pads


def offsets(model: ir.Model, samples: Iterable[Sample], progress: Progress, total: int) -> dict[str, list[float]]:
    """The constant of each channel, by the tensor that gives it away, where its range gets narrower enough.

    One sample is in memory at a time.
    """
    places = {site.name: site for site in sites(model.graph)}
    if not places:
        return {}
    reference = Reference(model, list(places))
    ends: dict[str, tuple[Array, Array]] = {}
    with progress.task("absorb biases", total) as step:
        for sample in samples:
            values = reference.run(sample.inputs)
            for name, site in places.items():
                low, high = values[name].min(site.axes), values[name].max(site.axes)
                before = ends.get(name, (low, high))
                ends[name] = np.minimum(before[0], low), np.maximum(before[1], high)
            step()
    found = {name: _offset(places[name].maker.bounds, low, high) for name, (low, high) in ends.items()}
    return {
        name: offset.tolist()
        for name, offset in found.items()
        if offset.any() and _span(ends[name], offset) <= WORTH * _span(ends[name], np.zeros_like(offset))
    }


def _offset(bounds: tuple[float, float], low: Array, high: Array) -> Array:
    """What each channel gives away: its least value behind a ReLU, else its middle."""
    given = (low + high) / 2 if bounds[0] == -math.inf else np.where(high < bounds[1], SURE * low, 0.0)
    return np.asarray([rounded(float(value)) for value in given])


def _span(ends: tuple[Array, Array], offset: Array) -> float:
    """The range of the tensor, zero within."""
    low, high = (float(end) for end in ((ends[0] - offset).min(), (ends[1] - offset).max()))
    return max(high, 0.0) - min(low, 0.0)


def absorbed(model: ir.Model, given: Mapping[str, Iterable[float]]) -> ir.Model:
    """A copy of a model in which these constants went from bias to bias."""
    changed: dict[str, Array] = {}

    def add(unit: Unit, amount: Array) -> None:
        name, bias = str(unit.bias_value.name), _bias(unit)  # type: ignore[union-attr]
        assert bias is not None
        changed[name] = changed.get(name, bias.astype(np.float64)) + amount

    for site in sites(model.graph):
        if site.name not in given:
            continue
        offset = np.asarray(given[site.name], np.float64)
        add(site.maker, -offset)
        for reader in site.readers:
            weights = weights_of(reader.node)
            assert weights is not None
            outs, width = weights.shape[:2]
            sums = weights.reshape(outs, width, -1).sum(2, dtype=np.float64)
            by_output = np.repeat(offset.reshape(-1, width), outs * width // len(offset), 0)
            add(reader, (sums * by_output).sum(1))
    return with_constants(model, {name: array.astype(np.float32) for name, array in changed.items()})
