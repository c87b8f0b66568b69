"""The whole road on a tiny network: what a build leaves behind, always the same bytes, whatever was killed before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT
from nets import cnn

from edgekit.artifact import read_artifact
from edgekit.build import build
from edgekit.contract import Contract
from edgekit.errors import ConfigError, DeviceError, UnsupportedError
from edgekit.progress import SilentProgress
from edgekit.project import Project, load_project
from edgekit.quant.plan import QuantPlan
from edgekit.report import json as report_json
from edgekit.report.model import Report

TARGETS = ("linux-x86_64-litert", "linux-x86_64-onnxruntime")
TOML = """
[model]
source = "net.onnx"
[model.inputs.image]
mean = [0.4, 0.5, 0.6]
std = [0.2, 0.25, 0.3]
[calibration]
data = "calib.npz"
samples = 12
[evaluation]
data = "test.npz"
labels = ["ant", "bee", "cow", "dog", "elk"]
"""
# A build that kills itself when the task of that name takes its second step.
KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from edgekit import load_project
from edgekit.build import build

class Deadly:
    @contextmanager
    def task(self, name, total=None):
        steps = 0
        def step(count=1):
            nonlocal steps
            steps += 1
            if name.startswith(sys.argv[2]) and steps == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        yield step
    def note(self, message):
        pass

build(load_project(Path("edgekit.toml")), sys.argv[3:], Path(sys.argv[1]), Deadly())
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    draw = np.random.default_rng(0)
    cnn(folder / "net.onnx")
    images = draw.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "calib.npz", images=images[:16])
    np.savez(folder / "test.npz", images=images[16:], labels=draw.integers(0, 5, 32))
    (folder / "edgekit.toml").write_text(TOML)
    return load_project(folder / "edgekit.toml")


@pytest.fixture(scope="module")
def out(project: Project) -> Path:
    return project.folder / "build"


@pytest.fixture(scope="module")
def reports(project: Project, out: Path) -> list[Report]:
    return build(project, TARGETS, out, command="edgekit build")


@pytest.fixture
def unmeasured(reports: list[Report], monkeypatch: pytest.MonkeyPatch) -> None:
    """Later builds take over the first one's latency; nothing here depends on it."""
    monkeypatch.setattr("edgekit.measure.Bench.measure", lambda *_, **__: reports[0].latency)
    monkeypatch.setattr("edgekit.measure.Bench.glance", lambda *_, **__: reports[0].float_latency)
    monkeypatch.setattr("edgekit.stages.profile", lambda *_, **__: reports[0].layer_times)


def kept(out: Path, targets: Sequence[str] = TARGETS) -> dict[str, bytes]:
    """The files that hold no measured time."""
    names = ("model.tflite", "model.onnx", "plan.json", "contract.json")
    return {f"{t}/{n}": (out / t / n).read_bytes() for t in targets for n in names if (out / t / n).exists()}


def killed(project: Project, out: Path, task: str, *targets: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", KILLED, str(out), task, *(targets or TARGETS)]
    return subprocess.run(command, cwd=project.folder, env=environment, check=False).returncode


class Tasks(SilentProgress):
    """The names of the tasks that were begun."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def task(self, name: str, total: int | None = None) -> Any:
        self.names.append(name)
        return super().task(name, total)


# -- what is left behind --------------------------------------------------------------------------------------------


def test_every_target_has_its_files_and_nothing_else(reports: list[Report], out: Path) -> None:
    for target, model in zip(TARGETS, ("model.tflite", "model.onnx"), strict=True):
        found = {path.name for path in (out / target).iterdir()}
        assert found == {model, "plan.json", "contract.json", "report.json", "report.html"}
    assert {path.name for path in out.iterdir()} == {*TARGETS, ".cache"}


@pytest.mark.parametrize("index", [0, 1], ids=TARGETS)
def test_what_a_report_says_is_what_the_files_hold(reports: list[Report], out: Path, index: int) -> None:
    report, folder = reports[index], out / TARGETS[index]
    assert report_json.read(folder / "report.json") == report
    data = Path(report.artifact.path).read_bytes()
    assert hashlib.sha256(data).hexdigest() == report.artifact.sha256 and len(data) == report.artifact.bytes
    assert report.artifact.precision == "int8" and report.audit["float_ops"] == []
    contract = Contract.from_json(json.loads((folder / "contract.json").read_text()))
    file = read_artifact(data)
    assert file.contract == contract == Contract.from_json(report.contract)
    plan = QuantPlan.from_json(json.loads((folder / "plan.json").read_text()))
    assert plan.sha256 == file.metadata["plan_sha256"]
    assert report.calibration is not None and report.calibration.samples == 12
    assert file.metadata["calibration"]["sha256"] == report.calibration.sha256
    assert contract.labels == ("ant", "bee", "cow", "dog", "elk")
    assert contract.preprocessing["image"]["mean"] == [0.4, 0.5, 0.6]
    assert str(out.parent).encode() not in data


def test_both_targets_come_from_one_plan_and_agree(reports: list[Report], out: Path) -> None:
    one, other = ((out / target / "plan.json").read_bytes() for target in TARGETS)
    assert one == other
    for report, name in zip(reports, reversed(TARGETS), strict=True):
        assert report.parity is not None and report.parity.other == name
        assert report.parity.max_steps <= 1 and report.parity.share_equal > 0.9
        assert report.evaluation is not None and report.evaluation.samples == 32
        assert report.evaluation.agreement is not None and report.evaluation.agreement > 0.8
        assert report.fidelity is not None and report.fidelity.outputs["scores"] > 5
        assert report.latency is not None and report.latency.p50_ms > 0
        names = [stage.name for stage in report.stages]
        assert names == [
            "load",
            "check",
            "equalize",
            "calibrate",
            "round",
            "emit",
            "verify",
            "evaluate",
            "measure",
            "profile",
        ]
        times = {layer.tensor for layer in report.layer_times.layers} if report.layer_times else set()
        assert times & {tensor.name for tensor in report.fidelity.tensors}


@pytest.mark.usefixtures("unmeasured")
def test_a_runtime_that_cannot_be_profiled_is_a_warning(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise DeviceError("it has no profiler")

    monkeypatch.setattr("edgekit.stages.profile", none)
    (report,) = build(project, TARGETS[:1], tmp_path / "build")
    assert report.layer_times is None
    assert f"{TARGETS[0]}: layers are not timed: it has no profiler" in report.warnings


# -- again ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unmeasured")
def test_a_second_build_reuses_what_is_finished(project: Project, reports: list[Report], out: Path) -> None:
    before, tasks = kept(out), Tasks()
    again = build(project, TARGETS, out, tasks)
    assert kept(out) == before and len(before) == 6
    assert "calibrate" not in tasks.names and "round weights" not in tasks.names and "verify" in tasks.names
    cached = {stage.name for report in again for stage in report.stages if stage.cached}
    assert cached == {"equalize", "calibrate", "round"}
    first = {stage.name for stage in reports[0].stages if stage.cached}
    assert not first and [r.artifact.sha256 for r in again] == [r.artifact.sha256 for r in reports]


def test_a_build_elsewhere_gives_the_same_bytes(project: Project, reports: list[Report], out: Path) -> None:
    """In another process with another order of hashing, into another folder, for one target."""
    other = project.folder / "elsewhere"
    assert killed(project, other, f"evaluate {TARGETS[0]}", TARGETS[0]) == -signal.SIGKILL
    found = kept(other, TARGETS[:1])
    assert found == {f"{TARGETS[0]}/model.tflite": (out / TARGETS[0] / "model.tflite").read_bytes()}


@pytest.mark.usefixtures("reports", "unmeasured")
@pytest.mark.parametrize("task", ["calibrate", "round weights", "verify", "evaluate float"])
def test_a_killed_build_can_be_run_again(project: Project, out: Path, task: str) -> None:
    other = project.folder / f"killed-{task.replace(' ', '-')}"
    assert killed(project, other, task) == -signal.SIGKILL
    for name, data in kept(other).items():
        assert data == kept(out)[name]  # whole, or not there
    assert not list(other.rglob("report.*"))
    tasks = Tasks()
    build(project, TARGETS, other, tasks)
    assert kept(other) == kept(out)
    assert ("calibrate" in tasks.names) == (task == "calibrate")
    assert ("round weights" in tasks.names) == (task in ("calibrate", "round weights"))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("change", "tasks_again"),
    [
        ({"samples": 8}, {"calibrate", "round weights"}),
        ({"range": "minmax"}, {"calibrate"}),  # rounding looks at the float graph's inputs, whatever their ranges
        ({"range": "percentile"}, {"calibrate"}),
        ({"rounding": "nearest"}, set()),
    ],
)
def test_what_depends_on_a_setting_is_done_anew(
    project: Project, out: Path, change: dict[str, Any], tasks_again: set[str], tmp_path: Path
) -> None:
    other = tmp_path / "build"
    shutil.copytree(out / ".cache", other / ".cache")
    tasks = Tasks()
    changed = replace(project, calibration=replace(project.calibration, **change))
    build(changed, TARGETS[:1], other, tasks)
    assert {"calibrate", "round weights"} & set(tasks.names) == tasks_again
    assert kept(other)[f"{TARGETS[0]}/model.tflite"] != (out / TARGETS[0] / "model.tflite").read_bytes()


@pytest.mark.usefixtures("unmeasured")
def test_targets_with_other_weight_scales_share_no_rounding(project: Project, out: Path, tmp_path: Path) -> None:
    plain = "microcontroller-tflm"  # one scale for a fully-connected layer
    tasks = Tasks()
    build(project, [TARGETS[0], plain], tmp_path / "both", tasks)
    assert tasks.names.count("round weights") == 2 and tasks.names.count("calibrate") == 1
    build(project, [plain], tmp_path / "alone")
    found = kept(tmp_path / "both", [TARGETS[0], plain])
    assert kept(tmp_path / "alone", [plain]) == {n: data for n, data in found.items() if n.startswith(plain)}
    assert found[f"{TARGETS[0]}/model.tflite"] == (out / TARGETS[0] / "model.tflite").read_bytes()


@pytest.mark.usefixtures("reports", "unmeasured")
def test_damaged_cache_entries_are_made_anew(project: Project, out: Path) -> None:
    entries = sorted((out / ".cache").iterdir())
    assert {entry.name.split("-")[0] for entry in entries} == {"factors", "ranges", "weights"}
    before, whole = kept(out), [entry.read_bytes() for entry in entries]
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-7])
    build(project, TARGETS, out)
    assert kept(out) == before and [entry.read_bytes() for entry in entries] == whole


# -- what is refused ------------------------------------------------------------------------------------------------


def test_nothing_is_written_for_what_cannot_be_built(project: Project, tmp_path: Path) -> None:
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"compress": ({"method": "shrink"},)}, ConfigError, "'shrink' is no method; known: fine-tune"),
        ({"model": replace(project.model, source="")}, ConfigError, "model.source: nothing is given"),
        ({"calibration": replace(project.calibration, data=None)}, ConfigError, "calibration.data: missing"),
    ]
    for change, error, said in refused:
        with pytest.raises(error, match=said):
            build(replace(project, **change), TARGETS, tmp_path / "build")
    asked = replace(project, quantization=replace(project.quantization, precision="int16x8"))
    with pytest.raises(UnsupportedError, match="microcontroller-tflm: precision int16x8; this target has int8"):
        build(asked, ["microcontroller-tflm"], tmp_path / "build")
    assert not [path for path in (tmp_path / "build").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic-int8"])
def test_other_precisions_need_no_calibration(project: Project, tmp_path: Path, precision: str) -> None:
    asked = replace(project, quantization=replace(project.quantization, precision=precision))
    tasks = Tasks()
    (report,) = build(asked, TARGETS[:1], tmp_path, tasks)
    assert "calibrate" not in tasks.names and report.calibration is None and report.parity is None
    assert report.fidelity is not None and report.fidelity.outputs["scores"] > 40
    assert not (tmp_path / ".cache").exists()
