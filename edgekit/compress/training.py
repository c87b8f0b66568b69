"""Train the one graph: what practitioners expect of an optimizer, a schedule, a loss, and of a run that is killed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.module import GraphModule
from edgekit.errors import DataError
from edgekit.progress import Progress
from edgekit.samples import Sample

Batch = tuple[list[Tensor], Tensor | None]


@dataclass(frozen=True)
class Training:
    """How to train. Rates are per step; ``warmup`` is a share of all steps, ``validation`` one of the samples.

    ``decay`` is the L2 penalty (decoupled in adamw), ``l1`` the weight of an L1 penalty on weights. A step is ``batch``
    samples, taken in ``accumulate`` parts. ``patience`` epochs without a better validation loss end the training (0:
    never). ``ema`` is the decay of an average of the parameters that is what comes out (0: none).
    """

    epochs: int = 10
    batch: int = 64
    accumulate: int = 1
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] = "sgd"
    rate: float = 0.01
    momentum: float = 0.9
    decay: float = 1e-4
    l1: float = 0.0
    schedule: Literal["constant", "step", "linear", "exponential", "cosine"] = "cosine"
    warmup: float = 0.05
    smoothing: float = 0.0
    clip: float = 0.0
    validation: float = 0.0
    patience: int = 0
    ema: float = 0.0
    seed: int = 0


@dataclass
class History:
    """What a training gave, epoch by epoch: mean loss, and validation loss and accuracy where some samples validate."""

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    steps: int = 0


class Loss:
    """The loss of a batch: cross-entropy with the labels. A subclass may ask for more of the model (``names``)."""

    names: Sequence[str] = ()

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing

    def __call__(self, found: dict[str, Tensor], output: str, batch: Batch) -> Tensor:
        """A scalar. Raises DataError when the data has no labels."""
        labels = batch[1]
        if labels is None:
            raise DataError("training data: has no labels; distillation can do without")
        scores = found[output].flatten(1)
        return functional.cross_entropy(scores, labels, label_smoothing=self.smoothing)


def train(
    module: GraphModule,
    samples: Iterable[Sample],
    how: Training,
    progress: Progress,
    loss: Loss | None = None,
    resume: Path | None = None,
) -> History:
    """Train a module in place. With ``resume``, a killed run goes on from its last epoch, to the same result.

    Raises DataError where data is missing.
    """
    return _Run(module, samples, how, progress, loss or Loss(how.smoothing), resume).run()


class _Run:
    """One training under way."""

    def __init__(
        self,
        module: GraphModule,
        samples: Iterable[Sample],
        how: Training,
        progress: Progress,
        loss: Loss,
        resume: Path | None,
    ) -> None:
        self.module, self.how, self.progress, self.loss = module, how, progress, loss
        self.resume = resume
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.inputs, self.labels = stacked(samples, [str(v.name) for v in module.graph.graph.inputs])
        count = len(self.inputs[0])
        held_out = int(how.validation * count)
        order = np.random.default_rng(how.seed).permutation(count)
        self.judged, self.learned = order[:held_out], order[held_out:]
        self.output = str(module.graph.graph.outputs[0].name)
        self.optimizer = optimizer(module, how)
        self.per_epoch = max(1, len(self.learned) // how.batch)
        self.history, self.epoch = History(), 0
        self.average: dict[str, Tensor] = {}

    def run(self) -> History:
        self.module.to(self.device)
        self._load()
        with self.progress.task("train", self.how.epochs * self.per_epoch) as step:
            for _ in range(self.epoch * self.per_epoch):
                step()
            while self.epoch < self.how.epochs and not self._waited_enough():
                self._one_epoch(step)
                self.epoch += 1
                self._judge()
                self._save()
        if self.average:
            self.module.load_state_dict(self.average)
        self.module.eval().to("cpu")
        return self.history

    def _waited_enough(self) -> bool:
        """Whether so many epochs were no better than the best before them."""
        seen = self.history.validation
        return bool(self.how.patience and seen) and len(seen) - 1 - int(np.argmin(seen)) >= self.how.patience

    def _one_epoch(self, step: Callable[[], None]) -> None:
        draw = np.random.default_rng((self.how.seed, self.epoch))
        torch.manual_seed(self.how.seed * 1_000_003 + self.epoch)
        order = draw.permutation(self.learned)
        total = 0.0
        self.module.train()
        for i in range(self.per_epoch):
            picks = order[i * self.how.batch : (i + 1) * self.how.batch]
            for group in self.optimizer.param_groups:
                group["lr"] = self.how.rate * factor(self.how, self.history.steps, self.how.epochs * self.per_epoch)
            total += self._step(picks)
            step()
        self.history.losses.append(total / self.per_epoch)

    def _step(self, picks: np.ndarray[Any, Any]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in np.array_split(picks, self.how.accumulate):
            batch = self._batch(part)
            found = self.module.run(batch[0], [self.output, *self.loss.names])
            value = self.loss(found, self.output, batch)
            if self.how.l1:
                value = value + self.how.l1 * sum(p.abs().sum() for p in weights_of(self.module))
            value = value * (len(part) / len(picks))
            value.backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
        if self.how.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.how.clip)
        self.optimizer.step()
        self.history.steps += 1
        self._average()
        return total

    def _batch(self, picks: np.ndarray[Any, Any]) -> Batch:
        index = torch.from_numpy(np.ascontiguousarray(picks))
        labels = None if self.labels is None else self.labels[index].to(self.device)
        return [value[index].to(self.device) for value in self.inputs], labels

    def _average(self) -> None:
        if not self.how.ema:
            return
        for name, value in self.module.state_dict().items():
            if name not in self.average or not value.is_floating_point():
                self.average[name] = value.detach().clone()
            else:
                self.average[name].lerp_(value.detach(), 1 - self.how.ema)

    def _judge(self) -> None:
        if not len(self.judged):
            return
        self.module.eval()
        total, right = 0.0, 0
        with torch.no_grad():
            for picks in np.array_split(self.judged, max(1, len(self.judged) // self.how.batch)):
                batch = self._batch(picks)
                found = self.module.run(batch[0], [self.output, *self.loss.names])
                total += float(self.loss(found, self.output, batch)) * len(picks)
                if batch[1] is not None:
                    right += int((found[self.output].flatten(1).argmax(1) == batch[1]).sum())
        self.history.validation.append(total / len(self.judged))
        self.history.accuracy.append(right / len(self.judged))

    def _save(self) -> None:
        """A checkpoint, written beside and renamed."""
        if self.resume is None:
            return
        state = {
            "epoch": self.epoch,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "history": vars(self.history),
        }
        partial = self.resume.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.resume)

    def _load(self) -> None:
        if self.resume is None or not self.resume.is_file():
            return
        state = torch.load(self.resume, weights_only=True, map_location=self.device)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.average, self.history = state["epoch"], state["average"], History(**state["history"])


def factor(how: Training, step: int, total: int) -> float:
    """The rate at a step, as a share of the highest: a linear warm-up, then the schedule over what is left."""
    warm = int(how.warmup * total)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    shares: dict[str, float] = {
        "constant": 1.0,
        "step": 0.1 ** int(3 * done),
        "linear": 1.0 - done,
        "exponential": 0.01**done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
    }
    return shares[how.schedule]


def optimizer(module: GraphModule, how: Training) -> torch.optim.Optimizer:
    """The optimizer; only weights (of two axes or more) decay."""
    held = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in held if p.ndim > 1], "weight_decay": how.decay},
        {"params": [p for p in held if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if how.optimizer in ("sgd", "nesterov"):
        return torch.optim.SGD(groups, how.rate, how.momentum, nesterov=how.optimizer == "nesterov")
    if how.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, how.rate, momentum=how.momentum)
    return (torch.optim.Adam if how.optimizer == "adam" else torch.optim.AdamW)(groups, how.rate)


def weights_of(module: GraphModule) -> Iterator[nn.Parameter]:
    """The parameters of two axes or more."""
    yield from (p for p in module.parameters() if p.ndim > 1)


def stacked(samples: Iterable[Sample], names: Sequence[str]) -> tuple[list[Tensor], Tensor | None]:
    """Samples as one batch: inputs in the order of ``names``, and labels where every sample has one."""
    found: list[list[Any]] = [[] for _ in names]
    labels: list[Any] = []
    for sample in samples:
        for values, name in zip(found, names, strict=True):
            values.append(sample.inputs[name])
        labels.append(sample.label)
    if not labels:
        raise DataError("training data: holds no samples")
    whole = [torch.from_numpy(np.concatenate(values)) for values in found]
    known = None if any(label is None for label in labels) else torch.from_numpy(np.asarray(labels, np.int64))
    return whole, known
