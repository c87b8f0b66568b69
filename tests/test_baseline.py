"""A report against an earlier one, and judging without building."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_reports import BARE, FULL, MACHINE, OPS, audit, measurement, op

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from edgekit.baseline import against, judge_again, recorded_limits
from edgekit.build import build
from edgekit.errors import InputError
from edgekit.gate import GATES
from edgekit.growth import DIFFERENCES, SHARES, Growth
from edgekit.project import Limits, Project, load_project, parse_project
from edgekit.report import json
from edgekit.report.model import Instructions, Report

TIMED = replace(FULL, device="pi")
COUNTED = replace(FULL, instructions=Instructions(12_000_000, "valgrind", "ai-edge-litert 2.3.0", "a CPU", "x86_64"))


def project(text: str) -> Project:
    return parse_project(tomllib.loads(text), Path(), "edgekit.toml")


def verdicts(report: Report, baseline: Report = FULL, growth: str = "") -> dict[str, tuple[str, str]]:
    """Status and text by gate; ``growth`` is the ``[baseline]`` of a project."""
    found = against(report, baseline, project(f"[baseline]\n{growth}").growth if growth else None)
    return {verdict.gate.removeprefix("baseline "): (verdict.status, verdict.text) for verdict in found}


def test_nothing_changed() -> None:
    found = verdicts(replace(TIMED, latency=measurement(0.22)), TIMED)
    assert found == {
        "contract": ("pass", "inputs and outputs as before"),
        "size": ("pass", "304.9 KB, it was 304.9 KB"),
        "macs": ("pass", "3.98 M, it was 3.98 M"),
        "parameters": ("pass", "270 k, it was 270 k"),
        "moved": ("pass", "0 B, it was 0 B"),
        "float_ops": ("pass", "0 float ops, it was 0 float ops"),
        "accuracy": ("pass", "80.62 %, it was 80.62 %"),
        "latency_p50": ("pass", "0.220 ms, it was 0.232 ms (0.92x to 0.98x)"),
    }


def test_a_baseline_of_another_target_is_none() -> None:
    other = replace(FULL, target={**FULL.target, "name": "linux-x86_64-onnxruntime"})
    with pytest.raises(InputError, match="the baseline is one of target linux-x86_64-onnxruntime, the report one of "):
        against(FULL, other)


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
    assert found == ("fail", "1 float op, it was 0 float ops")
    assert verdicts(replace(FULL, audit={}))["float_ops"] == ("fail", "nothing, it was 0 float ops")


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
    assert verdicts(replace(TIMED, latency=measurement(p50)), TIMED)["latency_p50"][0] == status


def test_latency_of_another_machine_is_left_out() -> None:
    elsewhere = measurement(9.9, machine={**MACHINE, "cpu": "another"})
    assert "latency_p50" not in verdicts(replace(TIMED, latency=elsewhere), TIMED)
    assert "latency_p50" not in verdicts(replace(TIMED, latency=measurement(9.9, threads=2)), TIMED)


def test_latency_of_a_build_machine_is_no_gate_unless_it_is_asked_for() -> None:
    slower = replace(FULL, latency=measurement(9.9))
    assert "latency_p50" not in verdicts(slower) and "latency_p50" not in verdicts(slower, TIMED)
    found = verdicts(slower, growth="latency_p50 = 0.1\nlatency_p90 = 0.5\nlatency_p99 = 99")
    assert [found[f"latency_p{rank}"][0] for rank in (50, 90, 99)] == ["fail", "fail", "pass"]


def test_latency_that_is_no_longer_measured_fails() -> None:
    untimed = replace(TIMED, latency=None)
    assert verdicts(untimed, TIMED)["latency_p50"] == ("fail", "nothing was measured: the artifact was not timed")
    assert "latency_p50" not in verdicts(TIMED, untimed)


def test_every_gate_can_be_held_against_a_baseline() -> None:
    assert FULL.evaluation is not None and FULL.fidelity is not None and FULL.latency is not None
    worse = replace(
        FULL,
        evaluation=replace(FULL.evaluation, drop=0.0106, agreement=0.976),
        fidelity=replace(FULL.fidelity, outputs={"logits": 25.8}),
        latency=replace(FULL.latency, peak_memory_bytes=43_000_000),
    )
    found = verdicts(worse, growth="accuracy_drop = 0.009\nagreement = 0.02\nsnr = 1.5\nmemory = 0.05")
    assert found["accuracy_drop"] == ("fail", "1.06 points, it was 0.06 points")
    assert found["agreement"] == ("pass", "97.60 %, it was 98.60 %")
    assert found["snr"] == ("fail", "25.8 dB, it was 27.8 dB")
    assert found["memory"] == ("pass", "43.0 MB, it was 41.3 MB")
    assert not {"accuracy_drop", "agreement", "snr", "memory"} & set(verdicts(worse))


def test_every_gate_has_its_kind_of_growth() -> None:
    assert sorted((*SHARES, *DIFFERENCES)) == sorted(gate.name for gate in GATES)


def test_a_project_says_what_may_be_lost() -> None:
    larger = replace(FULL, artifact=replace(FULL.artifact, bytes=2 * FULL.artifact.bytes))
    assert verdicts(larger, growth="size = 1.0")["size"][0] == "pass"
    assert verdicts(larger, growth="tolerance = 1.0")["size"][0] == "pass"
    assert verdicts(larger, growth="tolerance = 1.0\nsize = 0.5")["size"][0] == "fail"
    off = verdicts(larger, growth="size = false\nmoved = false\nfloat_ops = false\naccuracy = false")
    assert set(off) == {"contract", "macs", "parameters"}


def test_instructions_are_compared_where_they_were_counted_alike() -> None:
    assert COUNTED.instructions is not None

    def with_count(**changes: Any) -> Report:
        return replace(COUNTED, instructions=replace(COUNTED.instructions, **changes))

    more = with_count(count=12_200_000)
    assert verdicts(more, COUNTED)["instructions"] == ("fail", "12.2 M, it was 12.0 M")
    assert verdicts(more, COUNTED, "instructions = 0.02")["instructions"][0] == "pass"
    assert "instructions" not in verdicts(with_count(count=10**9, counter="perf"), COUNTED)
    assert "instructions" not in verdicts(FULL, COUNTED)
    assert verdicts(FULL, COUNTED, "instructions = 0.02")["instructions"] == ("fail", "nothing, it was 12.0 M")


def test_a_baseline_is_found_by_the_name_of_the_target(tmp_path: Path) -> None:
    growth = Growth("kept")
    assert growth.path(tmp_path, "pi") == tmp_path / "kept" / "pi.json" and Growth().path(tmp_path, "pi") is None
    now = stored(tmp_path / "now", replace(FULL, gates=()))
    config = tmp_path / "edgekit.toml"
    config.write_text('[baseline]\nfolder = "kept"\n')
    with pytest.raises(InputError, match="no limits to hold it against"):
        judge_again([now], config, None, None)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / f"{FULL.target['name']}.json").write_text(json.render(FULL), encoding="utf-8")
    (report,) = judge_again([now], config, None, None)
    assert "baseline size" in {verdict.gate for verdict in report.gates}


def test_a_broken_baseline_is_told_before_the_build_starts(tmp_path: Path) -> None:
    config, kept = tmp_path / "edgekit.toml", tmp_path / "kept" / "raspberry-pi-4-litert.json"
    config.write_text('[model]\nsource = "no such.onnx"\n[baseline]\nfolder = "kept"\n')
    kept.parent.mkdir()
    kept.write_text("broken")
    with pytest.raises(InputError, match=r"kept/raspberry-pi-4-litert\.json: not a report"):
        build(load_project(config), ["raspberry-pi-4-litert"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_is_a_number(tolerance: float, tmp_path: Path) -> None:
    path = stored(tmp_path, BARE)
    with pytest.raises(InputError, match="--tolerance goes with --baseline, and is at least 0"):
        judge_again([path], None, path, tolerance)
