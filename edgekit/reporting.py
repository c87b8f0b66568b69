"""What a build found out, as reports: put together, judged by their gates, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from edgekit import __version__, baseline, gate, verify
from edgekit.audit import audit
from edgekit.built import Built
from edgekit.output import write
from edgekit.reference import serialize
from edgekit.report import html
from edgekit.report import json as report_json
from edgekit.report.model import ArtifactFacts, CalibrationFacts, ModelFacts, Parity, Report
from edgekit.runners import ArtifactModel
from edgekit.samples import Samples
from edgekit.stages import Work


def model_facts(work: Work, graph: ir.Model, calibrated: bool) -> dict[str, Any]:
    """What all reports of this build say alike."""
    data = serialize(graph)
    checked = audit(data)
    model = ModelFacts(
        work.project.model.source, work.sha256(data), checked.parameters, checked.macs, len(data), checked.opset
    )
    config = work.project.calibration
    calibration = None
    if calibrated:
        calibration = CalibrationFacts(
            str(config.recipe or config.data), len(work.calibration), config.range, work.calibration.sha256
        )
    return {"model": model, "calibration": calibration}


def report_of(work: Work, built: Built, all_built: Sequence[Built], facts: dict[str, Any]) -> Report:
    """What was found out about one artifact, its gates judged."""
    other = next((b for b in all_built if b.target.format != built.target.format and b.plan == built.plan), None)
    checked, data = audit(built.artifact.data), built.artifact.data
    report = Report(
        edgekit=__version__,
        reproduce=work.command,
        target=built.target.to_json(),
        artifact=ArtifactFacts(
            str(built.path),
            built.target.format,
            len(data),
            work.sha256(data),
            checked.precision,
            built.packed,
        ),
        audit=checked.to_json(),
        contract=built.artifact.contract.to_json(),
        evaluation=built.evaluation,
        fidelity=built.fidelity,
        parity=_parity(built, other, work.judging) if other is not None and _integer_outputs(built) else None,
        latency=built.latency,
        float_latency=built.float_latency,
        device=work.device.name if work.device and built.latency else "",
        instructions=built.instructions,
        layer_times=built.layer_times,
        warnings=tuple(work.warnings),
        compression=tuple(work.compression),
        rungs=tuple(work.rungs),
        lifts=built.plan.lifts,
        stages=work.stages_of(built.target),
        **facts | _of_artifact(facts, built, work.project.calibration.range),
    )
    limits = work.project.limits(built.target.name)
    return replace(report, gates=(*gate.judge(report, limits), *baseline.held(report, work.project)))


def publish(work: Work, built: Built, report: Report, reports: Sequence[Report]) -> Report:
    """Write everything but the artifact, the report last; ``reports`` are those of all targets.

    A first baseline is written too, where the project keeps one.
    """
    folder = built.path.parent
    write(folder / "plan.json", json.dumps(built.plan.to_json(), indent=1) + "\n")
    write(folder / "contract.json", json.dumps(report.contract, indent=2) + "\n")
    write(folder / "report.html", html.render(report, reports))
    write(folder / "report.json", report_json.render(report))
    kept = baseline.own(report, work.project)
    if kept and baseline.keep_first(report, kept):
        work.progress.note(f"{kept}: there was no baseline; written: commit it")
    return report


def _of_artifact(facts: Mapping[str, Any], built: Built, way: str) -> dict[str, Any]:
    """What all reports say alike, and yet is one artifact's: the size in float, and how its ranges were drawn."""
    calibration = facts["calibration"]
    return {
        "model": replace(facts["model"], float_bytes=built.float_bytes),
        "calibration": replace(calibration, range=way, methods=built.methods) if calibration else None,
    }


def _integer_outputs(built: Built) -> bool:
    return all(port.name in built.plan for port in built.artifact.contract.outputs)


def _parity(built: Built, other: Built, samples: Samples) -> Parity:
    return verify.parity(
        ArtifactModel(built.artifact.data), ArtifactModel(other.artifact.data), samples, other.target.name
    )
