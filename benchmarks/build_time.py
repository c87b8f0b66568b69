"""What `edgekit build` costs as a whole process: wall time, peak memory, emitting alone, and byte-identical rebuilds.

    python benchmarks/build_time.py [RUNS]

ResNet20 for CIFAR-10 from torch, both artifacts, 200 calibration samples, no evaluation; imports, verifying, timing the
artifacts and writing the reports included. Each run starts in an empty folder, so that no stage is reused.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import shared
from shared import ONNX, TFLITE

NETWORK = "cifar10_resnet20"
SAMPLES = 200
LIMIT_SECONDS, LIMIT_MEMORY, LIMIT_EMIT = 12.0, 900e6, 0.5
CONFIG = """
[model]
source = "definitions:{name}"
[model.inputs.x]
shape = [1, 3, 32, 32]
mean = {mean}
std = {std}
[calibration]
data = "{data}"
samples = {samples}
"""


def main() -> None:
    """Build several times and print what each run took."""
    shared.chosen([], [NETWORK])
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with shared.workplace() as folder:
        config = folder / "edgekit.toml"
        data = shared.DATA / "cifar10_calib.npz"
        config.write_text(CONFIG.format(name=NETWORK, data=data, samples=SAMPLES, **shared.CIFAR))
        found = [run(config, folder / str(number)) for number in range(runs)]
    columns = ("run", "wall s", "user + system s", "peak MB", "emit TFLite s", "emit ONNX s", "load average before")
    shared.table(f"edgekit build, {NETWORK}, both artifacts", columns, [row(n, item) for n, item in enumerate(found)])
    shared.finish("build_time", {NETWORK: summary(found)})


def run(config: Path, out: Path) -> dict[str, Any]:
    """One build in a process of its own. Its peak is that of its largest process, which is the build itself."""
    command = [sys.executable, "-m", "edgekit.cli", "build", "--config", str(config), "--out", str(out)]
    command += ["--quiet", "--json", "-t", TFLITE, "-t", ONNX]
    load, started = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(
        command, cwd=shared.MODELS, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        sys.exit(f"edgekit build ended with status {os.waitstatus_to_exitcode(status)}")
    reports = {report["target"]["name"]: report for report in json.loads(answer)["reports"]}
    artifacts = {name: Path(report["artifact"]["path"]) for name, report in reports.items()}
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": peak_of(usage),
        "load_average": load,
        "stages": {name: {s["name"]: s["seconds"] for s in r["stages"]} for name, r in reports.items()},
        "sha256": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in artifacts.items()},
    }


def environment() -> dict[str, str]:
    """This one, with the checkout on Python's path: the build runs in the models' folder."""
    path = os.pathsep.join(filter(None, (str(shared.ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


def peak_of(usage: resource.struct_rusage) -> int:
    """The peak of resident memory in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians, every run, and the floors."""
    wall = statistics.median(item["wall_s"] for item in found)
    peak = max(item["peak_bytes"] for item in found)
    emit = statistics.median(item["stages"][TFLITE]["emit"] for item in found)
    different = len({json.dumps(item["sha256"], sort_keys=True) for item in found}) - 1
    floors = [
        shared.at_most("wall s, median", wall, LIMIT_SECONDS),
        shared.at_most("peak MB", peak / 1e6, LIMIT_MEMORY / 1e6),
        shared.at_most("s to emit the TFLite", emit, LIMIT_EMIT),
        shared.at_most("rebuilds whose bytes differ", different, 0),
    ]
    return {"samples": SAMPLES, "wall_s": wall, "peak_bytes": peak, "emit_s": emit, "runs": found, "floors": floors}


def row(number: int, item: dict[str, Any]) -> tuple[str, ...]:
    """The table row of one run."""
    emit = (f"{item['stages'][name]['emit']:.3f}" for name in (TFLITE, ONNX))
    times = (f"{item['wall_s']:.2f}", f"{item['cpu_s']:.2f}", f"{item['peak_bytes'] / 1e6:.0f}")
    return (str(number + 1), *times, *emit, f"{item['load_average']:.2f}")


if __name__ == "__main__":
    main()
