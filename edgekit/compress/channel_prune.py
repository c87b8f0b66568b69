"""``channel-prune``: take out the channels that matter least, until a share of the cost is left; then train.

The channels are gone, not zero: the graph is smaller for every runtime. Counts are left at multiples of what kernels
like. ``scope = "global"`` ranks all channels together; ``"layer"`` tries each layer alone at several depths and cuts
all to where the outputs suffer alike (the sensitivity of Li et al. 2017).
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

GOALS = ("macs", "parameters", "bytes")
TRIED = 64  # blocks that may come back where the last one took more than was needed
DEPTHS = (0.25, 0.5, 0.75, 1.0)  # of what may go of a layer: where the scan looks


@dataclass(frozen=True)
class ChannelPrune:
    """Settings. One of ``macs``, ``parameters``, ``bytes`` (of the int8 artifact) is the share to be left.

    Of each layer ``least`` stays. ``samples`` are looked at by ``taylor``, ``scan`` by the sensitivity scan. Before
    ``bn-gamma`` judges, ``sparse_epochs`` train with an L1 ``penalty`` on the factors of BatchNormalization.
    """

    criterion: Criterion = "l1"
    scope: Literal["global", "layer"] = "global"
    macs: float | None = None
    parameters: float | None = None
    bytes: float | None = None
    multiple: int = 8
    least: float = 0.1
    samples: int = 512
    scan: int = 128
    sparse_epochs: int = 0
    penalty: float = 1e-4
    fine_tune: bool = True
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        given = [name for name in GOALS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"channel-prune: give one of {', '.join(GOALS)}, not {' and '.join(given) or 'none'}")
        share = getattr(self, given[0])
        if not 0 < share < 1:
            raise ConfigError(f"channel-prune: {given[0]} is the share to be left, between 0 and 1, not {share}")

    @property
    def goal(self) -> tuple[str, float]:
        """What is to shrink, and the share of it to be left."""
        return next((name, float(share)) for name in GOALS if (share := getattr(self, name)) is not None)


@method("channel-prune", ChannelPrune)
def channel_prune(graph: ir.Model, settings: ChannelPrune, context: Context) -> Outcome:
    """Choose, cut and train. Raises ModelError when the goal cannot be reached, DataError where labels are needed."""
    if settings.criterion == "bn-gamma" and settings.sparse_epochs:
        graph = slimmed(graph, settings, context)
    channels = Channels(graph)
    removed = chosen(channels, settings, context.training)
    kind, share = settings.goal
    before, after = Cut(channels, ()), Cut(channels, removed)
    facts: dict[str, Any] = {name: [before.cost(name), after.cost(name)] for name in GOALS}
    if after.cost(kind) > share * before.cost(kind):
        least = after.cost(kind) / before.cost(kind)
        raise ModelError(
            f"channel-prune: {kind} = {share} cannot be reached, {least:.2f} is left at least; "
            "lower multiple or least, or choose another criterion"
        )
    gone = set(removed)
    facts["layers"] = {layer.name: [len(layer.classes), len(set(layer.classes) - gone)] for layer in channels.layers}
    cut = without(channels, removed)
    if not settings.fine_tune:
        return Outcome(cut, facts)
    tuned = trained(cut, settings.training, context)
    return Outcome(tuned.graph, {**facts, **tuned.facts})


def chosen(channels: Channels, settings: ChannelPrune, samples: Iterable[Sample]) -> list[int]:
    """The classes to remove: as few as reach the goal, or all that may go where that is not enough."""
    seen = _spread(samples, settings.samples)
    scores = importance(channels, settings.criterion, seen, settings.training.seed)
    blocks = [
        _blocks(layer, scores, settings) for layer in channels.layers if not np.isnan(scores[list(layer.classes)]).any()
    ]
    kind, share = settings.goal
    limit = share * Cut(channels, ()).cost(kind)
    ranked = (
        _by_score(blocks, scores) if settings.scope == "global" else _by_damage(channels, blocks, samples, settings)
    )

    layer_of = {one: i for i, layer in enumerate(blocks) for one in _flat(layer)}

    def enough(taken: Sequence[Sequence[int]]) -> bool:
        return Cut(channels, _flat(taken)).cost(kind) <= limit

    taken = ranked[: _first(len(ranked), lambda count: enough(ranked[:count]))]
    return _flat(_without_excess(taken, enough, layer_of) if enough(taken) else taken)


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


def _flat(blocks: Iterable[Sequence[int]]) -> list[int]:
    return [one for block in blocks for one in block]


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


def _by_damage(
    channels: Channels, layers: Sequence[Sequence[list[int]]], samples: Iterable[Sample], settings: ChannelPrune
) -> list[list[int]]:
    """All blocks by how much the outputs change when a layer alone is cut so far; between two depths evenly."""
    names = [str(value.name) for value in channels.graph.inputs]
    inputs, _ = stacked(_spread(samples, settings.scan), names)
    module = Masked(channels)
    wanted = module.outputs(inputs)
    found: list[tuple[float, list[int]]] = []
    for blocks in layers:
        reached, start = 0.0, 0
        for stop in sorted({math.ceil(depth * len(blocks)) for depth in DEPTHS if blocks}):
            module.remove(_flat(blocks[:stop]))
            change = ((module.outputs(inputs) - wanted) ** 2).mean() / (wanted.var() or 1.0)
            damage = max(reached, float(change))
            shares = np.linspace(reached, damage, stop - start + 1)[1:].tolist()
            found += zip(shares, blocks[start:stop], strict=True)
            reached = damage
            start = stop
    return [block for _, block in sorted(found, key=lambda item: item[0])]


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
