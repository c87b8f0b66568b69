"""The audit: multiply-adds against hand computed ones, real files by many tools, and files that are not sound."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from small_onnx import INT8, constant, conv_relu, model, qdq_conv_relu, tensor, weights

from edgekit.audit import Audit, audit, audit_file, macs
from edgekit.audit.facts import AuditedOp, precision
from edgekit.emitters import tflite_bytes
from edgekit.emitters.tflite_graph import Graph, Op, Tensor
from edgekit.errors import ModelError
from edgekit.quant.plan import QParams


def tflite(ops: Sequence[Op], inputs: Sequence[Tensor], outputs: Sequence[Tensor], **metadata: bytes) -> Audit:
    return audit(tflite_bytes.write(Graph(list(ops), list(inputs), list(outputs), metadata)))


def int8(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, "int8", QParams("int8", (0.5,), (3,)))


def float32(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, "float32")


def stored(name: str, dtype: str, *shape: int) -> Tensor:
    quant = QParams(dtype, (0.25,), (0,)) if dtype in ("int8", "int32") else None
    return Tensor(name, shape, dtype, quant, np.random.default_rng(0).integers(1, 9, shape).astype(dtype))


def macs_of(node: onnx.NodeProto, shapes: dict[str, Sequence[int]], kind: int = TensorProto.FLOAT) -> int:
    inputs = [tensor(name, shape, kind) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name=node.output[0])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (op,) = audit(onnx.shape_inference.infer_shapes(proto).SerializeToString()).ops
    return op.macs


# Multiply-adds, by hand.


@pytest.mark.parametrize(
    ("node", "shapes", "expected"),
    [
        (
            helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
            {"x": (1, 3, 8, 8), "w": (4, 3, 3, 3)},
            64 * 4 * 27,
        ),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2]),
            {"x": (2, 3, 9, 9), "w": (4, 3, 3, 3)},
            2 * 16 * 4 * 27,
        ),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=6), {"x": (1, 6, 8, 8), "w": (6, 1, 3, 3)}, 36 * 6 * 9),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), {"x": (1, 6, 8, 8), "w": (4, 3, 1, 1)}, 64 * 4 * 3),
        (helper.make_node("Conv", ["x", "w"], ["y"]), {"x": (1, 6, 20), "w": (5, 6, 3)}, 18 * 5 * 18),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
            {"x": (1, 6, 4, 4), "w": (6, 5, 2, 2)},
            16 * 6 * 20,
        ),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), {"x": (2, 7), "w": (5, 7)}, 2 * 5 * 7),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), {"x": (7, 2), "w": (7, 5)}, 2 * 5 * 7),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (3, 4, 7), "w": (7, 5)}, 3 * 4 * 5 * 7),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (2, 3, 4, 7), "w": (2, 3, 7, 5)}, 6 * 4 * 5 * 7),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (7,), "w": (7,)}, 7),
        (
            helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=6),
            {"x": (9, 2, 5), "w": (1, 24, 5), "r": (1, 24, 6)},
            18 * 24 * 11,
        ),
        (
            helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=6, direction="bidirectional"),
            {"x": (9, 1, 5), "w": (2, 18, 5), "r": (2, 18, 6)},
            9 * 36 * 11,
        ),
        (
            helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij, bjk -> bik"),
            {"x": (2, 3, 4), "w": (2, 4, 5)},
            2 * 3 * 4 * 5,
        ),
        (helper.make_node("Add", ["x", "w"], ["y"]), {"x": (3, 4), "w": (4,)}, 0),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), {"x": (1, 3, 8, 8)}, 0),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else None,
)
def test_macs_of_onnx_ops(node: onnx.NodeProto, shapes: dict[str, Sequence[int]], expected: int) -> None:
    assert macs_of(node, shapes) == expected


def test_macs_of_integer_onnx_ops() -> None:
    assert macs_of(helper.make_node("MatMulInteger", ["x", "w"], ["y"]), {"x": (3, 7), "w": (7, 5)}, INT8) == 105
    assert (
        macs_of(helper.make_node("ConvInteger", ["x", "w"], ["y"]), {"x": (1, 2, 4, 4), "w": (3, 2, 1, 1)}, INT8) == 96
    )


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (
            Op("CONV_2D", (int8("x", 1, 8, 8, 3), stored("w", "int8", 4, 3, 3, 3)), (int8("y", 1, 6, 6, 4),)),
            36 * 4 * 27,
        ),
        (Op("CONV_2D", (int8("x", 1, 8, 8, 6), stored("w", "int8", 4, 1, 1, 3)), (int8("y", 1, 8, 8, 4),)), 64 * 4 * 3),
        (
            Op(
                "DEPTHWISE_CONV_2D",
                (int8("x", 1, 8, 8, 6), stored("w", "int8", 1, 3, 3, 6)),
                (int8("y", 1, 6, 6, 6),),
                {"depth_multiplier": 1},
            ),
            36 * 6 * 9,
        ),
        (
            Op(
                "TRANSPOSE_CONV",
                (stored("s", "int32", 4), stored("w", "int8", 5, 2, 2, 6), int8("x", 1, 4, 4, 6)),
                (int8("y", 1, 8, 8, 5),),
            ),
            16 * 6 * 20,
        ),
        (Op("FULLY_CONNECTED", (int8("x", 2, 7), stored("w", "int8", 5, 7), None), (int8("y", 2, 5),)), 70),
        (
            Op("FULLY_CONNECTED", (int8("x", 1, 3, 2, 7), stored("w", "int8", 5, 7), None), (int8("y", 1, 3, 2, 5),)),
            6 * 35,
        ),
        (Op("BATCH_MATMUL", (int8("x", 2, 4, 7), int8("z", 2, 7, 5)), (int8("y", 2, 4, 5),)), 2 * 4 * 5 * 7),
        (Op("ADD", (int8("x", 1, 4), int8("z", 1, 4)), (int8("y", 1, 4),)), 0),
    ],
    ids=lambda value: value.code if isinstance(value, Op) else None,
)
def test_macs_of_tflite_ops(op: Op, expected: int) -> None:
    inputs = [item for item in op.inputs if item is not None and item.data is None]
    found = tflite([op], inputs, op.outputs)
    assert (found.macs, found.integer_macs, found.precision, found.notes) == (expected, expected, "int8", ())


def test_macs_of_a_transposed_left_side() -> None:
    shapes = ([(2, 7, 4), (2, 7, 5)], [(2, 4, 5)])
    assert macs.count(macs.TFLITE, "BATCH_MATMUL", shapes, {"adj_x": True}) == 2 * 4 * 5 * 7


@pytest.mark.parametrize(
    ("file", "expected", "parameters"),
    [
        ("int8/cifar10_resnet20.onnx2tf.tflite", 40_551_040, 269_034),
        ("int8/ds_cnn.tinynn.tflite", 2_656_768, 22_604),
        ("int8/mobilenet_v2.tinynn.tflite", 300_774_272, 3_487_816),
        ("mlperf_tiny/pretrainedResnet_quant.tflite", 12_501_632, 77_706),
        ("mlperf_tiny/ad01_int8.tflite", 264_192, 265_864),
    ],
)
def test_macs_of_known_networks(shared: Path, file: str, expected: int, parameters: int) -> None:
    found = audit_file(shared / "peers" / file)
    assert (found.macs, found.parameters) == (expected, parameters)
    assert found.precision == "int8" and found.integer_ops == len(found.ops) and found.integer_macs == expected


def test_both_formats_count_the_same_macs(shared: Path) -> None:
    source = audit_file(shared / "models/coco_fastestdet.onnx")
    artifact = audit_file(shared / "peers/int8/coco_fastestdet.onnx2tf.tflite")
    assert source.macs == artifact.macs == 121_491_744
    assert (source.precision, artifact.precision) == ("float32", "int8")


# TFLite: what is integer.


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("int8/vit.ai-edge-quantizer-dynamic.tflite", "dynamic-int8"),
        ("int8/vit.ai-edge-quantizer.tflite", "int8"),
        ("mlperf_tiny/vww_96_float.tflite", "float32"),
        ("mlperf_tiny/kws_ref_model_float32.tflite", "dynamic-int8"),  # whatever its name says: its weights are int8
    ],
)
def test_precision_of_real_files(shared: Path, file: str, word: str) -> None:
    assert audit_file(shared / "peers" / file).precision == word


def test_every_reference_artifact_can_be_audited(shared: Path) -> None:
    files = sorted((shared / "peers").rglob("*.tflite"))
    for path in files:
        found = audit_file(path)
        value = json.loads(json.dumps(found.to_json()))
        assert found.ops and not found.notes and found.file_bytes == path.stat().st_size > found.weight_bytes
        assert sum(value["counts"].values()) == len(value["ops"]) and 0 <= value["integer_mac_share"] <= 1
    assert len(files) >= 30


def test_io_of_a_real_file(shared: Path) -> None:
    found = audit_file(shared / "peers/int8/resnet20.tinynn.tflite")
    (image,), (scores,) = found.inputs, found.outputs
    assert (image.name, image.shape, image.dtype, image.zero_point) == (
        "input.9_te_transform",
        (1, 32, 32, 3),
        "int8",
        -14,
    )
    assert image.scale == pytest.approx(0.0184224, abs=1e-7)
    assert (scores.shape, scores.dtype, scores.zero_point) == ((1, 10), "int8", 8)
    assert not found.transposes and not found.boundary


def test_float_io_is_boundary_and_not_an_op() -> None:
    x, y = float32("x", 1, 4), float32("y", 1, 5)
    xq, yq = int8("xq", 1, 4), int8("yq", 1, 5)
    dense = Op("FULLY_CONNECTED", (xq, stored("w", "int8", 5, 4), stored("b", "int32", 5)), (yq,))
    found = tflite([Op("QUANTIZE", (x,), (xq,)), dense, Op("DEQUANTIZE", (yq,), (y,))], [x], [y])
    assert [item.op for item in found.ops] == ["FULLY_CONNECTED"]
    assert [item.op for item in found.boundary] == ["QUANTIZE", "DEQUANTIZE"]
    assert found.precision == "int8" and found.inputs[0].dtype == "float32" and found.inputs[0].scale is None
    assert (found.parameters, found.weight_dtypes) == (25, {"int8": 20, "int32": 20})


def test_a_float_op_in_the_middle_is_never_called_int8() -> None:
    x, y = int8("x", 1, 4), int8("y", 1, 4)
    f, g = float32("f", 1, 4), float32("g", 1, 4)
    ops = [
        Op("DEQUANTIZE", (x,), (f,)),
        Op("EXP", (f,), (g,)),
        Op("QUANTIZE", (g,), (y,)),
        Op("ABS", (y,), (int8("z", 1, 4),)),
    ]
    found = tflite(ops, [x], [ops[-1].outputs[0]])
    assert found.precision == "mixed" and not found.boundary
    assert [item.name for item in found.float_ops] == ["f", "g", "y"]


def test_a_float_end_behind_a_dequantize_is_not_boundary() -> None:
    x, f, y = int8("x", 1, 4), float32("f", 1, 4), float32("y", 1, 4)
    found = tflite(
        [Op("ABS", (x,), (int8("a", 1, 4),)), Op("DEQUANTIZE", (x,), (f,)), Op("SOFTMAX", (f,), (y,))], [x], [y]
    )
    assert found.precision == "mixed" and [item.op for item in found.float_ops] == ["DEQUANTIZE", "SOFTMAX"]


def test_requantizing_is_integer() -> None:
    x, y = int8("x", 1, 4), Tensor("y", (1, 4), "int8", QParams("int8", (0.1,), (0,)))
    assert tflite([Op("QUANTIZE", (x,), (y,))], [x], [y]).precision == "int8"


def test_sixteen_bit_activations_are_called_so() -> None:
    x = Tensor("x", (1, 4), "int16", QParams("int16", (0.5,), (0,)))
    y = Tensor("y", (1, 5), "int16", QParams("int16", (0.5,), (0,)))
    assert tflite([Op("FULLY_CONNECTED", (x, stored("w", "int8", 5, 4), None), (y,))], [x], [y]).precision == "int16x8"


def test_constants_that_are_dequantized_once_are_storage() -> None:
    x, y, half, whole = float32("x", 1, 4), float32("y", 1, 5), stored("h", "float16", 5, 4), float32("w", 5, 4)
    found = tflite([Op("DEQUANTIZE", (half,), (whole,)), Op("FULLY_CONNECTED", (x, whole, None), (y,))], [x], [y])
    (op,) = found.ops
    assert (found.precision, op.weights, op.weight_bytes, found.parameters) == ("float16-weights", "float16", 40, 20)
    assert found.weight_dtypes == {"float16": 40}


def test_shape_arithmetic_is_bookkeeping() -> None:
    x, shape, y = float32("x", 2, 4), Tensor("s", (2,), "int32"), float32("y", 2, 4)
    found = tflite([Op("SHAPE", (x,), (shape,), {"out_type": 2}), Op("ABS", (x,), (y,))], [x], [y])
    assert found.precision == "float32"


def test_called_ops_that_are_not_seen_count_as_float() -> None:
    x, y = int8("x", 1, 4), int8("y", 1, 4)
    found = tflite([Op("WHILE", (x,), (y,))], [x], [y])
    assert found.precision == "float32" and "WHILE" in found.notes[0]


def test_impossible_shapes_are_said() -> None:
    x, y = int8("x", 1, 4), int8("y", 1, 5)
    found = tflite([Op("CONV_2D", (x,), (y,))], [x], [y])
    assert found.macs == 0 and found.notes == ("shapes are not known, so their multiply-adds count as 0: y",)


def test_metadata_of_a_tflite() -> None:
    x = int8("x", 1)
    found = tflite(
        [Op("ABS", (x,), (int8("y", 1),))], [x], [x], edgekit=b'{"edgekit":"0.1"}', other=b"1.5\0\0", blob=bytes(99)
    )
    assert found.metadata == {"edgekit": {"edgekit": "0.1"}, "other": "1.5", "blob": "99 bytes"}
    found = tflite([Op("ABS", (x,), (int8("y", 1),))], [x], [x], edgekit=b"{")
    assert found.metadata == {"edgekit": "1 bytes"} and found.notes == ("the edgekit metadata is not readable JSON",)


# ONNX: what is integer.


def test_a_qdq_model_is_integer_with_its_activation() -> None:
    found = audit(qdq_conv_relu())
    assert [(item.op, item.inputs, item.outputs) for item in found.ops] == [
        ("Conv", ("int8",), ("int8",)),
        ("Relu", ("int8",), ("int8",)),
    ]
    assert found.precision == "int8" and found.macs == found.integer_macs == 6912 and found.parameters == 112
    assert [(item.op, item.inputs, item.outputs) for item in found.boundary] == [
        ("QuantizeLinear", ("float32",), ("int8",)),
        ("DequantizeLinear", ("int8",), ("float32",)),
    ]
    assert (found.ops[0].weights, found.ops[0].weight_bytes) == ("int8", 108 + 16)


def test_integer_io_has_scale_and_zero_point() -> None:
    found = audit(qdq_conv_relu(float_io=False))
    assert not found.boundary and found.precision == "int8"
    assert (found.inputs[0].scale, found.inputs[0].zero_point, found.inputs[0].dtype) == (1 / 64, -3, "int8")
    assert (found.outputs[0].scale, found.outputs[0].zero_point) == (1 / 16, -128)


def test_an_open_batch_counts_as_one_and_is_said() -> None:
    found = audit(conv_relu(batch="N"))
    assert found.inputs[0].shape == (-1, 3, 8, 8) and found.macs == 6912 and found.precision == "float32"
    assert found.notes == ("open dimensions count as 1: x[0]",)


def edited(change: Any) -> Audit:
    proto = onnx.load_model_from_string(qdq_conv_relu())
    change(proto.graph)
    return audit(proto.SerializeToString())


def test_an_op_with_raw_float_weights_is_float() -> None:
    def change(graph: onnx.GraphProto) -> None:
        graph.initializer.append(weights("raw", 4, 3, 3, 3))
        graph.node[4].input[1] = "raw"

    found = edited(change)
    assert found.precision == "float32" and [item.op for item in found.float_ops] == [
        "DequantizeLinear",
        "Conv",
        "Relu",
        "QuantizeLinear",
    ]


def test_an_op_whose_result_is_read_as_float_too_is_float() -> None:
    def change(graph: onnx.GraphProto) -> None:
        graph.output.append(tensor("c", [1, 4, 8, 8]))

    found = edited(change)
    assert found.precision == "int8-weights" and "conv" in [item.name for item in found.float_ops]


def test_weights_only_quantization_is_called_so() -> None:
    nodes = [helper.make_node("DequantizeLinear", ["wq", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    constants = [constant("wq", np.ones((4, 5), np.int8)), constant("s", np.float32(0.1))]
    found = audit(model(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 5])], constants))
    assert (found.precision, found.ops[0].weights, found.parameters) == ("int8-weights", "int8", 20)


def test_half_precision_is_called_so() -> None:
    half = TensorProto.FLOAT16
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    data = model(
        nodes, [tensor("x", [1, 4], half)], [tensor("y", [1, 5], half)], [constant("w", np.ones((4, 5), np.float16))]
    )
    assert audit(data).precision == "float16"
    nodes = [
        helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    data = model(nodes, [tensor("x", [1, 4])], [tensor("y", [1, 5])], [constant("h", np.ones((4, 5), np.float16))])
    assert audit(data).precision == "float16-weights"


def test_ops_on_integers_without_qdq_and_requantizing() -> None:
    constants = [constant("s", np.float32(0.1)), constant("t", np.float32(0.2)), constant("z", np.int8(0))]
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["d"]),
        helper.make_node("QuantizeLinear", ["d", "t", "z"], ["y"]),
        helper.make_node("Shape", ["y"], ["n"]),
    ]
    outputs = [tensor("y", [1, 1, 3, 3], INT8), tensor("n", [4], TensorProto.INT64)]
    found = audit(model(nodes, [tensor("x", [1, 1, 4, 4], INT8)], outputs, constants))
    assert [(item.op, item.kind) for item in found.ops] == [("MaxPool", "integer"), ("Requantize", "integer")]
    assert [item.op for item in found.bookkeeping] == ["Shape"] and found.precision == "int8"


def test_ops_in_a_branch_are_seen() -> None:
    branches = {}
    for name, kind in (("then_branch", "Exp"), ("else_branch", "Neg")):
        branches[name] = helper.make_graph([helper.make_node(kind, ["x"], [name])], name, [], [tensor(name, [1, 4])])
    nodes = [helper.make_node("If", ["c"], ["y"], **branches)]
    found = audit(model(nodes, [tensor("x", [1, 4]), tensor("c", [], TensorProto.BOOL)], [tensor("y", [1, 4])]))
    assert sorted(item.op for item in found.float_ops) == ["Exp", "Neg"]


def test_an_unknown_op_counts_as_float() -> None:
    graph = helper.make_graph(
        [helper.make_node("Magic", ["x"], ["y"], domain="my.own")], "g", [tensor("x", [1], INT8)], [tensor("y", [1])]
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("my.own", 1)], ir_version=10
    )
    assert audit(proto.SerializeToString()).precision == "float32"


def test_metadata_of_an_onnx_file() -> None:
    proto = onnx.load_model_from_string(conv_relu())
    helper.set_model_props(proto, {"edgekit": '{"edgekit":"0.1"}', "author": "me"})
    found = audit(proto.SerializeToString())
    assert found.metadata == {"edgekit": {"edgekit": "0.1"}, "author": "me"} and found.opset == 21


class Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: Sequence[int]) -> None:
        self._left = [{"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}]

    def get_next(self) -> dict[str, Any] | None:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize(
    ("way", "word", "ops"),
    [("qdq", "int8", {"Conv": 1}), ("qoperator", "int8", {"QLinearConv": 1}), ("dynamic", "dynamic-int8", None)],
)
def test_what_onnxruntimes_quantizer_makes(tmp_path: Path, way: str, word: str, ops: dict[str, int] | None) -> None:
    source, made = tmp_path / "f.onnx", tmp_path / "q.onnx"
    source.write_bytes(conv_relu())
    if way == "dynamic":
        quantize_dynamic(source, made, weight_type=QuantType.QInt8)
    else:
        kind = QuantFormat.QDQ if way == "qdq" else QuantFormat.QOperator
        quantize_static(
            source, made, Noise((1, 3, 8, 8)), kind, per_channel=way == "qdq", activation_type=QuantType.QInt8
        )
    found = audit_file(made)
    assert found.precision == word and found.macs == 6912
    assert ops is None or found.counts == ops


# Precision, and files that are not sound.


def test_precision_of_nothing_is_none() -> None:
    assert precision(()) == "none"
    assert precision((AuditedOp("a", "Exp", "float", ("float32",), ("float32",)),)) == "float32"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"hello, this is no model", "not an ONNX file"),
        (b"\x08\x0a", "holds no graph"),
        (b"\x1c\x00\x00\x00TFL3", "not a sound TFLite file"),
        (conv_relu()[:-40], "not an ONNX file, or truncated or corrupt"),
    ],
)
def test_an_unsound_file_gets_one_line(data: bytes, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        audit(data, "net.bin")
    assert str(caught.value).startswith("net.bin: ") and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_missing_file_gets_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.tflite: cannot be read: No such file"):
        audit_file(tmp_path / "none.tflite")


def test_a_graph_that_contradicts_itself_is_not_sound() -> None:
    proto = onnx.load_model_from_string(conv_relu())
    del proto.graph.initializer[0]
    with pytest.raises(ModelError, match=r"not a sound ONNX file: .*'w'"):
        audit(proto.SerializeToString())


def test_truncated_and_damaged_files_never_end_in_a_traceback(shared: Path) -> None:
    chance = random.Random(0)
    for whole in ((shared / "peers/int8/ds_cnn.tinynn.tflite").read_bytes(), qdq_conv_relu()):
        for _ in range(60):
            with pytest.raises(ModelError):
                audit(whole[: chance.randrange(len(whole))])
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(5):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            try:
                audit(bytes(damaged))
            except ModelError as error:
                assert "\n" not in str(error)
