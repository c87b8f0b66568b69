"""A report against an earlier one, and judging without building."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_reports import BARE, FULL, MACHINE, OPS, audit, measurement, op

from edgekit.baseline import against, judge_again, recorded_limits
from edgekit.errors import InputError
from edgekit.project import Limits
from edgekit.report import json
from edgekit.report.model import Report


def verdicts(report: Report, baseline: Report = FULL) -> dict[str, tuple[str, str]]:
    """Status and text by gate."""
    found = against(report, baseline)
    return {verdict.gate.removeprefix("baseline "): (verdict.status, verdict.text) for verdict in found}


def test_nothing_changed() -> None:
    found = verdicts(replace(FULL, latency=measurement(0.22)))
    assert found == {
        "contract": ("pass", "inputs and outputs as before"),
        "size": ("pass", "304.9 KB, it was 304.9 KB"),
        "macs": ("pass", "3.98 M, it was 3.98 M"),
        "parameters": ("pass", "270 k, it was 270 k"),
        "moved": ("pass", "0 B, it was 0 B"),
        "float_ops": ("pass", "0 float ops, it was 0"),
        "accuracy": ("pass", "80.62 %, it was 80.62 %"),
        "latency_p50": ("pass", "0.220 ms, it was 0.232 ms (0.92x to 0.98x)"),
    }


def test_costs_that_the_bytes_tell_may_not_grow() -> None:
    grown = replace(FULL, audit={**FULL.audit, "moved_bytes": 102, "arena_bytes": 64})
    found = verdicts(grown, replace(FULL, audit={**FULL.audit, "moved_bytes": 100, "arena_bytes": 64}))
    assert found["moved"] == ("fail", "102 B, it was 100 B") and found["arena"] == ("pass", "64 B, it was 64 B")
    assert verdicts(FULL, grown)["arena"] == ("fail", "nothing, it was 64 B")


def test_a_changed_contract_fails() -> None:
    port = {**FULL.contract["inputs"][0], "scale": 0.02, "zero_point": -13}
    status, said = verdicts(replace(FULL, contract={**FULL.contract, "inputs": [port]}))["contract"]
    assert status == "fail"
    assert said == "2 changes: image.scale: 0.0186584 became 0.02; image.zero_point: -14 became -13"


def test_growth_within_the_tolerance_passes() -> None:
    def size(factor: float) -> str:
        grown = replace(FULL.artifact, bytes=round(FULL.artifact.bytes * factor))
        return verdicts(replace(FULL, artifact=grown))["size"][0]

    assert (size(1.009), size(1.011), size(0.5)) == ("pass", "fail", "pass")


def test_a_new_float_op_fails() -> None:
    found = verdicts(replace(FULL, audit=audit(*OPS, op("exp", "EXP", integer=False))))["float_ops"]
    assert found == ("fail", "1 float op, it was 0")
    assert verdicts(replace(FULL, audit={}))["float_ops"][0] == "fail"


def test_lost_accuracy_fails() -> None:
    assert FULL.evaluation is not None
    lost = replace(FULL.evaluation, artifact_value=0.79)
    assert verdicts(replace(FULL, evaluation=lost))["accuracy"] == ("fail", "79.00 %, it was 80.62 %")
    assert verdicts(replace(FULL, evaluation=None))["accuracy"] == (
        "fail",
        "nothing to compare: no metric was evaluated, it was top1",
    )
    other = replace(FULL.evaluation, metric="top5")
    assert verdicts(replace(FULL, evaluation=other))["accuracy"][1] == (
        "nothing to compare: top5 was evaluated, it was top1"
    )
    assert "accuracy" not in verdicts(FULL, replace(FULL, evaluation=None))


@pytest.mark.parametrize(("p50", "status"), [(0.2, "pass"), (0.232, "inconclusive"), (0.3, "fail")])
def test_latency(p50: float, status: str) -> None:
    assert verdicts(replace(FULL, latency=measurement(p50)))["latency_p50"][0] == status


def test_latency_of_another_machine_is_left_out() -> None:
    elsewhere = measurement(9.9, machine={**MACHINE, "cpu": "another"})
    assert "latency_p50" not in verdicts(replace(FULL, latency=elsewhere))
    assert "latency_p50" not in verdicts(replace(FULL, latency=measurement(9.9, threads=2)))


def test_latency_that_is_no_longer_measured_fails() -> None:
    assert verdicts(replace(FULL, latency=None))["latency_p50"] == (
        "fail",
        "nothing was measured: the artifact was not timed",
    )
    assert "latency_p50" not in verdicts(FULL, replace(FULL, latency=None))


def stored(folder: Path, report: Report) -> Path:
    """The report as a file."""
    folder.mkdir(exist_ok=True)
    path = folder / "report.json"
    path.write_text(json.render(report), encoding="utf-8")
    return path


def test_recorded_limits() -> None:
    assert recorded_limits(FULL) == Limits(size_bytes=320_000, accuracy_drop=0.005)
    assert recorded_limits(BARE) == Limits()


def test_judging_again_by_the_recorded_limits(tmp_path: Path) -> None:
    stored(tmp_path / "a", FULL)
    (report,) = judge_again([tmp_path / "a"], None, None, None)
    assert [(verdict.gate, verdict.status) for verdict in report.gates] == [("size", "pass"), ("accuracy_drop", "pass")]


def test_judging_again_by_a_project(tmp_path: Path) -> None:
    path = stored(tmp_path, FULL)
    config = tmp_path / "edgekit.toml"
    config.write_text('[gates]\nsnr = 20\n[gates.raspberry-pi-4-litert]\nsize = "300 KB"\n')
    (report,) = judge_again([path], config, path, 0.5)
    assert [(verdict.gate, verdict.status) for verdict in report.gates[:3]] == [
        ("size", "fail"),
        ("snr", "pass"),
        ("baseline contract", "pass"),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "no limits to hold it against: give --config with [gates], or --baseline"),
        ({"tolerance": 0.1}, "--tolerance goes with --baseline, and is at least 0"),
    ],
)
def test_nothing_to_judge_by(flags: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        judge_again([stored(tmp_path, BARE)], None, None, flags.get("tolerance"))
    assert message in str(error.value)
