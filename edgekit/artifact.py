"""An artifact read back from its bytes: its contract, its metadata, and how each tensor is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.contract import Contract, Port
from edgekit.errors import ModelError
from edgekit.quant.plan import QParams

STORED = "/int"  # what the ONNX emitter appends to the name of a tensor for its integers


@dataclass(frozen=True)
class ArtifactFile:
    """``quant``: the scale of each quantized tensor, by the source model's name for it."""

    format: str
    contract: Contract
    metadata: Mapping[str, Any]
    quant: Mapping[str, QParams]


def read_artifact(data: bytes, name: str = "artifact") -> ArtifactFile:
    """Read an ``.onnx`` or ``.tflite`` file of any origin. Raises ModelError when it is neither."""
    return _read_tflite(data, name) if data[4:8] == b"TFL3" else _read_onnx(data, name)


def _read_tflite(data: bytes, name: str) -> ArtifactFile:
    from edgekit.emitters import tflite_bytes

    try:
        graph = tflite_bytes.read(data)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    quant = {t.name: t.quant for t in graph.tensors() if t.quant is not None}
    metadata = _parsed(graph.metadata.get("edgekit", b""), name)

    def ports(tensors: list[Any]) -> tuple[Port, ...]:
        return tuple(
            Port(
                t.name,
                t.shape,
                t.dtype,
                tuple(range(len(t.shape))),
                "",
                t.quant.scale[0] if t.quant else None,
                t.quant.zero_point[0] if t.quant else None,
            )
            for t in tensors
        )

    contract = _contract(metadata) or Contract(ports(graph.inputs), ports(graph.outputs))
    return ArtifactFile("tflite", contract, metadata, quant)


def _read_onnx(data: bytes, name: str) -> ArtifactFile:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{name}: neither TFLite nor ONNX, truncated or corrupt") from error
    if not proto.graph.node:
        raise ModelError(f"{name}: neither TFLite nor ONNX, or a model without a node")
    props = {p.key: p.value for p in proto.metadata_props}
    metadata = _parsed(props.get("edgekit", "").encode(), name)
    weights = {i.name: i for i in proto.graph.initializer}
    fed = [v for v in proto.graph.input if v.name not in weights]

    def ports(values: Any) -> tuple[Port, ...]:
        return tuple(_onnx_port(value) for value in values)

    contract = _contract(metadata) or Contract(ports(fed), ports(proto.graph.output))
    quant = {}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0].endswith(STORED) and len(node.input) > 2:
            scale, zero = (onnx.numpy_helper.to_array(weights[n]) for n in node.input[1:3])
            if scale.size == 1:
                q = QParams(str(zero.dtype), (float(scale),), (int(zero),))
                quant[node.output[0].removesuffix(STORED)] = q
    return ArtifactFile("onnx", contract, metadata, quant)


def _onnx_port(value: Any) -> Port:
    import onnx

    kind = value.type.tensor_type
    shape = tuple(d.dim_value or 1 for d in kind.shape.dim)
    dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    return Port(value.name, shape, dtype, tuple(range(len(shape))))


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{name}: its edgekit metadata is not JSON") from error
    return found


def _contract(metadata: Mapping[str, Any]) -> Contract | None:
    return Contract.from_json(metadata["contract"]) if "contract" in metadata else None
