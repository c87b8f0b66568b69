"""The whole road: load -> prepare -> calibrate -> plan -> emit -> verify -> evaluate -> measure -> gate -> report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit import baseline, compression, emit, gate, ladder, reporting
from edgekit.built import Built, Prepared
from edgekit.device import Device
from edgekit.errors import ConfigError
from edgekit.frontends import Loaded, load_source
from edgekit.output import prepare_folder
from edgekit.progress import Progress, SilentProgress
from edgekit.project import Project
from edgekit.quant.from_qdq import lift
from edgekit.report.model import Report
from edgekit.runners import FloatModel
from edgekit.samples import Samples, look
from edgekit.stages import Work
from edgekit.target import Target, list_targets, load_target
from edgekit.toml_table import near_misses
from edgekit.transports.benchmark import refuse_unmeasured

SOURCE_SAMPLES = 4
SOURCE_SNR_DB = 60.0  # float32 in another order of summation keeps more than 90 dB


def build(
    project: Project,
    targets: Sequence[str],
    out: Path,
    progress: Progress | None = None,
    command: str = "",
    device: Device | None = None,
) -> list[Report]:
    """Build the project's model for each target into ``out/TARGET/``: artifact, plan, contract and reports.

    ``command`` is what the reports say to run in order to get the same again; ``device`` is where latency is measured
    (None: on this machine).

    Raises EdgekitError (see ``edgekit.errors``); nothing is half-written, and what a killed build had finished is
    reused. Gates are judged in the reports, not raised.
    """
    for name in targets:
        baseline.earlier(name, project)  # a broken one is told before the work, not after it
        if device is not None and device.benchmark:
            refuse_unmeasured(device, project.file, asdict(project.limits(name)))
    made = prepared(project, targets, out, progress, command, device)
    work = made.work
    found = ladder.climb(made) if project.calibration.method == "auto" else work.built(made.lifted)
    for built in found:
        work.examine(built, made.graph)
    if work.evaluation is not None:
        work.warnings += look(work.evaluation, "evaluation")
    reports = [reporting.report_of(work, built, found, made.facts) for built in found]
    explained = [_explained(made, b, report) for b, report in zip(found, reports, strict=True)]
    return [reporting.publish(work, b, report, explained) for b, report in zip(found, explained, strict=True)]


def prepared(
    project: Project,
    targets: Sequence[str],
    out: Path,
    progress: Progress | None = None,
    command: str = "",
    device: Device | None = None,
) -> Prepared:
    """The first half of a build: load, check and compress. Raises EdgekitError."""
    work = Work(project, prepare_folder(out), progress or SilentProgress(), command, device)
    _known_gates(project)
    ladder.refuse_idle(project, targets)
    work.compress_steps = compression.read(project)
    profiles = [_profile(project, name) for name in dict.fromkeys(targets)]
    with work.stage("load"):
        source = _load(project)
        lifted = lift(source.model)
        graph, given = lifted.graph, lifted.given
    work.config = config = emit.resolved(graph, project.quantization, str(project.file))
    work.precisions = precisions = {t: emit.precision_of(graph, t, config.precision) for t in profiles}
    _refuse_retrained(work)
    if given and (config.int16_nodes or set(precisions.values()) != {"int8"}):
        raise ConfigError("the model is quantized to int8 already; another precision needs the float model")
    emit.refuse_unsupported(graph, precisions, config, given)
    work.warnings += emit.unasked(precisions, config.precision)
    calibrated = work.wants_ranges or bool(project.calibration.data)
    work.open(graph, calibrated)
    with work.stage("check"):
        check = _against_source(source, graph, work.calibration)
        if check["snr_db"] < SOURCE_SNR_DB and not given:
            work.warnings.append(
                f"the float graph is not the source model: {check['snr_db']:.1f} dB on {check['samples']} samples"
            )
        if calibrated:
            work.warnings += look(work.calibration)
    trainable, lifted = compression.compress(work, source.model, lifted)
    facts = reporting.model_facts(work, graph, work.wants_ranges) | {"source_check": check}
    return Prepared(work, source.model, graph, trainable, lifted, facts)


def _explained(made: Prepared, built: Built, report: Report) -> Report:
    """The report, with the causes where a gate of accuracy failed."""
    if not any(verdict.status == gate.FAIL for verdict in report.gates if verdict.gate in gate.ACCURACY):
        return report
    from edgekit.diagnose.built import of_built

    with made.work.stage("diagnose", built.target.name):
        found = of_built(made.work, built, made.source)
    return replace(report, findings=found.findings, stages=made.work.stages_of(built.target))


def _profile(project: Project, name: str) -> Target:
    """The target, with the input layout that the project asks for. Raises ConfigError where it cannot have it."""
    target = load_target(name, project.folder)
    asked = {config.artifact_layout for config in project.model.inputs.values() if config.artifact_layout}
    if asked <= {target.input_layout}:
        return target
    if len(asked) > 1 or target.format != "tflite":
        said = f"{project.file}:model.inputs: artifact_layout {' and '.join(sorted(asked))}"
        raise ConfigError(f"{said}: all inputs of {target.name} are {target.input_layout}")
    return replace(target, input_layout=asked.pop())


def _refuse_retrained(work: Work) -> None:
    """Raises ConfigError for what would change the plan that quantize-aware training ends in."""
    if not any(step.method.plans for step in work.compress_steps):
        return
    if work.config.int16_nodes:
        raise ConfigError(
            f"{work.project.file}:quantization.int16_nodes: quantize-aware trains for 8 bits in all layers"
        )
    if work.project.calibration.method == "auto":
        said = "auto cannot change the scales that quantize-aware in [[compress]] trains"
        raise ConfigError(f"{work.project.file}:calibration.method: {said}; name the data as calibration.training")


def _known_gates(project: Project) -> None:
    """Raises ConfigError when ``[gates.NAME]`` names no target: its limits would never be judged."""
    known = list_targets(project.folder)
    for name in project.gates:
        if name and name not in known:
            hint = near_misses(name, known) or f"; known: {', '.join(known)}"
            raise ConfigError(f"{project.file}:gates.{name}: no target has that name{hint}")


def _load(project: Project) -> Loaded:
    model = project.model
    if not model.source:
        raise ConfigError(
            f"{project.file}:model.source: nothing is given; name file.onnx, file.pt2 or package.module:callable"
        )
    shapes = {name: config.shape for name, config in model.inputs.items() if config.shape}
    weights = project.folder / model.weights if model.weights else None
    return load_source(model.source, weights, shapes, project.folder, model.outputs)


def _against_source(source: Loaded, graph: ir.Model, samples: Samples) -> dict[str, Any]:
    """The float graph against the model that it came from, on a few samples."""
    reference = FloatModel(graph)
    few = [sample for _, sample in zip(range(SOURCE_SAMPLES), samples, strict=False)]
    worst, signal, noise = 0.0, 0.0, 0.0
    for sample in few:
        wanted, got = source.run(sample.inputs), reference.outputs(sample.inputs)
        for a, b in zip(wanted, got.values(), strict=True):
            if a.shape != b.shape:  # of a NonMaxSuppression: another number of boxes
                a, b = np.ones(1), np.zeros(1)
            error = a.astype(np.float64) - b.astype(np.float64)
            worst = max(worst, float(np.abs(error).max()))
            signal, noise = signal + float(np.sum(a.astype(np.float64) ** 2)), noise + float(np.sum(error**2))
    snr = 10 * np.log10(signal / noise) if noise and signal else float("inf")
    return {"samples": len(few), "max_abs_difference": worst, "snr_db": float(snr)}
