"""A device on which a runtime's own benchmark binary times models, without a Python: an Android phone, for one.

``benchmark_model`` is LiteRT's, ``onnxruntime_perf_test`` ONNX Runtime's (a name with ``perf_test`` in it). What they
print is read back: LiteRT's ``count=... median=...`` lines and ``Inference timings in us``, ONNX Runtime's
``P50 Latency`` and its like. They give no outputs.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.device import Device
from edgekit.errors import DeviceError, InputError
from edgekit.measure import (
    COMPARED_PROCESSES,
    GLANCES,
    PROCESSES,
    Bench,
    Comparison,
    Interval,
    Measurement,
    effort,
    median_interval,
    patience,
)
from edgekit.runtimes import read, runtime_for
from edgekit.transports import last_line, transport_of

NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
FOLDER = 'mkdir -p "$0" && cd "$0" && pwd'
SEND = 'cat > "$0.part" && mv "$0.part" "$0" || { rm -f "$0.part"; exit 1; }'
CLEAN = 'rm -f "$0"/' + "[0-9a-f]" * 32 + '.*; rmdir "$0" 2> /dev/null || true'
STATE = "for f in /proc/loadavg {cpu}/scaling_governor {cpu}/scaling_cur_freq {heat}/temp; do cat $f || echo; done"
STATE = STATE.format(cpu="/sys/devices/system/cpu/cpu0/cpufreq", heat="/sys/class/thermal/thermal_zone0")
MACHINE = "uname -m; uname -sr; nproc --all; getprop ro.product.model || echo"
SECONDS = 60.0  # for a command that is done at once
BYTES_PER_SECOND = 50_000  # what a slow connection can do

Run = Mapping[str, Any]  # what one process printed: times in ms


@dataclass(frozen=True)
class Tool:
    """How a binary is called for a file and an effort, and how what it prints is read."""

    runtime: str
    arguments: Callable[[str, int, Mapping[str, Any]], list[str]]
    read: Callable[[str], Run]


def _litert_arguments(path: str, threads: int, asked: Mapping[str, Any]) -> list[str]:
    return [
        f"--graph={path}",
        f"--num_threads={threads}",
        f"--warmup_min_secs={min(0.5, asked['seconds'])}",
        f"--num_runs={asked['runs']}",
        f"--min_secs={asked['seconds']}",
        f"--max_secs={asked['max_seconds']}",
    ]


def _litert(said: str) -> Run:
    """Times are in us there. p90 and p99 are not printed: a 95th percentile is neither."""
    warm, timed = (dict(re.findall(rf"(\w+)={NUMBER}\b", line)) for line in _lines(said, r"count=\d+ .*", 2))
    (timings,) = _lines(said, "Inference timings in us: .*", 1)
    memory = re.search(rf"Memory footprint delta .*overall={NUMBER}", said)
    if "median" not in timed:
        raise DeviceError("it prints no median; take the benchmark_model of a newer release")
    return {
        "runs": int(timed["count"]),
        "warmup_runs": int(warm["count"]),
        "p50_ms": float(timed["median"]) / 1e3,
        "mean_ms": float(timed["avg"]) / 1e3,
        "min_ms": float(timed["min"]) / 1e3,
        "stdev_ms": float(timed["std"]) / 1e3,
        "load_ms": _figure(timings, "Init: ") / 1e3,
        "first_run_ms": _figure(timings, "First inference: ") / 1e3,
        "model_memory_bytes": round(float(memory[1]) * 2**20) if memory else None,
    }


def _onnxruntime_arguments(path: str, threads: int, asked: Mapping[str, Any]) -> list[str]:
    return ["-e", "cpu", "-m", "times", "-r", str(asked["runs"]), "-x", str(threads), "-y", "1", "-s", "-I", path]


def _onnxruntime(said: str) -> Run:
    """Times are in s there, where no unit stands beside them."""
    return {
        "runs": round(_figure(said, r"Runs:\s*")),
        "warmup_runs": 1,
        "p50_ms": _figure(said, "P50 Latency: ") * 1e3,
        "p90_ms": _figure(said, "P90 Latency: ") * 1e3,
        "p99_ms": _figure(said, "P99 Latency: ") * 1e3,
        "mean_ms": _figure(said, r"Average inference time cost(?: total)?: "),
        "min_ms": _figure(said, "Min Latency: ") * 1e3,
        "load_ms": _figure(said, "Session creation time cost: ") * 1e3,
        "first_run_ms": _figure(said, "First inference time cost: "),
        "peak_memory_bytes": round(_figure(said, "Peak working set size: ")),
    }


def _lines(said: str, pattern: str, count: int) -> list[str]:
    found = re.findall(pattern, said)
    if len(found) < count:
        label = re.split(r"[\\(.]", pattern)[0].strip()
        raise DeviceError(f"what it prints has no {label!r}: {last_line(said) or 'nothing'}")
    return found[:count]


def _figure(said: str, label: str) -> float:
    """The number behind a label."""
    (line,) = _lines(said, label + NUMBER, 1)
    return float(line)


LITERT = Tool("litert", _litert_arguments, _litert)
ONNXRUNTIME = Tool("onnxruntime", _onnxruntime_arguments, _onnxruntime)


def tool_of(device: Device) -> Tool:
    """What the device's binary is, by its name."""
    return ONNXRUNTIME if "perf_test" in Path(device.benchmark).name else LITERT


@dataclass(frozen=True, kw_only=True)
class BinaryBench(Bench):
    """Times artifacts with ``device.benchmark``; every method raises DeviceError, with one line, when that fails."""

    device: Device

    def measure(
        self,
        path: Path,
        runtime: str | None = None,
        threads: int = 1,
        runs: int = 50,
        seconds: float = 0.5,
        inputs: str = "random",
    ) -> Measurement:
        """Time one artifact, in several processes. Raises InputError for a file or inputs that are not the binary's."""
        self._refuse(inputs)
        asked, there, before = effort(runs, seconds, PROCESSES), self._sent(path, runtime), self._state()
        found = [self._run(there, threads, asked) for _ in range(PROCESSES)]
        return self._measurement(found, threads, before)

    def glance(self, path: Path, threads: int = 1) -> Measurement:
        """The same with less effort."""
        asked, there, before = effort(30, 0.15, GLANCES), self._sent(path), self._state()
        return self._measurement([self._run(there, threads, asked) for _ in range(GLANCES)], threads, before)

    def compare(
        self, a: Path, b: Path, threads: int = 1, runs: int = 50, seconds: float = 2.0, inputs: str = "random"
    ) -> Comparison:
        """Time two artifacts in turns, A B, B A, ..., a process each."""
        self._refuse(inputs)
        asked, paths, before = effort(runs, seconds, COMPARED_PROCESSES), [self._sent(a), self._sent(b)], self._state()
        pairs = []
        for number in range(COMPARED_PROCESSES):
            turn = [self._run(path, threads, asked) for path in paths[:: -1 if number % 2 else 1]]
            pairs.append(turn[:: -1 if number % 2 else 1])
        ratios = np.array([first["p50_ms"] / second["p50_ms"] for first, second in pairs])
        low, high = map(float, median_interval(ratios))
        both = [self._measurement([pair[index] for pair in pairs], threads, before) for index in (0, 1)]
        return Comparison(both[0], both[1], float(np.median(ratios)), low, high)

    def shares(self, paths: Sequence[Path], threads: int = 1, seconds: float = 0.6) -> list[float]:
        """The time of each artifact over that of the first."""
        asked, sent = effort(30, seconds, GLANCES), [self._sent(path) for path in paths]
        rounds = [[self._run(path, threads, asked)["p50_ms"] for path in sent] for _ in range(GLANCES)]
        return [float(np.median([times[index] / times[0] for times in rounds])) for index in range(len(sent))]

    def clean(self) -> None:
        """Remove what is kept on the device."""
        self._shell(["sh", "-c", CLEAN, self.device.folder])

    def _refuse(self, inputs: str) -> None:
        """Raise InputError for inputs that the binary does not make itself."""
        if inputs != "random":
            raise InputError(f"{inputs}: {self.device.benchmark} takes random inputs only")

    def _sent(self, path: Path, runtime: str | None = None) -> str:
        """The path of a file on the device, sent unless it is there. Raises InputError when another runtime runs it."""
        wanted, device = runtime or runtime_for(path), self.device
        if wanted != tool_of(device).runtime:
            raise InputError(f"{path}: {device.benchmark} is of {tool_of(device).runtime}, the file is for {wanted}")
        data = read(path)
        digest = hashlib.sha256(data).hexdigest()
        there = f"{self._shell(['sh', '-c', FOLDER, device.folder]).strip()}/{digest[:32]}{path.suffix}"
        if not self._shell(["sh", "-c", 'sha256sum "$0" || true', there]).startswith(digest):
            self._shell(["sh", "-c", SEND, there], data)
        return there

    def _run(self, there: str, threads: int, asked: Mapping[str, Any]) -> Run:
        device = self.device
        pinned = ["taskset", f"{sum(1 << cpu for cpu in device.cpus):x}"] if device.cpus else []
        command = [*pinned, device.benchmark, *tool_of(device).arguments(there, threads, asked)]
        said = self._shell(command, seconds=patience(asked))
        try:
            found = tool_of(device).read(said)
        except (DeviceError, KeyError) as error:
            why = f"what it prints has no {error}" if isinstance(error, KeyError) else error
            raise DeviceError(f"device {device.name}: {device.benchmark}: {why}") from None
        if not found["p50_ms"]:
            raise DeviceError(f"device {device.name}: {device.benchmark}: it tells a median of 0")
        return found

    def _state(self) -> dict[str, Any]:
        """What may change meanwhile, and what it is; None where the device does not say."""
        load, governor, khz, heat = self._shell(["sh", "-c", f"{{ {STATE}; }} 2> /dev/null"]).split("\n")[:4]
        return {
            "load_average": float(load.split()[0]) if load else None,
            "governor": governor or None,
            "mhz": int(khz) / 1e3 if khz else None,
            "temperature_c": int(heat) / 1e3 if heat else None,
        }

    def _machine(self) -> dict[str, Any]:
        architecture, system, cores, model = self._shell(["sh", "-c", f"{{ {MACHINE}; }} 2> /dev/null"]).split("\n")[:4]
        return {
            "cpu": model or architecture,
            "board": model or None,
            "architecture": architecture,
            "cores": int(cores),
            "cores_allowed": len(self.device.cpus) or int(cores),
            "system": system,
        }

    def _shell(self, command: list[str], data: bytes = b"", seconds: float = 0.0) -> str:
        """What a command on the device prints on both streams."""
        device, transport = self.device, transport_of(self.device)
        started = transport.command(device, [*device.command, *command])
        try:
            done = subprocess.run(
                started,
                input=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=device.home,
                timeout=SECONDS + seconds + len(data) / BYTES_PER_SECOND,
                check=False,
            )
        except OSError as error:
            fix = f"; install it: {transport.install}" if transport.install else ""
            said = f"{started[0]} cannot be started: {error.strerror or error}{fix}"
            raise DeviceError(f"device {device.name}: {said}") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"device {device.name}: no answer within {error.timeout:.0f} s") from error
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            raise DeviceError(f"device {device.name}: {transport.reason(device, done.returncode, said)}")
        return said

    def _measurement(self, found: Sequence[Run], threads: int, before: Mapping[str, Any]) -> Measurement:
        """The medians of what the processes printed; a quantile that they do not print is None."""

        def middle(field: str) -> float:
            return float(np.median([run[field] for run in found]))

        def quantile(field: str) -> tuple[float | None, Interval]:
            if field not in found[0]:
                return None, ()
            low, high = median_interval(np.array([run[field] for run in found]))
            return middle(field), (float(low), float(high))

        (p50, within50), (p90, within90), (p99, within99) = map(quantile, ("p50_ms", "p90_ms", "p99_ms"))

        def most(field: str) -> int | None:
            return max((run[field] for run in found if run.get(field) is not None), default=None)

        machine = self._machine() | {"governor": before["governor"]}
        assert p50 is not None
        return Measurement(
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            mean_ms=middle("mean_ms"),
            stdev_ms=middle("stdev_ms") if "stdev_ms" in found[0] else None,
            min_ms=min(run["min_ms"] for run in found),
            p50_interval_ms=within50,
            p90_interval_ms=within90,
            p99_interval_ms=within99,
            runs=sum(run["runs"] for run in found),
            warmup_runs=sum(run["warmup_runs"] for run in found),
            processes=len(found),
            steady=True,
            load_ms=middle("load_ms"),
            first_run_ms=middle("first_run_ms"),
            cold_start_ms=middle("load_ms") + middle("first_run_ms"),
            peak_memory_bytes=most("peak_memory_bytes"),
            model_memory_bytes=most("model_memory_bytes"),
            threads=threads,
            runtime=tool_of(self.device).runtime,
            runtime_version=Path(self.device.benchmark).name,
            inputs="random",
            load_average=before["load_average"],
            involuntary_switches=0,
            machine=machine,
            before=before,
            after=self._state(),
        )


def refuse_unmeasured(device: Device, file: str, limits: Mapping[str, Any]) -> None:
    """Raise InputError where a gate wants a quantile that LiteRT's binary does not print."""
    wanted = [key for key in ("latency_p90", "latency_p99") if limits.get(f"{key}_ms") is not None]
    if device.benchmark and tool_of(device) is LITERT and wanted:
        said = f"{device.benchmark} on {device.name} prints a median only; take latency_p50, or a device with a Python"
        raise InputError(f"{file}:gates.{wanted[0]}: {said}")
