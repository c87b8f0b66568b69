"""From an artifact of a build under way to its diagnosis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgekit import verify
from edgekit.diagnose.diagnosis import Case, Diagnosis, diagnose
from edgekit.diagnose.sensitivity import Subject
from edgekit.quant import reconstruct

if TYPE_CHECKING:
    from edgekit.project import QuantizationConfig
    from edgekit.stages import Basis, Built, Work


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
    return diagnose(
        Case(subject, fidelity, work.calibration, work.judging, source, metric), work.progress, work.remembered
    )
