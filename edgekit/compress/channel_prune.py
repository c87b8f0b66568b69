"""``channel-prune``: take out the channels that matter least, until a share of the cost is left; then train.

The channels are gone, not zero: the graph is smaller for every runtime. Counts are left at multiples of what kernels
like. ``scope = "global"`` ranks all channels together (``taylor``: by what is lost for what is saved); ``"layer"``
tries each layer alone at several depths and cuts all to where the outputs suffer alike (the sensitivity of Li et al.
2017). Where latency is the goal, what is lost is set against what the target gives back (``channel_price``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch

from edgekit.classes import PINNED
from edgekit.compress.batches import Batch, stacked
from edgekit.compress.channel_cut import Cut, without
from edgekit.compress.channel_price import Latency, by_price, counted, flat, timed
from edgekit.compress.channel_reconstruct import reconstructed
from edgekit.compress.channels import Channels, Layer
from edgekit.compress.importance import Criterion, importance
from edgekit.compress.kept import Kept
from edgekit.compress.loss import Loss
from edgekit.compress.module import GraphModule, from_torch, to_torch
from edgekit.compress.steps import Context, Outcome, method, trained
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError, ModelError
from edgekit.graph import GATES, Array
from edgekit.samples import Sample

COSTS = ("macs", "parameters", "bytes")
GOALS = (*COSTS, "latency")
TRIED = 64  # blocks that may come back where the last one took more than was needed
MARGIN = 0.01  # a search stops at a share that is surely reached
DEPTHS = (0.25, 0.5, 0.75, 1.0)  # of what may go of a layer: where the scan looks


@dataclass(frozen=True)
class ChannelPrune:
    """Settings. One of ``macs``, ``parameters``, ``bytes`` and ``latency`` (of the artifact) is the share to be left.

    Of each layer ``least`` stays. ``samples`` are looked at by ``taylor``, ``scan`` by the sensitivity scan and by
    ``reconstruct``, which fits what is left to what the whole layers gave. Before ``bn-gamma`` judges,
    ``sparse_epochs`` train with an L1 ``penalty`` on the factors of BatchNormalization.
    """

    criterion: Criterion = "l1"
    scope: Literal["global", "layer"] = "global"
    macs: float | None = None
    parameters: float | None = None
    bytes: float | None = None
    latency: float | None = None
    multiple: int = 8
    least: float = 0.1
    samples: int = 512
    scan: int = 128
    sparse_epochs: int = 0
    penalty: float = 1e-4
    reconstruct: bool = False
    fine_tune: bool = True
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        given = [name for name in GOALS if getattr(self, name) is not None]
        if len(given) != 1:
            key = given[-1] if given else GOALS[0]
            raise ConfigError(f"{key}: give one of {', '.join(GOALS)}, not {' and '.join(given) or 'none'}")
        share = getattr(self, given[0])
        if not 0 < share < 1:
            raise ConfigError(f"{given[0]}: the share to be left is between 0 and 1, not {share}")
        for name in ("multiple", "samples", "scan"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} was given, at least 1 is needed")
        if not 0 <= self.least < 1:
            raise ConfigError(f"least: {self.least:g} was given, a share from 0 to below 1 is needed")

    def depends_on(self, context: Context) -> str | None:
        """On what latency is measured, where it is the goal."""
        return None if self.latency is None else repr(context.latency)

    @property
    def goal(self) -> tuple[str, float]:
        """What is to shrink, and the share of it to be left."""
        return next((name, float(share)) for name in GOALS if (share := getattr(self, name)) is not None)


@method("channel-prune", ChannelPrune)
def channel_prune(graph: ir.Model, settings: ChannelPrune, context: Context) -> Outcome:
    """Choose, cut and train.

    Raises ModelError when the goal cannot be reached or cannot be measured, DataError where labels are needed.
    """
    if settings.criterion == "bn-gamma" and settings.sparse_epochs:
        graph = slimmed(graph, settings, context)
    channels = Channels(graph)
    removed = chosen(channels, settings, context)
    left = without(channels, removed)
    facts = _facts(channels, removed, left, settings, context)
    if settings.reconstruct:
        left = reconstructed(Cut(channels, removed), left, _spread(context.training, settings.scan))
    if not settings.fine_tune:
        return Outcome(left, facts)
    tuned = trained(left, settings.training, context)
    return Outcome(tuned.graph, {**facts, **tuned.facts})


def _facts(
    channels: Channels, removed: Sequence[int], left: ir.Model, settings: ChannelPrune, context: Context
) -> dict[str, Any]:
    """What is left of each cost, and of each layer. Raises ModelError when that is more than the goal."""
    (kind, share), whole, cut = settings.goal, Cut(channels, ()), Cut(channels, removed)
    facts: dict[str, Any] = {name: [whole.cost(name), cut.cost(name)] for name in COSTS}
    if kind == "latency":
        facts["latency"] = list(_clock(context)([channels.model, left]))
    before, after = facts[kind]
    if after > share * before:
        raise ModelError(
            f"channel-prune: {kind} = {share} cannot be reached, {after / before:.2f} is left at least; "
            "lower multiple or least, or choose another criterion"
        )
    gone = set(removed)
    facts["layers"] = {layer.name: [len(layer.classes), len(set(layer.classes) - gone)] for layer in channels.layers}
    return facts


def chosen(channels: Channels, settings: ChannelPrune, context: Context) -> list[int]:
    """The classes to remove: as few as reach the goal, or all that may go where that is not enough."""
    samples = context.training
    scores = importance(channels, settings.criterion, _spread(samples, settings.samples), settings.training.seed)
    layers = [layer for layer in channels.layers if not np.isnan(scores[list(layer.classes)]).any()]
    blocks = [found for layer in layers if (found := _blocks(layer, scores, settings))]
    if settings.scope == "layer":
        lost = _damages(channels, blocks, samples, settings)
    else:
        lost = [np.cumsum([0.0, *(float(scores[block].sum()) for block in layer)]) for layer in blocks]
    kind, share = settings.goal
    if kind == "latency":
        return _fast_enough(channels, blocks, lost, share, _clock(context))
    if settings.scope == "layer":
        ranked = _by_damage(blocks, lost)
    elif settings.criterion == "taylor":
        ranked = by_price(blocks, lost, counted(channels, blocks, kind))
    else:
        ranked = _by_score(blocks, scores)
    limit = share * Cut(channels, ()).cost(kind)
    layer_of = {one: i for i, layer in enumerate(blocks) for one in flat(layer)}

    def enough(taken: Sequence[Sequence[int]]) -> bool:
        return Cut(channels, flat(taken)).cost(kind) <= limit

    taken = ranked[: _first(len(ranked), lambda count: enough(ranked[:count]))]
    return flat(_without_excess(taken, enough, layer_of) if enough(taken) else taken)


def _clock(context: Context) -> Latency:
    """What times graphs on the target. Raises ModelError where there is none."""
    if context.latency is None:
        raise ModelError("channel-prune: latency can only be the goal in a build, which knows the target")
    return context.latency


def _fast_enough(
    channels: Channels, blocks: Sequence[Sequence[list[int]]], lost: Sequence[Array], share: float, latency: Latency
) -> list[int]:
    """As few as are fast enough when they are timed, and then as many more as a second look asks for."""
    ranked = by_price(blocks, lost, timed(channels, blocks, latency))

    def enough(count: int) -> bool:
        return latency([channels.model, without(channels, flat(ranked[:count]))])[1] <= share * (1 - MARGIN)

    count = _first(len(ranked), enough)
    while count < len(ranked) and not enough(count):
        count += 1
    return flat(ranked[:count])


def _without_excess(
    taken: Sequence[list[int]], enough: Callable[[Sequence[list[int]]], bool], layer_of: Mapping[int, int]
) -> list[list[int]]:
    """The blocks less what the last one made needless: that of a residual stage weighs much."""
    left, settled = list(taken), set[int]()
    for block in taken[: -1 - TRIED : -1]:
        layer = layer_of[block[0]]
        fewer = [other for other in left if other is not block]
        if layer in settled or not enough(fewer):
            settled.add(layer)  # the layer's other blocks went before this one
        else:
            left = fewer
    return left


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest number for which it holds, of something that goes on holding; ``count`` where it never does."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _blocks(layer: Layer, scores: Array, settings: ChannelPrune) -> list[list[int]]:
    """What may go of a layer, the least important first, in blocks that leave a multiple of channels."""
    step = settings.multiple // math.gcd(settings.multiple, layer.width)
    count = len(layer.classes)
    order = sorted(layer.classes, key=lambda one: (scores[one], one))
    least = max(1, math.ceil(settings.least * count))
    stops = [0, *(count - kept for kept in range((count - 1) // step * step, 0, -step) if kept >= least)]
    return [order[start:stop] for start, stop in itertools.pairwise(stops)]


def _by_score(layers: Sequence[Sequence[list[int]]], scores: Array) -> list[list[int]]:
    """All blocks by their mean score; of one layer the scores rise, so its order stays."""
    return sorted((block for blocks in layers for block in blocks), key=lambda block: float(scores[block].mean()))


def _by_damage(layers: Sequence[Sequence[list[int]]], lost: Sequence[Array]) -> list[list[int]]:
    """All blocks by how much the outputs have changed once they are gone."""
    found = [item for blocks, curve in zip(layers, lost, strict=True) for item in zip(curve[1:], blocks, strict=True)]
    return [block for _, block in sorted(found, key=lambda item: float(item[0]))]


def _damages(
    channels: Channels, layers: Sequence[Sequence[list[int]]], samples: Iterable[Sample], settings: ChannelPrune
) -> list[Array]:
    """How much the outputs change when a layer alone is cut by 0, 1, 2, ... blocks; between two depths evenly."""
    names = [str(value.name) for value in channels.graph.inputs]
    inputs, _ = stacked(_spread(samples, settings.scan), names)
    module = Masked(channels)
    wanted = module.outputs(inputs)
    found: list[Array] = []
    for blocks in layers:
        depths, damage = [0], [0.0]
        for depth in sorted({math.ceil(depth * len(blocks)) for depth in DEPTHS}):
            module.remove(flat(blocks[:depth]))
            change = ((module.outputs(inputs) - wanted) ** 2).mean() / (wanted.var() or 1.0)
            depths.append(depth)
            damage.append(max(damage[-1], float(change)))
        found.append(np.interp(np.arange(len(blocks) + 1), depths, damage))
    return found


def _spread(samples: Iterable[Sample], count: int) -> Iterable[Sample]:
    """So many of the samples, from all over them: data may be sorted by class."""
    step = max(1, len(samples) // count) if isinstance(samples, Sized) else 1
    return itertools.islice(samples, 0, step * count, step)


class Masked(GraphModule):
    """A graph in which the elements of some classes are zero in every tensor: what it is without them."""

    def __init__(self, channels: Channels) -> None:
        self._channels, self._masks = channels, dict[str, torch.Tensor]()
        self._states = {str(n.inputs[2].name) for n in channels.graph if n.op_type in GATES and n.inputs[2] is not None}
        super().__init__(channels.model)
        self.eval()

    def remove(self, classes: Iterable[int]) -> None:
        """Zero these classes, and no others."""
        gone = np.zeros(len(self._channels.classes), bool)
        gone[list(classes)] = True
        assert not gone[PINNED]
        found = {name: gone[self._channels.classes.of(numbers)] for name, numbers in self._channels.numbers.items()}
        found |= {
            name: gone[self._channels.constants[name][2]] for name in self._states & set(self._channels.constants)
        }
        self._masks = {name: torch.from_numpy(mask) for name, mask in found.items() if mask.any()}

    def constants(self) -> dict[str, torch.Tensor]:
        """What the ops read, without what reads a state that is zero: it lies within a recurrent layer."""
        found = super().constants()
        return found | {name: self.seen(name, found[name]) for name in self._states}

    def outputs(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """All outputs of a batch, side by side."""
        names = [str(value.name) for value in self.graph.graph.outputs]
        with torch.no_grad():
            found = self.run(inputs, names)
        return torch.cat([found[name].flatten(1) for name in names], 1)

    def seen(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        mask = self._masks.get(name)
        return tensor if mask is None else tensor.masked_fill(mask, 0.0)


class Slimming(Loss):
    """Cross-entropy, and a penalty on the factors of BatchNormalization."""

    def __init__(self, module: GraphModule, settings: ChannelPrune) -> None:
        super().__init__(settings.training.smoothing)
        nodes = [node for node in module.graph.graph if node.op_type == "BatchNormalization"]
        self.factors = [module.tensor(str(node.inputs[1].name)) for node in nodes]  # type: ignore[union-attr]
        self.penalty = settings.penalty

    def __call__(self, found: dict[str, torch.Tensor], output: str, batch: Batch) -> torch.Tensor:
        """The loss of a batch."""
        return (
            super().__call__(found, output, batch)
            + self.penalty * torch.stack([factor.abs().sum() for factor in self.factors]).sum()
        )


def slimmed(graph: ir.Model, settings: ChannelPrune, context: Context) -> ir.Model:
    """The graph after training with the penalty, which drives the factors of idle channels to zero."""
    module = to_torch(graph)
    how = replace(settings.training, epochs=settings.sparse_epochs)
    resume = context.checkpoint and context.checkpoint.with_suffix(".sparse")
    kept, loss = Kept(module), Slimming(module, settings)
    train(module, context.training, how, context.progress, loss=loss, after_step=kept, resume=resume)
    kept(module)
    return from_torch(module)
