"""Artifacts on arm64 and armv7: Debian's Python and the runtimes under qemu-user (``make test-arm64`` fetches them).

What an emulated device computes is what a real one does; how long it takes means nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from command import edgekit
from small_onnx import conv_relu, qdq_conv_relu

from edgekit import device_doctor
from edgekit.device import Device
from edgekit.runtimes import Array, open_session
from edgekit.transports.connection import Connection

ROOT = Path(__file__).resolve().parent.parent
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.arm64


def emulated(kind: str, folder: Path) -> Device:
    """``arm64-modern``, ``arm64-old`` or ``armhf-old``. Skips where the emulator was not fetched."""
    place = Path(os.environ.get("EDGEKIT_EMULATED", ROOT / ".emulated"))
    if not (place / "ready").exists():
        pytest.skip("no emulated Python here: make test-arm64 fetches one")
    root, qemu = place / kind.partition("-")[0], "qemu-aarch64" if kind.startswith("arm64") else "qemu-arm"
    packages, libraries = (place / kind, root / "usr/lib/python3/dist-packages"), root / "usr/lib/arm-linux-gnueabihf"
    variables = [
        f"PYTHONPATH={os.pathsep.join(map(str, packages))}",
        f"LD_LIBRARY_PATH={libraries / 'blas'}:{libraries / 'lapack'}",
    ]
    command = ("env", *variables, str(place / qemu), "-L", str(root))
    return Device(kind, "exec", command=command, python=str(root / "usr/bin/python3.11"), folder=str(folder / "kept"))


@pytest.fixture
def modern(tmp_path: Path) -> Device:
    return emulated("arm64-modern", tmp_path)


@pytest.fixture(params=["arm64-old", "armhf-old"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    return emulated(request.param, tmp_path)


def both(device: Device, path: Path, runtime: str, count: int) -> tuple[Array, Array]:
    """The first output there and here, for random inputs, a sample a row."""
    session = open_session(path, runtime)
    (info,), name = session.inputs, session.outputs[0].name
    if info.dtype == "int8":
        values = RNG.integers(-128, 128, (count, *info.shape)).astype(np.int8)
    else:
        values = RNG.normal(size=(count, *info.shape)).astype(np.float32)
    here = np.stack([session.run({info.name: value})[name] for value in values])
    with Connection(device) as connection, connection.model(path, runtime) as model:
        assert model.machine["architecture"] == ("armv7l" if device.name.startswith("armhf") else "aarch64")
        return model.run({info.name: values})[name], here


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """An int8 TFLite of a convolution."""
    source, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    source.write_bytes(conv_relu())
    np.savez(data, x=RNG.normal(size=(16, 3, 8, 8)).astype(np.float32))
    result = edgekit("build", source, "-t", "raspberry-pi-4-litert", "--calibration", data, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    return tmp_path / "b/raspberry-pi-4-litert/model.tflite"


def test_int8_tflite_gives_the_same_bits(modern: Device, built: Path) -> None:
    there, here = both(modern, built, "litert", 16)
    assert there.dtype == np.int8 and len(np.unique(here)) > 50
    np.testing.assert_array_equal(there, here)


def test_resnet20_gives_the_same_bits(modern: Device, shared: Path) -> None:
    there, here = both(modern, shared / "peers/int8/resnet20.tinynn.tflite", "litert", 4)
    assert there.dtype == np.int8
    np.testing.assert_array_equal(there, here)


def test_tflite_runtime_is_a_step_away_at_most(old: Device, built: Path) -> None:
    there, here = both(old, built, "litert", 16)
    assert np.abs(there.astype(int) - here).max() <= 1


def test_onnx_is_a_step_away_at_most(modern: Device, tmp_path: Path) -> None:
    path = tmp_path / "qdq.onnx"
    path.write_bytes(qdq_conv_relu())
    there, here = both(modern, path, "onnxruntime", 16)
    step = np.diff(np.unique(here)).min()
    assert np.abs(there - here).max() <= 1.001 * step


def test_the_doctor_finds_the_runtimes(modern: Device) -> None:
    found = {check.name: (check.status, check.found) for check in device_doctor.diagnose(modern)}
    assert found["onnxruntime"][0] == found["litert"][0] == "ok" and "aarch64" in found["cpu"][1]


def test_the_doctor_finds_tflite_runtime(old: Device) -> None:
    found = {check.name: (check.status, check.found) for check in device_doctor.diagnose(old)}
    assert found["litert"] == ("ok", "tflite-runtime 2.14.0: ran a model") and found["onnxruntime"][0] == "warning"
