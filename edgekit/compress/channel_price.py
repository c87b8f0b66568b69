"""Which channels to take first: what is lost with them is set against what they give back, by count or by the clock.

Kernels round widths up, so time falls in steps, and in other layers than multiply-adds do. So each kind of layers (cut
from tensors of the same shapes) is timed on the target at several widths, all of a kind at once, which share what that
saves. Steps that give nothing back go together with the next one that does. (Searches by measured latency: Yang et al.
2018, "NetAdapt"; He et al. 2018, "AMC".)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.compress.channel_cut import Cut, without
from edgekit.compress.channels import Channels
from edgekit.graph import Array, shape_of

Latency = Callable[[Sequence[ir.Model]], Sequence[float]]
Blocks = Sequence[list[int]]
DEPTHS = 8  # at so many widths, at most, a kind of layers is timed
LEAST = 1e-9  # of the whole cost
NOISE = 5e-3  # of the whole time: what seems to save less saves nothing


def counted(channels: Channels, blocks: Sequence[Blocks], kind: str) -> list[Array]:
    """For each layer the share of a cost (``Cut.cost``) that is saved when its first 0, 1, 2, ... blocks are gone."""
    whole = Cut(channels, ()).cost(kind)
    found = []
    for layer in blocks:
        depths = [0, *_depths(len(layer))]
        saved = [1 - Cut(channels, flat(layer[:depth])).cost(kind) / whole for depth in depths]
        found.append(np.interp(np.arange(len(layer) + 1), depths, saved))
    return found


def timed(channels: Channels, blocks: Sequence[Blocks], latency: Latency) -> list[Array]:
    """For each layer the share of the whole time that is saved when its first 0, 1, 2, ... blocks are gone."""
    alike: dict[object, list[int]] = {}
    for number, kind in enumerate(kinds(channels, blocks)):
        alike.setdefault(kind, []).append(number)
    tried = [(members, depth) for members in alike.values() for depth in _depths(len(blocks[members[0]]))]
    cuts = [flat(block for at in members for block in blocks[at][:depth]) for members, depth in tried]
    times = latency([channels.model, *(without(channels, classes) for classes in cuts)])[1:]
    found: list[Array] = [np.zeros(1)] * len(blocks)
    for members in alike.values():
        points = [(depth, 1 - time) for (of, depth), time in zip(tried, times, strict=True) if of is members]
        depths, saved = zip((0, 0.0), *points, strict=True)
        curve = np.interp(np.arange(len(blocks[members[0]]) + 1), depths, _rising(saved)) / len(members)
        for member in members:
            found[member] = curve
    return found


def kinds(channels: Channels, blocks: Sequence[Blocks]) -> list[object]:
    """What is equal for layers that are cut alike: the shapes of what holds them, and along which axes."""
    shapes = {str(value.name): shape_of(value) for value in channels.graph.initializers.values()}
    for node in channels.graph:
        shapes |= {str(value.name): shape_of(value) for value in node.outputs}
    layer_of = {one: layer for layer in channels.layers for one in layer.classes}
    cut = [layer_of[layer[0][0]] for layer in blocks]
    return [(len(of.classes), *sorted((shapes[name], axis, each) for name, axis, each in of.places)) for of in cut]


def _rising(saved: Sequence[float]) -> Array:
    """What only noise says is saved is not."""
    found = [0.0]
    for value in saved[1:]:
        found.append(value if value > found[-1] + NOISE else found[-1])
    return np.asarray(found)


def flat(blocks: Iterable[Sequence[int]]) -> list[int]:
    """The classes of all blocks."""
    return [one for block in blocks for one in block]


def _depths(count: int) -> list[int]:
    return sorted({-(-count * step // DEPTHS) for step in range(1, DEPTHS + 1)} - {0})


def by_price(blocks: Sequence[Blocks], lost: Sequence[Array], saved: Sequence[Array]) -> list[list[int]]:
    """What to take, the cheapest first: by what is lost for what is saved. Of a layer only what goes on saving.

    ``lost`` and ``saved`` say, for each layer, what its first 0, 1, 2, ... blocks cost and give back.
    """
    priced: list[tuple[float, list[int]]] = []
    for layer, cost, gain in zip(blocks, lost, saved, strict=True):
        start = 0
        while start < len(layer):
            gains = gain[start + 1 :] - gain[start]
            prices = np.divide(
                cost[start + 1 :] - cost[start], gains, where=gains > LEAST, out=np.full(len(gains), np.inf)
            )
            stop = start + 1 + int(prices.argmin())
            if not np.isfinite(prices.min()):
                break
            priced.append((float(prices.min()), flat(layer[start:stop])))
            start = stop
    return [block for _, block in sorted(priced, key=lambda item: item[0])]
