"""The command line: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import small_onnx
from click.testing import Result
from command import answer, edgekit, program
from sample_reports import BARE, FAILED, FULL, measurement

from edgekit import __version__, doctor
from edgekit.emitters import tflite_bytes
from edgekit.project import load_project
from edgekit.report import json as report_json
from edgekit.report.model import Report

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("build", "bench", "verify", "diagnose", "inspect", "compare", "gate", "targets", "init", "doctor")


def stored(path: Path, report: Report) -> Path:
    """The report as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_json.render(report), encoding="utf-8")
    return path


@pytest.fixture
def tflite(tmp_path: Path) -> Path:
    """A tiny model file."""
    path = tmp_path / "relu.tflite"
    path.write_bytes(doctor.TRIALS["litert"]())
    return path


STRANGER = "relu.tflite: its inputs are x [1, 2]; those of conv.onnx are x [1, 3, 8, 8]"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import edgekit.cli; "
        "print(time.perf_counter() - start, *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, *modules = found.stdout.split()
    assert float(seconds) < 0.5
    assert not {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "numpy", "ai_edge_litert"} & set(modules)


def test_help_names_every_command_and_exit_code() -> None:
    result = edgekit("--help")
    assert result.exit_code == 0
    listed = result.stdout.partition("Commands:")[2].partition("Exit codes:")[0]
    assert sorted(line.split()[0] for line in listed.splitlines() if line.strip()) == sorted(COMMANDS)
    assert [line.split()[0] for line in result.stdout.partition("Exit codes:")[2].splitlines() if line.strip()] == list(
        "012345"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    result = edgekit(command, "--help")
    assert result.exit_code == 0 and "--json" in result.stdout


def test_version() -> None:
    assert edgekit("--version").stdout == f"edgekit {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld"], "No such command biuld. Did you mean build?"),
        (["zzz"], "No such command zzz."),
        (["build", "--tagret", "x"], "Did you mean --target?"),
        (["build", "x.onnx"], "Missing option --target / -t."),
        (["build", "-t", "x", "--samples", "many"], "many is not a valid integer."),
        (["build", "-t", "x"], "no model: give MODEL, or write an edgekit.toml (edgekit init does)"),
        (["bench"], "Missing argument ARTIFACT."),
        (["bench", "a", "--against", "b", "--runtime", "litert"], "--runtime goes without --against"),
        (["gate"], "Missing argument REPORT...."),
        (["targets", "a", "b"], "Got unexpected extra argument (b)"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, here: Path) -> None:
    result = edgekit(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr.replace("'", "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bench", "no.tflite"], 2, "no.tflite: cannot be read: No such file or directory"),
        (["bench", "empty"], 2, "empty"),
        (["bench", "relu.tflite", "--threads", "0"], 2, "threads: 0 was given, at least 1 is needed"),
        (["bench", "relu.tflite", "--runs", "0"], 2, "0 runs and 2.0 seconds were given, at least 1 run"),
        (["bench", "relu.tflite", "--inputs", "no.npz"], 2, "no.npz"),
        (["inspect", "no.onnx"], 2, "no.onnx: cannot be read: No such file or directory"),
        (["inspect", "text"], 2, "text: not an ONNX file"),
        (["gate", "no.json"], 2, "no.json: cannot be read: No such file or directory"),
        (["gate", "text"], 2, "text: not a report"),
        (["gate", "bare.json"], 2, "bare.json: no limits to hold it against: give --config with [gates]"),
        (["gate", "bare.json", "--tolerance", "1"], 2, "--tolerance goes with --baseline, and is at least 0"),
        (["gate", "bare.json", "--config", "no.toml"], 2, "no.toml: cannot be read: No such file or directory"),
        (["gate", "full.json", "--junit", "text/x.xml"], 2, "text"),
        (["verify", "relu.tflite"], 2, "model.source: missing; give --model"),
        (["verify", "relu.tflite", "--model", "relu.onnx"], 2, "evaluation.data: missing; give --data"),
        (["verify", "no.tflite", "--model", "relu.onnx", "--data", "x.npz"], 2, "no.tflite: cannot be read"),
        (["verify", "relu.tflite", "--model", "no.onnx", "--data", "x.npz"], 2, "no.onnx"),
        (["verify", "relu.tflite", "--model", "relu.onnx", "--data", "no.npz"], 2, "no.npz"),
        (["verify", "relu.tflite", "--model", "conv.onnx", "--data", "x.npz"], 2, STRANGER),
        (["verify", "relu.tflite", "--model", "relu.onnx", "--data", "x.npz", "--metric", "top2"], 2, "top2"),
        (["build", "no.onnx", "-t", "linux-x86_64-litert", "--calibration", "x.npz"], 2, "no.onnx"),
        (["build", "relu.onnx", "-t", "linux-x86_64-lite", "--calibration", "x.npz"], 2, "did you mean linux-x86_64-"),
        (["build", "relu.onnx", "-t", "linux-x86_64-litert"], 2, "calibration.data"),
        (["build", "relu.onnx", "-t", "linux-x86_64-litert", "--range", "mean"], 2, "range: 'mean' is not one of"),
        (["build", "relu.onnx", "-t", "linux-x86_64-litert", "--out", "text/x"], 2, "text/x"),
        (["build", "relu.onnx", "-t", "linux-x86_64-litert", "--config", "no.toml"], 2, "no.toml: cannot be read"),
        (["targets", "raspbery-pi-4-litert"], 2, "did you mean raspberry-pi-4-litert"),
        (["init"], 2, "edgekit.toml: exists already; nothing was written"),
        (["init", "text/below"], 2, "text/below/edgekit.toml: cannot be written: Not a directory"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], code: int, message: str, here: Path, tflite: Path) -> None:
    (here / "empty").write_bytes(b"")
    (here / "text").write_text("not a model")
    (here / "relu.onnx").write_bytes(doctor.TRIALS["onnxruntime"]())
    (here / "conv.onnx").write_bytes(small_onnx.conv_relu())
    np.savez(here / "x.npz", x=np.ones((40, 2), np.float32))
    (here / "edgekit.toml").write_text("")
    stored(here / "bare.json", BARE)
    stored(here / "full.json", FULL)
    result = edgekit(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_errors_of_every_class_end_with_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit import errors, target

    def fail(error: Exception) -> Result:
        def listing() -> tuple[str, ...]:
            raise error

        monkeypatch.setattr(target, "list_targets", listing)
        return edgekit("targets")

    assert (fail(errors.DeviceError("gone")).exit_code, fail(errors.GateError("no")).exit_code) == (4, 1)
    assert fail(errors.UnsupportedError(["node a: x"])).stderr == "error: node a: x\n"
    several = fail(errors.UnsupportedError(["node a: x", "node b: y"]))
    assert several.exit_code == 5
    assert several.stderr.splitlines() == ["error: 2 things cannot be expressed:", "  node a: x", "  node b: y"]
    interrupted = fail(KeyboardInterrupt())  # type: ignore[arg-type]
    assert (interrupted.exit_code, interrupted.stderr) == (130, "interrupted\n")


def test_targets(golden: Any) -> None:
    result = edgekit("targets")
    assert result.exit_code == 0 and "raspberry-pi-4-litert" in result.stdout
    golden("target.txt", edgekit("targets", "raspberry-pi-4-litert").stdout)


def test_targets_as_json() -> None:
    found = answer("targets")["targets"]
    assert {"name", "runtime", "architecture", "format"} <= set(found[0])
    names = [target["name"] for target in found]
    assert names == sorted(names)
    assert answer("targets", names[0]) == found[0]


def test_own_targets_come_first(here: Path) -> None:
    (here / "targets").mkdir()
    shipped = (ROOT / "targets" / "raspberry-pi-4-litert.toml").read_text()
    (here / "targets" / "my-board.toml").write_text(shipped)
    assert "my-board" in [target["name"] for target in answer("targets")["targets"]]


def test_init_writes_a_valid_project(here: Path) -> None:
    result = edgekit("init", "new/project", "--model", 'a "b":c', "--calibration", "samples/é.npz")
    assert result.exit_code == 0 and "new/project/edgekit.toml is written" in result.stdout
    project = load_project(here / "new" / "project" / "edgekit.toml")
    assert (project.model.source, project.calibration.data) == ('a "b":c', "samples/é.npz")


def test_init_as_json(here: Path) -> None:
    assert answer("init") == {"created": ["edgekit.toml"]}
    assert (here / "edgekit.toml").is_file()


def test_doctor() -> None:
    result = edgekit("doctor")
    assert result.exit_code == 0 and "edgekit can build, run and time artifacts here" in result.stdout
    checks = {check["name"]: check for check in answer("doctor")["checks"]}
    assert checks["litert"]["status"] == checks["onnxruntime"]["status"] == "ok"


def test_inspect(tflite: Path) -> None:
    result = edgekit("inspect", tflite, "--ops")
    assert result.exit_code == 0 and "float32 tflite" in result.stdout
    assert "left in float: 1 RELU" in result.stdout
    found = answer("inspect", tflite)
    assert found["artifact"] == str(tflite) and found["audit"]["counts"] == {"RELU": 1}


def test_inspect_shows_names_whatever_they_are(tmp_path: Path) -> None:
    from edgekit.emitters.tflite_graph import Graph, Op, Tensor

    x, y = Tensor("[red]x[/red]", (1, 2), "float32"), Tensor("y", (1, 2), "float32")
    path = tmp_path / "[bold]m.tflite"
    path.write_bytes(tflite_bytes.write(Graph([Op("RELU", (x,), (y,))], [x], [y])))
    said = edgekit("inspect", path).stdout
    assert "[red]x[/red]" in said and "[bold]m.tflite" in said.replace("\n", "")


def test_bench(tflite: Path) -> None:
    result = edgekit("bench", tflite, "--seconds", "0.01", "--runs", "20")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0].strip() == "relu.tflite"
    assert {"p50", "p90", "p99", "timing"} <= {line.split()[0] for line in result.stdout.splitlines() if line}


def test_bench_as_json(tflite: Path) -> None:
    found = answer("bench", tflite, "--seconds", "0.01", "--runs", "20")
    assert found["measurement"]["p50_ms"] > 0 and found["measurement"]["threads"] == 1


def test_bench_against_another(tflite: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / tflite.name
    other.parent.mkdir()
    other.write_bytes(tflite.read_bytes())
    result = edgekit("bench", tflite, "--against", other, "--seconds", "0.01", "--runs", "20")
    assert result.exit_code == 0 and "x as long as" in result.stdout.replace("\n", " ")
    found = answer("bench", tflite, "--against", other, "--seconds", "0.01", "--runs", "20")["comparison"]
    assert found["low"] <= found["ratio"] <= found["high"]


def test_gate(tmp_path: Path) -> None:
    good, bad = stored(tmp_path / "good" / "report.json", FULL), stored(tmp_path / "bad.json", FAILED)
    result = edgekit("gate", good.parent)
    assert result.exit_code == 0 and "both gates hold" in result.stdout
    result = edgekit("gate", good, bad)
    assert result.exit_code == 1 and "FAIL" in result.stdout


def test_gate_that_is_inconclusive(tmp_path: Path) -> None:
    path = stored(tmp_path / "report.json", FULL)
    config = tmp_path / "edgekit.toml"
    config.write_text('[gates]\nlatency_p50 = "4 ms"\n')
    result = edgekit("gate", path, "--config", config)
    assert result.exit_code == 3 and "inconclusive" in result.stdout


def test_gate_as_json(tmp_path: Path) -> None:
    found = answer("gate", stored(tmp_path / "report.json", FULL))
    assert found["exit_code"] == 0
    assert found["reports"][0]["status"] == "pass"
    assert [verdict["gate"] for verdict in found["reports"][0]["gates"]] == ["size", "accuracy_drop"]


def test_gate_against_a_baseline_writes_its_forms(tmp_path: Path) -> None:
    path = stored(tmp_path / "report.json", replace(FULL, latency=measurement(0.5), device="pi"))
    before = stored(tmp_path / "before.json", replace(FULL, device="pi"))
    junit, page = tmp_path / "out" / "gates.xml", tmp_path / "gates.md"
    result = edgekit("gate", path, "--baseline", before, "--junit", junit, "--markdown", page)
    assert result.exit_code == 1 and "baseline latency_p50" in result.stdout
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    assert "baseline latency" in page.read_text()


def test_the_program(tmp_path: Path) -> None:
    done = program("targets", "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["targets"]
    done = program("gate", "nothing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nothing: cannot be read: No such file or directory\n"


def test_an_interrupt_ends_with_130(tflite: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "bench", str(tflite), "--seconds", "30"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, env=environment, preexec_fn=listen, **pipes) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while running.poll() is None and not children.read_text():
            time.sleep(0.05)
        time.sleep(0.5)  # the agent is there: the artifact is being timed
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=20)
    assert (running.returncode, said) == (130, ("", "interrupted\n"))


def test_a_terminal_that_knows_only_ascii(tmp_path: Path) -> None:
    path = stored(tmp_path / "é.json", replace(FULL, reproduce="é"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "edgekit", "gate", str(path)]
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
