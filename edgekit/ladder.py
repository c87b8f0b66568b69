"""The ladder of ``[calibration] method = "auto"``: the cheapest way to int8 with which the accuracy gates hold.

Each rung costs more than the one below it, in seconds of the build only: none makes the artifact larger or slower. The
first one on which the gates of all targets hold is built; where none does, the best one is, and the gates say so.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from edgekit import gate
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.measure import glance
from edgekit.output import write
from edgekit.project import Project
from edgekit.quant.from_qdq import Lifted
from edgekit.report.model import Report, Rung, Verdict
from edgekit.stages import Built, Work


@dataclass(frozen=True)
class Way:
    """A rung: what it changes of ``[calibration]``."""

    name: str
    keys: Mapping[str, Any]


RANGES = {"rounding": "nearest", "equalize": False}
WAYS = (
    Way("plain", {**RANGES, "range": "minmax"}),
    Way("ranges", {**RANGES, "range": "mse"}),
    Way("equalize and correct", {"rounding": "reconstruct", "equalize": True, "range": "mse"}),
    Way("adaround", {"rounding": "adaround", "equalize": True, "range": "mse"}),
)
LIMITS = tuple(found.field for found in gate.GATES if found.name in gate.ACCURACY)


@dataclass(frozen=True)
class _Trial:
    """What one rung gave."""

    work: Work
    found: Sequence[Built]
    rungs: Sequence[Rung]
    score: float


def refuse_idle(project: Project, targets: Sequence[str]) -> None:
    """Raises ConfigError where nothing says which rung is good enough."""
    if project.calibration.method != "auto":
        return
    for target in targets:
        limits = project.limits(target)
        if all(getattr(limits, name) is None for name in LIMITS):
            wanted = f"one of {', '.join(gate.ACCURACY)} in [gates]"
            raise ConfigError(f"{project.file}:calibration.method: auto needs a gate to climb for: {wanted} ({target})")


def climb(work: Work, lifted: Lifted, graph: ir.Model, facts: dict[str, Any]) -> Sequence[Built]:
    """The artifacts of the rung that is chosen; ``work`` goes on as that rung's, and knows every rung tried."""
    tried: list[_Trial] = []
    for way in WAYS:
        try:
            tried.append(_tried(work, way, lifted, graph, facts))
        except UnsupportedError as error:
            work.warnings.append(f"ladder: {way.name} is left out: {error.problems[0]}")
            continue
        if tried[-1].rungs[0].holds:
            break
    best = next((trial for trial in tried if trial.rungs[0].holds), max(tried, key=lambda trial: trial.score))
    work.rungs = [replace(rung, chosen=trial is best) for trial in tried for rung in trial.rungs]
    work.project, work.stages = best.work.project, best.work.stages
    work.warnings += [warning for warning in best.work.warnings if warning not in work.warnings]
    return best.found


def _tried(work: Work, way: Way, lifted: Lifted, graph: ir.Model, facts: dict[str, Any]) -> _Trial:
    """Build a rung's artifacts and judge them; nothing is left on disk but the cache."""
    started, trial = time.perf_counter(), copy.copy(work)
    trial.project = replace(work.project, calibration=replace(work.project.calibration, **way.keys))
    trial.warnings, trial.stages = [], {target: list(done) for target, done in work.stages.items()}
    with work.progress.task(f"rung: {way.name}"):
        found = trial.built(lifted)
        for built in found:
            trial.judge(built, graph)
        reports = [trial.report(built, found, facts) for built in found]
        times = [_glanced(built) for built in found]
    holds = all(verdict.status == gate.PASS for report in reports for verdict in accuracy_of(report))
    seconds = time.perf_counter() - started
    rungs = [
        Rung(
            name=way.name,
            target=built.target.name,
            holds=holds,
            seconds=seconds,
            bytes=report.artifact.bytes,
            metric=report.evaluation.artifact_value if report.evaluation else None,
            agreement=report.evaluation.agreement if report.evaluation else None,
            snr_db=min(report.fidelity.outputs.values(), default=None) if report.fidelity else None,
            p50_ms=p50,
        )
        for built, report, p50 in zip(found, reports, times, strict=True)
    ]
    work._float_result = trial._float_result
    return _Trial(trial, found, rungs, min(map(_score, rungs)))


def accuracy_of(report: Report) -> list[Verdict]:
    """The verdicts of a report's accuracy gates."""
    return [verdict for verdict in report.gates if verdict.gate in gate.ACCURACY]


def _score(rung: Rung) -> float:
    """What tells two rungs apart that both miss: the metric, else the signal-to-noise ratio."""
    found = rung.metric if rung.metric is not None else rung.snr_db
    return float("-inf") if found is None else found


def _glanced(built: Built) -> float:
    """The median latency, by a short look."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        path = write(Path(folder) / built.path.name, built.artifact.data)
        return glance(path, built.target.threads).p50_ms
