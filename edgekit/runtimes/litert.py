"""Run a TFLite model under LiteRT: ``ai_edge_litert``, or ``tflite_runtime`` where that is what is installed."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgekit.errors import DataError, DeviceError, ModelError
from edgekit.runtimes import Array, TensorInfo, checked, model_name, one_line, read

INSTALL = "pip install ai-edge-litert (or, on an old device: pip install tflite-runtime 'numpy<2')"
MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
CHATTER = ("INFO: ",)

_stderr_lock = threading.RLock()


class LiteRTSession:
    """A ``Session`` on LiteRT with its default kernels (XNNPACK where the build has it)."""

    def __init__(self, model: bytes | Path, threads: int = 1, keep_intermediates: bool = False) -> None:
        """Load a model. Raises ModelError when it cannot be read, DeviceError when no LiteRT is installed."""
        module = interpreter_module()
        data = model if isinstance(model, bytes) else read(model)
        self._keep, self._ran = keep_intermediates, False
        try:
            self._interpreter = _interpreter(module, data, threads, keep_intermediates)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{model_name(model)}: LiteRT cannot load it: {one_line(error)}") from error
        except (ImportError, AttributeError, SystemError) as error:  # tflite-runtime under numpy 2
            reason = one_line(error.__cause__ or error)
            raise DeviceError(f"{module.__name__} does not work here ({reason}); install: {INSTALL}") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._inputs, self._outputs = tuple(map(_info, inputs)), tuple(map(_info, outputs))
        self._shapes = {int(detail["index"]): tuple(detail["shape"].tolist()) for detail in inputs}
        self._index = {info.name: int(detail["index"]) for info, detail in zip(self._inputs, inputs, strict=True)}
        self._out_index = {info.name: int(detail["index"]) for info, detail in zip(self._outputs, outputs, strict=True)}

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What ``run`` wants, in the file's order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What ``run`` gives, in the file's order."""
        return self._outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name -> outputs by name. Raises DataError on a wrong input, ModelError when the model fails."""
        values = {self._index[info.name]: checked(info, feeds) for info in self._inputs}
        interpreter = self._interpreter
        try:
            shapes = {index: value.shape for index, value in values.items()}
            if shapes != self._shapes:
                self._resize(shapes)
            for index, value in values.items():
                interpreter.set_tensor(index, value)
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT failed while running: {one_line(error)}") from error
        self._ran = True
        return {name: interpreter.get_tensor(index) for name, index in self._out_index.items()}

    def tensors(self) -> dict[str, Array]:
        """Every tensor that the last run computed, by name, as stored (integers stay integers).

        Raises DataError when the session was not opened with ``keep_intermediates`` or has not run.
        """
        if not (self._keep and self._ran):
            raise DataError("no intermediate tensors: open the session with keep_intermediates and run it first")
        names = {int(detail["index"]): str(detail["name"]) for detail in self._interpreter.get_tensor_details()}
        computed = dict.fromkeys(int(i) for op in self._interpreter._get_ops_details() for i in op["outputs"] if i >= 0)
        found: dict[str, Array] = {}
        for index in computed:
            try:
                value = self._interpreter.get_tensor(index)
            except ValueError:  # a tensor of a sub-graph, or one that a fused kernel never wrote
                continue
            name = names[index] if names[index] not in found else f"{names[index]}#{index}"
            found[name] = value
        return found

    @property
    def partitions(self) -> int:
        """How many groups of ops a delegate (XNNPACK) has taken over: 1 when it runs the whole graph, 0 without one."""
        return sum(op["op_name"] == "DELEGATE" for op in self._interpreter._get_ops_details())

    def _resize(self, shapes: dict[int, tuple[int, ...]]) -> None:
        """Allocate for these input shapes, by tensor index."""
        for index, shape in shapes.items():
            self._interpreter.resize_tensor_input(index, list(shape))
        with quiet_stderr():
            self._interpreter.allocate_tensors()
        self._shapes = shapes


def _interpreter(module: ModuleType, data: bytes, threads: int, keep: bool) -> Any:
    """An interpreter with its tensors allocated; ``keep`` runs the same kernels one by one, and keeps their results."""
    more = {"experimental_preserve_all_tensors": True} if keep else {}
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "is intended for debugging purposes only"
        interpreter = module.Interpreter(model_content=data, num_threads=threads, **more)
        interpreter.allocate_tensors()
    return interpreter


def interpreter_module() -> ModuleType:
    """The first of ``MODULES`` that can be imported. Raises DeviceError with the install line."""
    reasons = []
    for name in MODULES:
        try:
            return import_module(name)
        except ImportError as error:
            reasons.append(one_line(error))
    raise DeviceError(f"LiteRT cannot be imported ({'; '.join(reasons)}); install it: {INSTALL}")


def runtime_version() -> str:
    """What runs .tflite files here, such as ``ai-edge-litert 2.3.0``. Raises DeviceError when nothing does."""
    from importlib import metadata

    name = interpreter_module().__name__.partition(".")[0].replace("_", "-")
    return f"{name} {metadata.version(name)}"


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what C++ code writes to file descriptor 2; on leaving, pass on all but the ``INFO:`` chatter.

    LiteRT has no log level that Python can set. When the block raises, its ``ERROR:`` lines say what the exception
    says, and only the exception is kept.
    """
    with _stderr_lock:
        try:
            saved, held = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        except OSError:  # no stderr, or nowhere to hold it: let it through
            yield
            return
        _flush()
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            _flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            with held:
                hidden = (*CHATTER, "ERROR: ") if failed else CHATTER
                for line in held.read().decode(errors="replace").splitlines(keepends=True):
                    if not line.startswith(hidden):
                        os.write(2, line.encode())


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


def _info(detail: Mapping[str, Any]) -> TensorInfo:
    shape = detail.get("shape_signature", detail["shape"])
    shape = shape if len(shape) == len(detail["shape"]) else detail["shape"]
    scale, zero_point = detail["quantization"]
    quantized = bool(scale)
    dtype = str(np.dtype(detail["dtype"]))
    name, sizes = str(detail["name"]), tuple(int(size) for size in shape)
    return (
        TensorInfo(name, sizes, dtype, float(scale), int(zero_point)) if quantized else TensorInfo(name, sizes, dtype)
    )
