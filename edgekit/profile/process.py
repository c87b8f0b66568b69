"""What the process that profiles does: it takes a request and answers as ``agent.py`` does.

A profiler that crashes takes only this process with it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgekit.agent import Problem, feeds, machine, runtime, say
from edgekit.profile.litert import Profiler
from edgekit.profile.optimized import made_by

Json = dict[str, Any]
Kernels = list[Json]

WARM_UP = 5  # runs, which are not counted
MOST_RUNS, FEWEST_RUNS = 400, 20
PLAIN_SHARE = 0.25  # of the seconds, before the profiled runs and again after them
CONTROL = ("Loop", "If", "Scan", "SequenceMap")  # ONNX ops whose time holds that of the nodes in their bodies


def profiled(request: Json) -> Json:
    """The answer to a request. Raises Problem."""
    (artifact,), threads = request["artifacts"], request["threads"]
    path, seconds = artifact["path"], request["seconds"]
    found = runtime(artifact["runtime"])
    with found.trying(path):
        specs, prepare = found.load(path, threads)
        values = feeds(specs, request["inputs"])
        run, _ = prepare(values)
        plain = _timed(run, PLAIN_SHARE * seconds)
        kernels = {"onnxruntime": _onnxruntime, "litert": _litert}[artifact["runtime"]](path, threads, values, seconds)
        plain += _timed(run, PLAIN_SHARE * seconds)
    runs = len(kernels[0]["us"]) if kernels else 0
    version = {"runtime_version": found.version, "machine": machine()}
    return {"kernels": kernels, "plain_ns": plain, "runs": runs, **version}


def _timed(run: Callable[[], Any], seconds: float) -> list[int]:
    """The times of runs, in ns, without the first few."""
    times: list[int] = []
    deadline = time.perf_counter() + seconds
    while len(times) < FEWEST_RUNS + WARM_UP or time.perf_counter() < deadline:
        started = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - started)
    return times[WARM_UP:]


def _repeated(run: Callable[[], Any], seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    for number in range(MOST_RUNS):
        if number >= FEWEST_RUNS + WARM_UP and time.perf_counter() > deadline:
            break
        run()


def _onnxruntime(path: str, threads: int, values: Json, seconds: float) -> Kernels:
    """ONNX Runtime's trace of the nodes of its optimized graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.enable_profiling = True
    with TemporaryDirectory(prefix="edgekit-") as folder:
        options.profile_file_prefix = os.path.join(folder, "trace")
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        _repeated(lambda: session.run(None, values), seconds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kernels = of_trace(events)
        makes = made_by(options.optimized_model_filepath, [(kernel["name"], kernel["op"]) for kernel in kernels])
    return [dict(kernel, makes=makes.get(kernel["name"], [])) for kernel in kernels]


def of_trace(events: list[Json]) -> Kernels:
    """The time of each node in each run. An event stands where it ended: after those of its body, before its run's."""
    runs: list[dict[tuple[str, str], float]] = []
    current: list[Json] = []
    for event in events:
        if event["name"] == "model_run":
            run: dict[tuple[str, str], float] = {}
            for node in current:
                key = node["name"].removesuffix("_kernel_time"), node["args"]["op_name"]
                run[key] = run.get(key, 0.0) + node["dur"]
            runs.append(run)
            current = []
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            if event["args"]["op_name"] in CONTROL:
                current = [inner for inner in current if inner["ts"] < event["ts"]]
            current.append(event)
    counted = runs[WARM_UP:]
    keys = dict.fromkeys(key for run in counted for key in run)
    return [
        {"name": name, "op": op, "node": None, "us": [run.get((name, op), 0.0) for run in counted]} for name, op in keys
    ]


def _litert(path: str, threads: int, values: Json, seconds: float) -> Kernels:
    """LiteRT's profiler, which knows the ops that TFLite ran and the kernels that XNNPACK ran."""
    profiler = Profiler(path, threads, values)
    runs: list[Kernels] = []
    _repeated(lambda: runs.append(profiler.run()), seconds)
    counted = runs[WARM_UP:]
    return [
        dict(kernel, us=[run[index]["us"] for run in counted if index < len(run)])
        for index, kernel in enumerate(counted[0])
    ]


def main() -> int:
    """Answer the request on standard input; the status to exit with."""
    out = os.dup(1)
    os.dup2(2, 1)  # what a runtime prints is no answer
    request = json.load(sys.stdin)
    path = request["artifacts"][0]["path"]
    try:
        with open(path, "rb"):
            pass
        found = profiled(request)
    except Problem as problem:
        found = {"error": dict(zip(("kind", "text"), problem.args, strict=True))}
    except OSError as error:
        found = {"error": {"kind": "model", "text": f"{path}: cannot be read: {error.strerror or error}"}}
    say(out, found)
    return 2 if "error" in found else 0
