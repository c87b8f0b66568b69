"""From an artifact of a build under way to its diagnosis."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgekit import verify
from edgekit.diagnose.diagnosis import Case, Diagnosis, diagnose
from edgekit.diagnose.sensitivity import Sensitivity, Subject, remembered

if TYPE_CHECKING:
    from edgekit.built import Built
    from edgekit.stages import Work


def of_built(work: Work, built: Built, source: ir.Model | None = None) -> Diagnosis:
    """Diagnose an artifact of a build under way.

    What was verified already is taken as it is. ``source`` is the model with its BatchNormalization.
    """
    fidelity = built.fidelity or verify.fidelity(built.graph, built.artifact.data, work.judging, work.progress)
    case = Case(subject_of(work, built), fidelity, work.calibration, work.judging, source, metric_of(work))
    return diagnose(case, work.progress, work.remembered)


def sensitivity_of(work: Work, subject: Subject) -> Sensitivity:
    """What each scale of an artifact of a build under way costs, with the project's metric where it is measured."""
    return remembered(subject, work.judging, work.progress, metric_of(work), work.remembered)


def metric_of(work: Work) -> tuple[str, verify.Metric] | None:
    """The project's metric, where there is data to evaluate."""
    name = work.project.evaluation.metric
    return (name, verify.metric_of(name, work.project.folder)) if work.evaluation is not None else None


def subject_of(work: Work, built: Built) -> Subject:
    """What an artifact holds, in a form for ONNX: it has no integer loop, and all steps share their scales."""
    unrolled = copy.copy(work)
    unrolled.config = replace(work.config, recurrent="unrolled")
    basis = work.basis(built.lifted)
    form, plan = unrolled.planned(built.target, basis)
    rounds = work.rounds(built.lifted, form.model, plan)
    return Subject(form, plan, work.rounded(form.model, plan) if rounds else None, basis.joins)
