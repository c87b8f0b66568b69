"""Knowledge distillation: a network learns what another one answers, and how it sees on the way there.

Softened answers: Hinton et al. 2015, "Distilling the knowledge in a neural network". Features through learned
projections: Romero et al. 2015, "FitNets". Attention: Zagoruyko and Komodakis 2017, "Paying more attention to
attention". None of them needs labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.batches import Batch
from edgekit.compress.loss import Loss, scores_of
from edgekit.compress.module import to_torch
from edgekit.compress.steps import SOURCE, Context, Outcome, method, trained
from edgekit.compress.training import Training
from edgekit.errors import ConfigError, ModelError
from edgekit.graph import shape_of
from edgekit.passes import prepare
from edgekit.reference import serialize
from edgekit.toml_table import near_misses


@dataclass(frozen=True)
class Distill:
    """Settings of ``distill``.

    ``teacher`` is ``"source"``, the model before compression, or ``file.onnx`` or ``module:callable`` (its weights in
    ``teacher_weights``). ``alpha`` is the share of the loss on answers that comes from the teacher, all of it without
    labels; ``answers`` are compared as distributions softened by ``temperature``, or squared. ``features`` and
    ``attention`` name tensors, as ``"student=teacher"`` where the two call them differently.
    """

    teacher: str = SOURCE
    teacher_weights: str | None = None
    answers: Literal["softened", "squared"] = "softened"
    alpha: float = 0.9
    temperature: float = 4.0
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    attention: tuple[str, ...] = ()
    attention_weight: float = 1.0
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that means nothing."""
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha: {self.alpha:g} was given, a share from 0 to 1 is needed")
        if self.temperature <= 0:
            raise ConfigError(f"temperature: {self.temperature:g} was given, more than 0 is needed")

    def depends_on(self, context: Context) -> str:
        """The hash of the teacher."""
        teacher = context.teacher(self.teacher, self.teacher_weights)
        return hashlib.sha256(serialize(teacher)).hexdigest()


@method("distill", Distill)
def distill(graph: ir.Model, settings: Distill, context: Context) -> Outcome:
    """Train the graph to answer as a teacher does."""
    teacher = context.teacher(settings.teacher, settings.teacher_weights)
    return trained(graph, settings.training, context, loss=Distillation(settings, teacher, graph))


def softened(alpha: float, temperature: float, smoothing: float) -> Distill:
    """Answers only, for a method that distils beside what it does."""
    return Distill(alpha=alpha, temperature=temperature, training=Training(smoothing=smoothing))


class Distillation(Loss):
    """The loss of a student against a teacher, whose projections are learned along."""

    def __init__(self, settings: Distill, teacher: ir.Model, student: ir.Model) -> None:
        super().__init__(settings.training.smoothing)
        self._settings = settings
        _same_inputs(student, teacher)
        self._features = [_pair(text, "features", student, teacher) for text in settings.features]
        self._attention = [_pair(text, "attention", student, teacher) for text in settings.attention]
        pairs = [*self._features, *self._attention]
        asked = teacher if pairs else prepare(teacher)  # answers alone are had faster
        module: Any = to_torch(asked).requires_grad_(False)
        self._teacher = module.to(memory_format=torch.channels_last)
        self._answer = scores_of(asked.graph)
        self.names = tuple(dict.fromkeys(mine for mine, _ in pairs))
        self._theirs = (self._answer, *dict.fromkeys(theirs for _, theirs in pairs))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.training.seed)
            for i, (mine, theirs) in enumerate(self._features):
                widths = _shape(student, mine)[1], _shape(teacher, theirs)[1]
                self.learned[str(i)] = nn.Linear(*widths, bias=False)

    def __call__(self, found: dict[str, Tensor], output: str, batch: Batch) -> Tensor:
        """A scalar: answers, features and attention, each with its weight."""
        with torch.no_grad():
            taught = self._teacher.to(batch[0][0].device).run(batch[0], self._theirs)
        given = self._settings
        total = self._answers(found[output].float(), taught[self._answer].float())
        if batch[1] is not None and given.alpha < 1:
            total = given.alpha * total + (1 - given.alpha) * super().__call__(found, output, batch)
        for i, (mine, theirs) in enumerate(self._features):
            total = total + given.feature_weight * self._apart(i, found[mine].float(), taught[theirs].float())
        for mine, theirs in self._attention:
            gap = attention_of(found[mine].float(), taught[theirs].shape[2:]) - attention_of(taught[theirs].float())
            total = total + given.attention_weight / 2 * gap.pow(2).sum(1).mean()
        return total

    def _answers(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Hinton et al. 2015, section 2: gradients shrink with the temperature squared, which is made up for."""
        if self._settings.answers == "squared":
            return functional.mse_loss(student, teacher)
        hot = self._settings.temperature
        log, wanted = functional.log_softmax(student / hot, 1), functional.log_softmax(teacher / hot, 1)
        apart = functional.kl_div(log, wanted, reduction="none", log_target=True).sum(1)
        return apart.mean() * hot**2

    def _apart(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        """The squared distance of a student's features, projected along their channels, from the teacher's."""
        projected = self.learned[str(number)](student.movedim(1, -1)).movedim(-1, 1)
        return functional.mse_loss(_of_size(projected, teacher.shape[2:]), teacher)


def attention_of(features: Tensor, size: Sequence[int] = ()) -> Tensor:
    """Where a layer looks: the power of all channels at each position, of length 1 (equation 2, with p = 2)."""
    power = features.pow(2).mean(1, keepdim=True)
    return functional.normalize(_of_size(power, size or power.shape[2:]).flatten(1), dim=1)


def _of_size(features: Tensor, size: Sequence[int]) -> Tensor:
    """Features over another number of positions: means, or repeated."""
    if list(features.shape[2:]) == list(size):
        return features
    if features.ndim == 4:
        return functional.adaptive_avg_pool2d(features, (size[0], size[1]))
    return functional.adaptive_avg_pool1d(features, size[0])


def _pair(text: str, key: str, student: ir.Model, teacher: ir.Model) -> tuple[str, str]:
    """The tensors that ``"name"`` or ``"student=teacher"`` names. Raises ConfigError where one is absent or unfit."""
    mine, _, theirs = text.partition("=")
    theirs = theirs or mine
    for whose, graph, name in (("the network", student, mine), ("its teacher", teacher, theirs)):
        known = [str(value.name) for node in graph.graph for value in node.outputs]
        if name not in known:
            raise ConfigError(f"{key}: {whose} has no tensor {name}{near_misses(name, known)}")
    ranks = len(_shape(student, mine)), len(_shape(teacher, theirs))
    if ranks[0] != ranks[1] or not (3 if key == "attention" else 2) <= ranks[0] <= 4:
        raise ConfigError(f"{key}: {text}: of {ranks[0]} and {ranks[1]} axes; the same number is needed, and positions")
    return mine, theirs


def _shape(graph: ir.Model, name: str) -> tuple[int, ...]:
    return next(shape_of(value) for node in graph.graph for value in node.outputs if value.name == name)


def _same_inputs(student: ir.Model, teacher: ir.Model) -> None:
    """Raises ModelError where the two are not fed alike, or do not answer alike."""
    mine, theirs = ([shape_of(v)[1:] for v in graph.graph.inputs] for graph in (student, teacher))
    if mine != theirs:
        raise ModelError(f"the teacher's inputs are of shape {theirs}, the network's {mine}")
    answers = [shape_of(graph.graph.outputs[0])[1:] for graph in (student, teacher)]
    if answers[0] != answers[1]:
        raise ModelError(f"the teacher answers with shape {list(answers[1])}, the network with {list(answers[0])}")
