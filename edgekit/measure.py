"""Latency and memory of an artifact: has ``agent.py`` run it in processes of its own, and does the statistics.

One process is not enough: where its memory happens to lie makes a model some tenths of a percent, now and then ten
percent, faster or slower for as long as it lives, which no number of runs averages out. So a measurement is spread over
several. An interval spans their quantiles (the sign test's interval: it asks nothing of the distribution), and is no
narrower than a bootstrap over blocks of runs says.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, DeviceError, EdgekitError, InputError, ModelError
from edgekit.runtimes import runtime_for

AGENT = Path(__file__).with_name("agent.py")
PROCESSES = 5  # of a measurement: the range of 5 values holds the median of all with 94 %
GLANCES = 3  # of a figure that is only shown beside another: their range holds the median with 75 %
COMPARED_PROCESSES = 9  # of a comparison: the second to the eighth of 9 values hold it with 96 %, one outlier or not
CONFIDENCE = 0.93
RESAMPLES = 400
SEED = 0
MAX_SECONDS = 30.0
PATIENCE_SECONDS = 600.0  # for loading and the first run, on top of the seconds asked for
NOISY = 0.05  # of the median: a wider interval of the median is worth a warning

Interval = tuple[float, ...]  # low, high
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Measurement:
    """How long one artifact takes and how much memory. Times in ms; an interval holds the true value with about 95 %.

    ``cold_start_ms`` is loading plus the first run, without importing the runtime; the median of the processes.
    ``peak_memory_bytes`` is the most that a whole process held resident, Python, numpy and the runtime included;
    ``model_memory_bytes`` is what it grew by from the moment before the model was loaded. ``steady`` is False when
    warm-up ran out of time before the median stood still. ``before`` and ``after`` are states of the machine
    (``agent.state``): clock, governor, temperature, throttling. A benchmark binary (``transports.benchmark``) warms up
    by itself, which counts as steady; what it does not print is None, its interval empty.
    """

    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    stdev_ms: float | None
    min_ms: float
    p50_interval_ms: Interval
    p90_interval_ms: Interval
    p99_interval_ms: Interval
    runs: int
    warmup_runs: int
    processes: int
    steady: bool
    load_ms: float
    first_run_ms: float
    cold_start_ms: float
    peak_memory_bytes: int | None
    model_memory_bytes: int | None
    threads: int
    runtime: str
    runtime_version: str
    inputs: str
    load_average: float | None
    involuntary_switches: int
    machine: Mapping[str, Any]
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)

    def warnings(self) -> tuple[str, ...]:
        """Why these numbers may not repeat, one line each; empty when nothing speaks against them."""
        found = []
        width = (self.p50_interval_ms[1] - self.p50_interval_ms[0]) / self.p50_ms
        if width > NOISY:
            found.append(f"the median is only known within {100 * width:.0f} % of itself after {self.runs} runs")
        if not self.steady:
            found.append(f"after {self.warmup_runs} warm-up runs the median was still moving")
        cores = self.machine.get("cores_allowed") or 1
        if self.load_average is not None and self.load_average > cores - self.threads + 0.5:
            found.append(f"other work was running: load average {self.load_average:.1f} on {cores} cores")
        governor = self.machine.get("governor")
        if governor not in (None, "performance"):
            found.append(f"the CPU frequency governor is {governor}, so the clock may move")
        return (*found, *hindered(self.before, self.after))

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the field names."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two artifacts timed in turns: the median time of ``a`` over that of ``b``, which lies in low..high with 96 %."""

    a: Measurement
    b: Measurement
    ratio: float
    low: float
    high: float

    def verdict(self, limit: float) -> str:
        """Whether ``a`` takes at most ``limit`` times as long as ``b``: "pass", "fail", or "inconclusive".

        It is inconclusive when the limit lies inside the interval.
        """
        if self.high <= limit:
            return "pass"
        return "fail" if self.low > limit else "inconclusive"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the field names."""
        return asdict(self)


def request_for(paths: Sequence[Path], runtime: str | None, threads: int, inputs: str) -> dict[str, Any]:
    """What to ask the agent. Raises InputError when there are no threads, ModelError when a file cannot be read."""
    if threads < 1:
        raise InputError(f"threads: {threads} was given, at least 1 is needed")
    artifacts = [{"path": str(path), "runtime": runtime or runtime_for(path)} for path in paths]
    return {"artifacts": artifacts, "threads": threads, "inputs": inputs}


def effort(runs: int, seconds: float, processes: int) -> dict[str, Any]:
    """One process's part of the runs and seconds. Raises InputError when that is nothing."""
    if runs < 1 or not 0 <= seconds < math.inf:
        raise InputError(f"{runs} runs and {seconds} seconds were given, at least 1 run and 0 seconds are needed")
    return {
        "runs": math.ceil(runs / processes),
        "seconds": seconds / processes,
        "max_seconds": max(MAX_SECONDS, seconds) / processes,
        "warmup_seconds": 2.0,
    }


def ask(
    request: Mapping[str, Any], python: Sequence[str] = (sys.executable,), program: Sequence[str] = (str(AGENT),)
) -> dict[str, Any]:
    """The answer of the agent (or another ``program``) to one request; ``python`` is the command that runs it.

    Raises the ModelError, DataError or DeviceError that the agent reports, and DeviceError or ModelError when the
    process died.
    """
    names = ", ".join(artifact["path"] for artifact in request["artifacts"])
    command, seconds = [*python, *program], patience(request)
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=seconds, check=False
        )
    except OSError as error:
        raise DeviceError(f"{python[0]} cannot be started: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{names}: no answer within {seconds:.0f} s") from error
    if done.returncode < 0:
        raise _died(names, -done.returncode)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DeviceError(f"the agent failed with exit status {done.returncode}: {last}") from error
    return checked(answer, names)


def patience(request: Mapping[str, Any]) -> float:
    """How many seconds to wait for the answer."""
    each = request.get("max_seconds", MAX_SECONDS) + request.get("warmup_seconds", 2.0)
    return PATIENCE_SECONDS + float(each) * len(request.get("artifacts", ()))


def checked(answer: dict[str, Any], names: str) -> dict[str, Any]:
    """The answer itself, unless it is an error about the files ``names``, which is raised."""
    if "error" not in answer:
        return answer
    kind, text = answer["error"]["kind"], answer["error"]["text"]
    if kind == "died":
        raise _died(names, -int(text))
    raise {"model": ModelError, "data": DataError, "device": DeviceError}[kind](text)


def _died(names: str, number: int) -> EdgekitError:
    """The error for a process that a signal ended."""
    name = signal.Signals(number).name
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        return ModelError(f"{names}: the runtime crashed ({name})")
    return DeviceError(f"{names}: the process was ended by {name}, as it is when memory runs out")


@dataclass(frozen=True)
class Bench:
    """Times artifacts where ``ask`` has them run: on this machine, or on a device (``Connection.ask``)."""

    ask: Callable[[Mapping[str, Any]], Answer] = ask

    def measure(
        self,
        path: Path,
        runtime: str | None = None,
        threads: int = 1,
        runs: int = 50,
        seconds: float = 0.5,
        inputs: str = "random",
    ) -> Measurement:
        """Time one artifact, for at least ``runs`` runs and ``seconds`` seconds (and at most 30, or ``seconds``).

        ``runtime`` is "onnxruntime" or "litert", by default what the file is for. ``inputs`` is "random", "zeros" or
        the path of an .npz. Raises ModelError, DataError or DeviceError, and InputError when there is nothing to do.
        """
        request = request_for([path], runtime, threads, inputs) | effort(runs, seconds, PROCESSES)
        return measurement(request, [self.ask(request) for _ in range(PROCESSES)])

    def glance(self, path: Path, threads: int = 1) -> Measurement:
        """Time an artifact that no gate judges, in a third of the time of ``measure``. Raises like it."""
        request = request_for([path], None, threads, "random") | effort(30, 0.15, GLANCES)
        return measurement(request, [self.ask(request) for _ in range(GLANCES)])

    def compare(
        self, a: Path, b: Path, threads: int = 1, runs: int = 50, seconds: float = 2.0, inputs: str = "random"
    ) -> Comparison:
        """Time two artifacts in turns, A B, B A, ..., each for at least ``runs`` runs and ``seconds`` seconds.

        Both are in one process, so that they share whatever happens to it; several processes, which load them in either
        order, say how far the ratio can be trusted. Raises like ``measure``.
        """
        request = request_for([a, b], None, threads, inputs) | effort(runs, seconds, COMPARED_PROCESSES)
        swapped = request | {"artifacts": request["artifacts"][::-1]}
        answers = []
        for number in range(COMPARED_PROCESSES):
            answer = dict(self.ask(swapped if number % 2 else request))
            answers.append(answer | {"artifacts": answer["artifacts"][::-1]} if number % 2 else answer)
        found = [[item["blocks_ns"] for item in answer["artifacts"]] for answer in answers]
        ratios = np.array([ratio_of_medians(*blocks) for blocks in found])
        low, high = map(float, median_interval(ratios))
        both = [measurement(request, answers, index) for index in (0, 1)]
        return Comparison(both[0], both[1], float(np.median(ratios)), low, high)

    def shares(self, paths: Sequence[Path], threads: int = 1, seconds: float = 0.6) -> list[float]:
        """The time of each artifact over that of the first, all of them in turns, for the search among many.

        The median of a few processes, which load them in either order. Raises like ``measure``.
        """
        request = request_for(paths, None, threads, "random") | effort(30, seconds, GLANCES)
        swapped = request | {"artifacts": request["artifacts"][::-1]}
        found = []
        for number in range(GLANCES):
            timed = self.ask(swapped if number % 2 else request)["artifacts"][:: -1 if number % 2 else 1]
            found.append([ratio_of_medians(item["blocks_ns"], timed[0]["blocks_ns"]) for item in timed])
        return [float(ratio) for ratio in np.median(found, axis=0)]


HERE = Bench()
measure, glance, compare, shares = HERE.measure, HERE.glance, HERE.compare, HERE.shares


def measurement(request: Mapping[str, Any], answers: Sequence[Answer], index: int = 0) -> Measurement:
    """The statistics of one artifact, the ``index``-th, out of the answers of several agent processes."""
    found = [answer["artifacts"][index] for answer in answers]
    alone = [item for item in found if item["loaded_first"]]
    times = np.concatenate([block for item in found for block in item["blocks_ns"]]) / 1e6
    (p50, p90, p99), intervals = quantiles([item["blocks_ns"] for item in found], (0.5, 0.9, 0.99))
    memory = [(item["peak_memory_bytes"], item["memory_before_bytes"]) for item in alone]
    return Measurement(
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(times.mean()),
        stdev_ms=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        min_ms=float(times.min()),
        p50_interval_ms=intervals[0],
        p90_interval_ms=intervals[1],
        p99_interval_ms=intervals[2],
        runs=len(times),
        warmup_runs=sum(item["warmup_runs"] for item in found),
        processes=len(answers),
        steady=all(item["steady"] for item in found),
        load_ms=float(np.median([item["load_ns"] for item in alone])) / 1e6,
        first_run_ms=float(np.median([item["first_run_ns"] for item in alone])) / 1e6,
        cold_start_ms=float(np.median([item["load_ns"] + item["first_run_ns"] for item in alone])) / 1e6,
        peak_memory_bytes=max((peak for peak, _ in memory if peak is not None), default=None),
        model_memory_bytes=max((peak - before for peak, before in memory if peak and before), default=None),
        threads=request["threads"],
        runtime=request["artifacts"][index]["runtime"],
        runtime_version=found[0]["runtime_version"],
        inputs=request["inputs"],
        load_average=answers[0]["before"]["load_average"],
        involuntary_switches=sum(answer["involuntary_switches"] for answer in answers),
        machine=answers[0]["machine"],
        before=answers[0]["before"],
        after=answers[-1]["after"],
    )


THROTTLED = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
"""The bits of a Raspberry Pi's ``get_throttled``: now; 16 bits higher, at any time since it was started."""
HOT = 80.0  # degrees Celsius: a Raspberry Pi lowers its clock from here on
SLOWED = 0.9  # of the clock before


def hindered(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What the machine says kept it from its full speed between two states, one line each."""
    found, flags = [], after.get("throttled") or 0
    started = flags & ~(before.get("throttled") or 0)
    for bit, name in enumerate(THROTTLED):
        if flags >> bit & 1 or started >> bit + 16 & 1:
            found.append(f"the device reported {name} while it was timed; look at its power supply and cooling")
        elif flags >> bit + 16 & 1:
            found.append(f"the device has reported {name} since it was started")
    if (after.get("throttle_count") or 0) > (before.get("throttle_count") or 0):
        found.append("the CPU was throttled for its heat while it was timed")
    if (after.get("temperature_c") or 0) >= HOT:
        found.append(f"the CPU was at {after['temperature_c']:.0f} degrees Celsius in the end")
    clocks = before.get("mhz"), after.get("mhz")
    if clocks[0] and clocks[1] and clocks[1] < SLOWED * clocks[0]:
        found.append(f"the clock fell from {clocks[0]:.0f} to {clocks[1]:.0f} MHz")
    return found


def quantiles(
    processes: Sequence[Sequence[Sequence[int]]], shares: Sequence[float]
) -> tuple[list[float], list[Interval]]:
    """The quantiles of all timings, in ms, and their intervals. ``processes`` holds blocks of timings in ns.

    A quantile is the smallest timing that at least that share does not exceed.
    """
    blocks = [block for process in processes for block in process]
    times = np.concatenate(blocks).astype(np.float64) / 1e6
    values = np.quantile(times, shares, method="inverted_cdf")
    each = [np.quantile(np.concatenate(process) / 1e6, shares, method="inverted_cdf") for process in processes]
    low, high = bootstrap(blocks, shares)
    between = median_interval(np.array(each))
    low, high = np.minimum(low, between[0]), np.maximum(high, between[1])
    low, high = np.minimum(low, values), np.maximum(high, values)
    return values.tolist(), list(zip(low.tolist(), high.tolist(), strict=True))


def bootstrap(blocks: Sequence[Sequence[int]], shares: Sequence[float]) -> NDArray[np.float64]:
    """The 95 % intervals of quantiles, (2, shares) in ms: whole blocks are drawn with replacement.

    Whole blocks, because runs beside each other are alike: what disturbs one disturbs its neighbours.
    """
    times = np.concatenate(blocks).astype(np.float64) / 1e6
    order = np.argsort(times, kind="stable")
    times, block_of = times[order], np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])[order]
    draws = np.random.default_rng(SEED).multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), RESAMPLES)
    found = np.empty((RESAMPLES, len(shares)))
    for row, draw in enumerate(draws):
        weight = np.cumsum(draw[block_of])
        found[row] = times[np.searchsorted(weight, np.asarray(shares) * weight[-1])]
    interval: NDArray[np.float64] = np.quantile(found, [0.025, 0.975], axis=0)
    return interval


def median_interval(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The interval of the median of what ``values`` were drawn from, stacked as low and high, along axis 0.

    The median lies outside the k-th smallest and k-th largest of n with 2 * sum(C(n, i), i < k) / 2^n.
    """
    number, outside, kept = len(values), 0.0, 0
    while kept < (number - 1) // 2:
        outside += 2 * math.comb(number, kept) / 2**number
        if 1 - outside - 2 * math.comb(number, kept + 1) / 2**number < CONFIDENCE:
            break
        kept += 1
    ordered = np.sort(values, axis=0)
    return np.stack([ordered[kept], ordered[number - 1 - kept]])


def ratio_of_medians(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> float:
    """The median of ``a``'s timings over the median of ``b``'s; each is the median of its blocks' medians."""
    return float(np.median([np.median(block) for block in a]) / np.median([np.median(block) for block in b]))
