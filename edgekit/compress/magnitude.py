"""Magnitude pruning: the smallest weights become zero, and stay it while the others are trained.

Zeros alone do not shrink a dense file or its latency; the facts say what they save in a compressed one. A TFLite
file holds such weights sparse where that is smaller (``emitters.sparse``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgekit.compress.coded import constants, packed
from edgekit.compress.layers import Layer, layers_of
from edgekit.compress.module import GraphModule, from_torch, to_torch
from edgekit.compress.steps import Context, Outcome, method
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError
from edgekit.graph import constant, with_constants

HYSTERESIS = 0.1  # a weight comes back when it is so much larger than what would have kept it (Guo et al. 2016, 3.1)
PATTERNS = {"any": None, "2:4": (2, 4), "4:8": (4, 8)}  # how many of how many neighbours stay


@dataclass(frozen=True)
class Prune:
    """Settings of ``prune``: which weights go, and how.

    ``sparsity`` is the share of zeros, in every layer or over all weights together (``scope`` global). ``pattern`` N:M
    keeps the N largest of each M neighbours along the input axis instead. While training, the sparsity grows over the
    first ``ramp`` of the steps, and every ``every`` steps the smallest weights go. ``regrow`` lets them come back until
    then. ``rewind`` trains, prunes and goes back to the weights before that often, then trains what is left from there.
    ``skip`` names weights or nodes that are left alone.
    """

    sparsity: float | None = None
    scope: Literal["layer", "global"] = "layer"
    pattern: Literal["any", "2:4", "4:8"] = "any"
    ramp: float = 0.5
    every: int = 10
    regrow: bool = False
    rewind: int = 0
    skip: tuple[str, ...] = ()
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.pattern == "any"):
            raise ConfigError("sparsity: either sparsity or a pattern (2:4, 4:8) says how many weights go")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ConfigError(f"sparsity: {self.sparsity:g} was given, a share from 0 to below 1 is needed")
        if self.every < 1:
            raise ConfigError(f"every: {self.every} was given, at least 1 is needed")
        if self.ramp > 1:
            raise ConfigError(f"ramp: {self.ramp:g} was given, a share from 0 to 1 is needed")
        if (self.regrow or self.rewind) and not self.training.epochs:
            raise ConfigError("epochs: regrow and rewind train; at least 1 is needed")
        if self.regrow and self.rewind:
            raise ConfigError("rewind: the masks of a rewound network do not move; leave regrow out")
        if self.regrow and not self.ramp:
            raise ConfigError("ramp: regrow moves the masks while the sparsity grows; more than 0 is needed")


class Masks(nn.Module):
    """Which weights are on, moved as training goes on. Buffers, so that a checkpoint of the module holds them.

    With regrowth a weight that is off is trained too, by the gradient that it would get if it were on: W <- W - update,
    while the network sees W * mask (dynamic network surgery, Guo et al. 2016, equation 3).
    """

    step: Tensor
    returned: Tensor

    def __init__(self, values: Mapping[str, Tensor], layers: Sequence[Layer], settings: Prune, total: int) -> None:
        super().__init__()
        self.settings, self.last = settings, int(settings.ramp * total)
        self.moves = True
        keep = PATTERNS[settings.pattern]
        self.axes = {x.name: x.inputs for x in layers if keep is None or x.array.shape[x.inputs] % keep[1] == 0}
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("returned", torch.zeros((), dtype=torch.int64))
        for i, name in enumerate(self.axes):
            self.register_buffer(f"mask{i}", torch.ones(values[name].shape, dtype=torch.bool))
            if settings.regrow:
                self.register_buffer(f"dense{i}", values[name].detach().clone())

    def _all(self, kind: str) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"{kind}{i}") for i, name in enumerate(self.axes)}

    @property
    def masks(self) -> dict[str, Tensor]:
        """Which weights are on, by the weight's name."""
        return self._all("mask")

    def advance(self, values: Mapping[str, Tensor]) -> None:
        """Follow one step of training."""
        self.step += 1
        if self.settings.regrow:
            for name, dense in self._all("dense").items():
                dense += torch.where(self.masks[name], values[name] - dense, values[name])
        step = int(self.step)
        if self.moves and step <= self.last and (step % self.settings.every == 0 or step == self.last):
            self.move(values, self.sparsity())
        self.put_on(values)

    def sparsity(self) -> float:
        """The share of zeros by now: s (1 - (1 - t)^3), t from 0 to 1 on the ramp (Zhu & Gupta 2017, section 3)."""
        done = min(1.0, int(self.step) / self.last) if self.last else 1.0
        return (self.settings.sparsity or 0.0) * (1 - (1 - done) ** 3)

    def put_on(self, values: Mapping[str, Tensor]) -> None:
        """Zero what is off, in place."""
        dense = self._all("dense") if self.settings.regrow else values
        for name, mask in self.masks.items():
            values[name].copy_(dense[name] * mask)

    def move(self, values: Mapping[str, Tensor], sparsity: float) -> None:
        """Choose anew which weights are on: the largest, of which those that are on already count a little more."""
        source = self._all("dense") if self.settings.regrow else values
        held = 1 / (1 + HYSTERESIS) if self.settings.regrow else 0.0
        scores = {n: source[n].abs() * torch.where(mask, 1.0, held) for n, mask in self.masks.items()}
        keep = PATTERNS[self.settings.pattern]
        if keep is not None:
            chosen = {name: _neighbours(score, *keep, self.axes[name]) for name, score in scores.items()}
        elif self.settings.scope == "global":
            chosen = _largest_of_all(scores, sparsity)
        else:
            chosen = {name: _largest(score, sparsity) for name, score in scores.items()}
        for name, mask in self.masks.items():
            self.returned += int((chosen[name] & ~mask).sum())
            mask.copy_(chosen[name])


def _largest(scores: Tensor, sparsity: float) -> Tensor:
    """All but the ``sparsity`` smallest; of equal ones the first go."""
    order = scores.reshape(-1).argsort(stable=True)
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order[: round(sparsity * scores.numel())]] = False
    return mask.reshape(scores.shape)


def _largest_of_all(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """One threshold for all weights."""
    whole = _largest(torch.cat([score.reshape(-1) for score in scores.values()]), sparsity)
    parts = torch.split(whole, [score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def _neighbours(scores: Tensor, keep: int, of: int, axis: int) -> Tensor:
    """The ``keep`` largest of each ``of`` neighbours along an axis (Mishra et al. 2021, "Accelerating sparse DNNs")."""
    moved = scores.movedim(axis, -1)
    groups = moved.reshape(-1, of)
    order = groups.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :keep], True)
    return mask.reshape(moved.shape).movedim(-1, axis)


@method("prune", Prune)
def prune(graph: ir.Model, settings: Prune, context: Context) -> Outcome:
    """Zero the smallest weights, at once or while training (Han et al. 2015; Zhu & Gupta 2017)."""
    layers = layers_of(graph, settings.skip)
    if not settings.training.epochs:
        values = {layer.name: torch.from_numpy(layer.array.copy()) for layer in layers}
        masks = Masks(values, layers, settings, 0)
        masks.move(values, masks.sparsity())
        masks.put_on(values)
        pruned = with_constants(graph, {name: value.numpy() for name, value in values.items()})
        return Outcome(pruned, _facts(pruned, layers, masks))
    module, how = to_torch(graph), settings.training
    masks = Masks(_values(module, layers), layers, settings, how.epochs * _steps(how, context.training))
    module.add_module("masks/", masks)  # no name of a graph can be in its way
    if settings.rewind:
        _find_by_rewinding(module, masks, context)
    facts = _trained(module, masks, context)
    pruned = from_torch(module)
    return Outcome(pruned, _facts(pruned, layers, masks) | facts)


def _values(module: GraphModule, names: Iterable[Any]) -> dict[str, Tensor]:
    wanted = [name if isinstance(name, str) else name.name for name in names]
    return {name: module.tensor(name).detach() for name in wanted}


def _steps(how: Training, samples: Iterable[Any]) -> int:
    count = len(samples) if isinstance(samples, Sized) else sum(1 for _ in samples)
    return max(1, (count - int(how.validation * count)) // how.batch)


def _trained(module: GraphModule, masks: Masks, context: Context, run: str = "") -> dict[str, Any]:
    """Train with the masks on, which move as the settings say."""
    how, names = masks.settings.training, list(masks.axes)
    if masks.moves:
        masks.move(_values(module, names), masks.sparsity())
    masks.put_on(_values(module, names))
    place = context.checkpoint
    place = place and place.with_name(f"{place.stem}{run}{place.suffix}")

    def after_step(module: GraphModule) -> None:
        masks.advance(_values(module, names))

    history = train(module, context.training, how, context.progress, resume=place, after_step=after_step)
    values = _values(module, names)
    if masks.moves and int(masks.step) < masks.last:  # it stopped early
        masks.step.fill_(masks.last)
        masks.move(values, masks.sparsity())
    for name, mask in masks.masks.items():  # an average of the weights is not zero where the last ones are
        values[name].mul_(mask)
    return history.facts


def _find_by_rewinding(module: GraphModule, masks: Masks, context: Context) -> None:
    """Train, prune and go back to the weights before, ``rewind`` times (Frankle & Carbin 2019, section 1).

    The share of weights that stays falls by the same factor each time.
    """
    settings, masks.moves = masks.settings, False
    before = {name: value.clone() for name, value in module.state_dict().items() if not name.startswith("masks/")}
    for i in range(1, settings.rewind + 1):
        _trained(module, masks, context, f".{i}")
        stays = (1 - (settings.sparsity or 0.0)) ** (i / settings.rewind)
        masks.move(_values(module, masks.axes), 1 - stays)
        module.load_state_dict(before, strict=False)


def _facts(pruned: ir.Model, layers: Sequence[Layer], masks: Masks) -> dict[str, Any]:
    """What is zero, what was left as it is and why not, and what the constants weigh, as float32."""
    arrays = {layer.name: constant(pruned.graph.initializers[layer.name]) for layer in layers}
    found = {name: array for name, array in arrays.items() if array is not None}
    zeros = sum(int((array == 0).sum()) for array in found.values())
    return {
        "sparsity": zeros / sum(array.size for array in found.values()),
        "layers": {name: float((array == 0).mean()) for name, array in found.items()},
        "left": [name for name in found if name not in masks.axes],  # whose inputs are no multiple of the pattern
        "returned": int(masks.returned),
        "bytes": packed(constants(pruned)),
    }
