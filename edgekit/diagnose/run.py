"""What ``edgekit diagnose`` does: build one target's artifact as ``edgekit build`` would, and find out what it lost."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgekit import verify
from edgekit.build import prepared
from edgekit.diagnose.diagnosis import Case, Diagnosis, diagnose
from edgekit.diagnose.sensitivity import Subject
from edgekit.progress import Progress
from edgekit.project import Project
from edgekit.quant.from_qdq import Lifted
from edgekit.stages import Built, Work


@dataclass(frozen=True)
class Diagnosed:
    """What was found of one artifact."""

    source: str
    target: str
    artifact: str
    diagnosis: Diagnosis


def run(project: Project, target: str, out: Path, progress: Progress) -> Diagnosed:
    """Build (what is in the cache of ``out`` is reused), verify, evaluate and diagnose.

    Raises EdgekitError as ``build`` does.
    """
    made = prepared(project, [target], out, progress)
    (built,) = made.work.built(made.lifted)
    found = of_built(made.work, built, made.lifted, made.source)
    return Diagnosed(project.model.source, built.target.name, str(built.path), found)


def of_built(work: Work, built: Built, lifted: Lifted, source: ir.Model | None = None) -> Diagnosis:
    """Diagnose an artifact of a build under way.

    What was verified and evaluated already is taken as it is. ``source`` is the model with its BatchNormalization.
    """
    fidelity = built.fidelity or verify.fidelity(built.graph, built.artifact.data, work.judging, work.progress)
    metric = None
    if work.evaluation is not None:
        name = work.project.evaluation.metric
        metric = name, verify.metric_of(name, work.project.folder)
    subject = subject_of(work, built, lifted)
    case = Case(subject, fidelity, work.calibration, work.judging, source, built.evaluation, metric)
    return diagnose(case, work.progress, work.remembered)


def subject_of(work: Work, built: Built, lifted: Lifted) -> Subject:
    """What an artifact holds, in a form for ONNX: it has no integer loop, and all steps share their scales."""
    unrolled = copy.copy(work)
    unrolled.config = replace(work.config, recurrent="unrolled")
    form, plan = unrolled.planned(built.target, work.basis(lifted))
    rounds = work.rounding is not None and not lifted.settled
    return Subject(form, plan, work.rounded(form.model, plan) if rounds else None)
