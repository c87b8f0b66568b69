"""Whether this machine can build, run and time artifacts: what is there, what is missing, and how to get it.

Nothing is taken on trust: each runtime opens and runs a tiny model that edgekit writes on the spot.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError

OK, WARNING, MISSING = "ok", "warning", "missing"
PYTHON = (3, 10)
DISK_BYTES = 2_000_000_000
MEMORY_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``status``: "ok"; "warning" when edgekit works without it; "missing" when a build fails."""

    group: str
    name: str
    status: str
    found: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the field names."""
        return asdict(self)


@dataclass(frozen=True)
class Package:
    """A distribution that edgekit uses, and for what; ``needed`` when no build works without it."""

    name: str
    purpose: str
    needed: bool = True


PACKAGES = (
    Package("numpy", "arrays"),
    Package("onnx", "reading .onnx models"),
    Package("onnx-ir", "the graph"),
    Package("onnxscript", "folding constants"),
    Package("flatbuffers", "writing .tflite models"),
    Package("ml-dtypes", "number formats that numpy lacks"),
    Package("pillow", "folders of images"),
    Package("click", "the command line"),
    Package("rich", "tables and bars"),
    Package("torch", "models in Python and .pt2 files; not for .onnx", needed=False),
    Package("safetensors", "weights of models in Python", needed=False),
)

RUNTIMES = (
    ("onnxruntime", ("onnxruntime",), "pip install onnxruntime"),
    ("litert", ("ai-edge-litert", "tflite-runtime"), "pip install ai-edge-litert"),
)

FAST_INT8 = {
    "x86_64": (("avx2", "8-bit vectors"), ("avx512_vnni|avx_vnni|avx512vnni|avxvnni", "8-bit dot products (VNNI)")),
    "arm64": (("asimd", "8-bit vectors (NEON)"), ("asimddp", "8-bit dot products")),
}
"""The CPU flags (any of several, as /proc/cpuinfo names them) that make 8-bit arithmetic fast."""


def diagnose(folder: Path) -> tuple[Check, ...]:
    """All checks, in the order in which they are worth reading. ``folder`` is where builds will be written."""
    return tuple(check for group in (_python, _packages, _runtimes, _cpu, lambda: room(folder)) for check in group())


def exit_code(checks: tuple[Check, ...]) -> int:
    """4 when something is missing, else 0."""
    return 4 if any(check.status == MISSING for check in checks) else 0


def _python() -> Iterator[Check]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fix = "" if sys.version_info >= PYTHON else f"install Python {'.'.join(map(str, PYTHON))} or newer"
    yield Check("python", "python", MISSING if fix else OK, found, fix)


def _packages() -> Iterator[Check]:
    for package in PACKAGES:
        found = installed(package.name)
        if found is not None:
            yield Check("packages", package.name, OK, found)
            continue
        status = MISSING if package.needed else WARNING
        said = f"not installed ({package.purpose})"
        yield Check("packages", package.name, status, said, f"pip install {package.name}")


def installed(name: str) -> str | None:
    """The version of a distribution, or None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _runtimes() -> Iterator[Check]:
    for name, distributions, install in RUNTIMES:
        found = [f"{package} {known}" for package in distributions if (known := installed(package)) is not None]
        if not found:
            yield Check("runtimes", name, MISSING, "not installed", install)
            continue
        problem = trial(name)
        said = f"{', '.join(found)}: {problem or 'ran a model'}"
        fix = f"{install} --force-reinstall" if problem else ""
        yield Check("runtimes", name, MISSING if problem else OK, said, fix)


def trial(runtime: str) -> str:
    """Run a tiny model under a runtime: what went wrong, or nothing."""
    try:
        return _run(runtime, TRIALS[runtime]())
    except ImportError as error:
        return f"cannot be imported: {error}"
    except EdgekitError as error:
        return str(error)


def _run(runtime: str, model: bytes) -> str:
    import numpy as np

    from edgekit.runtimes import open_session

    session = open_session(model, runtime)
    (result,) = session.run({"x": np.array([[-1.0, 2.0]], np.float32)}).values()
    return "" if result.tolist() == [[0.0, 2.0]] else f"Relu of [-1, 2] came out as {result.tolist()}, not [0, 2]"


def _onnx_relu() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "trial", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _tflite_relu() -> bytes:
    from edgekit.emitters import tflite_bytes
    from edgekit.emitters.tflite_graph import Graph, Op, Tensor

    x, y = Tensor("x", (1, 2), "float32"), Tensor("y", (1, 2), "float32")
    return tflite_bytes.write(Graph([Op("RELU", (x,), (y,))], [x], [y]))


TRIALS: dict[str, Callable[[], bytes]] = {"onnxruntime": _onnx_relu, "litert": _tflite_relu}


def _cpu() -> Iterator[Check]:
    return cpu_checks(platform.machine(), cpu_flags(Path("/proc/cpuinfo")))


def cpu_checks(machine: str, flags: set[str]) -> Iterator[Check]:
    """Whether a CPU of that architecture with those flags is fast at 8-bit arithmetic."""
    architecture = {"aarch64": "arm64", "amd64": "x86_64"}.get(machine.lower(), machine)
    if architecture not in FAST_INT8 or not flags:
        yield Check("cpu", architecture, WARNING, "its features are not known here: int8 may be slow")
        return
    for names, meaning in FAST_INT8[architecture]:
        has = sorted(flags.intersection(names.split("|")))
        absent = f"not there: int8 is slower than on a CPU with {names.split('|')[0]}"
        yield Check("cpu", meaning, OK if has else WARNING, ", ".join(has) or absent)


def cpu_flags(path: Path) -> set[str]:
    """The feature flags of the first CPU in /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    named = (line.partition(":") for line in lines)
    return next((set(said.split()) for key, _, said in named if key.strip().lower() in ("flags", "features")), set())


def room(folder: Path) -> Iterator[Check]:
    """Whether there is disk and memory enough, and whether ``folder`` (or where it will be made) can be written."""
    from edgekit.report import text

    folder = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    fix = "" if free >= DISK_BYTES else f"free some space: {text.size(DISK_BYTES)} are comfortable"
    yield Check("room", "disk", WARNING if fix else OK, f"{text.size(free)} free", fix)
    allowed = os.access(folder, os.W_OK)
    fix = "" if allowed else "build with --out FOLDER elsewhere"
    yield Check("room", "folder", OK if allowed else MISSING, "can be written" if allowed else "cannot be written", fix)
    memory = free_memory()
    if memory is not None:
        fix = "" if memory >= MEMORY_BYTES else f"close other programs: {text.size(MEMORY_BYTES)} are comfortable"
        yield Check("room", "memory", WARNING if fix else OK, f"{text.size(memory)} free", fix)


def free_memory() -> int | None:
    """The bytes that can be used without swapping, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
