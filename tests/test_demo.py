"""The demo: what `make demo` builds passes its gates, its data is as described, its weights can be trained again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.project import load_project
from edgekit.samples import look, open_calibration, open_evaluation

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits"
PORT = {"image": (1, 1, 8, 8)}
TARGETS = ("raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime")


def test_the_weights_are_small() -> None:
    assert (DIGITS / "digits.safetensors").stat().st_size < 200_000


def test_the_data_looks_right_and_nothing_held_out_is_calibrated_with() -> None:
    project = load_project(DIGITS / "edgekit.toml")
    calibration, evaluation = open_calibration(project, PORT), open_evaluation(project, PORT)
    assert (len(list(calibration)), len(list(evaluation))) == (256, 599)
    assert look(calibration) == []
    assert look(evaluation, "evaluation") == []
    seen = {sample.inputs["image"].tobytes() for sample in calibration}
    assert not [sample.name for sample in evaluation if sample.inputs["image"].tobytes() in seen]


def test_the_declared_mean_and_std_are_the_datas() -> None:
    project = load_project(DIGITS / "edgekit.toml")
    images = np.concatenate([sample.inputs["image"] for sample in open_calibration(project, PORT)])
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


def test_both_artifacts_pass_their_gates(tmp_path: Path) -> None:
    flags = [part for target in TARGETS for part in ("--target", target)]
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "build",
        "--config",
        str(DIGITS / "edgekit.toml"),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for target in TARGETS:
        report = json.loads((tmp_path / target / "report.json").read_text())
        assert {verdict["status"] for verdict in report["gates"]} == {"pass"}
        assert report["evaluation"]["artifact_value"] >= 0.98


@pytest.mark.slow
def test_the_network_can_be_trained_again(tmp_path: Path) -> None:
    folder = shutil.copytree(DIGITS, tmp_path / "digits")
    (folder / "digits.safetensors").unlink()
    done = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"held-out accuracy ([0-9.]+)%", done.stdout)
    assert float(found[-1]) >= 98.0
    assert (folder / "digits.safetensors").is_file()
