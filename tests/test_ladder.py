"""``[calibration] method = "auto"``: the first rung on which the accuracy gates hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_graphs import Array, Builder

from edgekit import emit, ladder, measure
from edgekit.audit import audit
from edgekit.build import build, prepared
from edgekit.built import Built, Prepared
from edgekit.compress import adaround
from edgekit.diagnose import sensitivity
from edgekit.diagnose.built import of_built
from edgekit.errors import ConfigError, DataError
from edgekit.lifting import Candidate
from edgekit.passes import prepare
from edgekit.project import QuantizationConfig, load_project
from edgekit.reference import serialize
from edgekit.report import html, markdown, terminal
from edgekit.report.model import Report
from edgekit.reporting import report_of
from edgekit.target import load_target

TFLITE, ONNX = TARGETS = ("raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime")
PROJECT = """[model]
source = "net.onnx"
[calibration]
data = "data.npz"
method = "auto"
[gates]
"""
OFFSET = 300.0
NARROW = """description = "none with 16 bits"
architecture = "arm64"
ram = "1 GiB"
cores = 4
runtime = "litert"
precisions = ["int8", "float32"]
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdaRound's 1,000 steps a layer, and processes of a look at the latency; neither is what is tested here."""
    monkeypatch.setattr(adaround, "STEPS", 10)
    monkeypatch.setattr(measure, "GLANCES", 1)
    monkeypatch.setattr(measure, "PROCESSES", 1)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rung before layers are lifted."""
    monkeypatch.setattr(ladder, "WAYS", {"plain": ladder.WAYS["plain"]})


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
    return written(tmp_path, b, b.node("Gemm", x, b.weights(5, 8), transB=1))


def far_from_zero(folder: Path, activation: str = "Relu", offset: float = OFFSET) -> Path:
    """A network with an offset between two layers, which only more bits keep."""
    b = Builder(5)
    weight = b.rng.integers(-126, 127, (8, 8, 1, 1)) * 0.005
    weight[:, 0] = 127 * 0.005  # so that rounding the weights loses nothing
    x = b.node("Conv", b.input(1, 3, 8, 8), b.weights(8, 3, 3, 3), b.const(np.full(8, offset)), pads=[1, 1, 1, 1])
    x = b.node("Conv", b.node(activation, x), b.const(weight), b.const(-offset * weight.sum((1, 2, 3))))
    x = b.node("Flatten", b.node("Relu", x))
    return written(folder, b, b.node("Gemm", x, b.weights(5, 512), transB=1))


def written(folder: Path, b: Builder, end: str) -> Path:
    """The network and its data in a folder."""
    (folder / "net.onnx").write_bytes(serialize(b.model(end)))
    np.savez(folder / "data.npz", x=images())
    return folder


def images() -> Array:
    """What all look at."""
    found: Array = np.random.default_rng(0).normal(0, 1, (32, 3, 8, 8)).astype(np.float32)
    return found


def made(project: Path, gates: str, targets: tuple[str, ...] = TARGETS) -> Prepared:
    """A build that is about to climb."""
    file = project / "edgekit.toml"
    file.write_text(PROJECT + gates)
    return prepared(load_project(file), targets, project / "out")


def climbed(project: Path, gates: str, targets: tuple[str, ...] = TARGETS) -> tuple[list[Report], list[Built]]:
    """The reports on the rung that is chosen, and its artifacts; their latency is not measured."""
    ready = made(project, gates, targets)
    found = ladder.climb(ready)
    return [report_of(ready.work, one, found, ready.facts) for one in found], list(found)


def tried(report: Report) -> list[str]:
    return [rung.name for rung in report.rungs if rung.target == report.target["name"]]


def test_it_climbs_until_the_gates_of_all_targets_hold_and_no_further(project: Path) -> None:
    reports, _ = climbed(project, "snr = 1\n")
    for report in reports:
        assert tried(report) == ["plain"] and report.gates[0].status == "pass"
        assert all(rung.holds and rung.chosen for rung in report.rungs) and len(report.rungs) == 2
        assert report.calibration is not None and report.calibration.range == "minmax"
    plain = min(rung.snr_db or 0.0 for rung in reports[0].rungs)
    gates = f"[gates.{ONNX}]\nsnr = {plain + 5}\n[gates.{TFLITE}]\nsnr = 1\n"
    (project / "edgekit.toml").write_text(PROJECT + gates)
    reports = build(load_project(project / "edgekit.toml"), TARGETS, project / "out")
    assert tried(reports[0]) == tried(reports[1]) == ["plain", "ranges", "equalize and correct"]
    chosen = {rung.name for rung in reports[0].rungs if rung.chosen}
    assert chosen == {"equalize and correct"}
    assert {verdict.status for report in reports for verdict in report.gates} == {"pass"}
    assert reports[0].parity is not None and reports[0].parity.max_steps <= 1
    assert all(rung.bytes > 0 and rung.p50_ms and rung.seconds > 0 for rung in reports[0].rungs)
    for said in (html.render(reports[0]), markdown.render(reports), terminal.render(reports, 200)):
        assert "equalize and correct (chosen)" in said or "equalize and correct \\(chosen\\)" in said


def test_where_no_rung_holds_the_best_is_built_and_its_gate_fails(project: Path) -> None:
    (report,), _ = climbed(project, "snr = 200\nfloat_ops = 0\n", (TFLITE,))
    assert tried(report)[:4] == ["plain", "ranges", "equalize and correct", "adaround"]
    assert all(name.endswith("in int16") for name in tried(report)[4:])
    best = max(report.rungs, key=lambda rung: rung.snr_db or 0.0)
    assert best.chosen and sum(rung.chosen for rung in report.rungs) == 1
    assert {verdict.gate: verdict.status for verdict in report.gates} == {"snr": "fail", "float_ops": "pass"}
    assert "ladder: mixed with float is left out: a gate limits float_ops" in report.warnings
    assert report.fidelity is not None and min(report.fidelity.outputs.values()) == best.snr_db


@pytest.mark.usefixtures("plain")
def test_the_fewest_layers_that_are_enough_have_sixteen_bits(tmp_path: Path) -> None:
    reports, found = climbed(far_from_zero(tmp_path), "snr = 20\nfloat_ops = 0\n")
    for report in reports:
        assert tried(report) == ["plain", "mixed: 2 layers in int16"]
        assert [rung.holds for rung in report.rungs] == [False, False, True, True]
        assert {verdict.status for verdict in report.gates} == {"pass"} and report.artifact.precision == "int8+int16x8"
        assert {lift.node: lift.to for lift in report.lifts} == {"conv0": "int16", "conv2": "int16"}
        assert all(lift.why.startswith("activations of relu1 alone: ") for lift in report.lifts)
    assert found[0].plan == found[1].plan
    assert reports[0].parity is not None and reports[0].parity.max_steps <= 2  # LiteRT multiplies with 16 bits there
    assert json.loads(json.dumps(found[0].plan.to_json()))["lifts"][0]["node"] == "conv0"
    for said in (html.render(reports[0]), markdown.render(reports), terminal.render(reports, 200)):
        assert "activations of relu1 alone" in said


@pytest.mark.usefixtures("plain")
def test_of_what_holds_the_cheapest_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"int8": 1.0, "int8+int16x8": 9.0, "mixed": 2.0}
    monkeypatch.setattr(ladder, "_glanced", lambda _, built: costs[audit(built.artifact.data).precision])
    folder = far_from_zero(tmp_path)
    (report,), _ = climbed(folder, "snr = 20\n", (TFLITE,))
    assert tried(report) == ["plain", "mixed: 2 layers in int16", "mixed: 2 layers in float"]
    assert next(rung for rung in report.rungs if rung.chosen).name == "mixed: 2 layers in float"
    assert {lift.to for lift in report.lifts} == {"float"}
    sizes = {rung.name: rung.bytes for rung in report.rungs}
    limit = sizes["mixed: 2 layers in float"] - 1
    (report,), _ = climbed(folder, f"snr = 20\nsize = {limit}\n", (TFLITE,))
    assert sizes["mixed: 2 layers in int16"] <= limit
    assert next(rung for rung in report.rungs if rung.chosen).name == "mixed: 2 layers in int16"


def ladder_word(built: Built) -> str:
    """An artifact's precision."""
    from edgekit.audit import audit

    return audit(built.artifact.data).precision


@pytest.mark.usefixtures("plain")
def test_an_op_without_a_sound_kernel_is_not_lifted_to_int16(tmp_path: Path) -> None:
    folder = far_from_zero(tmp_path, "Elu")
    (report,), (built,) = climbed(folder, "snr = 20\n", (TFLITE,))
    assert {lift.to for lift in report.lifts} == {"float"} and report.artifact.precision == "mixed"
    assert not any("elu" in name for name in tried(report))
    graph = prepare(built.lifted.graph)
    assert emit.without_int16(graph, load_target(TFLITE), "int8", QuantizationConfig()) == {"elu1"}
    assert emit.without_int16(graph, load_target(ONNX), "int8", QuantizationConfig()) == set()


@pytest.mark.usefixtures("plain")
def test_without_sixteen_bits_the_fewest_layers_that_are_enough_are_in_float(project: Path) -> None:
    (project / "targets").mkdir()
    (project / "targets" / "narrow.toml").write_text(NARROW)
    (whole,), _ = climbed(project, "snr = 200\n", ("narrow",))
    assert "ladder: mixed with int16 is left out: narrow cannot have it" in whole.warnings
    found = {rung.name: rung.snr_db or 0.0 for rung in whole.rungs}
    plain, first, *more = found.values()
    assert more and plain < first < max(more)
    (report,), _ = climbed(project, f"snr = {(first + max(more)) / 2}\n", ("narrow",))
    chosen = next(rung for rung in report.rungs if rung.chosen)
    assert chosen.holds and report.gates[0].status == "pass" and report.artifact.precision == "mixed"
    assert not any(rung.holds for rung in report.rungs if count(rung.name) < count(chosen.name))
    assert len(report.lifts) == count(chosen.name) > count(list(found)[1])


def count(rung: str) -> int:
    """How many layers a rung lifts."""
    return int(rung.split()[1]) if rung.startswith("mixed") else 0


@pytest.mark.usefixtures("plain")
def test_what_a_scale_costs_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = far_from_zero(tmp_path)
    climbed(folder, "snr = 20\nfloat_ops = 0\n", (TFLITE,))
    monkeypatch.setattr(sensitivity, "measure", None)
    (report,), _ = climbed(folder, "snr = 19\nfloat_ops = 0\n", (TFLITE,))
    assert tried(report) == ["plain", "mixed: 2 layers in int16"]
    ready = made(folder, "snr = 19\n", (TFLITE,))
    ready.work.project = replace(
        ready.work.project, calibration=replace(ready.work.project.calibration, **ladder.WAYS["plain"])
    )
    (built,) = ready.work.built(ready.lifted)
    assert of_built(ready.work, built).tensors[0].alone_db == pytest.approx(
        float(report.lifts[0].why.split()[-2]), abs=0.05
    )


def test_without_a_gate_of_accuracy_there_is_nothing_to_climb_for(project: Path) -> None:
    said = r"edgekit.toml:calibration.method: auto needs a gate to climb for: one of accuracy, accuracy_drop, agreement"
    with pytest.raises(ConfigError, match=said):
        climbed(project, "size = '1 MB'\n")


def test_scales_that_are_trained_before_leave_nothing_to_choose(project: Path) -> None:
    said = (
        r"edgekit.toml:calibration.method: auto cannot change the scales that quantize-aware in .*calibration.training"
    )
    with pytest.raises(ConfigError, match=said):
        climbed(project, 'snr = 10\n[[compress]]\nmethod = "quantize-aware"\n')


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("gates", ["agreement = 0.9\n", "accuracy = 0.9\n", "accuracy_drop = 0.1\nsnr = 10\n"])
def test_data_without_labels_is_enough(tmp_path: Path, gates: str) -> None:
    folder = far_from_zero(tmp_path, offset=10 * OFFSET)
    evaluation = '[evaluation]\ndata = "data.npz"\nmetric = "agreement"\n'
    (report,), _ = climbed(folder, f"{gates}float_ops = 0\n{evaluation}", (TFLITE,))
    assert tried(report) == ["plain", "mixed: 2 layers in int16"]
    assert report.evaluation is not None and report.evaluation.float_value == 1.0
    assert report.evaluation.artifact_value == report.evaluation.agreement >= 0.9 > report.rungs[0].metric  # type: ignore[operator]
    assert "the metric" in report.lifts[0].why and report.lifts[0].why.endswith(" in place of 1")


def test_what_cannot_be_found_out_is_said_before_work_starts(project: Path) -> None:
    key = r"^\S*edgekit.toml:calibration.method: auto: the gate"
    with pytest.raises(ConfigError, match=f"{key} agreement needs .evaluation. data; snr needs none"):
        climbed(project, "agreement = 0.9\n")
    with pytest.raises(ConfigError, match=f"{key} accuracy_drop needs .evaluation. data; snr needs none"):
        climbed(project, "accuracy_drop = 0.1\nsnr = 10\n")
    unlabelled = '[evaluation]\ndata = "data.npz"\n'
    with pytest.raises(DataError, match="has no labels, which metric top1 needs; agreement needs none"):
        climbed(project, f"agreement = 0.9\n{unlabelled}")


@pytest.mark.usefixtures("plain")
def test_agreement_wants_a_score_for_each_class(tmp_path: Path) -> None:
    b = Builder()
    folder = written(tmp_path, b, b.conv(b.input(1, 3, 8, 8), 3, 2))
    (folder / "own_metric_of_ladder.py").write_text("def one(predictions):\n    return float(len(list(predictions)))\n")
    evaluation = '[evaluation]\ndata = "data.npz"\nmetric = '
    with pytest.raises(
        DataError, match=r"metric agreement: output conv0 has shape \[1, 2, 8, 8\], not a score for each"
    ):
        climbed(folder, f'snr = 10\n{evaluation}"agreement"\n', (TFLITE,))
    said = "auto cannot climb for the gate agreement: the first output is not a score for each class; snr asks for none"
    with pytest.raises(ConfigError, match=said):
        climbed(folder, f'agreement = 0.9\n{evaluation}"own_metric_of_ladder:one"\n', (TFLITE,))


def test_more_is_lifted_only_where_it_pays() -> None:
    order = [Candidate((str(gain),), "", gain) for gain in (8.0, 2.0, 0.3)]
    pays = ladder._pays
    assert pays(order, 1, 5.0) and pays(order, 1, 0.6)  # 6 dB were to be won, and half a decibel is worth a layer
    assert not pays(order, 1, 0.2)  # noise that comes from elsewhere
    even = [Candidate((str(i),), "", 1.0 - 0.05 * i) for i in range(20)]
    assert pays(even, 1, 0.05) and not pays(even, 1, 0.02)


@pytest.mark.parametrize(("ratios", "tried", "chosen"), [([30, 33, 33, 46], [1, 2, 4, 3], 4), ([30] * 4, [1, 2], None)])
def test_one_trial_may_win_nothing(
    monkeypatch: pytest.MonkeyPatch, ratios: list[float], tried: list[int], chosen: int | None
) -> None:
    """Layers of one output win nothing while another output is worse; two trials in a row tell that nothing will."""
    counts = []

    def lifted(_climb: object, _base: object, _to: str, layers: list[Candidate]) -> SimpleNamespace:
        counts.append(len(layers))
        ratio = ratios[len(layers) - 1]
        return SimpleNamespace(snr_db=ratio, holds=ratio > 45, count=len(layers))

    monkeypatch.setattr(ladder._Climb, "_lifted", lifted)
    order = [Candidate((str(gain),), "", gain) for gain in (15.0, 12.0, 9.0, 6.0, 4.0)]
    climb: Any = object.__new__(ladder._Climb)
    found = climb._fewest(SimpleNamespace(snr_db=30.0), "float", order)
    assert counts == tried
    assert (found and found.count) == chosen
