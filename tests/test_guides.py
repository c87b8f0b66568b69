"""The commands of docs/guides run as they stand, with this machine in place of the devices."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import cnn

from edgekit.build import build
from edgekit.project import load_project

ROOT = Path(__file__).resolve().parent.parent
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
TARGET = "linux-x86_64-litert"
PROJECT = """[model]
source = "net.onnx"
[calibration]
data = "data.npz"
rounding = "nearest"
[evaluation]
data = "data.npz"
[devices.pi]
transport = "local"
[devices.phone]
transport = "local"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an artifact, and the files beside it that the guides name."""
    folder = tmp_path_factory.mktemp("guides")
    cnn(folder / "net.onnx")
    images = np.random.default_rng(0).normal(0, 1, (8, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", images=images, labels=np.arange(8) % 2)
    (folder / "edgekit.toml").write_text(PROJECT)
    build(load_project(folder / "edgekit.toml"), [TARGET], folder / "build")
    for name in ("new", "old", "other"):
        shutil.copy(folder / "build" / TARGET / "model.tflite", folder / f"{name}.tflite")
    return folder


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run(page: Path, project: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)
    assert blocks
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-e", "-c", "".join(blocks)]
    found = subprocess.run(command, cwd=project, env=environment, text=True, capture_output=True)
    assert found.returncode == 0, found.stderr
