"""Instructions of one inference, counted where the machine can: a cost that is nearly the same in every run.

What a process executes with some runs more, divided by how many more they are, leaves out all that happens once:
starting, loading, and the first runs, in which runtimes lay out their memory.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgekit.device import Device
from edgekit.errors import DeviceError
from edgekit.measure import request_for
from edgekit.report.model import Instructions
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.transports.connection import Connection

FIRST_RUNS = 3
COLLECTED = r"^==\d+== Collected : (\d+)"


@dataclass(frozen=True)
class Counter:
    """A program that counts the instructions of a command: how it is called, and the line on which it says how many.

    ``runs`` is how many runs are counted: enough to make little of what varies elsewhere, as few as its speed wants.
    ``runtimes`` are those whose start it counts alike every time.
    """

    name: str
    command: tuple[str, ...]
    line: str
    runs: int
    runtimes: tuple[str, ...]


COUNTERS = (
    Counter("perf", ("perf", "stat", "-x,", "-e", "instructions:u"), r"^(\d+),[^,\n]*,instructions:u", 300, RUNTIMES),
    Counter("valgrind", ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"), COLLECTED, 4, ("litert",)),
)
"""The first that works is taken: the processor's own counter, then an emulator that is 50 times slower."""

ALIKE = ("env", "PYTHONHASHSEED=0", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
"""Goes before it: numpy's threads would wait in a loop."""


def count_instructions(path: Path, device: Device | None = None) -> Instructions:
    """Count on a device (None: on this machine). Raises DeviceError where nothing can count, and ModelError."""
    if device is not None:
        return _first(path, device)
    with TemporaryDirectory(prefix="edgekit-") as folder:
        return _first(path, Device("this machine", "local", python=sys.executable, folder=folder))


def _first(path: Path, device: Device) -> Instructions:
    runtime = runtime_for(path)
    with Connection(device):
        pass  # one that cannot be reached is no matter of counters
    for counter in COUNTERS:
        if runtime in counter.runtimes and (found := _counted(path, device, counter)):
            return found
    fix = "; valgrind can: apt install valgrind" if runtime in COUNTERS[-1].runtimes else ""
    raise DeviceError(f"device {device.name}: no instructions of {runtime} can be counted: perf counts none here{fix}")


def _counted(path: Path, device: Device, counter: Counter) -> Instructions | None:
    """What one counter says; None where it cannot count."""
    requests = [_request(path, runs) for runs in (FIRST_RUNS, FIRST_RUNS + counter.runs)]
    with Connection(device) as connection:
        try:
            answers = [connection.ask(request, (*ALIKE, *counter.command)) for request in requests]
            said = connection.leave()
        except DeviceError:
            return None
    counts = list(map(int, re.findall(counter.line, said, re.M)))
    if len(counts) != len(requests):
        return None
    each, machine = round((counts[1] - counts[0]) / counter.runs), answers[0]["machine"]
    return Instructions(each, counter.name, answers[0]["runtime_version"], machine["cpu"], machine["architecture"])


def _request(path: Path, runs: int) -> dict[str, Any]:
    return request_for([path], None, 1, "random") | {"do": "repeat", "runs": runs}
