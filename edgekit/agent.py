"""Time and run model files on a device: one file, which needs Python 3.8, numpy and the runtime, and never edgekit.

``python agent.py < request.json > answer.json``, or ``python agent.py REQUEST``. A request is one JSON object; by
default it asks for times:

    {"artifacts": [{"path": "model.tflite", "runtime": "litert"}, ...],   # or "onnxruntime"
     "threads": 1, "cpus": [3], "inputs": "random",    # or "zeros", or the path of an .npz with arrays by input name
     "runs": 50, "seconds": 1.0, "max_seconds": 30.0, "warmup_seconds": 2.0}

``"do": "run"`` with one artifact then takes messages from standard input, a line ``{"names": [...], "bytes": n}`` and n
bytes of an .npz with inputs, a sample a row, and answers each in the same form with the outputs, until one has 0 bytes.
``"do": "facts"`` asks what the machine is; ``"do": "repeat"`` runs an artifact ``runs`` times, to be counted.

The answer is one line of JSON, in nanoseconds and bytes, or ``{"error": {"kind": "model" | "data" | "device", "text":
one line}}`` with exit status 2.

What is timed is the inference call alone, inputs already in place and outputs left where they are, as benchmark_model
and onnxruntime_perf_test do. Several artifacts are interleaved in short blocks, A B, B A, A B, ..., so that whatever
else happens on the machine hits all of them; each block's first run, which refills the caches, is not counted. Cold
start and memory are clean for the artifact that is loaded first.
"""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]  # neighbours are not for import

import contextlib
import gc
import io
import json
import platform
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import numpy as np
except ImportError as error:
    lacking = f"numpy cannot be imported ({error}); install it: pip install numpy"
    print(json.dumps({"error": {"kind": "device", "text": lacking}}))
    sys.exit(2)
try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

AGENT = 2
BLOCK_SECONDS = 0.01  # one artifact's turn
STEADY = 0.02  # warm-up ends when three blocks in a row have medians this close to each other
STEADY_BLOCKS = 3
MAX_RUNS = 100_000
SEED = 0

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Spec = tuple[str, list[int], str]  # an input: name, shape, dtype
    Feeds = dict[str, Any]  # arrays by name
    Run = Callable[[], Any]
    Prepare = Callable[[Feeds], tuple[Run, Callable[[], Feeds]]]  # values -> the call that is timed, and its outputs


class Problem(Exception):
    """What a request cannot have; its arguments are a kind ("model", "data" or "device") and a line of text."""


class Runtime(NamedTuple):
    """A runtime that has been imported: its version, what it raises, and how it loads a file (path, threads)."""

    version: str
    failures: tuple[type[Exception], ...]
    load: Callable[[str, int], tuple[list[Spec], Prepare]]

    @contextlib.contextmanager
    def trying(self, path: str) -> Iterator[None]:
        """What the runtime raises in here as a Problem."""
        try:
            yield
        except self.failures as error:
            raise Problem("model", f"{path}: {self.version} cannot run it: {one_line(error)}") from error
        except (AttributeError, ImportError, SystemError) as error:  # tflite-runtime under numpy 2
            text = f"{self.version} does not work here: {one_line(error.__cause__ or error)}"
            raise Problem("device", text) from error


def timed(request: dict[str, Any], out: int) -> dict[str, Any]:
    """The answer to ``time``. Raises Problem."""
    artifacts, before = request["artifacts"], state()
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
        "before": before,
        "after": state(),
        "machine": machine(),
        "threads": request.get("threads", 1),
    }


class Timed:
    """One model: loaded, run once, and then timed block by block. Raises Problem when it cannot be."""

    def __init__(self, runtime: Runtime, path: str, request: dict[str, Any]) -> None:
        self.version = runtime.version
        self.memory_before = memory("VmRSS")
        with runtime.trying(path):
            started = time.perf_counter_ns()
            specs, prepare = runtime.load(path, request.get("threads", 1))
            self.load_ns = time.perf_counter_ns() - started
            self.run, _ = prepare(feeds(specs, request.get("inputs", "random")))
            self.first_ns = self.time()
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


def run(request: dict[str, Any], out: int) -> dict[str, Any]:
    """The answers to ``run``, and the last one. Raises Problem."""
    (artifact,), path = request["artifacts"], request["artifacts"][0]["path"]
    found, source = runtime(artifact["runtime"]), open(0, "rb", closefd=False)  # noqa: SIM115 - standard input
    with found.trying(path):
        specs, prepare = found.load(path, request.get("threads", 1))
    say(out, {"runtime_version": found.version, "inputs": [name for name, _, _ in specs], "machine": machine()})
    while True:
        head = json.loads(source.readline() or b"{}")
        if not head.get("bytes"):
            return {}
        with np.load(io.BytesIO(source.read(head["bytes"]))) as file, found.trying(path):
            rows = zip(*(file[key] for key in file.files))
            results = [results_of(prepare, dict(zip(head["names"], row))) for row in rows]
        names = list(results[0])
        if any(result[name].shape != results[0][name].shape for result in results for name in names):
            raise Problem("model", f"{path}: its outputs change their shape from sample to sample")
        data = io.BytesIO()
        np.savez(data, *(np.stack([result[name] for result in results]) for name in names))
        say(out, {"names": names, "bytes": len(data.getbuffer())}, data.getbuffer())


def results_of(prepare: Prepare, values: Feeds) -> Feeds:
    """The outputs for one sample."""
    call, outputs = prepare({name: np.ascontiguousarray(value) for name, value in values.items()})
    call()
    return outputs()


def repeat(request: dict[str, Any], out: int) -> dict[str, Any]:
    """The answer to ``repeat``, when that is done. Raises Problem."""
    artifact = request["artifacts"][0]
    found = runtime(artifact["runtime"])
    with found.trying(artifact["path"]):
        specs, prepare = found.load(artifact["path"], 1)
        call, _ = prepare(feeds(specs, request.get("inputs", "random")))
        for _ in range(request["runs"]):
            call()
    return {"runtime_version": found.version, "machine": machine()}


def facts(request: dict[str, Any], out: int) -> dict[str, Any]:
    """The answer to ``facts``: the machine and the state it is in."""
    return {"machine": machine(), "state": state()}


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

    def load(path: str, threads: int) -> tuple[list[Spec], Prepare]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def prepare(values: Feeds) -> tuple[Run, Callable[[], Feeds]]:
            binding = session.io_binding()
            for name, value in values.items():
                binding.bind_cpu_input(name, value)
            for name in names:
                binding.bind_output(name, "cpu")
            outputs = lambda: dict(zip(names, binding.copy_outputs_to_cpu()))  # noqa: E731
            return lambda: session.run_with_iobinding(binding) or values, outputs  # the binding points into the values

        return list(map(spec, session.get_inputs())), prepare

    def spec(arg: Any) -> Spec:
        kind = arg.type.replace("tensor(", "").replace(")", "")
        dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
        return arg.name, [size if isinstance(size, int) else 1 for size in arg.shape], dtype

    return Runtime("onnxruntime " + onnxruntime.__version__, (*own, RuntimeError, ValueError), load)


def litert() -> Runtime:
    """LiteRT with its default kernels. A file is loaded by its path, so that the weights stay mapped."""
    package, module = litert_module()

    def load(path: str, threads: int) -> tuple[list[Spec], Prepare]:
        interpreter = module.Interpreter(model_path=path, num_threads=threads)
        interpreter.allocate_tensors()
        details, ends = interpreter.get_input_details(), interpreter.get_output_details()

        def prepare(values: Feeds) -> tuple[Run, Callable[[], Feeds]]:
            for detail in details:
                interpreter.set_tensor(detail["index"], values[detail["name"]])
            return interpreter.invoke, lambda: {end["name"]: interpreter.get_tensor(end["index"]) for end in ends}

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
    generator = random.Random(SEED)  # numpy's own takes 20 ms to import
    return {name: made(generator, shape, dtype, inputs == "zeros") for name, shape, dtype in specs}


def made(generator: Any, shape: list[int], dtype: str, zeros: bool) -> Any:
    """Floats are about normal, small integers use their whole range; wide integers, which may be indices, are 0."""
    kind, count = np.dtype(dtype), int(np.prod(shape))
    if zeros or kind.kind not in "iuf" or (kind.kind != "f" and kind.itemsize > 2):
        return np.zeros(shape, kind)
    width = 4 if kind.kind == "f" else kind.itemsize
    drawn = generator.getrandbits(8 * width * count or 1).to_bytes(width * count or 1, "little")
    if kind.kind != "f":
        return np.frombuffer(drawn, kind, count).reshape(shape)
    return ((np.frombuffer(drawn, np.uint8, 4 * count).reshape(*shape, 4).sum(-1) - 510.0) / 148.0).astype(kind)


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
    if peak is None and resource:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak


def involuntary_switches() -> int:
    """How often this process has lost its core to another; 0 where the system does not say."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def content(path: str) -> str:
    """A file's text, or nothing when it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip("\0 \n")
    except OSError:
        return ""


def number(path: str, base: int = 10) -> int | None:
    """The whole number in a file, or None when there is none."""
    try:
        return int(content(path), base)
    except ValueError:
        return None


def clock(name: str) -> str:
    """A cpufreq file of the first CPU that this process may use."""
    cpu = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/{name}"


def state() -> dict[str, Any]:
    """What may change while models are timed. Whatever the system does not say is None.

    ``throttled`` holds the bits of a Raspberry Pi's ``get_throttled``; ``throttle_count`` is what x86 counts.
    """
    now, temperature = number(clock("scaling_cur_freq")), number("/sys/class/thermal/thermal_zone0/temp")
    return {
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "governor": content(clock("scaling_governor")) or None,
        "mhz": None if now is None else now / 1000,
        "temperature_c": None if temperature is None else temperature / 1000,
        "throttled": throttled(),
        "throttle_count": number("/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"),
    }


def throttled() -> int | None:
    """A Raspberry Pi's flags of under-voltage and throttling, from sysfs or ``vcgencmd``."""
    found = number("/sys/devices/platform/soc/soc:firmware/get_throttled", 16)
    if found is None and os.path.exists("/dev/vcio"):
        with contextlib.suppress(OSError, ValueError), os.popen("vcgencmd get_throttled 2>&1") as said:
            found = int(said.read().partition("=")[2], 16)
    return found


def machine() -> dict[str, Any]:
    """What the numbers belong to. Whatever the system does not say is None."""
    cpu = dict(line.replace("\t", "").split(":", 1) for line in content("/proc/cpuinfo").splitlines() if ":" in line)
    model = cpu.get("model name") or cpu.get("Hardware") or platform.machine()
    total = [int(line.split()[1]) for line in content("/proc/meminfo").splitlines() if line.startswith("MemTotal:")]
    cores, limit, now = os.cpu_count(), number(clock("cpuinfo_max_freq")), state()
    return {
        "cpu": model.strip(),
        "board": content("/sys/firmware/devicetree/base/model") or None,
        "architecture": platform.machine(),
        "cores": cores,
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        "memory_bytes": total[0] * 1024 if total else None,
        "governor": now["governor"],
        "max_mhz": None if limit is None else limit / 1000,
        "temperature_c": now["temperature_c"],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def one_line(error: BaseException) -> str:
    """A message on one line."""
    return " ".join(str(error).split())


def say(out: int, value: dict[str, Any], data: Any = b"") -> None:
    """Write a message. Ends the process when nobody reads it."""
    try:
        with open(out, "wb", closefd=False) as file:
            file.write(json.dumps(value).encode() + b"\n")
            file.write(data)
    except OSError:
        sys.exit(1)


def main(arguments: list[str]) -> int:
    """Answer the request that is the argument, or else standard input; the status to exit with."""
    out = os.dup(1)
    os.dup2(2, 1)  # what a runtime prints is no answer
    request = json.loads(arguments[0]) if arguments else json.load(sys.stdin)
    path = ""
    try:
        if request.get("cpus"):
            pin(request["cpus"])
        for artifact in request.get("artifacts", ()):
            path = artifact["path"]
            with open(path, "rb"):
                pass
        found = {"time": timed, "run": run, "repeat": repeat, "facts": facts}[request.get("do", "time")](request, out)
    except Problem as problem:
        found = {"error": dict(zip(("kind", "text"), problem.args))}
    except OSError as error:
        found = {"error": {"kind": "model", "text": f"{path}: cannot be read: {error.strerror or error}"}}
    say(out, found)
    return 2 if "error" in found else 0


def pin(cpus: list[int]) -> None:
    """Run on those CPUs only. Raises Problem."""
    try:
        os.sched_setaffinity(0, cpus)
    except (AttributeError, OSError, ValueError) as error:
        raise Problem("device", f"cpus {cpus} cannot be used here: {one_line(error)}") from error


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # all is said, and the runtimes take their time to leave
