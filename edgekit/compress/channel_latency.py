"""Which channels to take for speed: what each layer gives back is timed on the target, and set against what it costs.

Kernels round widths up, so time falls in steps, and in other layers than multiply-adds do. Layers of one kind (cut from
tensors of the same shapes) are cut all at once and share what that saves. Steps that give nothing back go together with
the next one that does (He et al. 2018, "AMC", and Yang et al. 2018, "NetAdapt", search with measured latency too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.compress.channel_cut import without
from edgekit.compress.channels import Channels, Layer
from edgekit.graph import Array, shape_of

Latency = Callable[[Sequence[ir.Model]], Sequence[float]]
Blocks = Sequence[list[int]]
DEPTHS = 8  # at so many widths, at most, a kind of layers is timed
LEAST = 1e-3  # of the whole time: what saves less is noise


def savings(channels: Channels, layers: Sequence[Layer], blocks: Sequence[Blocks], latency: Latency) -> list[Array]:
    """For each layer the share of the whole time that is saved when its first 0, 1, 2, ... blocks are gone."""
    alike: dict[object, list[int]] = {}
    for number, layer in enumerate(layers):
        alike.setdefault(kind_of(channels, layer), []).append(number)
    tried = [
        (members, depth)
        for members in alike.values()
        for depth in _depths(len(blocks[members[0]]))
    ]
    removed = [[one for member in members for block in blocks[member][:depth] for one in block] for members, depth in tried]
    times = latency([channels.model, *(without(channels, classes) for classes in removed)])[1:]
    found: list[Array] = [np.zeros(1)] * len(layers)
    for members in alike.values():
        points = [(depth, (1 - time) / len(members)) for (of, depth), time in zip(tried, times, strict=True) if of is members]
        depths, saved = zip((0, 0.0), *points, strict=True)
        count = np.arange(len(blocks[members[0]]) + 1)
        curve = np.interp(count, depths, np.maximum.accumulate(np.maximum(saved, 0.0)))
        for member in members:
            found[member] = curve
    return found


def kind_of(channels: Channels, layer: Layer) -> tuple[object, ...]:
    """Equal for layers that are cut alike: the shapes of what holds them, and along which axes."""
    places = sorted((channels.shape(name), axis, count) for name, axis, count in layer.places)
    return (len(layer.classes), *places)


def _depths(count: int) -> list[int]:
    return sorted({-(-count * step // DEPTHS) for step in range(1, DEPTHS + 1)} - {0})


def by_price(blocks: Sequence[Blocks], scores: Array, saved: Sequence[Array]) -> list[list[int]]:
    """What to take, the cheapest first: by importance lost per time saved. Of a layer only what goes on saving."""
    priced: list[tuple[float, list[int]]] = []
    for layer, curve in zip(blocks, saved, strict=True):
        lost = np.cumsum([0.0, *(float(scores[block].sum()) for block in layer)])
        start = 0
        while start < len(layer):
            gains = curve[start + 1 :] - curve[start]
            prices = np.divide(lost[start + 1 :] - lost[start], gains, where=gains > LEAST, out=np.full(len(gains), np.inf))
            stop = start + 1 + int(prices.argmin())
            if not np.isfinite(prices.min()):
                break
            priced.append((float(prices.min()), [one for block in layer[start:stop] for one in block]))
            start = stop
    return [block for _, block in sorted(priced, key=lambda item: item[0])]
