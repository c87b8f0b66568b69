"""Whether a device can run and time artifacts: what is there, what is missing, and how to get it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgekit.device import Device
from edgekit.doctor import MISSING, OK, RUNTIMES, TRIALS, WARNING, Check
from edgekit.errors import DeviceError, EdgekitError, ModelError
from edgekit.measure import hindered
from edgekit.report import text
from edgekit.transports.benchmark import BinaryBench, tool_of
from edgekit.transports.connection import Connection

DISK_BYTES = 100_000_000


def diagnose(device: Device, clean: bool = False) -> tuple[Check, ...]:
    """All checks; with ``clean`` what is kept on the device is removed afterwards. One runtime is enough."""
    if device.benchmark:
        return _binary(BinaryBench(device=device), clean)
    try:
        with Connection(device) as connection:
            checks = [*_reached(connection), *_machine(connection)]
            runtimes = [_runtime(connection, name, install) for name, _, install in RUNTIMES]
            kept = _kept(connection, clean)
    except DeviceError as error:
        return (Check("device", device.name, MISSING, *_told(device, error)),)
    if any(check.status == OK for check in runtimes):
        runtimes = [check if check.status == OK else replace(check, status=WARNING) for check in runtimes]
    return (*checks, *runtimes, kept)


def _binary(bench: BinaryBench, clean: bool) -> tuple[Check, ...]:
    """Whether a benchmark binary times a tiny model."""
    device, runtime = bench.device, tool_of(bench.device).runtime
    try:
        with _trial(runtime) as path:
            found = bench.glance(path)
        if clean:
            bench.clean()
    except DeviceError as error:
        return (Check("device", device.name, MISSING, *_told(device, error)),)
    said = f"{device.benchmark} timed a model: {text.milliseconds(found.p50_ms)}; it gives no outputs to verify"
    reached = Check("device", device.name, OK, f"reached by {device.transport}, keeps files in {device.folder}")
    return reached, *_speed(found.before), Check("runtimes", runtime, OK, said)


@contextmanager
def _trial(runtime: str) -> Iterator[Path]:
    """A tiny model of that runtime."""
    with TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / f"trial.{'tflite' if runtime == 'litert' else 'onnx'}"
        path.write_bytes(TRIALS[runtime]())
        yield path


def _told(device: Device, error: EdgekitError) -> tuple[str, str]:
    """An error without what stands beside it anyway, and the command that it says to install with."""
    said, _, fix = str(error).removeprefix(f"device {device.name}: ").partition("; install it: ")
    return said, fix


def _reached(connection: Connection) -> Iterator[Check]:
    device, hello = connection.device, connection.hello
    python = ".".join(map(str, hello["python"]))
    yield Check("device", device.name, OK, f"reached by {device.transport}, keeps files in {hello['folder']}")
    yield Check("python", "python", OK, f"{python} ({device.python})")
    free = hello["free_bytes"]
    fix = "" if free >= DISK_BYTES else f"free some space: {text.size(DISK_BYTES)} are comfortable"
    yield Check("room", "disk", WARNING if fix else OK, f"{text.size(free)} free", fix)


def _machine(connection: Connection) -> Iterator[Check]:
    try:
        found = connection.ask({"do": "facts"})
    except DeviceError as error:
        yield Check(
            "packages", "numpy", MISSING, _told(connection.device, error)[0], _there(connection, "pip install numpy")
        )
        return
    machine, state = found["machine"], found["state"]
    yield Check("packages", "numpy", OK, machine["numpy"])
    name = machine["board"] or machine["cpu"]
    yield Check("cpu", "cpu", OK, f"{name}, {machine['architecture']}, {text.plural(machine['cores_allowed'], 'core')}")
    yield from _speed(state)


def _speed(state: Mapping[str, Any]) -> Iterator[Check]:
    """What keeps the CPU from its full speed, as far as it says."""
    if state["governor"] is not None:
        steady = state["governor"] == "performance"
        fix = "" if steady else "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Check("cpu", "governor", OK if steady else WARNING, state["governor"], fix)
    for line in hindered(state, state):
        yield Check("cpu", "speed", WARNING, line, "look at its power supply and cooling")


def _runtime(connection: Connection, name: str, install: str) -> Check:
    """Whether a runtime there runs a tiny model."""
    try:
        with _trial(name) as path, connection.model(path, name) as model:
            (result,) = model.run({"x": np.array([[[-1.0, 2.0]]], np.float32)}).values()
    except (DeviceError, ModelError) as error:
        return Check("runtimes", name, MISSING, _told(connection.device, error)[0], _there(connection, install))
    right = result.tolist() == [[[0.0, 2.0]]]
    said = "ran a model" if right else f"Relu of [-1, 2] came out as {result.tolist()}, not [0, 2]"
    fix = "" if right else _there(connection, f"{install} --force-reinstall")
    return Check("runtimes", name, OK if right else MISSING, f"{model.runtime_version}: {said}", fix)


def _there(connection: Connection, install: str) -> str:
    """The line that installs something for the interpreter on the device."""
    return f"on {connection.device.name}: {connection.device.python} -m {install}"


def _kept(connection: Connection, clean: bool) -> Check:
    files = connection.files()
    said = f"{text.plural(len(files), 'file')}, {text.size(sum(files.values()))}"
    if clean:
        connection.clean()
        return Check("room", "kept", OK, f"{said}: removed")
    return Check("room", "kept", OK, said)
