"""The commands of docs/guides and of docs/devices.md run as they stand, with this machine in place of the devices."""

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
GUIDES = [*sorted((ROOT / "docs" / "guides").glob("*.md")), ROOT / "docs" / "devices.md"]
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
    run("".join(blocks), project)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/accuracy.md", "docs/layout.md"])
def test_the_commands_of_other_pages_run(page: str, project: Path) -> None:
    """``edgekit init`` in a folder of its own, as it wants to be the first there."""
    commands = re.findall(r"^(edgekit .+)$", (ROOT / page).read_text(), re.M)
    assert commands
    for name in ("calib", "test"):
        shutil.copy(project / "data.npz", project / f"{name}.npz")
    build(load_project(project / "edgekit.toml"), ["raspberry-pi-4-litert"], project / "build")
    apart = [f"(mkdir -p begun; cd begun; {line})" if line.startswith("edgekit init") else line for line in commands]
    run("\n".join(apart), project)


def run(script: str, folder: Path) -> None:
    """Run a script in a folder, with this edgekit on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, text=True, capture_output=True)
    assert found.returncode == 0, found.stderr
