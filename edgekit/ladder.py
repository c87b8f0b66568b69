"""The ladder of ``[calibration] method = "auto"``: the cheapest way to int8 with which the accuracy gates hold.

The first rungs cost seconds of the build only; the artifact is as large and as fast. Then the fewest layers leave int8,
those around the scales that cost most: for activations of 16 bits or for float, whichever the artifact pays less for.
Then, with labelled data, the network is trained with its tensors rounded. The first rung on which the gates of all
targets hold is built; where none does, the best one is, and the gates say so.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgekit import compression, emit, gate, lifting
from edgekit.built import Built, Prepared
from edgekit.diagnose.built import sensitivity_of, subject_of
from edgekit.diagnose.sensitivity import Sensitivity, Subject
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.graph import units
from edgekit.output import write
from edgekit.project import Project
from edgekit.quant.from_qdq import Lifted
from edgekit.report import text
from edgekit.report.model import Rung
from edgekit.reporting import report_of
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
LEAST_GAIN = 0.5  # dB, for which more layers are lifted
PATIENCE = 2  # trials in a row that may win too little: noise of one layer hides behind another's, or another output's
SPLIT = "outputs in parts"
MIXED, TRAINED = "mixed", "quantize-aware training"
TRAINING = {"method": "quantize-aware", "epochs": 5, "rate": 0.005}
LIMITS = {found.name: found.field for found in gate.GATES if found.name in gate.ACCURACY}


def refuse_idle(project: Project, targets: Sequence[str]) -> None:
    """Raises ConfigError where nothing says which rung is good enough, or nothing that could find out."""
    if project.calibration.method != "auto":
        return
    for target in targets:
        limits = project.limits(target)
        set_limits = [name for name, field in LIMITS.items() if getattr(limits, field) is not None]
        if not set_limits:
            wanted = f"one of {', '.join(gate.ACCURACY)} in [gates]"
            raise ConfigError(f"{project.file}:calibration.method: auto needs a gate to climb for: {wanted} ({target})")
        if project.evaluation.data is None and set_limits != ["snr"]:
            said = f"the gate {set_limits[0]} needs [evaluation] data; snr needs none"
            raise ConfigError(f"{project.file}:calibration.method: auto: {said} ({target})")


def climb(made: Prepared) -> Sequence[Built]:
    """The artifacts of the rung that is chosen; ``made.work`` goes on as that rung's, and knows every rung tried."""
    return _Climb(made).chosen()


@dataclass(frozen=True)
class _Trial:
    """What one rung gave. ``fits`` says whether the gates hold on the artifacts' bytes, as that of size."""

    work: Work
    found: Sequence[Built]
    rungs: Sequence[Rung]
    fits: bool

    @property
    def holds(self) -> bool:
        return self.rungs[0].holds

    @property
    def score(self) -> float:
        """What tells two rungs apart that both miss: the metric, else the signal-to-noise ratio."""
        values = (rung.metric if rung.metric is not None else rung.snr_db for rung in self.rungs)
        return min(float("-inf") if value is None else value for value in values)

    @property
    def snr_db(self) -> float:
        """The signal-to-noise ratio of the worst output of all targets."""
        return min(float("-inf") if rung.snr_db is None else rung.snr_db for rung in self.rungs)

    @property
    def cost(self) -> tuple[bool, float]:
        """What tells two apart that both hold: first whether they fit, then the product of all sizes and latencies."""
        return not self.fits, math.prod(rung.bytes * (rung.p50_ms or math.inf) for rung in self.rungs)


class _Climb:
    """One climb under way."""

    def __init__(self, made: Prepared) -> None:
        self._made, self._work = made, made.work
        self._tried: list[_Trial] = []
        self._held: list[_Trial] = []
        self._problems: list[str] = []

    def chosen(self) -> Sequence[Built]:
        """Climb, and take the rung on which the gates hold, of two the cheaper, or the best."""
        for rung in (self._calibrated, self._split, self._mixed, self._trained):
            self._held = [trial for trial in rung() if trial is not None and trial.holds]
            if self._held:
                break
        if not self._tried:
            raise UnsupportedError(self._problems)
        held = self._held
        best = min(held, key=lambda t: t.cost) if held else self._best
        work = self._work
        work.rungs = [replace(rung, chosen=trial is best) for trial in self._tried for rung in trial.rungs]
        work.project, work.config, work.stages = best.work.project, best.work.config, best.work.stages
        work.warnings += [warning for warning in best.work.warnings if warning not in work.warnings]
        return best.found

    @property
    def _best(self) -> _Trial:
        """The best rung so far, where none holds."""
        return max(self._tried, key=lambda trial: trial.score)

    def _calibrated(self) -> Iterator[_Trial | None]:
        """The rungs that change how the plan is drawn and weights are rounded, up to the first that holds."""
        for name, keys in WAYS.items():
            work = self._copy(self._work)
            work.project = replace(work.project, calibration=replace(work.project.calibration, **keys))
            work.config = replace(work.config, split_outputs=False)
            trial = self._try(name, work, lambda work: self._made.lifted)
            yield trial
            if trial is not None and trial.holds:
                break

    def _split(self) -> Iterator[_Trial | None]:
        """The best rung with outputs that join parts of very different ranges given in these, where that is allowed."""
        if not self._work.config.split_outputs or not self._tried:
            return
        work = self._copy(self._best.work)
        work.config = replace(work.config, split_outputs=True)
        if work.basis(self._made.lifted).joins:
            yield self._try(SPLIT, work, lambda work: self._made.lifted)

    def _mixed(self) -> Iterator[_Trial | None]:
        """The fewest layers in int16, and the fewest in float; of the two that hold, what costs less is kept."""
        if not self._tried:
            return
        base = self._best
        subject, found = self._sensitivity(base)
        known = {str(unit.node.name) for unit in units(base.found[0].lifted.graph.graph)}
        for to, refused in self._ways(base):
            yield self._fewest(base, to, lifting.candidates(subject, found, known, refused))

    def _ways(self, base: _Trial) -> Iterator[tuple[str, set[str] | None]]:
        """What layers can be lifted to, and the nodes that cannot be."""
        precisions = self._work.precisions
        without = [t.name for t, p in precisions.items() if p not in emit.WITH_INT16 or "int16x8" not in t.precisions]
        if without:
            self._work.warnings.append(f"ladder: {MIXED} with int16 is left out: {', '.join(without)} cannot have it")
        else:
            graph, config = base.found[0].lifted.graph, base.work.config
            refused = [emit.without_int16(graph, target, p, config) for target, p in precisions.items()]
            yield lifting.INT16, set().union(*refused)
        if any(self._work.project.limits(target.name).float_ops is not None for target in precisions):
            self._work.warnings.append(f"ladder: {MIXED} with float is left out: a gate limits float_ops")
        else:
            yield lifting.FLOAT, None

    def _sensitivity(self, base: _Trial) -> tuple[Subject, Sensitivity]:
        """What each scale of a rung costs."""
        subject = subject_of(base.work, base.found[0])
        with base.work.stage("sensitivity"):
            return subject, sensitivity_of(base.work, subject)

    def _fewest(self, base: _Trial, to: str, order: Sequence[lifting.Candidate]) -> _Trial | None:
        """Twice as many until the gates hold or little is left to gain, then fewer; in float never all."""
        fails, holds, count, most = 0, 0, 1, len(order) - (to == lifting.FLOAT)
        best, before, poor = None, base, 0
        while not holds and fails < most and poor < PATIENCE and (not fails or order[fails].gain_db > LEAST_GAIN):
            trial = self._lifted(base, to, order[:count])
            best = trial if trial and trial.holds else best
            if trial:
                poor = 0 if _pays(order[fails:], count - fails, trial.snr_db - before.snr_db) else poor + 1
                before = trial
            fails, holds, count = (fails, count, count) if best else (count, 0, min(2 * count, most))
        while holds - fails > 1:
            middle = (holds + fails) // 2
            trial = self._lifted(base, to, order[:middle])
            if trial and trial.holds:
                best, holds = trial, middle
            else:
                fails = middle
        return best

    def _lifted(self, base: _Trial, to: str, chosen: Sequence[lifting.Candidate]) -> _Trial | None:
        """Try with these layers lifted."""
        work = self._copy(base.work)
        work.config = lifting.lifted(work.config, to, chosen)
        count = sum(len(candidate.nodes) for candidate in chosen)
        return self._try(f"{MIXED}: {text.plural(count, 'layer')} in {to}", work, lambda work: self._made.lifted)

    def _trained(self) -> Iterator[_Trial | None]:
        """Quantization-aware training, where there is data and every layer of all precisions is int8."""
        work, training = self._copy(self._work), self._work.project.calibration.training
        if training is None or work.config.int16_nodes or set(work.precisions.values()) != {"int8"}:
            return
        from edgekit.compress.methods import read_step

        step = read_step({**TRAINING, "data": training}, self._work.project.file, 0)
        yield self._try(TRAINED, work, lambda work: compression.trained(work, self._made.trainable, step))

    def _refuse_unscored(self, built: Built) -> None:
        """Raises ConfigError for a gate of agreement where nothing is chosen: no rung would ever hold."""
        found, limits = built.evaluation, self._work.project.limits(built.target.name)
        if limits.agreement is not None and found is not None and found.agreement is None:
            said = "auto cannot climb for the gate agreement: the first output is not a score for each class"
            raise ConfigError(f"{self._work.project.file}:calibration.method: {said}; snr asks for none")

    def _copy(self, work: Work) -> Work:
        """Work with its own stages and warnings."""
        mine = copy.copy(work)
        mine.warnings, mine.stages = [], {target: list(done) for target, done in self._work.stages.items()}
        return mine

    def _try(self, name: str, work: Work, lifted: Callable[[Work], Lifted]) -> _Trial | None:
        """Build a rung's artifacts and judge them; nothing is left on disk but the cache. None where it cannot be."""
        started = time.perf_counter()
        try:
            with work.progress.task(f"rung: {name}"):
                found = work.built(lifted(work))
                for built in found:
                    work.judge(built, self._made.graph)
                    self._refuse_unscored(built)
        except UnsupportedError as error:
            self._work.warnings.append(f"ladder: {name} is left out: {error.problems[0]}")
            self._problems += [problem for problem in error.problems if problem not in self._problems]
            return None
        self._work._float_result = work._float_result
        reports = [report_of(work, built, found, self._made.facts) for built in found]
        verdicts = [v for report in reports for v in report.gates]
        holds = all(v.status == gate.PASS for v in verdicts if v.gate in gate.ACCURACY)
        fits = all(v.status != gate.FAIL or v.value is None for v in verdicts if v.gate not in gate.ACCURACY)
        seconds = time.perf_counter() - started
        rungs = [replace(_rung(name, built, holds, seconds), p50_ms=_glanced(work, built)) for built in found]
        trial = _Trial(work, found, rungs, fits)
        self._tried.append(trial)
        return trial


def _pays(order: Sequence[lifting.Candidate], count: int, won: float) -> bool:
    """Whether the first ``count`` won (dB) half of what they should."""
    left = order[count].gain_db if count < len(order) else 0.0
    return won > min(LEAST_GAIN, (order[0].gain_db - left) / 2)


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
