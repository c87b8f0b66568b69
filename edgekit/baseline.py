"""A report against an earlier one, and the limits that a report was judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.contract import Contract
from edgekit.errors import InputError
from edgekit.gate import FAIL, GATES, INCONCLUSIVE, PASS, SLACK, Gate, exit_code, judge
from edgekit.growth import EXACT, SHARES, TIMED, Growth
from edgekit.output import prepare_folder, write
from edgekit.report import json, text
from edgekit.report.model import Report, Verdict

if TYPE_CHECKING:
    from edgekit.project import Limits, Project


def recorded_limits(report: Report) -> Limits:
    """The limits behind the verdicts of a report."""
    from edgekit.project import Limits

    fields = {gate.name: gate.field for gate in GATES}
    found = {fields[verdict.gate]: verdict.limit for verdict in report.gates if verdict.gate in fields}
    return Limits(**found)  # type: ignore[arg-type]


def judge_again(
    paths: Sequence[Path], config: Path | None, baseline: Path | None, tolerance: float | None
) -> list[Report]:
    """The reports at ``paths`` with new verdicts: on the limits of ``config`` (else their own), then on ``baseline``.

    A path is a report.json or the folder that it is in. A baseline that is not there yet becomes a copy of the report,
    once that passed. Raises InputError, also when there is nothing to judge by.
    """
    from edgekit.project import load_project

    project = load_project(config) if config is not None else None
    growth = project.growth if project else Growth()
    first = baseline is not None and not baseline.exists()
    if tolerance is not None and (baseline is None or not 0 <= tolerance < inf):
        raise InputError("--tolerance goes with --baseline, and is at least 0")
    if tolerance is not None:
        growth = replace(growth, tolerance=tolerance)
    if baseline is not None and first and baseline.suffix != ".json":
        raise InputError(f"{baseline}: no such folder; a first baseline is written to a .json file")
    if first and len(paths) > 1:
        raise InputError(f"{baseline}: there is no baseline yet, and it can be made from one report, not {len(paths)}")
    judged = []
    for path in paths:
        report = read_report(path)
        limits = project.limits(str(report.target.get("name", ""))) if project else recorded_limits(report)
        verdicts = judge(report, limits)
        kept = baseline or (own(report, project) if project else None)
        if kept is not None and kept.exists():
            verdicts += against(report, read_report(kept), growth)
        if not verdicts and not first:
            raise InputError(f"{path}: no limits to hold it against: give --config with [gates], or --baseline")
        judged.append(replace(report, gates=verdicts))
    if baseline is not None and first:
        keep_first(judged[0], baseline)
    return judged


def held(report: Report, project: Project) -> tuple[Verdict, ...]:
    """The verdicts against the project's own baseline of the report's target; none where there is none yet."""
    before = earlier(str(report.target.get("name", "")), project)
    return against(report, before, project.growth) if before else ()


def earlier(target: str, project: Project) -> Report | None:
    """The project's own baseline of a target; None where there is none yet. Raises InputError for a broken one."""
    path = project.growth.path(project.folder, target)
    return read_report(path) if path and path.exists() else None


def own(report: Report, project: Project) -> Path | None:
    """Where the project keeps the baseline of the report's target."""
    return project.growth.path(project.folder, str(report.target.get("name", "")))


def keep_first(report: Report, path: Path) -> bool:
    """Make a report the baseline where there is none and all its gates hold; whether it is one now."""
    if path.exists() or exit_code(report.gates) != 0:
        return False
    prepare_folder(path.parent)
    write(path, json.render(report))
    return True


def read_report(path: Path) -> Report:
    """The report in a file, or in the report.json of a folder. Raises InputError."""
    return json.read(path / "report.json" if path.is_dir() else path)


def against(report: Report, baseline: Report, growth: Growth | None = None) -> tuple[Verdict, ...]:
    """A verdict for the contract, and for every gate that ``growth`` (by default that of no project) lets judge.

    Raises InputError where the two are of different targets.
    """
    growth, (mine, other) = growth or Growth(), (str(each.target.get("name", "")) for each in (report, baseline))
    if mine != other:
        raise InputError(f"the baseline is one of target {other}, the report one of {mine}")
    found = [_contract(report, baseline)]
    for gate in GATES:
        allowed = growth.allowed(gate.name)
        if allowed is not None and _comparable(gate, report, baseline, growth):
            found.append(_grown(gate, report, baseline, allowed))
    return tuple(found)


def _comparable(gate: Gate, report: Report, baseline: Report, growth: Growth) -> bool:
    """Whether a gate is to be judged: what it looks at is known of the baseline, and was found in the same way."""
    asked = growth.asked(gate.name)
    if gate.value(baseline) is None:
        return False
    if gate.quantile is not None or gate.name == "memory":
        on_devices = gate.name in TIMED and bool(report.device and baseline.device)
        return (asked or on_devices) and _same_machine(report, baseline)
    if gate.name == "instructions":
        return _counted_alike(report, baseline, asked)
    return asked or gate.name in (*EXACT, "float_ops", "accuracy")


def _contract(report: Report, baseline: Report) -> Verdict:
    changes = Contract.from_json(baseline.contract).differences(Contract.from_json(report.contract))
    said = f"{text.plural(len(changes), 'change')}: {'; '.join(changes)}" if changes else "inputs and outputs as before"
    return Verdict("baseline contract", 0.0, float(len(changes)), FAIL if changes else PASS, said)


def _grown(gate: Gate, report: Report, baseline: Report, allowed: float) -> Verdict:
    """What a gate finds, against what it found."""
    if gate.name == "accuracy":
        return _accuracy(report, baseline, allowed)
    if gate.quantile is not None:
        return _latency(gate, report, baseline, allowed)
    before, value = gate.value(baseline), gate.value(report)
    assert before is not None
    limit = before * (1 + allowed) if gate.name in SHARES else before + (-allowed if gate.at_least else allowed)
    if value is None:
        holds = False
    else:
        holds = value >= limit - SLACK if gate.at_least else value <= limit + SLACK
    said = f"{'nothing' if value is None else gate.show(value)}, it was {gate.show(before)}"
    return Verdict(f"baseline {gate.name}", limit, value, PASS if holds else FAIL, said)


def _accuracy(report: Report, baseline: Report, tolerance: float) -> Verdict:
    before = baseline.evaluation
    assert before is not None
    limit = before.artifact_value - tolerance
    found = report.evaluation
    if found is None or found.metric != before.metric:
        what = "no metric" if found is None else found.metric
        said = f"nothing to compare: {what} was evaluated, it was {before.metric}"
        return Verdict("baseline accuracy", limit, None, FAIL, said)
    value = found.artifact_value
    said = f"{text.percent(value)}, it was {text.percent(before.artifact_value)}"
    return Verdict("baseline accuracy", limit, value, PASS if value >= limit - SLACK else FAIL, said)


def _same_machine(report: Report, baseline: Report) -> bool:
    """Whether both were timed alike; times of two machines say nothing of each other."""
    now, before = report.latency, baseline.latency
    if now is None or before is None:
        return before is not None and now is None
    alike = ("cpu", "board", "architecture", "cores")
    return (now.runtime, now.threads) == (before.runtime, before.threads) and all(
        now.machine.get(key) == before.machine.get(key) for key in alike
    )


def _counted_alike(report: Report, baseline: Report, asked: bool) -> bool:
    """Whether the same counter counted the same runtime on the same kind of machine, or none although it was asked."""
    now, before = report.instructions, baseline.instructions
    if now is None or before is None:
        return asked and before is not None
    return replace(now, count=0) == replace(before, count=0)


def _latency(gate: Gate, report: Report, baseline: Report, tolerance: float) -> Verdict:
    now, before = report.latency, baseline.latency
    found, was = gate.value(report), gate.value(baseline)
    assert before is not None and was is not None
    limit, name = was * (1 + tolerance), f"baseline {gate.name}"
    if now is None or found is None:
        return Verdict(name, limit, None, FAIL, "nothing was measured: the artifact was not timed")
    now_interval, before_interval = getattr(now, gate.interval), getattr(before, gate.interval)
    low, high = now_interval[0] / before_interval[1], now_interval[1] / before_interval[0]
    status = PASS if high <= 1 + tolerance else FAIL if low > 1 + tolerance else INCONCLUSIVE
    said = f"{text.milliseconds(found)}, it was {text.milliseconds(was)} ({low:.2f}x to {high:.2f}x)"
    return Verdict(name, limit, found, status, said)
