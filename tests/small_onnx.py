"""Tiny seeded ONNX models for tests of what reads, runs and measures an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8


def tensor(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def constant(name: str, value: NDArray[Any]) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(value), name)


def weights(name: str, *shape: int) -> onnx.TensorProto:
    """A seeded float32 initializer."""
    return constant(name, np.random.default_rng(len(name)).normal(size=shape).astype(np.float32))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """A checked model at opset 21, as bytes."""
    graph = helper.make_graph(list(nodes), "small", list(inputs), list(outputs), list(initializers))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def conv_relu(batch: int | str = 1) -> bytes:
    """3x8x8 -> Conv 4x3x3 (pad 1) -> Relu -> 4x8x8, in float."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    return model(
        nodes,
        [tensor("x", [batch, 3, 8, 8])],
        [tensor("y", [batch, 4, 8, 8])],
        [weights("w", 4, 3, 3, 3), weights("b", 4)],
    )


def qdq_conv_relu(float_io: bool = True) -> bytes:
    """``conv_relu`` with every tensor through QuantizeLinear/DequantizeLinear; int8 at the edge unless ``float_io``."""
    quantized = np.random.default_rng(1).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    initializers = [
        constant("wq", quantized),
        constant("ws", np.full(4, 0.01, np.float32)),
        constant("wz", np.zeros(4, np.int8)),
        constant("bq", np.arange(4, dtype=np.int32)),
        constant("bs", np.full(4, 0.01 / 64, np.float32)),
        constant("bz", np.zeros(4, np.int32)),
        constant("xs", np.float32(1 / 64)),
        constant("xz", np.int8(-3)),
        constant("ys", np.float32(1 / 16)),
        constant("yz", np.int8(-128)),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
    ]
    if not float_io:
        return model(nodes, [tensor("xq", [1, 3, 8, 8], INT8)], [tensor("yq", [1, 4, 8, 8], INT8)], initializers)
    first = helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"])
    last = helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"])
    return model([first, *nodes, last], [tensor("x", [1, 3, 8, 8])], [tensor("y", [1, 4, 8, 8])], initializers)
