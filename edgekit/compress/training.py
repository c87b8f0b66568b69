"""Train the one graph: what practitioners expect of an optimizer, a schedule, and of a run that is killed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.compress.batches import Batch, Data, batches, parts
from edgekit.compress.engine import engine
from edgekit.compress.loss import Loss, classifier_input, right, scores_of
from edgekit.compress.module import GraphModule
from edgekit.errors import ConfigError
from edgekit.graph import Array
from edgekit.progress import Progress, SilentProgress, Step

if TYPE_CHECKING:
    from typing_extensions import Unpack

RAMP = 10  # steps: an average of parameters weighs the first ones less than its decay says


@dataclass(frozen=True)
class Training:
    """How to train. Rates are per step; ``warmup`` is a share of all steps, ``validation`` one of the samples.

    ``decay`` is the L2 penalty (decoupled in adamw), ``l1`` the weight of an L1 penalty on weights. A step is ``batch``
    samples, taken in ``accumulate`` parts. After ``patience`` epochs without a better validation loss training ends,
    and the best epoch is what comes out (0: never, the last). ``ema`` is the decay of an average of the parameters that
    is judged and comes out (0: none). ``dropout`` is a share of what the last layer reads. ``mixed`` multiplies in
    bfloat16 where the device does. ``fabric`` trains on several GPUs through Lightning Fabric.
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
    dropout: float = 0.0
    clip: float = 0.0
    validation: float = 0.0
    patience: int = 0
    ema: float = 0.0
    mixed: bool = False
    fabric: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value with which nothing can be trained."""
        for name in ("batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} was given, at least 1 is needed")
        for name in ("validation", "ema", "dropout", "smoothing", "warmup", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name):g} was given, a share from 0 to below 1 is needed")
        if self.optimizer == "nesterov" and not self.momentum:
            raise ConfigError("momentum: nesterov looks ahead along it; more than 0 is needed")
        if self.patience and not self.validation:
            raise ConfigError("patience: needs samples that validate; set validation to their share, such as 0.1")


@dataclass
class History:
    """What a training gave, epoch by epoch: mean loss, and validation loss and accuracy where some samples validate.

    ``kept`` is the epoch that came out.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    steps: int = 0
    kept: int = -1

    @property
    def facts(self) -> dict[str, Any]:
        """What is to say of it: how many epochs, and what the one gave that came out."""
        found: dict[str, Any] = {"epochs": len(self.losses), "loss": self.losses[self.kept] if self.losses else None}
        named = {"validation_loss": self.validation, "validation_accuracy": self.accuracy}
        return found | {name: values[self.kept] for name, values in named.items() if values}


class Extras(TypedDict, total=False):
    """What a training may be given besides.

    Its loss, what sees the module after each step (to put a mask back on, say), and where its checkpoint lies.
    """

    loss: Loss
    after_step: Callable[[GraphModule], None]
    resume: Path | None


def train(module: GraphModule, data: Data, how: Training, progress: Progress, **more: Unpack[Extras]) -> History:
    """Train a module in place. With ``resume``, a killed run goes on from its last epoch, to the same result.

    ``data`` are samples or a torch DataLoader. Raises DataError where data is missing or cannot be used, ConfigError
    where ``how`` does not fit the graph or training diverges.
    """
    run = _Run(module, data, how, progress, more)
    with _dropping(module, how.dropout):
        state, history = run.engine.run(run.run)
    module.to("cpu").load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    module.eval()
    found: History = history
    return found


class _Run:
    """One training under way."""

    def __init__(self, module: GraphModule, data: Data, how: Training, progress: Progress, more: Extras) -> None:
        self.module, self.how, self.progress = module, how, progress
        self.loss = more.get("loss") or Loss(how.smoothing)
        self.after_step, self.resume = more.get("after_step"), more.get("resume")
        self.engine = engine(how.mixed, how.fabric)
        names = [str(value.name) for value in module.graph.graph.inputs]
        self.data = batches(data, names, how.batch, how.validation, how.seed)
        self.output = scores_of(module.graph.graph)
        self.parameters = [*module.parameters(), *self.loss.learned.parameters()]
        self.optimizer = optimizer(self.parameters, how)
        self.total = how.epochs * self.data.per_epoch
        self.history, self.epoch = History(), 0
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}

    def run(self) -> tuple[dict[str, Array], History]:
        """Train to the end: what comes out, as arrays that another process can be handed, and the history."""
        device = self.engine.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            state = self._trained()
        return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}, self.history

    def _trained(self) -> dict[str, Tensor]:
        self.engine.setup(self.module, self.loss.learned)
        self._load()
        progress = self.progress if self.engine.rank == 0 else SilentProgress()
        if self.how.mixed and not self.engine.mixed:
            progress.note("mixed: this device does not multiply in bfloat16; training in float32")
        with progress.task("train", self.total - self.epoch * self.data.per_epoch) as step:
            while self.epoch < self.how.epochs and not self.engine.agreed(self._tired()):
                self._one_epoch(step)
                self.epoch += 1
                self._refuse_infinite()
                self._judge()
                self._save()
        return self.best or self.average or dict(self.module.state_dict())

    def _tired(self) -> bool:
        """Whether ``patience`` epochs brought nothing better than the best before them."""
        seen = self.history.validation
        return bool(self.how.patience and seen) and len(seen) - 1 - int(np.argmin(seen)) >= self.how.patience

    def _one_epoch(self, step: Step) -> None:
        torch.manual_seed(self.how.seed * 1_000_003 + self.epoch)
        total = 0.0
        self.module.train()
        for batch in self.data.epoch(np.random.default_rng((self.how.seed, self.epoch))):
            rate = self.how.rate * factor(self.how, self.history.steps, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, hits = self._step(batch)
            total += loss
            step(1, f"loss {loss:.4g}" + (f", top-1 {hits:.1%}" if hits >= 0 else "") + f", rate {rate:.2g}")
        self.history.losses.append(self.engine.mean(total / self.data.per_epoch))

    def _refuse_infinite(self) -> None:
        """Raises ConfigError where the loss or a parameter is no number any more: nothing that follows would be."""
        found = self.module.state_dict().values()
        if not math.isfinite(self.history.losses[-1]) or not all(bool(value.isfinite().all()) for value in found):
            raise ConfigError(
                f"rate: at {self.how.rate:g} training diverged in epoch {self.epoch}, "
                "its numbers are not finite; lower rate, or limit gradients with clip"
            )

    def _step(self, batch: Batch) -> tuple[float, float]:
        """The loss of a batch and the share that was right (-1 without labels)."""
        self.optimizer.zero_grad(set_to_none=True)
        total = hits = 0.0
        for part, share in parts(batch, self.how.accumulate):
            mine, weight = self.engine.share(part)
            value, found = self._loss_of(mine)
            share *= weight
            if self.how.l1:
                value = value + self.how.l1 * sum(p.abs().sum() for p in weights_of(self.module))
            (value * share).backward()  # type: ignore[no-untyped-call]
            total += float(value.detach()) * share
            hits += -share if mine[1] is None else share * right(found, mine[1])
        self.engine.average(self.parameters)
        if self.how.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.how.clip)
        self.optimizer.step()
        self.history.steps += 1
        if self.after_step is not None:
            with torch.no_grad():
                self.after_step(self.module)
        self._average()
        return total, hits

    def _loss_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the scores."""
        with self.engine.forward():
            found = self.module.run(batch[0], [self.output, *self.loss.names])
            return self.loss(found, self.output, batch), found[self.output].detach()

    def _average(self) -> None:
        """Move the average; early on it follows faster, so that the first parameters do not stay in it."""
        if not self.how.ema:
            return
        decay = min(self.how.ema, (1 + self.history.steps) / (RAMP + self.history.steps))
        for name, value in self.module.state_dict().items():
            if name not in self.average or not value.is_floating_point():
                self.average[name] = value.detach().clone()
            else:
                self.average[name].lerp_(value.detach(), 1 - decay)

    def _judge(self) -> None:
        """The loss and accuracy, on what is held out, of what would come out now."""
        now = {name: value.clone() for name, value in self.module.state_dict().items()} if self.average else {}
        if now:
            self.module.load_state_dict(self.average)
        self.module.eval()
        total, hits, count, labelled = 0.0, 0.0, 0, True
        with torch.no_grad():
            for inputs, labels in self.data.judged():
                device, size = self.engine.device, len(inputs[0])
                batch = [value.to(device) for value in inputs], None if labels is None else labels.to(device)
                loss, found = self._loss_of(batch)
                total, count = total + float(loss) * size, count + size
                labelled = batch[1] is not None
                hits += right(found, batch[1]) * size if batch[1] is not None else 0.0
        if count:
            self.history.validation.append(total / count)
            self.history.accuracy += [hits / count] if labelled else []
            if self.how.patience and self.history.validation[-1] == min(self.history.validation):
                self.best = {name: value.clone() for name, value in self.module.state_dict().items()}
                self.history.kept = len(self.history.validation) - 1
        if now:
            self.module.load_state_dict(now)

    def _save(self) -> None:
        """A checkpoint, written beside and renamed."""
        if self.resume is None or self.engine.rank:
            return
        state = {
            "how": asdict(self.how),
            "epoch": self.epoch,
            "module": self.module.state_dict(),
            "learned": self.loss.learned.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "best": self.best,
            "history": vars(self.history),
        }
        partial = self.resume.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.resume)

    def _load(self) -> None:
        """Go on from a checkpoint; one of other settings counts as absent."""
        if self.resume is None or not self.resume.is_file():
            return
        state = torch.load(self.resume, weights_only=True, map_location=self.engine.device)
        if state["how"] != asdict(self.how):
            return
        self.module.load_state_dict(state["module"])
        self.loss.learned.load_state_dict(state["learned"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.average, self.best = state["epoch"], state["average"], state["best"]
        self.history = History(**state["history"])


@contextmanager
def _dropping(module: GraphModule, share: float) -> Iterator[None]:
    """Drop a share of what the last layer reads, for a while. Raises ConfigError where it reads the graph's input."""
    name = classifier_input(module.graph.graph) if share else None
    if share and name is None:
        raise ConfigError("dropout: the first output comes from no layer with weights that reads an inner tensor")
    module.dropped = {name: share} if name else {}
    try:
        yield
    finally:
        module.dropped = {}


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


def optimizer(parameters: Iterable[nn.Parameter], how: Training) -> torch.optim.Optimizer:
    """The optimizer; only weights (of two axes or more) decay."""
    held = [p for p in parameters if p.requires_grad]
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
