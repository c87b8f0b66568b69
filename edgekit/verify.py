"""An artifact against its float source: the metric, agreement, and signal-to-noise tensor by tensor.

Samples pass one at a time; what is kept are sums. The signal of an output is taken free of its mean over the samples
(a constant offset carries no information); that of an inner tensor is its mean square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.artifact import ArtifactFile, read_artifact
from edgekit.classes import PINNED
from edgekit.contract import rejoined
from edgekit.errors import ConfigError, DataError
from edgekit.graph import Array, activations, selects
from edgekit.named import ForeignCode, load_named
from edgekit.passes.split import split_outputs
from edgekit.progress import Progress
from edgekit.project import AGREEMENT
from edgekit.quant.absorb import sites
from edgekit.quant.equalize import Channels
from edgekit.quant.from_qdq import lift
from edgekit.quant.masks import SURE, masked
from edgekit.quant.plan import QParams
from edgekit.report.model import Evaluation, Fidelity, Parity, TensorFidelity
from edgekit.runners import ArtifactModel, FloatModel, Outputs, Runner
from edgekit.samples import Sample

FIDELITY_SAMPLES = 64
Metric = Callable[[Iterator[tuple[Outputs, Any]]], float]


@dataclass
class Noise:
    """Sums for one tensor's signal-to-noise ratio."""

    signal: float = 0.0
    noise: float = 0.0
    count: int = 0
    values: int = 0
    at_limits: int = 0
    total: Array | None = None

    def add(self, reference: Array, found: Array, keep_mean: bool = False) -> None:
        """Take in one sample; ``keep_mean`` lets the mean over the samples be taken off the signal."""
        wanted, got = reference.astype(np.float64), found.astype(np.float64)
        self.signal += float(np.sum(wanted**2))
        self.noise += float(np.sum((wanted - got) ** 2))
        self.count += 1
        if keep_mean:
            self.total = wanted if self.total is None else self.total + wanted

    def limits(self, found: Array, q: QParams | None) -> None:
        """Count the values at the ends of a quantized range; zero as the lower end is no saturation."""
        if q is not None:
            low, high = q.range
            half = q.scale[0] / 2
            self.at_limits += int(
                np.count_nonzero(found > high - half) + np.count_nonzero(found < min(low + half, -half))
            )
            self.values += found.size

    @property
    def saturated(self) -> float | None:
        """The share of values at the ends of the range, or None when the tensor is not quantized."""
        return self.at_limits / self.values if self.values else None

    @property
    def snr_db(self) -> float:
        """Signal over noise; infinite without noise, -infinite without signal, NaN where a value is."""
        signal = self.signal
        if self.total is not None and self.count > 1:
            signal -= float(np.sum(self.total**2)) / self.count
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(signal / self.noise) if signal > 0 else -math.inf


@dataclass
class _Scaled(Noise):
    """Sums for a tensor whose channels were equalized: each is compared up to a factor. ``axes`` lie within one.

    With ``moved`` it is compared up to a constant too, as the bias of its layer was absorbed by the next.
    """

    axes: tuple[int, ...] = ()
    moved: bool = False
    products: Array = field(default_factory=lambda: np.zeros(3))
    sums: Array = field(default_factory=lambda: np.zeros(2))
    each: int = 0

    def add(self, reference: Array, found: Array, keep_mean: bool = False) -> None:
        wanted, got = reference.astype(np.float64), found.astype(np.float64)
        pairs = ((wanted, wanted), (wanted, got), (got, got))
        self.products = self.products + np.stack([(a * b).sum(self.axes) for a, b in pairs], -1)
        products = self.products
        if self.moved:
            self.sums = self.sums + np.stack([wanted.sum(self.axes), got.sum(self.axes)], -1)
            self.each += int(np.prod([wanted.shape[axis] for axis in self.axes]))
            a, b = np.moveaxis(self.sums, -1, 0)
            products = products - np.stack([a * a, a * b, b * b], -1) / self.each
        power, common, found_power = np.moveaxis(products, -1, 0)
        self.signal = float(power.sum())
        self.noise = float((power - common**2 / np.where(found_power > 0, found_power, 1.0)).sum())
        self.count += 1


def fidelity(
    prepared: ir.Model,
    data: bytes,
    samples: Iterable[Sample],
    progress: Progress,
    limit: int = FIDELITY_SAMPLES,
    balanced: Collection[str] = (),
) -> Fidelity:
    """Signal-to-noise of every output and of every inner tensor that the artifact still has.

    ``balanced`` says what was done to the artifact's channels and not to those of ``prepared``: ``equalize`` gave them
    factors, ``absorb`` took constants from them. Raises DataError when there are no samples. Of what NonMaxSuppression
    selects there is no signal-to-noise.
    """
    changed = _changed(prepared.graph, balanced)
    unsized = {value.name for value in prepared.graph.outputs if selects(value.producer())}
    reference, candidate = FloatModel(prepared, inner=True), ArtifactModel(data, prepared)
    outputs: dict[str, Noise] = {}
    inner: dict[str, Noise] = {}
    count, hiding = 0, masked(prepared.graph)
    with progress.task("verify", limit) as step:
        for sample in _first(samples, limit):
            wanted, got = reference.outputs(sample.inputs), candidate.outputs(sample.inputs)
            for name, value in rejoined(wanted, candidate.contract.joins).items():
                if name in unsized:
                    continue
                outputs.setdefault(name, Noise()).add(value, got[name].reshape(value.shape), keep_mean=True)
            for name, value in candidate.tensors().items():
                known = reference.tensors.get(name)
                if known is not None and known.shape == value.shape:
                    if name in hiding:
                        known, value = known[known > SURE], value[known > SURE]
                    sums = inner.setdefault(name, changed.get(name) or Noise())
                    sums.add(known, value)
                    sums.limits(value, candidate.file.quant.get(name))
            count += 1
            step()
    if not count:
        raise DataError("verification data: holds no samples")
    ops = {str(v.name): node.op_type for node in prepared.graph for v in node.outputs}
    table = tuple(
        _row(str(v.name), ops, inner[str(v.name)], candidate.file)
        for v in activations(prepared.graph)
        if str(v.name) in inner
    )
    return Fidelity(count, {name: noise.snr_db for name, noise in outputs.items()}, table)


def _changed(graph: ir.Graph, balanced: Collection[str]) -> dict[str, _Scaled]:
    """Sums for the tensors whose channels may differ."""
    scaled = {name: _Scaled(axes=axes) for name, axes in _channels(graph).items()} if "equalize" in balanced else {}
    moved = {site.name: _Scaled(axes=site.axes, moved=True) for site in sites(graph)} if "absorb" in balanced else {}
    return scaled | moved


def _channels(graph: ir.Graph) -> dict[str, tuple[int, ...]]:
    """The tensors that equalizing may scale, and the axes along which their elements have one factor."""
    channels = Channels(graph)
    found = {str(value.name): channels.of(value) for value in activations(graph)}
    return {
        name: tuple(axis for axis, size in enumerate(classes.shape) if size == 1)
        for name, classes in found.items()
        if (classes != PINNED).any()
    }


def _row(name: str, ops: Mapping[str, str], noise: Noise, file: ArtifactFile) -> TensorFidelity:
    q = file.quant.get(name)
    scale, zero, dtype = (q.scale[0], q.zero_point[0], q.dtype) if q is not None else (None, None, "float32")
    return TensorFidelity(name, ops.get(name, "input"), noise.snr_db, dtype, scale, zero, noise.saturated)


def _first(samples: Iterable[Sample], limit: int) -> Iterator[Sample]:
    for i, sample in enumerate(samples):
        if i == limit:
            return
        yield sample


@dataclass(frozen=True)
class Result:
    """A metric over a data set, and the class chosen for each sample where the first output is a list of scores."""

    value: float
    count: int
    choices: Array


def evaluate(
    runner: Runner, samples: Iterable[Sample], metric: Metric, progress: Progress, title: str, total: int
) -> Result:
    """Run every sample and compute the metric. Raises DataError when there are no samples or a label is missing."""
    choices: list[int] = []
    count = 0

    def predictions() -> Iterator[tuple[Outputs, Any]]:
        nonlocal count
        for sample in samples:
            outputs = runner.outputs(sample.inputs)
            scores = next(iter(outputs.values()))
            if scores.ndim == 2 and scores.shape[1] > 1:
                choices.append(int(np.argmax(scores[0])))
            count += 1
            step()
            yield outputs, sample.label

    with progress.task(title, total) as step:
        value = metric(predictions())
    if not count:
        raise DataError("evaluation data: holds no samples, or the metric took none")
    return Result(float(value), count, np.asarray(choices, np.int64))


def compared(metric: str, reference: Result, artifact: Result) -> Evaluation:
    """What the report says of two results on the same data."""
    agreement = None
    if len(reference.choices) == len(artifact.choices) == reference.count:
        agreement = float(np.mean(reference.choices == artifact.choices))
    drop = reference.value - artifact.value
    return Evaluation(metric, reference.count, reference.value, artifact.value, drop, agreement)


def parity(
    one: ArtifactModel, other: ArtifactModel, samples: Iterable[Sample], name: str, limit: int = FIDELITY_SAMPLES
) -> Parity:
    """Two artifacts of one plan on the same samples: how many quantized steps their outputs lie apart."""
    most = 0.0
    equal = total = agreed = count = 0
    for sample in _first(samples, limit):
        a, b = one.ports(sample.inputs), other.ports(sample.inputs)
        for key in a:
            steps = np.rint(np.abs(a[key] - b[key]) / _step(one, other, key))
            most = max(most, float(steps.max()))
            equal += int(np.count_nonzero(steps == 0))
            total += steps.size
        first = next(iter(a))
        agreed += int(np.argmax(a[first]) == np.argmax(b[first]))
        count += 1
    return Parity(name, count, agreed / max(count, 1), int(most), equal / max(total, 1))


def _step(one: ArtifactModel, other: ArtifactModel, output: str) -> float:
    for model in (one, other):
        if output in model.file.quant:
            return model.file.quant[output].scale[0]
    return 1.0


def metric_of(name: str, folder: Path) -> Metric:
    """``top1``, ``top5``, ``agreement``, or ``module:function`` called with an iterator of (outputs by name, label).

    ``agreement`` wants the labels of ``choices_of``.

    Raises ConfigError when there is no such metric.
    """
    if name in _BUILTIN:
        return _BUILTIN[name]
    function = load_named(name, folder, "evaluation.metric", ConfigError)
    if not callable(function):
        raise ConfigError(
            f"evaluation.metric {name}: is a {type(function).__name__}, not {', '.join(_BUILTIN)} or module:function"
        )

    def metric(predictions: Iterator[tuple[Outputs, Any]]) -> float:
        with ForeignCode(f"evaluation.metric {name}", DataError):
            return float(function(predictions))

    return metric


def _top(k: int) -> Metric:
    def metric(predictions: Iterator[tuple[Outputs, Any]]) -> float:
        right = count = 0
        for outputs, label in predictions:
            if label is None:
                raise DataError(f"evaluation data: has no labels, which top{k} needs")
            scores = next(iter(outputs.values())).reshape(-1)
            if int(label) != label or not 0 <= label < len(scores):
                raise DataError(f"evaluation data: label {label} is none of the model's {len(scores)} classes, from 0")
            right += int(int(label) in np.argsort(-scores, kind="stable")[:k])
            count += 1
        return right / count if count else math.nan

    return metric


_BUILTIN: dict[str, Metric] = {"top1": _top(1), "top5": _top(5), AGREEMENT: _top(1)}


def choices_of(model: FloatModel) -> Callable[[Sample], int]:
    """What a model chooses of a sample, run once for each: the label for which ``agreement`` is the share of hits.

    It raises DataError where the first output is no list of scores.
    """
    known: dict[str, int] = {}

    def choice(sample: Sample) -> int:
        if sample.name not in known:
            name, scores = next(iter(model.outputs(sample.inputs).items()))
            if scores.ndim != 2 or scores.shape[1] < 2:
                said = f"output {name} has shape {list(scores.shape)}, not a score for each class"
                raise DataError(f"evaluation.metric {AGREEMENT}: {said}; the gate snr needs none")
            known[sample.name] = int(np.argmax(scores[0]))
        return known[sample.name]

    return choice


def verify_artifact(
    artifact: Path,
    model: ir.Model,
    samples: Iterable[Sample],
    progress: Progress,
    metric: tuple[str, Metric] | None = None,
) -> tuple[Fidelity, Evaluation | None]:
    """A finished artifact against the source graph: fidelity, and with ``metric`` (name, function) the evaluation."""
    from edgekit.runtimes import read

    data, lifted = read(artifact), lift(model).graph
    file = read_artifact(data)
    prepared, _ = split_outputs(lifted, [join.name for join in file.contract.joins])
    said = file.metadata.get("calibration", {})
    balanced = [key for key in ("equalize", "absorb") if said.get(key)]
    found = fidelity(prepared, data, samples, progress, balanced=balanced)
    if metric is None:
        return found, None
    name, function = metric
    total = len(samples) if isinstance(samples, Sized) else 0
    reference = evaluate(FloatModel(lifted), samples, function, progress, "evaluate float", total)
    mine = evaluate(ArtifactModel(data, name=str(artifact)), samples, function, progress, "evaluate artifact", total)
    return found, compared(name, reference, mine)


__all__ = ["ArtifactModel", "FloatModel", "compared", "evaluate", "fidelity", "metric_of", "parity", "verify_artifact"]
