"""Time model files on this machine: ``python agent.py < request.json > answer.json``. Runs alone, on a device too.

One file; it needs Python 3.8, numpy and the runtime, and never edgekit. A request is one JSON object:

    {"artifacts": [{"path": "model.tflite", "runtime": "litert"}, ...],   # or "onnxruntime"
     "threads": 1, "inputs": "random",            # or "zeros", or the path of an .npz with arrays by input name
     "runs": 50, "seconds": 1.0, "max_seconds": 30.0, "warmup_seconds": 2.0}

Cold start and memory are clean for the artifact that is loaded first. The answer is one JSON object, in nanoseconds
and bytes, or ``{"error": {"kind": "model" | "data" | "device", "text": one line}}`` with exit status 2.

What is timed is the inference call alone, inputs already in place and outputs left where they are, as benchmark_model
and onnxruntime_perf_test do. Several artifacts are interleaved in short blocks, A B, B A, A B, ..., so that whatever
else happens on the machine hits all of them; each block's first run, which refills the caches, is not counted.
"""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [
    entry for entry in sys.path if os.path.abspath(entry or ".") != HERE
]  # its neighbours are not for import

import gc
import json
import platform
import time
from typing import TYPE_CHECKING, Any

import numpy as np

AGENT = 1
BLOCK_SECONDS = 0.01  # one artifact's turn
STEADY = 0.02  # warm-up ends when three blocks in a row have medians this close to each other
STEADY_BLOCKS = 3
MAX_RUNS = 100_000
SEED = 0

if TYPE_CHECKING:
    from collections.abc import Callable

    Spec = tuple[str, list[int], str]  # an input: name, shape, dtype
    Feeds = dict[str, Any]  # arrays by input name
    Run = Callable[[], Any]


class Problem(Exception):
    """What a request cannot have; ``kind`` is "model", "data" or "device"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Runtime:
    """A runtime that has been imported: its version, what it raises, and how it loads a file.

    ``load(path, threads)`` gives the inputs, and a function from their values to the call that is timed.
    """

    def __init__(
        self,
        version: str,
        failures: tuple[type[Exception], ...],
        load: Callable[[str, int], tuple[list[Spec], Callable[[Feeds], Run]]],
    ) -> None:
        self.version = version
        self.failures = failures
        self.load = load


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request. Raises Problem."""
    artifacts, before = request["artifacts"], load_average()
    started = time.perf_counter_ns()
    runtimes = [runtime(artifact["runtime"]) for artifact in artifacts]
    imported = time.perf_counter_ns() - started
    models = [Timed(found, artifact["path"], request) for found, artifact in zip(runtimes, artifacts)]
    switches = involuntary_switches()
    measure(models, request)
    return {
        "agent": AGENT,
        "import_ns": imported,
        "artifacts": [dict(model.facts(), loaded_first=model is models[0]) for model in models],
        "involuntary_switches": involuntary_switches() - switches,
        "load_before": before,
        "load_after": load_average(),
        "machine": machine(),
        "threads": request.get("threads", 1),
    }


class Timed:
    """One model: loaded, run once, and then timed block by block. Raises Problem when it cannot be."""

    def __init__(self, runtime: Runtime, path: str, request: dict[str, Any]) -> None:
        self.version = runtime.version
        self.memory_before = memory("VmRSS")
        try:
            started = time.perf_counter_ns()
            specs, prepare = runtime.load(path, request.get("threads", 1))
            self.load_ns = time.perf_counter_ns() - started
            self.run = prepare(feeds(specs, request.get("inputs", "random")))
            self.first_ns = self.time()
        except runtime.failures as error:
            raise Problem("model", f"{path}: {runtime.version} cannot run it: {one_line(error)}") from error
        except (AttributeError, ImportError, SystemError) as error:  # tflite-runtime under numpy 2
            raise Problem(
                "device", f"{runtime.version} does not work here: {one_line(error.__cause__ or error)}"
            ) from error
        self.inputs = [{"name": name, "shape": shape, "dtype": dtype} for name, shape, dtype in specs]
        self.peak = peak_memory()
        self.warmup_runs, self.steady, self.size = 1, False, 1
        self.blocks: list[list[int]] = []

    def time(self) -> int:
        """One run, in ns."""
        started = time.perf_counter_ns()
        self.run()
        return time.perf_counter_ns() - started

    def warm_up(self, seconds: float) -> None:
        """Run blocks until the last STEADY_BLOCKS medians lie within STEADY of each other, or ``seconds`` are over."""
        deadline = time.perf_counter() + seconds
        medians: list[float] = []
        while not self.steady and (not medians or time.perf_counter() < deadline):
            times = self.turn()
            self.warmup_runs += len(times) + (self.size > 1)
            medians.append(float(np.median(times)))
            self.size = max(1, min(int(BLOCK_SECONDS * 1e9 / medians[-1]), MAX_RUNS))
            last = medians[-STEADY_BLOCKS:]
            self.steady = len(medians) > STEADY_BLOCKS and max(last) <= min(last) * (1 + STEADY)

    def turn(self) -> list[int]:
        """The timings of one block, in ns; when it holds several, a run that is not counted goes before them."""
        if self.size > 1:
            self.run()
        return [self.time() for _ in range(self.size)]

    def facts(self) -> dict[str, Any]:
        """What was found, as JSON."""
        return {
            "runtime_version": self.version,
            "inputs": self.inputs,
            "load_ns": self.load_ns,
            "first_run_ns": self.first_ns,
            "memory_before_bytes": self.memory_before,
            "peak_memory_bytes": self.peak,
            "warmup_runs": self.warmup_runs,
            "steady": self.steady,
            "blocks_ns": self.blocks,
        }


def measure(models: list[Timed], request: dict[str, Any]) -> None:
    """Warm every model up, then time them in turns until each has enough runs and enough seconds, or time is up."""
    runs, seconds = request.get("runs", 50), request.get("seconds", 1.0) * len(models)
    most = max(seconds, request.get("max_seconds", 30.0) * len(models))
    gc.collect()
    gc.disable()
    for model in models:
        model.warm_up(request.get("warmup_seconds", 2.0))
    if len(models) == 1:
        models[0].peak = peak_memory()
    started, counted, spent = time.perf_counter(), 0, 0.0
    while counted < MAX_RUNS and spent < most and (counted < runs or spent < seconds):
        for model in models if len(models[0].blocks) % 2 == 0 else models[::-1]:
            model.blocks.append(model.turn())
        counted = min(sum(map(len, model.blocks)) for model in models)
        spent = time.perf_counter() - started
    gc.enable()


def runtime(name: str) -> Runtime:
    """The runtime of that name, imported. Raises Problem when it is not known or not installed."""
    if name == "onnxruntime":
        return onnxruntime_cpu()
    if name == "litert":
        return litert()
    raise Problem("device", f"runtime {name!r} cannot run here; known: onnxruntime, litert")


def onnxruntime_cpu() -> Runtime:
    """ONNX Runtime's CPU provider; inputs and outputs are bound once."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        text = f"onnxruntime cannot be imported ({one_line(error)}); install it: pip install onnxruntime"
        raise Problem("device", text) from error
    own = tuple(item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception))

    def load(path: str, threads: int) -> tuple[list[Spec], Callable[[Feeds], Run]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def prepare(values: Feeds) -> Run:
            binding = session.io_binding()
            for name, value in values.items():
                binding.bind_cpu_input(name, value)
            for output in session.get_outputs():
                binding.bind_output(output.name, "cpu")
            return lambda: session.run_with_iobinding(binding) or values  # the binding points into the values

        return list(map(spec, session.get_inputs())), prepare

    def spec(arg: Any) -> Spec:
        kind = arg.type.replace("tensor(", "").replace(")", "")
        dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
        return arg.name, [size if isinstance(size, int) else 1 for size in arg.shape], dtype

    return Runtime("onnxruntime " + onnxruntime.__version__, (*own, RuntimeError, ValueError), load)


def litert() -> Runtime:
    """LiteRT with its default kernels. A file is loaded by its path, so that the weights stay mapped."""
    package, module = litert_module()

    def load(path: str, threads: int) -> tuple[list[Spec], Callable[[Feeds], Run]]:
        interpreter = module.Interpreter(model_path=path, num_threads=threads)
        interpreter.allocate_tensors()
        details = interpreter.get_input_details()

        def prepare(values: Feeds) -> Run:
            for detail in details:
                interpreter.set_tensor(detail["index"], values[detail["name"]])
            run: Run = interpreter.invoke
            return run

        return [(d["name"], d["shape"].tolist(), str(np.dtype(d["dtype"]))) for d in details], prepare

    return Runtime(package, (RuntimeError, ValueError), load)


def litert_module() -> tuple[str, Any]:
    """What runs .tflite files here with its version, and its interpreter module. Raises Problem when there is none."""
    reasons = []
    for name in ("ai_edge_litert", "tflite_runtime"):
        try:
            module = __import__(name + ".interpreter", fromlist=["Interpreter"])
            version = getattr(sys.modules[name], "__version__", "")  # importlib.metadata would cost 50 ms
            return f"{name.replace('_', '-')} {version}".strip(), module
        except ImportError as error:
            reasons.append(one_line(error))
    text = f"LiteRT cannot be imported ({'; '.join(reasons)}); install it: pip install ai-edge-litert"
    raise Problem("device", text)


def feeds(specs: list[Spec], inputs: str) -> Feeds:
    """A value for every input: random, zeros, or from the .npz at the path ``inputs``. Raises Problem."""
    if inputs not in ("random", "zeros"):
        return npz_feeds(specs, inputs)
    generator = np.random.RandomState(SEED)
    return {name: made(generator, shape, dtype, inputs == "zeros") for name, shape, dtype in specs}


def made(generator: Any, shape: list[int], dtype: str, zeros: bool) -> Any:
    """Floats are normal, small integers use their whole range; wide integers, which may be indices, are 0."""
    kind = np.dtype(dtype)
    if zeros or kind.kind not in "iuf" or (kind.kind != "f" and kind.itemsize > 2):
        return np.zeros(shape, kind)
    if kind.kind == "f":
        return np.asarray(generator.standard_normal(shape)).astype(kind)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return np.asarray(generator.randint(low, high + 1, shape)).astype(kind)


def npz_feeds(specs: list[Spec], path: str) -> Feeds:
    """The inputs' arrays out of an .npz: by name, or the only one for an only input; of a batch, its first rows."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise Problem("data", f"{path}: not a readable .npz: {one_line(error)}") from error
    if len(specs) == 1 and len(arrays) == 1:
        arrays = {specs[0][0]: next(iter(arrays.values()))}
    missing = [name for name, _, _ in specs if name not in arrays]
    if missing:
        held = ", ".join(arrays) or "nothing"
        raise Problem("data", f"{path}: no array for input {', '.join(missing)}; it holds {held}")
    values = {}
    for name, shape, dtype in specs:
        array = arrays[name]
        rows = array[: shape[0]] if shape and array.ndim == len(shape) else array
        if list(rows.shape) != shape or str(array.dtype) != dtype:
            found = f"{path}: {name} is {array.dtype} {list(array.shape)}"
            raise Problem("data", f"{found}, the input is {dtype} {shape}")
        values[name] = np.ascontiguousarray(rows)
    return values


def memory(field: str) -> int | None:
    """A line of /proc/self/status in bytes (VmRSS: resident now, VmHWM: its peak), or None where there is none."""
    for line in content("/proc/self/status").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def peak_memory() -> int | None:
    """The peak of resident memory in bytes, or None where the system does not say."""
    peak = memory("VmHWM")
    if peak is None and sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak


def involuntary_switches() -> int:
    """How often this process has lost its core to another; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def load_average() -> float | None:
    """The load average of the last minute, or None where there is none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def content(path: str) -> str:
    """A file's text, or nothing when it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip("\0 \n")
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    """What the numbers belong to. Whatever the system does not say is None."""
    cpu = dict(line.replace("\t", "").split(":", 1) for line in content("/proc/cpuinfo").splitlines() if ":" in line)
    frequency = "/sys/devices/system/cpu/cpu0/cpufreq/"
    model = cpu.get("model name") or cpu.get("Hardware") or platform.processor() or platform.machine()
    total = [int(line.split()[1]) for line in content("/proc/meminfo").splitlines() if line.startswith("MemTotal:")]
    cores = os.cpu_count()
    limit, temperature = content(frequency + "cpuinfo_max_freq"), content("/sys/class/thermal/thermal_zone0/temp")
    return {
        "cpu": model.strip(),
        "board": content("/sys/firmware/devicetree/base/model") or None,
        "architecture": platform.machine(),
        "cores": cores,
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        "memory_bytes": total[0] * 1024 if total else None,
        "governor": content(frequency + "scaling_governor") or None,
        "max_mhz": int(limit) / 1000 if limit.isdigit() else None,
        "temperature_c": int(temperature) / 1000 if temperature.isdigit() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def one_line(error: BaseException) -> str:
    """A message on one line."""
    return " ".join(str(error).split())


def main() -> int:
    """Read a request, write the answer; the status to exit with."""
    request = json.load(sys.stdin)
    path = ""
    try:
        for artifact in request["artifacts"]:
            path = artifact["path"]
            with open(path, "rb"):
                pass
        found = answer(request)
    except Problem as problem:
        found = {"error": {"kind": problem.kind, "text": str(problem)}}
    except OSError as error:
        found = {"error": {"kind": "model", "text": f"{path}: cannot be read: {error.strerror or error}"}}
    json.dump(found, sys.stdout)
    return 2 if "error" in found else 0


if __name__ == "__main__":
    sys.exit(main())
