"""Gates: a limit holds, is broken, or cannot be decided, and each says why."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from sample_reports import BARE, FULL, audit, op

from edgekit.gate import GATES, exit_code, judge, status
from edgekit.project import Limits
from edgekit.report.model import Evaluation, Fidelity, Instructions, Report, Verdict

COUNT = Instructions(12_096_380, "valgrind", "ai-edge-litert 2.3.0", "a CPU", "x86_64")
NATIVE = replace(FULL, target={"name": "linux-x86_64-litert", "architecture": "x86_64"}, instructions=COUNT)


def only(report: Report, **limit: float) -> Verdict:
    """The one verdict on the one limit."""
    (verdict,) = judge(report, Limits(**limit))  # type: ignore[arg-type]
    return verdict


@pytest.mark.parametrize(
    ("limit", "wanted", "text"),
    [
        ({"size_bytes": 304_944}, "pass", "304.9 KB, at most 304.9 KB"),
        ({"size_bytes": 304_943}, "fail", "304.9 KB, at most 304.9 KB"),
        ({"accuracy": 0.8062}, "pass", "80.62 %, at least 80.62 %"),
        ({"accuracy": 0.81}, "fail", "80.62 %, at least 81.00 %"),
        ({"accuracy_drop": 0.0006}, "pass", "0.06 points, at most 0.06 points"),
        ({"accuracy_drop": 0.0005}, "fail", "0.06 points, at most 0.05 points"),
        ({"agreement": 0.98}, "pass", "98.60 %, at least 98.00 %"),
        ({"agreement": 0.99}, "fail", "98.60 %, at least 99.00 %"),
        ({"snr_db": 25.0}, "pass", "27.8 dB, at least 25.0 dB"),
        ({"snr_db": 30.0}, "fail", "27.8 dB, at least 30.0 dB"),
        ({"float_ops": 0}, "pass", "0 float ops, at most 0 float ops"),
        ({"memory_bytes": 50_000_000}, "pass", "41.3 MB, at most 50.0 MB"),
        ({"instructions": 12_096_380}, "pass", "12.1 M, at most 12.1 M"),
        ({"instructions": 12_000_000}, "fail", "12.1 M, at most 12.0 M"),
        ({"memory_bytes": 40_000_000}, "fail", "41.3 MB, at most 40.0 MB"),
        ({"latency_p50_ms": 0.3}, "pass", "0.232 ms, at most 0.300 ms"),
        ({"latency_p50_ms": 0.2}, "fail", "0.232 ms, at most 0.200 ms"),
        ({"latency_p90_ms": 0.3}, "pass", "0.248 ms, at most 0.300 ms"),
        ({"latency_p99_ms": 0.4}, "pass", "0.304 ms, at most 0.400 ms"),
    ],
)
def test_verdicts(limit: dict[str, float], wanted: str, text: str) -> None:
    verdict = only(NATIVE, **limit)
    assert (verdict.status, verdict.text) == (wanted, text)


def test_a_float_difference_of_shares_is_forgiven() -> None:
    found = Evaluation("top1", 5000, 0.8068, 0.8018, 0.8068 - 0.8018)
    assert found.drop > 0.005
    assert only(replace(NATIVE, evaluation=found), accuracy_drop=0.005).status == "pass"


def test_a_limit_within_the_noise_is_inconclusive() -> None:
    verdict = only(NATIVE, latency_p50_ms=0.235)
    assert verdict.status == "inconclusive"
    assert verdict.text == "0.232 ms, at most 0.235 ms: it may be anything from 0.230 ms to 0.237 ms"


def test_too_few_runs_do_not_tell_a_high_quantile() -> None:
    assert FULL.latency is not None
    few = replace(NATIVE, latency=replace(FULL.latency, runs=50))
    assert only(few, latency_p90_ms=1).status == "pass"
    verdict = only(few, latency_p99_ms=1)
    assert (verdict.status, verdict.text) == (
        "inconclusive",
        "0.304 ms, at most 1.00 ms: 50 runs cannot tell it, 100 are needed",
    )


@pytest.mark.parametrize("limit", [{"latency_p50_ms": 4}, {"memory_bytes": 5}])
def test_another_kind_of_machine_proves_nothing(limit: dict[str, float]) -> None:
    verdict = only(FULL, **limit)
    assert verdict.status == "inconclusive"
    assert verdict.text.endswith("measured on x86_64, not on the target's arm64")


def test_the_same_machine_under_another_name() -> None:
    assert FULL.latency is not None
    pi = replace(FULL, latency=replace(FULL.latency, machine={"architecture": "aarch64"}))
    assert only(pi, latency_p50_ms=4).status == "pass"


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ({"accuracy": 0.8}, "at least 80.00 % wanted, nothing was measured: evaluation.data is not set"),
        (
            {"agreement": 0.9},
            "at least 90.00 % wanted, nothing was measured: evaluation.data is not set, or there are no scores",
        ),
        ({"snr_db": 20.0}, "at least 20.0 dB wanted, nothing was measured: the artifact was not verified"),
        ({"latency_p50_ms": 4.0}, "at most 4.00 ms wanted, nothing was measured: the artifact was not timed"),
        (
            {"latency_p90_ms": 4.0},
            "at most 4.00 ms wanted, nothing was measured: not timed, or by a binary that tells its median alone",
        ),
        ({"memory_bytes": 4000}, "at most 4.00 KB wanted, nothing was measured: the artifact was not timed"),
    ],
)
def test_what_was_not_measured_fails(limit: dict[str, float], why: str) -> None:
    verdict = only(BARE, **limit)
    assert (verdict.status, verdict.value, verdict.text) == ("fail", None, why)


def test_what_was_not_audited_fails() -> None:
    verdict = only(replace(BARE, audit={}), float_ops=0)
    assert (verdict.status, verdict.text) == (
        "fail",
        "at most 0 float ops wanted, nothing was measured: the artifact was not audited",
    )


def test_no_number_is_no_pass() -> None:
    verdict = only(replace(FULL, fidelity=Fidelity(1, {"a": 30.0, "b": math.nan})), snr_db=20)
    assert (verdict.status, verdict.text) == (
        "fail",
        "at least 20.0 dB wanted, nothing was measured: it is not a number",
    )


def test_the_worst_output_counts() -> None:
    assert only(replace(FULL, fidelity=Fidelity(1, {"a": 30.0, "b": 10.0})), snr_db=20).value == 10.0


def test_float_ops_are_counted_in_the_audit() -> None:
    report = replace(FULL, audit=audit(op("a", "CONV_2D"), op("b", "EXP", integer=False)))
    assert only(report, float_ops=0).status == "fail"
    assert only(report, float_ops=1).status == "pass"


def test_no_limit_no_verdict() -> None:
    assert judge(FULL, Limits()) == ()


@pytest.mark.parametrize(("flash", "wanted"), [(1_048_576, "pass"), (262_144, "fail")])
def test_the_flash_of_the_device_is_a_limit(flash: int, wanted: str) -> None:
    (verdict,) = judge(replace(FULL, target={**FULL.target, "flash_bytes": flash}), Limits())
    assert (verdict.gate, verdict.status) == ("flash", wanted)


@pytest.mark.parametrize(
    ("arena", "planned", "wanted"), [(65_536, 65_536, "pass"), (65_536, 65_537, "fail"), (1, None, "fail")]
)
def test_the_arena_of_the_device_is_a_limit(arena: int, planned: int | None, wanted: str) -> None:
    report = replace(FULL, target={**FULL.target, "arena_bytes": arena}, audit={**FULL.audit, "arena_bytes": planned})
    (verdict,) = judge(report, Limits())
    assert (verdict.gate, verdict.status) == ("arena of the device", wanted)


@pytest.mark.parametrize("name", ["macs", "parameters", "moved_bytes", "arena_bytes"])
def test_costs_that_the_bytes_tell_are_limits(name: str) -> None:
    report = replace(FULL, audit={**FULL.audit, name: 1000})
    assert only(report, **{name: 1000}).status == "pass"
    assert only(report, **{name: 999}).status == "fail"


def test_every_limit_has_a_gate() -> None:
    assert {gate.field for gate in GATES} == set(Limits.__dataclass_fields__)


@pytest.mark.parametrize(
    ("statuses", "code", "word"),
    [
        ([], 0, "no gates"),
        (["pass", "pass"], 0, "pass"),
        (["pass", "inconclusive"], 3, "inconclusive"),
        (["inconclusive", "fail", "pass"], 1, "fail"),
    ],
)
def test_exit_code(statuses: list[str], code: int, word: str) -> None:
    verdicts = [Verdict("size", 1.0, 1.0, status, "") for status in statuses]
    assert (exit_code(verdicts), status(verdicts)) == (code, word)
