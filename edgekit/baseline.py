"""A report against an earlier one, and the limits that a report was judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.contract import Contract
from edgekit.errors import InputError
from edgekit.gate import FAIL, GATES, INCONCLUSIVE, PASS, SLACK, exit_code, float_ops, judge
from edgekit.output import prepare_folder, write
from edgekit.report import json, text
from edgekit.report.model import Report, Verdict

if TYPE_CHECKING:
    from edgekit.project import Limits

COSTS = ("size", "macs", "parameters", "moved", "arena")

TOLERANCE = 0.01
"""What may be lost against a baseline: a share of size and latency, and in accuracy this much of it all (1 point)."""


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
    first = baseline is not None and not baseline.exists()
    before = read_report(baseline) if baseline is not None and not first else None
    if tolerance is not None and (baseline is None or tolerance < 0):
        raise InputError("--tolerance goes with --baseline, and is at least 0")
    if baseline is not None and first and baseline.suffix != ".json":
        raise InputError(f"{baseline}: no such folder; a first baseline is written to a .json file")
    if first and len(paths) > 1:
        raise InputError(f"{baseline}: there is no baseline yet, and it can be made from one report, not {len(paths)}")
    judged = []
    for path in paths:
        report = read_report(path)
        if project is not None:
            verdicts = judge(report, project.limits(str(report.target.get("name", ""))))
        else:
            verdicts = judge(report, recorded_limits(report))
        if before is not None:
            verdicts += against(report, before, TOLERANCE if tolerance is None else tolerance)
        if not verdicts and not first:
            raise InputError(f"{path}: no limits to hold it against: give --config with [gates], or --baseline")
        judged.append(replace(report, gates=verdicts))
    if baseline is not None and first and exit_code(judged[0].gates) == 0:
        prepare_folder(baseline.parent)
        write(baseline, json.render(judged[0]))
    return judged


def read_report(path: Path) -> Report:
    """The report in a file, or in the report.json of a folder. Raises InputError."""
    return json.read(path / "report.json" if path.is_dir() else path)


def against(report: Report, baseline: Report, tolerance: float = TOLERANCE) -> tuple[Verdict, ...]:
    """A verdict for the contract, the costs, the accuracy, the float ops and the median latency of a baseline."""
    found = [_contract(report, baseline), *_costs(report, baseline, tolerance), _float_ops(report, baseline)]
    if baseline.evaluation is not None:
        found.append(_accuracy(report, baseline, tolerance))
    if _same_machine(report, baseline):
        found.append(_latency(report, baseline, tolerance))
    return tuple(found)


def _contract(report: Report, baseline: Report) -> Verdict:
    changes = Contract.from_json(baseline.contract).differences(Contract.from_json(report.contract))
    said = f"{text.plural(len(changes), 'change')}: {'; '.join(changes)}" if changes else "inputs and outputs as before"
    return Verdict("baseline contract", 0.0, float(len(changes)), FAIL if changes else PASS, said)


def _costs(report: Report, baseline: Report, tolerance: float) -> Iterator[Verdict]:
    """What the bytes of both tell, and the baseline knows: none may grow by more than the tolerance."""
    for gate in GATES:
        before = gate.value(baseline) if gate.name in COSTS else None
        if before is None:
            continue
        value, limit = gate.value(report), before * (1 + tolerance)
        said = f"{'nothing' if value is None else gate.show(value)}, it was {gate.show(before)}"
        yield Verdict(
            f"baseline {gate.name}", limit, value, PASS if value is not None and value <= limit else FAIL, said
        )


def _float_ops(report: Report, baseline: Report) -> Verdict:
    value, before = float_ops(report), float_ops(baseline)
    if value is None or before is None:
        return Verdict("baseline float_ops", before, value, FAIL, "nothing was measured: an artifact was not audited")
    said = f"{text.plural(int(value), 'float op')}, it was {before:.0f}"
    return Verdict("baseline float_ops", before, value, PASS if value <= before else FAIL, said)


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


def _latency(report: Report, baseline: Report, tolerance: float) -> Verdict:
    now, before = report.latency, baseline.latency
    assert before is not None
    limit = before.p50_ms * (1 + tolerance)
    if now is None:
        return Verdict("baseline latency_p50", limit, None, FAIL, "nothing was measured: the artifact was not timed")
    low, high = now.p50_interval_ms[0] / before.p50_interval_ms[1], now.p50_interval_ms[1] / before.p50_interval_ms[0]
    status = PASS if high <= 1 + tolerance else FAIL if low > 1 + tolerance else INCONCLUSIVE
    said = f"{text.milliseconds(now.p50_ms)}, it was {text.milliseconds(before.p50_ms)} ({low:.2f}x to {high:.2f}x)"
    return Verdict("baseline latency_p50", limit, now.p50_ms, status, said)
