"""``[calibration] method = "auto"``: the first rung on which the accuracy gates hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_graphs import Builder

from edgekit.build import build
from edgekit.compress import adaround
from edgekit.errors import ConfigError
from edgekit.project import load_project
from edgekit.reference import serialize
from edgekit.report import html, markdown, terminal
from edgekit.report.model import Report

TFLITE, ONNX = TARGETS = ("raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime")
PROJECT = """[model]
source = "net.onnx"
[calibration]
data = "data.npz"
method = "auto"
[gates]
"""


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdaRound's 1,000 steps a layer were most of the time; how well it rounds is not tested here."""
    monkeypatch.setattr(adaround, "STEPS", 10)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A network whose first layer makes channels of very different ranges, so that plain ranges lose the small ones."""
    b = Builder(5)
    draw, spread = np.random.default_rng(1), np.geomspace(0.03, 1, 8)
    wide = draw.normal(0, 0.2, (8, 3, 3, 3)) * spread.reshape(8, 1, 1, 1)
    narrow = draw.normal(0, 0.1, (8, 8, 3, 3)) / spread.reshape(1, 8, 1, 1)
    x = b.node("Relu", b.node("Conv", b.input(1, 3, 8, 8), b.const(wide.astype(np.float32)), pads=[1, 1, 1, 1]))
    x = b.node("Relu", b.node("Conv", x, b.const(narrow.astype(np.float32)), pads=[1, 1, 1, 1]))
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    model = b.model(b.node("Gemm", x, b.weights(5, 8), transB=1))
    (tmp_path / "net.onnx").write_bytes(serialize(model))
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(0, 1, (64, 3, 8, 8)).astype(np.float32))
    return tmp_path


def built(project: Path, gates: str, targets: tuple[str, ...] = TARGETS) -> list[Report]:
    file = project / "edgekit.toml"
    file.write_text(PROJECT + gates)
    return build(load_project(file), targets, project / "out")


def tried(report: Report) -> list[str]:
    return [rung.name for rung in report.rungs if rung.target == report.target["name"]]


def test_it_stops_at_the_first_rung_that_holds(project: Path) -> None:
    reports = built(project, "snr = 1\n")
    for report in reports:
        assert tried(report) == ["plain"] and report.gates[0].status == "pass"
        assert all(rung.holds and rung.chosen for rung in report.rungs) and len(report.rungs) == 2


def test_it_climbs_until_the_gates_of_all_targets_hold(project: Path) -> None:
    reports = built(project, "snr = 5\n")
    plain = min(rung.snr_db or 0.0 for rung in reports[0].rungs)
    reports = built(project, f"[gates.{ONNX}]\nsnr = {plain + 5}\n[gates.{TFLITE}]\nsnr = 1\n")
    assert tried(reports[0]) == tried(reports[1]) == ["plain", "ranges", "equalize and correct"]
    chosen = {rung.name for rung in reports[0].rungs if rung.chosen}
    assert chosen == {"equalize and correct"}
    assert {verdict.status for report in reports for verdict in report.gates} == {"pass"}
    assert reports[0].parity is not None and reports[0].parity.max_steps <= 1
    assert all(rung.bytes > 0 and rung.p50_ms and rung.seconds > 0 for rung in reports[0].rungs)
    for said in (html.render(reports[0]), markdown.render(reports), terminal.render(reports, 200)):
        assert "equalize and correct (chosen)" in said or "equalize and correct \\(chosen\\)" in said


def test_where_no_rung_holds_the_best_is_built_and_its_gate_fails(project: Path) -> None:
    (report,) = built(project, "snr = 200\nfloat_ops = 0\n", (TFLITE,))
    assert tried(report) == ["plain", "ranges", "equalize and correct", "adaround"]
    best = max(report.rungs, key=lambda rung: rung.snr_db or 0.0)
    assert best.chosen and sum(rung.chosen for rung in report.rungs) == 1
    assert {verdict.gate: verdict.status for verdict in report.gates} == {"snr": "fail", "float_ops": "pass"}
    assert "ladder: mixed is left out: a gate limits float_ops" in report.warnings
    assert report.fidelity is not None and min(report.fidelity.outputs.values()) == best.snr_db


def test_the_fewest_layers_that_are_enough_compute_in_float(project: Path) -> None:
    (whole,) = built(project, "snr = 200\n", (TFLITE,))
    found = {rung.name: rung.snr_db or 0.0 for rung in whole.rungs}
    names = list(found)
    four = names.index("mixed: 4 layers in float")
    less = max(found[name] for name in names[:four])  # int8, and 1 or 2 layers in float
    assert less < found[names[four]]
    (report,) = built(project, f"snr = {(less + found[names[four]]) / 2}\n", (TFLITE,))
    mixed = {rung.name: rung.holds for rung in report.rungs if rung.name.startswith("mixed")}
    chosen = next(rung for rung in report.rungs if rung.chosen)
    assert chosen.holds and report.gates[0].status == "pass" and report.artifact.precision == "mixed"
    assert len(mixed) == 4 and not mixed["mixed: 2 layers in float"] and mixed["mixed: 4 layers in float"]
    count = 3 if mixed["mixed: 3 layers in float"] else 4
    assert chosen.name == f"mixed: {count} layers in float"
    said = [warning for warning in report.warnings if "computes in float" in warning]
    assert len(said) == count and all("alone: " in warning for warning in said)


def test_without_a_gate_of_accuracy_there_is_nothing_to_climb_for(project: Path) -> None:
    said = r"edgekit.toml:calibration.method: auto needs a gate to climb for: one of accuracy, accuracy_drop, agreement"
    with pytest.raises(ConfigError, match=said):
        built(project, "size = '1 MB'\n")
