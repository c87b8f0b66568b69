"""The command line: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import small_onnx
from click.testing import CliRunner, Result
from onnx import helper
from sample_reports import BARE, FAILED, FULL, measurement

from edgekit import __version__, doctor
from edgekit.cli import cli
from edgekit.emitters import tflite_bytes
from edgekit.project import load_project
from edgekit.report import json as report_json
from edgekit.report.model import Report

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("build", "bench", "verify", "inspect", "gate", "targets", "init", "doctor")


def edgekit(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="edgekit")


def program(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "edgekit.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


def answer(*arguments: str | Path) -> Any:
    """What a command with --json prints on stdout."""
    result = edgekit(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


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
        (["biuld"], "No such command 'biuld'. Did you mean 'build'?"),
        (["build", "--tagret", "x"], "No such option '--tagret'. Did you mean '--target'?"),
        (["build", "x.onnx"], "Missing option '--target' / '-t'."),
        (["build", "-t", "x", "--samples", "many"], "'many' is not a valid integer."),
        (["build", "-t", "x"], "no model: give MODEL, or write an edgekit.toml (edgekit init does)"),
        (["bench"], "Missing argument 'ARTIFACT'."),
        (["bench", "a", "--against", "b", "--runtime", "litert"], "--runtime goes without --against"),
        (["gate"], "Missing argument 'REPORT...'."),
        (["targets", "a", "b"], "Got unexpected extra argument (b)"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, here: Path) -> None:
    result = edgekit(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr


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


def classifier() -> bytes:
    """3x8x8 -> Conv, Relu, pool, Gemm -> 4 scores."""
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["scores"]),
    ]
    weights = [small_onnx.weights("w", 4, 3, 3, 3), small_onnx.weights("b", 4), small_onnx.weights("head", 4, 4)]
    ports = [small_onnx.tensor("image", [1, 3, 8, 8])], [small_onnx.tensor("scores", [1, 4])]
    return small_onnx.model(nodes, *ports, weights)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny network, calibration data and labelled data, built once."""
    folder = tmp_path_factory.mktemp("network")
    generator = np.random.default_rng(7)
    images = generator.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    (folder / "net.onnx").write_bytes(classifier())
    np.savez(folder / "calib.npz", images=images)
    np.savez(folder / "test.npz", images=images, labels=generator.integers(0, 4, 48))
    (folder / "edgekit.toml").write_text(PROJECT)
    targets = ("-t", "linux-x86_64-litert", "-t", "linux-x86_64-onnxruntime")
    done = program("build", *targets, "--json", "--junit", "gates.xml", "--markdown", "report.md", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


PROJECT = """
[model]
source = "net.onnx"
[calibration]
data = "calib.npz"
[evaluation]
data = "test.npz"
[gates]
float_ops = 0
agreement = 0.5
"""


def test_build(network: Path) -> None:
    found = json.loads((network / "stdout").read_text())
    assert found["exit_code"] == 0
    for report, name in zip(found["reports"], ("linux-x86_64-litert", "linux-x86_64-onnxruntime"), strict=True):
        folder = network / "build" / name
        assert Report.from_json(report) == report_json.read(folder / "report.json")
        assert {"plan.json", "contract.json", "report.html"} <= {path.name for path in folder.iterdir()}
        assert [verdict["status"] for verdict in report["gates"]] == ["pass", "pass"]
    assert ElementTree.parse(network / "gates.xml").getroot().get("tests") == "4"
    assert "linux-x86_64-onnxruntime" in (network / "report.md").read_text()


def test_build_says_on_stderr_how_far_it_is(network: Path) -> None:
    assert any(line.startswith("calibrate: 48 of 48") for line in (network / "stderr").read_text().splitlines())


def test_build_whose_gate_fails(network: Path, tmp_path: Path) -> None:
    config = tmp_path / "edgekit.toml"
    config.write_text('[gates]\nsize = "1 KB"\n')
    result = edgekit("gate", network / "build" / "linux-x86_64-litert", "--config", config)
    assert result.exit_code == 1 and "FAIL  size" in result.stdout


def test_verify(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(network)
    artifact = Path("build/linux-x86_64-litert/model.tflite")
    result = edgekit("verify", artifact)
    assert result.exit_code == 0 and "top1" in result.stdout and "worst tensors" in result.stdout
    found = json.loads(edgekit("verify", artifact, "--samples", "10", "--quiet", "--json").stdout)
    assert found["evaluation"]["samples"] == found["fidelity"]["samples"] == 10


def test_verify_without_labels_preprocesses_as_the_artifact_says(network: Path, here: Path) -> None:
    artifact = network / "build" / "linux-x86_64-onnxruntime" / "model.onnx"
    flags = ("--model", network / "net.onnx", "--data", network / "calib.npz", "--quiet", "--json")
    found = json.loads(edgekit("verify", artifact, *flags).stdout)
    assert found["evaluation"] is None
    assert min(found["fidelity"]["outputs"].values()) > 15


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
    path = stored(tmp_path / "report.json", replace(FULL, latency=measurement(0.5)))
    before = stored(tmp_path / "before.json", FULL)
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


def test_a_terminal_that_knows_only_ascii(tmp_path: Path) -> None:
    path = stored(tmp_path / "é.json", replace(FULL, reproduce="é"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "edgekit.cli", "gate", str(path)]
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
