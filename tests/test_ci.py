"""Gates in CI: annotations, the first baseline, the action and the commands of docs/ci.md, run as they stand."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from json import loads
from pathlib import Path

import numpy as np
import pytest
from nets import cnn
from sample_reports import FULL

from edgekit.baseline import judge_again
from edgekit.errors import InputError
from edgekit.report import github, json
from edgekit.report.model import Report, Verdict

ROOT = Path(__file__).resolve().parent.parent
TARGET = "raspberry-pi-4-litert"
FAILED = Verdict("size", 1.0, 2.0, "fail", "2 B: 100%\nof it")
PROJECT = """[model]
source = "net.onnx"
[calibration]
data = "data.npy"
[gates]
float_ops = 0
"""


def written(path: Path, report: Report) -> Path:
    path.write_text(json.render(report))
    return path


def test_a_workflow_gets_annotations_and_a_page(tmp_path: Path) -> None:
    doubt = Verdict("latency_p50", 1.0, 1.0, "inconclusive", "it may be anything")
    report, stream = replace(FULL, gates=(*FULL.gates, FAILED, doubt)), io.StringIO()
    summary = tmp_path / "summary.md"
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    github.announce([report], environment, stream)
    assert stream.getvalue().splitlines() == [
        f"::error title={TARGET}%3A size::2 B: 100%25%0Aof it",
        f"::warning title={TARGET}%3A latency_p50::it may be anything",
    ]
    assert "## " in summary.read_text()
    stream = io.StringIO()
    github.announce([report], {}, stream)
    assert stream.getvalue() == ""


def test_the_first_run_writes_the_baseline_and_the_next_one_is_held_against_it(tmp_path: Path) -> None:
    baseline, now = tmp_path / "kept" / "base.json", written(tmp_path / "now.json", FULL)
    (first,) = judge_again([now], None, baseline, None)
    assert not any(v.gate.startswith("baseline") for v in first.gates) and baseline.is_file()
    larger = replace(FULL, artifact=replace(FULL.artifact, bytes=2 * FULL.artifact.bytes))
    (second,) = judge_again([written(tmp_path / "later.json", larger)], None, baseline, None)
    assert {v.gate: v.status for v in second.gates}["baseline size"] == "fail"


def test_what_failed_is_no_baseline(tmp_path: Path) -> None:
    now = written(tmp_path / "now.json", replace(FULL, gates=(Verdict("size", 1.0, 2.0, "fail", ""),)))
    judge_again([now], None, tmp_path / "base.json", None)
    assert not (tmp_path / "base.json").exists()
    with pytest.raises(InputError, match="there is no baseline yet, and it can be made from one report, not 2"):
        judge_again([now, now], None, tmp_path / "base.json", None)
    with pytest.raises(InputError, match="no such folder; a first baseline is written to a .json file"):
        judge_again([now], None, tmp_path / "released", None)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    cnn(tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(0, 1, (16, 3, 8, 8)).astype(np.float32))
    (tmp_path / "edgekit.toml").write_text(PROJECT)
    return tmp_path


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, with this edgekit on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, text=True, capture_output=True)


def steps(text: str) -> list[str]:
    """The scripts (``run: |``) of an action."""
    found = re.findall(r"^( +)run: \|\n((?:\1  .*\n|\n)+)", text, re.M)
    return [re.sub(rf"^{indent}  ", "", script, flags=re.M) for indent, script in found]


def test_the_action_builds_judges_and_keeps_baselines(project: Path) -> None:
    (script,) = steps((ROOT / "action.yml").read_text())
    variables = {"TARGETS": TARGET, "CONFIG": "edgekit.toml", "OUT": "build", "BASELINES": "baselines"}
    first = bash(script, project, **variables)
    assert first.returncode == 0 and "there was no baseline; written" in first.stderr, first.stderr
    assert (project / "baselines" / f"{TARGET}.json").is_file() and (project / "build" / "junit.xml").is_file()
    (project / "edgekit.toml").write_text(PROJECT + 'size = "1 KB"\n')
    failed = bash(script, project, **variables, GITHUB_ACTIONS="true")
    assert failed.returncode == 1 and f"::error title={TARGET}%3A size::" in failed.stderr


def test_the_commands_of_the_page_run(project: Path) -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    (block,) = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    (compare,) = re.findall(r"`(edgekit compare [^`]+)`", page)
    found = bash(f"{block}\n{compare}", project)
    assert found.returncode == 0 and "every layer is as it was" in found.stdout, found.stderr


def test_a_build_is_timed_on_a_device(project: Path) -> None:
    devices = f'[devices.here]\ntransport = "exec"\ncommand = ["env"]\npython = "{sys.executable}"\n'
    devices += '[devices.gone]\ntransport = "exec"\npython = "no-such-python"\n'
    (project / "edgekit.toml").write_text(PROJECT + devices)
    timed = bash(f"edgekit build --target {TARGET} --device here --json", project)
    assert timed.returncode == 0, timed.stderr
    (report,) = loads(timed.stdout)["reports"]
    assert report["latency"]["p50_ms"] > 0 and report["latency"]["before"]
    gone = bash(f"edgekit build --target {TARGET} --device gone", project)
    assert gone.returncode == 4 and "no-such-python" in gone.stderr and "Traceback" not in gone.stderr
    wrong = bash(f"edgekit build --target {TARGET} --device her", project)
    assert wrong.returncode == 2 and "did you mean here" in wrong.stderr


def test_a_ratio_is_a_gate(project: Path) -> None:
    bash(f"edgekit build --target {TARGET}", project)
    command = f"edgekit bench build/{TARGET}/model.tflite --against build/{TARGET}/model.tflite --seconds 0.2 --json"
    held = bash(f"{command} --at-most 10", project)
    assert held.returncode == 0 and loads(held.stdout)["verdict"] == "pass"
    failed = bash(f"{command} --at-most 0.1", project)
    assert failed.returncode == 1 and loads(failed.stdout)["verdict"] == "fail"
    alone = bash(f"edgekit bench build/{TARGET}/model.tflite --at-most 1", project)
    assert alone.returncode == 2 and "--at-most goes with --against" in alone.stderr
