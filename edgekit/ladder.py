"""The ladder of ``[calibration] method = "auto"``: the cheapest way to int8 with which the accuracy gates hold.

The first rungs cost seconds of the build only; the artifact is as large and as fast. Then the fewest layers compute in
float, those whose scales cost most; then, with labelled data, the network is trained with its tensors rounded.
The first rung on which the gates of all targets hold is built; where none does, the best one is, and the gates say so.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from edgekit import compression, gate
from edgekit.built import Built, Prepared
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.graph import units
from edgekit.output import write
from edgekit.project import Project
from edgekit.quant.from_qdq import Lifted
from edgekit.report import text
from edgekit.report.model import Rung
from edgekit.stages import Work
from edgekit.transports.connection import bench_on

NEAREST: Mapping[str, Any] = {"rounding": "nearest", "equalize": False}
EQUAL: Mapping[str, Any] = {"range": "mse", "equalize": True}
WAYS: Mapping[str, Mapping[str, Any]] = {  # what a rung changes of [calibration]
    "plain": {**NEAREST, "range": "minmax"},
    "ranges": {**NEAREST, "range": "mse"},
    "equalize and correct": {**EQUAL, "rounding": "reconstruct"},
    "adaround": {**EQUAL, "rounding": "adaround"},
}
MIXED, TRAINED = "mixed", "quantize-aware training"
TRAINING = {"method": "quantize-aware", "epochs": 5, "rate": 0.005}
LIMITS = tuple(found.field for found in gate.GATES if found.name in gate.ACCURACY)


def refuse_idle(project: Project, targets: Sequence[str]) -> None:
    """Raises ConfigError where nothing says which rung is good enough."""
    if project.calibration.method != "auto":
        return
    for target in targets:
        limits = project.limits(target)
        if all(getattr(limits, name) is None for name in LIMITS):
            wanted = f"one of {', '.join(gate.ACCURACY)} in [gates]"
            raise ConfigError(f"{project.file}:calibration.method: auto needs a gate to climb for: {wanted} ({target})")


def climb(made: Prepared) -> Sequence[Built]:
    """The artifacts of the rung that is chosen; ``made.work`` goes on as that rung's, and knows every rung tried."""
    return _Climb(made).chosen()


@dataclass(frozen=True)
class _Trial:
    """What one rung gave."""

    work: Work
    found: Sequence[Built]
    rungs: Sequence[Rung]

    @property
    def holds(self) -> bool:
        return self.rungs[0].holds

    @property
    def score(self) -> float:
        """What tells two rungs apart that both miss: the metric, else the signal-to-noise ratio."""
        values = (rung.metric if rung.metric is not None else rung.snr_db for rung in self.rungs)
        return min(float("-inf") if value is None else value for value in values)


class _Climb:
    """One climb under way."""

    def __init__(self, made: Prepared) -> None:
        self._made, self._work = made, made.work
        self._tried: list[_Trial] = []
        self._problems: list[str] = []

    def chosen(self) -> Sequence[Built]:
        """Climb, and take the last rung on which the gates hold, or the best."""
        for rung in (self._calibrated, self._mixed, self._trained):
            rung()
            if any(trial.holds for trial in self._tried):
                break
        if not self._tried:
            raise UnsupportedError(self._problems)
        held = [trial for trial in self._tried if trial.holds]
        best = held[-1] if held else max(self._tried, key=lambda trial: trial.score)
        work = self._work
        work.rungs = [replace(rung, chosen=trial is best) for trial in self._tried for rung in trial.rungs]
        work.project, work.config, work.stages = best.work.project, best.work.config, best.work.stages
        work.warnings += [warning for warning in best.work.warnings if warning not in work.warnings]
        return best.found

    def _calibrated(self) -> None:
        """The rungs that change how the plan is drawn and weights are rounded, up to the first that holds."""
        for name, keys in WAYS.items():
            work = self._copy(self._work)
            work.project = replace(work.project, calibration=replace(work.project.calibration, **keys))
            if self._try(name, work, lambda work: self._made.lifted):
                break

    def _mixed(self) -> None:
        """The fewest layers in float: twice as many until the gates hold, then fewer as long as they do; never all."""
        project, names = self._work.project, [target.name for target in self._work.precisions]
        if any(project.limits(name).float_ops is not None for name in names):
            self._work.warnings.append(f"ladder: {MIXED} is left out: a gate limits float_ops")
            return
        if not self._tried:
            return
        base = max(self._tried, key=lambda trial: trial.score)
        order = list(self._costly(base))
        fails, holds, count, most = 0, 0, 1, len(order) - 1
        while not holds and fails < most:
            held = self._lifted(base, order[:count])
            fails, holds, count = (fails, count, count) if held else (count, 0, min(2 * count, most))
        while holds - fails > 1:
            middle = (holds + fails) // 2
            fails, holds = (fails, middle) if self._lifted(base, order[:middle]) else (middle, holds)

    def _costly(self, trial: _Trial) -> Iterator[tuple[str, str]]:
        """Nodes whose scales alone cost the outputs most, each with the reason."""
        from edgekit.diagnose import sensitivity
        from edgekit.diagnose.built import subject_of

        subject = subject_of(trial.work, trial.found[0])
        with trial.work.stage("sensitivity"):
            found = sensitivity.measure(subject, trial.work.judging, trial.work.progress)
        makers = _makers(subject.form.model.graph)
        named: dict[str, str] = {}
        for effect in found.effects:
            reason = f"{effect.group.kind} of {effect.group.name} alone: {text.decibels(effect.snr_db)}"
            for tensor in effect.group.tensors:
                if tensor in makers:
                    named.setdefault(makers[tensor], reason)
        yield from named.items()

    def _lifted(self, base: _Trial, nodes: Sequence[tuple[str, str]]) -> bool:
        """Try with these nodes in float."""
        work = self._copy(base.work)
        names = tuple(name for name, _ in nodes)
        work.config = replace(work.config, float_nodes=(*work.config.float_nodes, *names), allow_float=True)
        work.warnings += [f"ladder: {name} computes in float ({reason})" for name, reason in nodes]
        return self._try(f"{MIXED}: {text.plural(len(nodes), 'layer')} in float", work, lambda work: self._made.lifted)

    def _trained(self) -> None:
        """Quantization-aware training, where there is data and every precision is int8."""
        work, training = self._copy(self._work), self._work.project.calibration.training
        if training is None or set(work.precisions.values()) != {"int8"}:
            return
        from edgekit.compress.methods import read_step

        step = read_step({**TRAINING, "data": training}, self._work.project.file, 0)
        self._try(TRAINED, work, lambda work: compression.trained(work, self._made.trainable, step))

    def _copy(self, work: Work) -> Work:
        """Work with its own stages and warnings."""
        mine = copy.copy(work)
        mine.warnings, mine.stages = [], {target: list(done) for target, done in self._work.stages.items()}
        return mine

    def _try(self, name: str, work: Work, lifted: Callable[[Work], Lifted]) -> bool:
        """Build a rung's artifacts and judge them; nothing is left on disk but the cache. Whether the gates hold."""
        started = time.perf_counter()
        try:
            with work.progress.task(f"rung: {name}"):
                found = work.built(lifted(work))
                for built in found:
                    work.judge(built, self._made.graph)
        except UnsupportedError as error:
            self._work.warnings.append(f"ladder: {name} is left out: {error.problems[0]}")
            self._problems += [problem for problem in error.problems if problem not in self._problems]
            return False
        self._work._float_result = work._float_result
        reports = [work.report(built, found, self._made.facts) for built in found]
        verdicts = [v for report in reports for v in report.gates if v.gate in gate.ACCURACY]
        holds = all(verdict.status == gate.PASS for verdict in verdicts)
        seconds = time.perf_counter() - started
        rungs = [replace(_rung(name, built, holds, seconds), p50_ms=_glanced(work, built)) for built in found]
        self._tried.append(_Trial(work, found, rungs))
        return holds


def _makers(graph: ir.Graph) -> dict[str, str]:
    """The node that makes each tensor, or that reads each constant."""
    found: dict[str, str] = {}
    for unit in units(graph):
        constants = [value for value in unit.node.inputs if value is not None and value.is_initializer()]
        found |= {str(value.name): str(unit.node.name) for value in (*unit.outputs, *constants)}
    return found


def _rung(name: str, built: Built, holds: bool, seconds: float) -> Rung:
    found, fidelity = built.evaluation, built.fidelity
    return Rung(
        name=name,
        target=built.target.name,
        holds=holds,
        seconds=seconds,
        bytes=len(built.artifact.data),
        metric=found.artifact_value if found else None,
        agreement=found.agreement if found else None,
        snr_db=min(fidelity.outputs.values(), default=None) if fidelity else None,
    )


def _glanced(work: Work, built: Built) -> float:
    """The median latency, by a short look at the device where one is named."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        path = write(Path(folder) / built.path.name, built.artifact.data)
        with bench_on(work.device) as bench:
            return bench.glance(path, work.threads(built.target)).p50_ms
