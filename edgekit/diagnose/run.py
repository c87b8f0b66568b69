"""What ``edgekit diagnose`` does: build one target's artifact as ``edgekit build`` would, and find out what it lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgekit import verify
from edgekit.build import prepared
from edgekit.diagnose.diagnosis import Case, Diagnosis, diagnose
from edgekit.diagnose.sensitivity import Subject
from edgekit.progress import Progress
from edgekit.project import Project, QuantizationConfig
from edgekit.quant import reconstruct
from edgekit.stages import Basis, Built, Work


@dataclass(frozen=True)
class Diagnosed:
    """What was found of one artifact."""

    source: str
    target: str
    artifact: str
    diagnosis: Diagnosis


def run(project: Project, target: str, out: Path, progress: Progress) -> Diagnosed:
    """Build (what is in the cache of ``out`` is reused), verify and diagnose.

    Raises EdgekitError as ``build`` does.
    """
    made = prepared(project, [target], out, progress)
    (profile, precision), *_ = made.precisions.items()
    built = made.work.built(profile, precision, made.basis, made.config)
    found = of_built(made.work, built, made.basis, replace(made.config, precision=precision), made.source.model)
    return Diagnosed(project.model.source, profile.name, str(built.path), found)


def of_built(
    work: Work, built: Built, basis: Basis, config: QuantizationConfig, source: ir.Model | None = None
) -> Diagnosis:
    """Diagnose an artifact of a build under way; ``config.precision`` is the one that it was built in.

    What was verified already is taken as it is. ``source`` is the model with its BatchNormalization.
    """
    unrolled = replace(config, recurrent="unrolled")  # ONNX has no integer loop, and all steps share their scales
    form, plan = work.planned(built.target, str(config.precision), basis, unrolled)
    rounds = work.rounds and not basis.lifted.settled and reconstruct.weights_of(form.model, plan)
    rounded = work.rounded(form.model, plan) if rounds else None
    fidelity = built.fidelity or verify.fidelity(built.graph, built.artifact.data, work.judging, work.progress)
    metric = None
    if work.evaluation is not None:
        name = work.project.evaluation.metric
        metric = name, verify.metric_of(name, work.project.folder)
    subject = Subject(form, plan, rounded)
    case = Case(subject, fidelity, work.calibration, work.judging, source, metric)
    return diagnose(case, work.progress, work.remembered)
