"""What each scale alone costs the outputs: one group of tensors rounded at a time, everything else on real numbers.

The float graph runs in ONNX Runtime with the group's tensors put on their grid, by ops that compute what QuantizeLinear
and DequantizeLinear do. (Those two, alone among real numbers, ONNX Runtime may take for parts of integer kernels.) What
comes out: the signal-to-noise ratio of the outputs, how often the answer stays the same, and the user's metric. Noise
adds up, nearly: what the artifact loses is what its groups lose together. One session a group, so the cost grows
linearly with their number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.contract import Join, rejoined
from edgekit.emitters import onnx_qdq
from edgekit.errors import DataError
from edgekit.graph import Unit, activations, constant, selects, units, with_constants
from edgekit.passes.steps import Shaped
from edgekit.progress import Progress
from edgekit.quant.kernels import inputs_of, weights_of
from edgekit.quant.plan import QuantPlan
from edgekit.quant.simulate import on_grid, with_rounding
from edgekit.quant.solve import joined
from edgekit.reference import serialize
from edgekit.report.codec import decode, encode
from edgekit.runners import ArtifactModel, FloatModel, Outputs, Runner
from edgekit.samples import Sample, Samples
from edgekit.verify import Metric, Noise

Remember = Callable[[str, Any, Callable[[], Any]], Any]
SAMPLES = 64
ACTIVATIONS, WEIGHTS = "activations", "weights"


def forget(_stage: str, _depends_on: Any, make: Callable[[], Any]) -> Any:
    """Keep nothing."""
    return make()


@dataclass(frozen=True)
class Subject:
    """What is looked at: a float graph in a form that ONNX can hold, and its plan.

    ``rounded`` is the same graph with its weights on the plan's grid, where ``quant.reconstruct`` put them there;
    ``joins`` what outputs of the source it gives in parts.
    """

    form: Shaped
    plan: QuantPlan
    rounded: ir.Model | None = None
    joins: tuple[Join, ...] = ()

    @property
    def hashes(self) -> list[str]:
        """What tells it from any other."""
        models = [model for model in (self.form.model, self.rounded) if model is not None]
        return [*(hashlib.sha256(serialize(model)).hexdigest() for model in models), self.plan.sha256]


@dataclass(frozen=True)
class Group:
    """Tensors that are quantized together: the activations of one scale, or the weights and the bias of one layer."""

    name: str
    kind: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """What quantizing one group alone does. ``snr_db`` is that of the worst output, -inf where it is not a number.

    ``agreement`` is the share of samples with the same choice as in float, where the first output is a list of scores;
    ``metric`` is None where none was given.
    """

    group: Group
    snr_db: float
    agreement: float | None = None
    metric: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """The effect of every group, the worst first. ``metric`` is the float model's on the same samples."""

    samples: int
    effects: tuple[Effect, ...]
    metric: float | None = None

    def of(self, tensor: str) -> Effect | None:
        """The effect of the group that a tensor belongs to; None where it is not quantized."""
        return next((effect for effect in self.effects if tensor in effect.group.tensors), None)


def groups(subject: Subject) -> list[Group]:
    """The groups of a plan, in the order of execution; all steps of a recurrent layer are one."""
    graph, plan, scales = subject.form.model.graph, subject.plan, joined(subject.form.model, subject.plan)
    found: dict[tuple[str, str], list[str]] = {}
    for value in activations(graph):
        name = str(value.name)
        if name in plan:
            key = subject.form.shared.get(name, scales.find(name))
            found.setdefault((ACTIVATIONS, key), []).append(name)
    for unit in units(graph):
        for kind, key, names in _constants(unit):
            key = scales.find(key) if kind == ACTIVATIONS else key
            found.setdefault((kind, key), []).extend(name for name in names if name in plan)
    return [Group(names[0], kind, tuple(dict.fromkeys(names))) for (kind, _), names in found.items() if names]


def _constants(unit: Unit) -> Iterator[tuple[str, str, list[str]]]:
    """The constants of a unit: those read as activations, each by its own scale, and its weights with the bias."""
    yield from ((ACTIVATIONS, str(v.name), [str(v.name)]) for v in inputs_of(unit) if constant(v) is not None)
    held = weights_of(unit)
    if held:
        bias = [unit.bias_value] if unit.bias_value is not None else []
        yield WEIGHTS, str(held[0].name), [str(value.name) for value in (*held, *bias)]


def measure(
    subject: Subject, samples: Iterable[Sample], progress: Progress, metric: Metric | None = None
) -> Sensitivity:
    """Quantize one group after the other and see what it does to the outputs, on the first ``SAMPLES`` samples.

    Raises DataError when there is no sample, or a label is missing that the metric needs.
    """
    wanted = groups(subject)
    with progress.task("sensitivity", len(wanted)) as step:
        trial = _Trial(subject, list(islice(samples, SAMPLES)), metric)
        effects = []
        for group in wanted:
            effects.append(trial.effect(group))
            step()
    effects.sort(key=lambda effect: effect.snr_db)
    return Sensitivity(len(trial.samples), tuple(effects), trial.metric_of(trial.reference, {}))


def remembered(
    subject: Subject,
    judging: Samples,
    progress: Progress,
    metric: tuple[str, Metric] | None = None,
    remember: Remember = forget,
) -> Sensitivity:
    """``measure`` with a metric (name, function), kept by ``remember`` (as ``stages.Work.remembered``).

    What came of the user's own metric is not kept: its code may have changed.
    """
    few = judging.some(SAMPLES)
    name, function = metric or ("", None)
    remember = forget if ":" in name else remember

    def measured() -> Any:
        return encode(measure(subject, few, progress, function))

    depends_on = [*subject.hashes, few.sha256, name]
    found: Sensitivity = decode(Sensitivity, remember("sensitivity", depends_on, measured), "sensitivity")
    return found


class _Trial:
    """The float model on a few samples, to hold one group after the other against."""

    def __init__(self, subject: Subject, samples: list[Sample], metric: Metric | None) -> None:
        if not samples:
            raise DataError("sensitivity: the data holds no samples; at least one is needed")
        self._subject, self.samples, self._metric = subject, samples, metric
        self.reference = FloatModel(subject.form.model)
        self._wanted = [rejoined(self.reference.outputs(sample.inputs), subject.joins) for sample in samples]
        self._static = any(str(value.name) in subject.plan for value in activations(subject.form.model.graph))
        self._unsized = {v.name for v in subject.form.model.graph.outputs if selects(v.producer())}

    def effect(self, group: Group) -> Effect:
        """What quantizing one group alone does."""
        runner = self._runner(group)
        noise: dict[str, Noise] = {}
        metric = self.metric_of(runner, noise)
        ratios = (sums.snr_db for sums in noise.values())
        worst = min((-math.inf if math.isnan(ratio) else ratio for ratio in ratios), default=math.inf)
        return Effect(group, worst, self._agreement(), metric)

    def _runner(self, group: Group) -> Runner:
        """The model with one group on its grid."""
        model, plan = self._subject.form.model, self._subject.plan
        alone = {name: plan[name] for name in group.tensors}
        held = (self._subject.rounded or model).graph.initializers
        constants = {name: np.asarray(constant(held[name])) for name in alone if name in held}
        if group.kind == WEIGHTS and not self._static:  # then kernels round what they multiply, too
            artifact = onnx_qdq.emit(with_constants(model, constants), QuantPlan(alone, plan.float_nodes))
            return ArtifactModel(artifact.data)
        return FloatModel(with_rounding(model, alone, {n: on_grid(array, alone[n]) for n, array in constants.items()}))

    def metric_of(self, runner: Runner, noise: dict[str, Noise]) -> float | None:
        """The metric of a model over the samples, where there is one; its outputs' noise is summed up on the way."""
        self._got: list[Outputs] = []

        def predictions() -> Iterator[tuple[Outputs, Any]]:
            for sample, wanted in zip(self.samples, self._wanted, strict=True):
                got = rejoined(runner.outputs(sample.inputs), self._subject.joins)
                self._got.append(got)
                for name, value in wanted.items():
                    if name not in self._unsized:
                        noise.setdefault(name, Noise()).add(value, got[name].reshape(value.shape), keep_mean=True)
                yield got, sample.label

        stream = predictions()
        value = None if self._metric is None else float(self._metric(stream))
        for _ in stream:  # what the metric left
            pass
        return value

    def _agreement(self) -> float | None:
        """How often the last model chose as the float model does."""
        pairs = [
            [np.asarray(next(iter(outputs.values()))) for outputs in both]
            for both in zip(self._wanted, self._got, strict=True)
        ]
        if any(scores.ndim != 2 or scores.shape[1] < 2 for pair in pairs for scores in pair):
            return None
        return float(np.mean([wanted[0].argmax() == got[0].argmax() for wanted, got in pairs]))


def together(effects: Iterable[Effect]) -> float:
    """The ratio in dB when the noise of all of these adds up."""
    noise = sum(10 ** (-effect.snr_db / 10) for effect in effects)
    return -10 * math.log10(noise) if noise else math.inf
