"""Run an ONNX model under ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DataError, DeviceError, ModelError
from edgekit.runtimes import Array, TensorInfo, checked, model_name, one_line, read

if TYPE_CHECKING:
    import onnx

INSTALL = "pip install onnxruntime"
DTYPES = {"float": "float32", "double": "float64"}
QUIET = 4  # only fatal errors are logged: the others arrive as exceptions, and warnings are not for users
FUSED = frozenset({"Relu", "Clip"})  # ONNX Runtime folds these into the op before them


class OnnxRuntimeSession:
    """A ``Session`` on ONNX Runtime's CPU provider: ``threads`` inside an op, one op at a time."""

    def __init__(self, model: bytes | Path, threads: int = 1, keep_intermediates: bool = False) -> None:
        """Load a model. Raises ModelError when it cannot be read, DeviceError when ONNX Runtime is not installed."""
        try:
            import onnxruntime
        except ImportError as error:
            raise DeviceError(f"onnxruntime cannot be imported ({one_line(error)}); install it: {INSTALL}") from error
        self._failures = failures()
        self._keep = keep_intermediates
        self._kept: dict[str, Array] | None = None
        self._extra: list[str] = []
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET
        name = model_name(model)
        if isinstance(model, Path):
            read(model, limit=1)  # the system's own reason when it cannot be opened
        if keep_intermediates:
            model, self._extra = with_intermediates(model)
        try:
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise ModelError(f"{name}: ONNX Runtime cannot load it: {one_line(error)}") from error
        self._inputs = tuple(map(_info, self._session.get_inputs()))
        self._outputs = tuple(_info(arg) for arg in self._session.get_outputs() if arg.name not in self._extra)

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
        names = [info.name for info in self._outputs]
        values = {info.name: checked(info, feeds) for info in self._inputs}
        try:
            found = dict(zip(names + self._extra, self._session.run(names + self._extra, values), strict=True))
        except self._failures as error:
            raise ModelError(f"ONNX Runtime failed while running: {one_line(error)}") from error
        if self._keep:
            self._kept = found
        return {name: found[name] for name in names}

    def tensors(self) -> dict[str, Array]:
        """Every tensor of the last run that was really computed, by name.

        Where an op was quantized that is the output of its QuantizeLinear: the float value before it never exists in
        an integer kernel. Raises DataError when the session was not opened with ``keep_intermediates`` or has not run.
        """
        if self._kept is None:
            raise DataError("no intermediate tensors: open the session with keep_intermediates and run it first")
        return dict(self._kept)


def failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a model or a value that it refuses; its own classes have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception))
    return (*own, RuntimeError, ValueError)


def with_intermediates(model: bytes | Path) -> tuple[bytes, list[str]]:
    """The model with its intermediate tensors added as graph outputs, and their names.

    Tensors inside a quantized op (between DequantizeLinear and QuantizeLinear) are left out, because naming them as
    outputs would keep the runtime from using its integer kernel. Where it has none (int8 convolutions on x86-64) its
    float arithmetic is fused differently now, and a result may differ by one step. Raises ModelError when the file
    cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load_model(model)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(f"{model_name(model)}: not a readable ONNX file: {one_line(error)}") from error
    present = {value.name for value in proto.graph.output}
    names = [name for name in dict.fromkeys(_computed(proto.graph)) if name not in present]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return proto.SerializeToString(), names


def _computed(graph: onnx.GraphProto) -> Iterator[str]:
    """The outputs of every node, without those that vanish into a quantized op."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def quantized_next(name: str) -> bool:
        return any(
            node.op_type == "QuantizeLinear" or (node.op_type in FUSED and quantized_next(node.output[0]))
            for node in readers.get(name, ())
        )

    for node in graph.node:
        if node.op_type not in ("DequantizeLinear", "Constant"):
            yield from (name for name in node.output if name and not quantized_next(name))


def _info(arg: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else -1 for size in arg.shape)
    kind = arg.type.removeprefix("tensor(").removesuffix(")")
    try:
        return TensorInfo(arg.name, shape, str(np.dtype(DTYPES.get(kind, kind))) if kind != "string" else kind)
    except TypeError:
        raise ModelError(f"tensor {arg.name}: is {kind}, which numpy lacks") from None
