"""LiteRT's own profiler, which the wheel ships without a Python interface: its C interface, by ctypes.

The functions and structs are those of ``litert/c/`` in LiteRT 2.1.6 and later (``litert_profiler.h``,
``litert_profiler_event.h``, ``litert_compiled_model.h``); a library without ``LiteRtGetProfileSummary`` is older, and
refused. The same library, with the same XNNPACK, runs models for ``ai_edge_litert.compiled_model``.
"""

from __future__ import annotations

import ctypes as c
import os
from typing import Any

import numpy as np

from edgekit.agent import Problem

NEWEST_FUNCTION = "LiteRtGetProfileSummary"
CPU = 1  # kLiteRtHwAcceleratorCpu
WRITE = 1  # kLiteRtTensorBufferLockModeWrite
OPERATOR, DELEGATE_INTERNAL, DELEGATE_OPERATOR = 2, 4, 8  # LiteRtProfilerEventType
CONTROL = ("WHILE", "IF", "CALL", "CALL_ONCE")  # hold the events of the subgraphs that they run
TYPE_BYTES = 72  # LiteRtRankedTensorType


class Event(c.Structure):
    """``ProfiledEventData``; ``memory`` is two ``LiteRtMemoryUsage``."""

    _fields_ = (
        ("tag", c.c_char_p),
        ("kind", c.c_int),
        ("start_us", c.c_uint64),
        ("us", c.c_uint64),
        ("memory", c.c_size_t * 6),
        ("node", c.c_uint64),
        ("more", c.c_uint64),
        ("source", c.c_int),
    )


def library() -> c.CDLL:
    """The LiteRT library that came with ``ai_edge_litert``. Raises Problem when there is none with a profiler."""
    try:
        import ai_edge_litert
    except ImportError as error:
        raise Problem("device", f"LiteRT's profiler needs ai-edge-litert 2.1.6 or newer: {error}") from error
    path = os.path.join(os.path.dirname(ai_edge_litert.__file__), "libLiteRt.so")
    try:
        found = c.CDLL(path)
        getattr(found, NEWEST_FUNCTION)
    except (OSError, AttributeError) as error:
        raise Problem("device", "LiteRT's profiler needs ai-edge-litert 2.1.6 or newer on Linux") from error
    return found


class Profiler:
    """A compiled model with its profiler, its inputs written. Raises Problem, and RuntimeError when LiteRT fails."""

    def __init__(self, path: str, threads: int, values: dict[str, Any]) -> None:
        self._library, self._kept = library(), []  # type: c.CDLL, list[Any]
        self._environment = self._made("LiteRtCreateEnvironment", 0, None)
        model = self._made("LiteRtCreateModelFromFile", self._environment, os.fsencode(path))
        options = self._made("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
        self._add(options, b"runtime_options_string", b"enable_profiling = true\n")
        self._add(options, b"xnnpack", b"num_threads = %d\n" % threads)
        self._compiled = self._made("LiteRtCreateCompiledModel", self._environment, model, options)
        self._signature = self._made("LiteRtGetModelSignature", model, c.c_size_t(0))
        self._inputs, self._outputs = self._buffers("Input", values), self._buffers("Output", {})
        self._profiler = self._made("LiteRtCompiledModelGetProfiler", self._compiled)

    def run(self) -> list[dict[str, Any]]:
        """One run's kernels in the order of execution: name, op, node (None inside a delegate) and microseconds."""
        for step in ("Reset", "Start"):
            self._call(f"LiteRt{step}Profiler", self._profiler)
        first = c.c_size_t(0)
        ends = [(c.c_size_t(len(ports)), ports) for ports in (self._inputs, self._outputs)]
        self._call("LiteRtRunCompiledModel", self._compiled, first, *ends[0], *ends[1])
        self._call("LiteRtStopProfiler", self._profiler)
        number = c.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, c.byref(number))
        events = (Event * number.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, number, events)
        return kernels_of(list(events))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")

    def _made(self, name: str, *arguments: Any) -> c.c_void_p:
        """What a function returns through its last argument."""
        made = c.c_void_p()
        self._call(name, *arguments, c.byref(made))
        return made

    def _add(self, options: c.c_void_p, name: bytes, text: bytes) -> None:
        """Give options in the form of text; the library asks for it later, so it is kept."""
        payload, release = c.create_string_buffer(text), c.CFUNCTYPE(None, c.c_void_p)(lambda _: None)
        self._kept += [payload, release]
        self._call("LiteRtAddOpaqueOptions", options, self._made("LiteRtCreateOpaqueOptions", name, payload, release))

    def _buffers(self, side: str, values: dict[str, Any]) -> Any:
        """A buffer for every input or output, filled with the values of that name."""
        number = c.c_size_t()
        self._call(f"LiteRtGetNumSignature{side}s", self._signature, c.byref(number))
        buffers = (c.c_void_p * number.value)()
        for index in range(number.value):
            at = c.c_size_t(index)
            tensor = self._made(f"LiteRtGetSignature{side}TensorByIndex", self._signature, at)
            kind, name = (c.c_char * TYPE_BYTES)(), c.c_char_p()
            self._call("LiteRtGetRankedTensorType", tensor, kind)
            self._call("LiteRtGetTensorName", tensor, c.byref(name))
            needs = self._made(f"LiteRtGetCompiledModel{side}BufferRequirements", self._compiled, c.c_size_t(0), at)
            make = "LiteRtCreateManagedTensorBufferFromRequirements"
            buffers[index] = buffer = self._made(make, self._environment, kind, needs)
            if values:
                self._fill(buffer, values[(name.value or b"").decode()])
        return buffers

    def _fill(self, buffer: c.c_void_p, value: Any) -> None:
        place = c.c_void_p()
        self._call("LiteRtLockTensorBuffer", buffer, c.byref(place), WRITE)
        data = np.ascontiguousarray(value).tobytes()
        c.memmove(place, data, len(data))
        self._call("LiteRtUnlockTensorBuffer", buffer)


def kernels_of(events: list[Event]) -> list[dict[str, Any]]:
    """The events that are kernels; what ran inside an op that runs subgraphs is part of it."""
    found, until = [], -1
    for event in events:
        if event.kind not in (OPERATOR, DELEGATE_INTERNAL, DELEGATE_OPERATOR) or event.start_us < until:
            continue
        name = event.tag.decode()
        if event.kind == OPERATOR and name in CONTROL:
            until = event.start_us + event.us
        node = int(event.node) if event.kind == OPERATOR else None
        found.append({"name": name, "op": name.split(" (")[0], "node": node, "us": int(event.us)})
    return found
