"""tflite-runtime, the runtime of old devices, with numpy<2 in an environment of its own, as an ``exec`` device."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgekit import device_doctor
from edgekit.device import Device
from edgekit.errors import DeviceError
from edgekit.runtimes import open_session
from edgekit.transports.connection import Connection, bench_on

pytestmark = pytest.mark.slow
PYTHONS = ("3.11", "3.10", "3.9", "3.8")  # those that it has wheels for


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device with tflite-runtime; skips where there is no Python that it has wheels for, or no package index."""
    folder = tmp_path_factory.mktemp("old")
    python = next((found for each in PYTHONS if (found := working(f"python{each}"))), None)
    if python is None:
        pytest.skip(f"no Python here that tflite-runtime has wheels for ({', '.join(PYTHONS)})")
    subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
    return Device("old", "exec", python=str(folder / "venv/bin/python"), folder=str(folder / "kept"))


def working(name: str) -> str | None:
    """The path of a Python that starts."""
    path = shutil.which(name)
    started = path and subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0
    return path if started else None


def install(device: Device, *packages: str) -> None:
    command = [device.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not to be had here: {' '.join(packages)}: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def resnet(shared: Path) -> Path:
    return shared / "peers/int8/resnet20.tinynn.tflite"


def test_it_runs_is_timed_and_is_checked(old: Device, resnet: Path) -> None:
    install(old, "tflite-runtime", "numpy<2")
    with bench_on(old) as timer:
        found = timer.glance(resnet)
    assert (found.runtime, found.runtime_version) == ("litert", "tflite-runtime 2.14.0") and found.p50_ms > 0
    checks = {check.name: check for check in device_doctor.diagnose(old)}
    assert checks["litert"].found == "tflite-runtime 2.14.0: ran a model"
    assert (checks["onnxruntime"].status, checks["onnxruntime"].fix) == (
        "warning",
        f"on old: {old.python} -m pip install onnxruntime",
    )
    values = np.random.default_rng(0).integers(-128, 128, (16, 1, 32, 32, 3)).astype(np.int8)
    session = open_session(resnet, "litert")
    here = np.stack([session.run({session.inputs[0].name: value})["Xq.1"] for value in values])
    with Connection(old) as connection, connection.model(resnet, "litert") as model:
        there = model.run({session.inputs[0].name: values})["Xq.1"]
    assert np.abs(there.astype(int) - here).max() <= 4  # it rounds in another way, layer by layer


def test_under_numpy_2_it_says_so(old: Device, resnet: Path) -> None:
    install(old, "tflite-runtime", "numpy>=2")
    with pytest.raises(DeviceError, match=r"tflite-runtime 2.14.0 does not work here"), bench_on(old) as timer:
        timer.glance(resnet)
