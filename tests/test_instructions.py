"""Instructions of an inference, counted by a real valgrind; a stand-in for perf, as few virtual machines can count."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import edgekit
from loopback_sshd import NoSshd, loopback_sshd
from nets import cnn
from small_onnx import qdq_conv_relu

from edgekit.device import Device
from edgekit.errors import DeviceError, ModelError
from edgekit.instructions import count_instructions

STAND_IN = Path(__file__).parent / "stand_in"
NEEDS_VALGRIND = pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind here (apt install valgrind)")


@pytest.fixture
def without_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with ``env`` and neither perf nor valgrind."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_the_counter_of_the_processor_comes_first(relu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    found = count_instructions(relu)
    assert (found.count, found.counter) == (2000, "perf") and found.runtime_version.startswith("ai-edge-litert")


@pytest.mark.usefixtures("without_counters")
def test_where_nothing_counts_one_line_says_so(relu: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        count_instructions(relu)
    said = "device this machine: no instructions of litert can be counted: perf counts none here"
    assert str(caught.value) == f"{said}; valgrind can: apt install valgrind"
    small = tmp_path / "small.onnx"
    small.write_bytes(qdq_conv_relu())
    with pytest.raises(DeviceError, match="no instructions of onnxruntime can be counted: perf counts none here$"):
        count_instructions(small, Device("here", "exec", python=sys.executable, folder=str(tmp_path / "kept")))


def test_what_cannot_be_run_cannot_be_counted(tmp_path: Path) -> None:
    here = Device("here", "exec", python=sys.executable, folder=str(tmp_path / "kept"))
    (tmp_path / "bad.tflite").write_bytes(b"not a model")
    with pytest.raises(DeviceError, match="device gone: /no/python cannot be started"):
        count_instructions(tmp_path / "bad.tflite", replace(here, name="gone", python="/no/python"))
    with pytest.raises(ModelError, match=r"bad\.tflite: .* cannot run it"):
        count_instructions(tmp_path / "bad.tflite", here)


def project(folder: Path, text: str) -> tuple[str | Path, ...]:
    """The flags that build a small network with these gates."""
    cnn(folder / "net.onnx")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(0, 1, (8, 3, 8, 8)).astype(np.float32))
    head = '[model]\nsource = "net.onnx"\n[calibration]\ndata = "data.npy"\nrounding = "nearest"\n'
    (folder / "edgekit.toml").write_text(head + text)
    return "--config", folder / "edgekit.toml", "-t", "linux-x86_64-litert", "--out", folder / "b"


def test_a_build_counts_where_a_gate_asks_and_keeps_the_first_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    kept = tmp_path / "kept" / "linux-x86_64-litert.json"
    baseline = '[baseline]\nfolder = "kept"\n'
    failed = edgekit("build", *project(tmp_path, f"[gates]\ninstructions = 10\n{baseline}"))
    assert failed.exit_code == 1 and not kept.exists(), failed.output
    first = edgekit("build", *project(tmp_path, f"[gates]\ninstructions = 9000\n{baseline}"))
    assert first.exit_code == 0 and "2,000 an inference, by perf" in " ".join(first.output.split()), first.output
    assert kept.is_file() and f"{kept}: there was no baseline; written: commit it" in first.output.replace("\n", " ")
    kept.write_text(kept.read_text().replace('"macs": ', '"macs": -'))
    grown = edgekit("build", *project(tmp_path, baseline), "--json")
    (report,) = json.loads(grown.stdout)["reports"]
    failed_gates = [verdict["gate"] for verdict in report["gates"] if verdict["status"] == "fail"]
    assert grown.exit_code == 1 and failed_gates == ["baseline macs"], report["gates"]
    off = edgekit("build", *project(tmp_path, f"{baseline}macs = false\n"))
    assert off.exit_code == 0, off.output


@pytest.mark.usefixtures("without_counters")
def test_a_build_that_cannot_count_says_so(tmp_path: Path) -> None:
    result = edgekit("build", *project(tmp_path, "[gates]\ninstructions = 9000\n"), "--json")
    (report,) = json.loads(result.stdout)["reports"]
    (verdict,) = report["gates"]
    assert result.exit_code == 1 and verdict["text"].endswith("nothing was measured: none were counted")
    assert any("linux-x86_64-litert: device this machine: no instructions of litert" in w for w in report["warnings"])


@NEEDS_VALGRIND
@pytest.mark.slow
def test_the_count_is_the_same_every_time_and_over_ssh(relu: Path, tmp_path: Path) -> None:
    first = count_instructions(relu)
    try:
        with loopback_sshd(tmp_path) as server:
            second = count_instructions(relu, server.device)
    except NoSshd:
        second = count_instructions(relu)
    assert first.counter in ("perf", "valgrind") and abs(first.count - second.count) <= 0.01 * first.count
