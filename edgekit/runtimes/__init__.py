"""How to run one model file on this machine: the ``Session`` protocol, and ``open_session`` which picks the runtime.

A session speaks the artifact's own dtypes and layout; ``edgekit.contract.Contract`` translates to and from real values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, DeviceError, ModelError

Array = NDArray[Any]

RUNTIMES = ("onnxruntime", "litert")


@dataclass(frozen=True)
class TensorInfo:
    """One input or output as the runtime names it.

    ``shape`` has -1 where the file leaves a dimension open. ``scale`` and ``zero_point`` are None when the tensor is
    not quantized, or when the runtime does not say (ONNX Runtime never does: its files keep them in QuantizeLinear).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class Session(Protocol):
    """One loaded model, ready to run."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What ``run`` wants, in the file's order."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What ``run`` gives, in the file's order."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name -> outputs by name. Raises DataError when an input is missing or of another shape or dtype."""

    def tensors(self) -> dict[str, Array]:
        """Every tensor that the last run computed, by name; only of a session with ``keep_intermediates``."""


def open_session(model: bytes | Path, runtime: str, threads: int = 1, keep_intermediates: bool = False) -> Session:
    """Load a model file (its path or its bytes) under ``"onnxruntime"`` or ``"litert"``, on the CPU.

    ``keep_intermediates`` makes ``Session.tensors`` work; it costs memory and time, so never measure such a session.
    Raises ModelError when the file cannot be read and DeviceError when the runtime is not installed or not known.
    """
    if runtime == "onnxruntime":
        from edgekit.runtimes.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(model, threads, keep_intermediates)
    if runtime == "litert":
        from edgekit.runtimes.litert import LiteRTSession

        return LiteRTSession(model, threads, keep_intermediates)
    raise DeviceError(f"runtime {runtime!r} cannot run here; known: {', '.join(RUNTIMES)}")


def runtime_for(model: bytes | Path) -> str:
    """The runtime that a model file is for, from its bytes: a .tflite says TFL3 at byte 4, all else is taken as ONNX.

    Raises ModelError when the file cannot be read or is empty.
    """
    head = model[:8] if isinstance(model, bytes) else read(model, limit=8)
    if not head:
        raise ModelError(f"{model_name(model)}: is empty; an .onnx or .tflite file is needed")
    return "litert" if head[4:8] == b"TFL3" else "onnxruntime"


def read(path: Path, limit: int = -1) -> bytes:
    """The first ``limit`` bytes of a file (all by default). Raises ModelError with the system's reason."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def model_name(model: bytes | Path) -> str:
    """How a message names a model: its path, or ``model`` when only bytes were given."""
    return "model" if isinstance(model, bytes) else str(model)


def one_line(error: BaseException) -> str:
    """A runtime's message on one line."""
    return " ".join(str(error).split())


def checked(info: TensorInfo, feeds: Mapping[str, Array]) -> Array:
    """The value fed to one input. Raises DataError when it is missing, or its shape or dtype is not the input's."""
    if info.name not in feeds:
        raise DataError(f"no value for input {info.name}; given: {', '.join(feeds) or 'nothing'}")
    value = np.asarray(feeds[info.name], order="C")
    fits = len(value.shape) == len(info.shape) and all(
        wanted in (-1, size) for size, wanted in zip(value.shape, info.shape, strict=True)
    )
    if not fits:
        raise DataError(f"input {info.name}: shape {list(value.shape)} was given, {list(info.shape)} is needed")
    if str(value.dtype) != info.dtype:
        raise DataError(f"input {info.name}: dtype {value.dtype} was given, {info.dtype} is needed")
    return value
