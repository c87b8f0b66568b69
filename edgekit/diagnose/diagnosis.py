"""Where an artifact lost its accuracy, and why: every tensor's loss, and the causes that the evidence gives away."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgekit.diagnose import data, evidence
from edgekit.diagnose.causes import CAUSES, OF_DATA, Cause, cause_of
from edgekit.diagnose.sensitivity import SAMPLES, Effect, Remember, Sensitivity, Subject, forget, remembered
from edgekit.graph import Unit, constant, shape_of, units
from edgekit.passes.steps import Shaped
from edgekit.progress import Progress
from edgekit.quant.kernels import constant_weight, inputs_of
from edgekit.reference import serialize
from edgekit.report.codec import decode, encode
from edgekit.report.model import Fidelity, Finding
from edgekit.samples import Samples
from edgekit.verify import Metric

PAGE = "docs/accuracy.md"


@dataclass(frozen=True)
class Case:
    """An artifact that lost accuracy, what it was made from, and how true it was found to be.

    ``judging`` is held-out data, or the calibration data where there is none; ``source`` the model before
    BatchNormalization was folded. ``metric`` (name, function) is left out where there are no labels for it.
    """

    subject: Subject
    fidelity: Fidelity
    calibration: Samples
    judging: Samples
    source: ir.Model | None = None
    metric: tuple[str, Metric] | None = None

    @property
    def held_out(self) -> bool:
        """Whether other data than that of calibration judges."""
        return self.judging is not self.calibration


@dataclass(frozen=True)
class Loss:
    """One tensor: signal-to-noise in the artifact of what its op reads and of itself, and what it costs by itself.

    ``alone_db``, ``agreement`` and ``metric`` are of the outputs when only what shares its scale is quantized,
    ``weights_db`` when only its layer's weights are. None: not known, or not quantized.
    """

    name: str
    op: str
    before_db: float | None
    after_db: float | None
    alone_db: float | None
    weights_db: float | None
    agreement: float | None = None
    metric: float | None = None
    cause: str | None = None

    @property
    def worst_db(self) -> float:
        """What the tensor or its weights cost, whichever is more."""
        return min((db for db in (self.alone_db, self.weights_db) if db is not None), default=math.inf)


@dataclass(frozen=True)
class Diagnosis:
    """Every loss, the worst first, and the causes. ``metric`` is the float model's on the ``samples`` looked at."""

    samples: int
    output_db: float
    metric: float | None
    tensors: tuple[Loss, ...]
    findings: tuple[Finding, ...]
    data: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal value."""
        value: dict[str, Any] = encode(self)
        return value

    @classmethod
    def from_json(cls, value: Any, where: str = "diagnosis") -> Diagnosis:
        """The value that ``to_json`` wrote. Raises InputError that names ``where:key``."""
        return decode(cls, value, where)


def diagnose(case: Case, progress: Progress, remember: Remember = forget) -> Diagnosis:
    """Find out what each tensor costs and why. ``remember`` (as ``stages.Work.remembered``) keeps the two long parts.

    Raises DataError where the data cannot be used.
    """
    sensitivity = remembered(case.subject, case.judging, progress, case.metric, remember)
    found = _evidence(case, progress, remember)
    output_db = min(case.fidelity.outputs.values(), default=math.inf)
    about_data = {**found.data, "output_db": output_db, **_over_chance(case, sensitivity)}
    figures = _with_costs(case.subject.form, sensitivity, found.tensors)
    causes = _causes(figures, sensitivity)
    table = list(_losses(case, sensitivity, figures, causes))
    table.sort(key=lambda loss: loss.worst_db)
    findings = [*_of_data(about_data), *_of_tensors(table, figures, causes)]
    return Diagnosis(sensitivity.samples, output_db, sensitivity.metric, tuple(table), tuple(findings), about_data)


@dataclass(frozen=True)
class _Evidence:
    """The figures of the data, and of each tensor by name."""

    data: Mapping[str, float]
    tensors: Mapping[str, Mapping[str, float]]


def _evidence(case: Case, progress: Progress, remember: Remember) -> _Evidence:
    few = case.judging.some(SAMPLES)
    source = [hashlib.sha256(serialize(case.source)).hexdigest()] if case.source is not None else []
    depends_on = [*case.subject.hashes, *source, case.calibration.sha256, few.sha256]
    stored = remember("evidence", depends_on, lambda: encode(_looked(case, few, progress)))
    found: _Evidence = decode(_Evidence, stored, "evidence")
    return found


def _looked(case: Case, few: Samples, progress: Progress) -> _Evidence:
    model, plan = case.subject.form.model, case.subject.plan
    seen = evidence.look(model, plan, case.calibration, progress, len(case.calibration))
    found = {"samples": float(len(case.calibration))}
    found["odd_inputs"] = float(len(case.calibration.survey().odd_inputs()))
    others = evidence.look(model, plan, few, progress, len(few)) if case.held_out else {}
    found |= data.of_ranges(seen, others)
    shown = case.calibration.some(data.LOOKED_AT)
    if case.held_out:
        found |= data.of_inputs(shown, few)
    if case.source is not None:
        found |= data.of_training(case.source, shown)
    return _Evidence(found, evidence.numbers(model, plan, seen))


def _over_chance(case: Case, sensitivity: Sensitivity) -> dict[str, float]:
    """How much better than guessing the float model is, where top-1 was measured."""
    classes = shape_of(case.subject.form.model.graph.outputs[0])
    if case.metric is None or case.metric[0] != "top1" or sensitivity.metric is None:
        return {}
    return {"over_chance": sensitivity.metric * classes[-1]}


Figures = dict[str, dict[str, float]]
Causes = dict[str, tuple[Cause, tuple[str, ...]]]


def _with_costs(form: Shaped, sensitivity: Sensitivity, tensors: Mapping[str, Mapping[str, float]]) -> Figures:
    """The figures of every activation that is quantized or whose weights are, with what it costs the outputs.

    Copies have none of their own, and the steps of a recurrent layer have those of the first.
    """
    found: Figures = {}
    steps: dict[str, str] = {}
    for name, unit in _producers(form.model).items():
        alone, weights = _effects(name, unit, sensitivity)
        costs = {"alone_db": alone, "weights_db": weights}
        known = {key: effect.snr_db for key, effect in costs.items() if effect is not None}
        copied = unit is not None and unit.node.op_type == "Identity" and not unit.outputs[0].is_graph_output()
        first = steps.setdefault(form.shared.get(name, name), name)
        if known and not copied and first == name:
            found[name] = {**tensors.get(name, {}), **known}
    return found


def _producers(model: ir.Model) -> dict[str, Unit | None]:
    """Every activation and the unit that gives it, in the order of execution; None gives an input."""
    fed: dict[str, Unit | None] = {str(value.name): None for value in model.graph.inputs}
    return fed | {str(value.name): unit for unit in units(model.graph) for value in unit.outputs}


def _effects(name: str, unit: Unit | None, sensitivity: Sensitivity) -> tuple[Effect | None, Effect | None]:
    """What an activation's scale costs, and what the weights of its layer cost."""
    weight = constant_weight(unit) if unit is not None else None
    return sensitivity.of(name), sensitivity.of(str(weight.name)) if weight is not None else None


def _causes(figures: Figures, sensitivity: Sensitivity) -> Causes:
    """The cause of each tensor that has one: of tensors in one scale, of the one whose cause stands first."""
    own = {name: found for name, numbers in figures.items() if (found := cause_of(CAUSES, numbers)) is not None}
    first: dict[str, str] = {}
    for name, (cause, _) in own.items():
        effect = sensitivity.of(name)
        group = effect.group.name if effect is not None else name
        if group not in first or CAUSES.index(cause) < CAUSES.index(own[first[group]][0]):
            first[group] = name
    return {name: own[name] for name in first.values()}


def _losses(case: Case, sensitivity: Sensitivity, figures: Figures, causes: Causes) -> Iterator[Loss]:
    kept = {row.name: row.snr_db for row in case.fidelity.tensors} | dict(case.fidelity.outputs)
    producers = _producers(case.subject.form.model)
    for name, numbers in figures.items():
        unit = producers[name]
        worst = min(filter(None, _effects(name, unit, sensitivity)), key=lambda effect: effect.snr_db)
        yield Loss(
            name,
            unit.node.op_type if unit is not None else "input",
            _before(unit, kept),
            kept.get(name),
            numbers.get("alone_db"),
            numbers.get("weights_db"),
            worst.agreement,
            worst.metric,
            causes[name][0].name if name in causes else None,
        )


def _before(unit: Unit | None, kept: Mapping[str, float]) -> float | None:
    """The signal-to-noise of what an op reads: of the worst of it."""
    read = inputs_of(unit) if unit is not None else []
    return min((kept[str(v.name)] for v in read if constant(v) is None and str(v.name) in kept), default=None)


def _of_data(numbers: Mapping[str, float]) -> Iterator[Finding]:
    """A finding for every cause in the data."""
    for cause in OF_DATA:
        measures = cause.evidence(numbers)
        if measures:
            yield _finding(cause, (), {measure: numbers[measure] for measure in measures})


def _of_tensors(table: Sequence[Loss], figures: Figures, causes: Causes) -> list[Finding]:
    """A finding for every cause in tensors, the one first that hurts most."""
    found: dict[str, list[Loss]] = {}
    for loss in table:
        if loss.cause is not None:
            found.setdefault(loss.cause, []).append(loss)
    findings = []
    for losses in found.values():
        worst = losses[0].name
        cause, measures = causes[worst]
        numbers = {measure: figures[worst][measure] for measure in measures}
        findings.append(_finding(cause, tuple(loss.name for loss in losses), numbers))
    return findings


def _finding(cause: Cause, tensors: tuple[str, ...], numbers: Mapping[str, float]) -> Finding:
    where = f" at {tensors[0]}" if tensors else ""
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    figures = ", ".join(f"{measure} {value:.3g}" for measure, value in numbers.items())
    text = f"{cause.name}{where}{more}: {figures}"
    return Finding(cause.name, tensors, numbers, text, cause.fix, f"{PAGE}#{cause.anchor}")
