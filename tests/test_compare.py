"""``edgekit compare``: two artifacts, or two reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from sample_reports import FULL, audit, op
from small_graphs import Builder

from edgekit.audit import audit_file
from edgekit.baseline import read_report
from edgekit.cli import cli
from edgekit.compare import Change, Difference, compare
from edgekit.emitters import onnx_qdq, tflite
from edgekit.errors import EdgekitError
from edgekit.passes import prepare
from edgekit.profile import profile
from edgekit.quant.solve import Rules, solve
from edgekit.report import changed, json
from edgekit.report.model import Report


def written(path: Path, float_nodes: frozenset[str] = frozenset(), widest: float = 4.0, kernel: int = 3) -> Path:
    """A network of two convolutions, the first of a ``kernel``, all its ranges as wide as ``widest``."""
    b = Builder(0)
    x = b.node("Relu", b.conv(b.input(1, 3, 32, 32), 3, 8, (kernel, kernel), pads=[kernel // 2] * 4))
    graph = prepare(b.model(b.conv(x, 8, 4)))
    names = [*(str(v.name) for v in graph.graph.inputs), *(str(v.name) for n in graph.graph for v in n.outputs)]
    plan = solve(graph, dict.fromkeys(names, (-widest, widest)), Rules(float_nodes=float_nodes))
    emit = tflite.emit if path.suffix == ".tflite" else onnx_qdq.emit
    path.write_bytes(emit(graph, plan).data)
    return path


def kinds(found: Difference) -> set[tuple[str, str]]:
    return {(change.kind, change.name) for change in found.changes}


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_layer_that_fell_back_to_float_is_named(tmp_path: Path, suffix: str) -> None:
    whole = written(tmp_path / f"a.{suffix}")
    mixed = written(tmp_path / f"b.{suffix}", frozenset({"conv2"}))
    found = compare(whole, mixed)
    assert ("float", "conv2") in kinds(found) and not any(kind == "float" and n != "conv2" for kind, n in kinds(found))
    assert next(t for t in found.totals if t.name == "float ops").after != "0"
    assert ("integer", "conv2") in kinds(compare(mixed, whole))
    assert compare(whole, whole).changes == () and compare(whole, whole).contract == ()


def test_a_scale_that_changed_is_named(tmp_path: Path) -> None:
    found = compare(written(tmp_path / "a.tflite"), written(tmp_path / "b.tflite", widest=8.0))
    changed = {change.name: change.said for change in found.changes if change.kind == "scale"}
    assert "x" in changed and "became" in changed["x"]
    assert any(line.startswith("x.scale") for line in found.contract)
    sizes = next(total for total in found.totals if total.name == "arena")
    assert sizes.ratio == 1.0


def report(path: Path, changed: Report) -> Path:
    path.mkdir()
    (path / "report.json").write_text(json.render(changed))
    return path


def test_reports_tell_accuracy_noise_and_latency_too(tmp_path: Path) -> None:
    assert FULL.evaluation is not None and FULL.fidelity is not None
    tensors = [replace(t, snr_db=t.snr_db - 5) if t.name == "logits" else t for t in FULL.fidelity.tensors]
    ops = audit(op("conv1", "CONV_2D", 884_736, weight_bytes=992), op("softmax", "SOFTMAX", integer=False))
    later = replace(
        FULL,
        audit=ops,
        fidelity=replace(FULL.fidelity, tensors=tuple(tensors)),
        evaluation=replace(FULL.evaluation, artifact_value=0.79),
    )
    found = compare(report(tmp_path / "a", FULL), report(tmp_path / "b", later))
    assert {("noisier", "logits"), ("grew", "conv1"), ("new", "softmax"), ("gone", "linear")} <= kinds(found)
    assert [t.after for t in found.totals if t.name == FULL.evaluation.metric] == ["79.00 %"]
    assert "latency p50" in {total.name for total in found.totals}


def profiled(path: Path, folder: Path) -> Path:
    """A report with what is really in a file, and how long its layers take."""
    return report(folder, replace(FULL, audit=audit_file(path).to_json(), layer_times=profile(path, seconds=0.2)))


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_layer_that_grew_and_slowed_is_named(tmp_path: Path, suffix: str) -> None:
    small = profiled(written(tmp_path / f"a.{suffix}"), tmp_path / "a")
    large = profiled(written(tmp_path / f"b.{suffix}", kernel=9), tmp_path / "b")
    changes = compare(small, large).changes
    assert [change.ratio for change in changes if change.kind == "grew"] == [9.0]
    times = read_report(large).layer_times
    assert times is not None
    heaviest = max(times.layers, key=lambda layer: layer.ms).tensor
    assert [change.name for change in changes if change.kind == "slower" and change.name == heaviest] == [heaviest]
    assert {"shrank", "faster"} <= {change.kind for change in compare(large, small).changes}


def test_times_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    assert FULL.layer_times is not None
    slow = tuple(replace(layer, ms=9 * layer.ms) for layer in FULL.layer_times.layers)
    elsewhere = replace(FULL.layer_times, layers=slow, machine={"board": "Raspberry Pi 4"})
    found = compare(report(tmp_path / "a", FULL), report(tmp_path / "b", replace(FULL, layer_times=elsewhere)))
    assert found.changes == ()
    assert found.notes == (
        (
            "the layers' times are not compared: one is of litert, 1 thread on Intel(R) Xeon(R) CPU, "
            "the other of litert, 1 thread on Raspberry Pi 4"
        ),
    )
    for how in ({"runtime": "onnxruntime"}, {"threads": 4}):
        other = replace(FULL, layer_times=replace(FULL.layer_times, layers=slow, **how))
        found = compare(tmp_path / "a", report(tmp_path / f"{list(how)}", other))
        assert found.changes == () and len(found.notes) == 1 and not found.timed
    here = replace(FULL, layer_times=replace(FULL.layer_times, layers=slow))
    found = compare(tmp_path / "a", report(tmp_path / "c", here))
    assert {change.kind for change in found.changes} == {"slower"} and found.notes == ()
    bare = compare(tmp_path / "a", report(tmp_path / "d", replace(FULL, layer_times=None)))
    assert "no times of layers in" in bare.notes[0] and bare.changes == ()


def test_latencies_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    assert FULL.latency is not None
    there = replace(FULL, latency=replace(FULL.latency, machine={"board": "Raspberry Pi 4"}))
    found = compare(report(tmp_path / "a", FULL), report(tmp_path / "b", there))
    assert "latency p50" not in {total.name for total in found.totals}
    said = "the latencies are not compared: one is of Intel(R) Xeon(R) CPU, the other of Raspberry Pi 4"
    assert found.notes == (said,) and found.timed


def test_a_report_without_an_audit_is_compared_by_what_it_has(tmp_path: Path) -> None:
    found = compare(report(tmp_path / "a", replace(FULL, audit={})), report(tmp_path / "b", FULL))
    assert {kind for kind, _ in kinds(found)} == {"new"}
    assert "size" not in {total.name for total in found.totals}


def test_the_page_tells_the_same(tmp_path: Path) -> None:
    paths = [str(written(tmp_path / "a.tflite")), str(written(tmp_path / "b.tflite", frozenset({"conv2"}), 8.0))]
    page = tmp_path / "pages" / "changes.html"
    said = CliRunner().invoke(cli, ["compare", *paths, "--html", str(page)])
    assert said.exit_code == 0
    words = page.read_text(encoding="utf-8")
    assert "fell back to float" in words and "changed scale" in words and f"edgekit compare {paths[0]}" in words
    assert '<span class="pill fail">worse</span>' in words
    same = CliRunner().invoke(cli, ["compare", paths[0], paths[0], "--html", str(page)])
    assert same.exit_code == 0 and "Every layer is as it was." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kinds", "status", "verdict"),
    [
        ((), "same", "no layer changed"),
        (("faster", "shrank", "shrank"), "better", "1 sped up, 2 shrank"),
        (("scale", "faster"), "changed", "1 changed scale, 1 sped up"),
        (("scale", "float", "slower"), "worse", "1 fell back to float, 1 slowed, 1 changed scale"),
    ],
)
def test_the_verdict_is_the_worst_change(kinds: tuple[str, ...], status: str, verdict: str) -> None:
    found = Difference("a", "b", (), (), tuple(Change(kind, "x", "") for kind in kinds))
    assert changed.status(found) == status and changed.verdict(found) == verdict


def test_the_command_prints_layers_and_json(tmp_path: Path) -> None:
    paths = [str(written(tmp_path / "a.tflite")), str(written(tmp_path / "b.tflite", frozenset({"conv2"})))]
    said = CliRunner().invoke(cli, ["compare", *paths])
    assert said.exit_code == 0 and "fell back to float" in said.output and "conv2" in said.output
    same = CliRunner().invoke(cli, ["compare", paths[0], paths[0]])
    assert "every layer is as it was" in same.output
    assert '"kind": "float"' in CliRunner().invoke(cli, ["compare", *paths, "--json"]).output


def test_what_is_neither_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.tflite").write_bytes(b"no model")
    with pytest.raises(EdgekitError, match=r"c\.tflite"):
        compare(written(tmp_path / "a.tflite"), tmp_path / "c.tflite")
    with pytest.raises(EdgekitError, match="gone"):
        compare(tmp_path / "gone.tflite", written(tmp_path / "a.tflite"))
