"""What a device costs beside the runs themselves: the agent's overhead here, and a whole bench over ssh.

    python benchmarks/devices.py [RUNS]

The overhead is the wall time of one agent process without loading the model and running it: starting Python, importing
numpy and the runtime, reading the machine's state. The CPU time of the whole process says what it would be on a quiet
machine. The bench is ``edgekit bench`` of ResNet20 as a process of its own, over a real sshd on loopback, with its
default effort: nothing is on the device at first.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shared
from shared import ROOT, TFLITE

from edgekit.device import Device
from edgekit.measure import ask, request_for
from edgekit.transports.connection import Connection

sys.path.append(str(ROOT / "tests"))

from loopback_sshd import LoopbackSshd, NoSshd, loopback_sshd

NETWORK = "cifar10_resnet20"
LIMIT_OVERHEAD, LIMIT_BENCH = 0.3, 6.0
CONFIG = """
[devices.pi]
transport = "ssh"
host = "pi"
options = ["-F", "{config}"]
python = "{python}"
folder = "{folder}"
"""


def main() -> None:
    """Measure both several times."""
    (network,) = shared.chosen([], [NETWORK])
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with shared.workplace() as folder:
        artifact = shared.built(network, [TFLITE], folder)[TFLITE]
        used = processor_seconds()
        local = [overhead(artifact, ask) for _ in range(runs)]
        used = (processor_seconds() - used) / runs
        with Connection(Device("here", "local", python=sys.executable, folder=str(folder / "local"))) as connection:
            through = [overhead(artifact, connection.ask) for _ in range(runs)]
        try:
            with loopback_sshd(folder) as sshd:
                benches = [bench(artifact, sshd) for _ in range(runs)]
        except NoSshd as reason:
            sys.exit(f"skipped: {reason}")
    rows = [
        [name, *(f"{value:.2f}" for value in (statistics.median(found), min(found), max(found)))]
        for name, found in (("agent alone", local), ("through the far end", through), ("bench over ssh", benches))
    ]
    shared.table("Overhead of one run, and a whole bench, in seconds", ("", "median", "least", "most"), rows)
    floors = [
        shared.at_most("median seconds of overhead of a local run", statistics.median(local), LIMIT_OVERHEAD),
        shared.at_most("median seconds of edgekit bench over ssh", statistics.median(benches), LIMIT_BENCH),
    ]
    result = {"overhead_s": local, "process_cpu_s": used, "far_end_overhead_s": through, "ssh_bench_s": benches}
    shared.finish("devices", {NETWORK: {**result, "load_average": os.getloadavg()[0], "floors": floors}})


def processor_seconds() -> float:
    """What all processes that have ended have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def overhead(artifact: Path, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> float:
    """The seconds of one answer in which the model was neither loaded nor run; warm-up counts as overhead."""
    request = request_for([artifact], None, 1, "random") | {"runs": 1, "seconds": 0, "warmup_seconds": 0}
    started = time.perf_counter()
    answer = ask(request)
    seconds = time.perf_counter() - started
    (model,) = answer["artifacts"]
    return seconds - (model["load_ns"] + model["first_run_ns"] + sum(map(sum, model["blocks_ns"]))) / 1e9


def bench(artifact: Path, sshd: LoopbackSshd) -> float:
    """The seconds of ``edgekit bench --device pi``, to a device that holds nothing."""
    config = sshd.folder / "edgekit.toml"
    config.write_text(CONFIG.format(config=sshd.folder / "config", python=sys.executable, folder=sshd.device.folder))
    with Connection(sshd.device) as connection:
        connection.clean()
    command = [sys.executable, "-m", "edgekit", "bench", str(artifact), "--device", "pi", "--config", str(config)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
