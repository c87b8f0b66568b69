"""Models and settings that once broke a build: each is built, or refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import FLOAT, Array, Both, both, const, node, port, save, weights
from onnx import TensorProto, helper

from edgekit.build import build
from edgekit.emitters import onnx_qdq, tflite
from edgekit.errors import ConfigError, DataError, ModelError, UnsupportedError
from edgekit.project import Project
from edgekit.quant.plan import QuantPlan
from edgekit.report.model import Report

BOTH = ("raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime", "linux-x86_64-onnxruntime")
IMAGE = [1, 3, 8, 8]
BOOL = TensorProto.BOOL


def reports(
    path: Path, data: Array, settings: dict[str, Any] | None = None, targets: Sequence[str] = BOTH
) -> list[Report]:
    np.savez(path.with_suffix(".npz"), x=data)
    given = {"calibration.data": str(path.with_suffix(".npz")), **(settings or {})}
    return build(Project.from_flags(str(path), None, given), targets, path.parent / "out")


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def net(
    folder: Path, nodes: Sequence[onnx.NodeProto], held: Sequence[onnx.TensorProto], shape: Sequence[int], **more: Any
) -> Path:
    kind = more.pop("kind", FLOAT)
    return save(folder / "net.onnx", nodes, ([port("x", shape, kind)], [port("y", None)]), held, 17, **more)


def good(found: Sequence[Report], least: float = 25.0) -> None:
    for report in found:
        assert report.audit["float_ops"] == [] and report.artifact.precision == "int8"
        assert min(report.fidelity.outputs.values()) > least  # type: ignore[union-attr]


def test_a_linear_layer_over_three_axes(tmp_path: Path) -> None:
    """ONNX Runtime's full optimization stored what lay between Reshape and Gemm in a type of its own, and failed."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    good(reports(net(tmp_path, nodes, [weights("w", 16, 4), weights("b", 4)], [1, 6, 16]), normal(40, 6, 16)))


def test_a_concat_of_one_tensor_twice(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Concat", ["r", "r"], ["t"], axis=1),
        node("Conv", ["t", "v"], ["y"]),
    ]
    good(
        reports(net(tmp_path, nodes, [weights("w", 4, 3, 3, 3), weights("v", 2, 8, 1, 1)], IMAGE), normal(40, 3, 8, 8))
    )


def test_a_layer_that_is_always_zero(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v", "b"], ["y"]),
    ]
    held = [weights("w", 4, 3, 3, 3), weights("v", 4, 4, 3, 3), const("b", [-50.0] * 4, np.float32)]
    found = reports(net(tmp_path, nodes, held, IMAGE), normal(40, 3, 8, 8))
    assert all(report.audit["float_ops"] == [] for report in found)


def test_pads_that_are_computed_from_constants(tmp_path: Path) -> None:
    nodes = [
        node("ConstantOfShape", ["four"], ["zeros"], value=onnx.numpy_helper.from_array(np.asarray([0], np.int64))),
        node("Concat", ["zeros", "ends"], ["pads"], axis=0),
        node("Conv", ["x", "w"], ["c"]),
        node("Pad", ["c", "pads"], ["y"]),
    ]
    held = [const("four", [6], np.int64), const("ends", [1, 2], np.int64), weights("w", 4, 3, 3, 3)]
    good(reports(net(tmp_path, nodes, held, IMAGE), normal(40, 3, 8, 8)))


def test_a_fixed_batch_of_images(tmp_path: Path) -> None:
    path = net(tmp_path, [node("Conv", ["x", "w"], ["y"])], [weights("w", 4, 3, 3, 3)], [4, 3, 8, 8])
    good(reports(path, normal(32, 4, 3, 8, 8)))
    with pytest.raises(DataError, match=r"\[4, 3, 8, 8\]"):
        reports(path, normal(32, 3, 8, 8))


def test_integers_in(tmp_path: Path) -> None:
    nodes = [node("Gather", ["table", "x"], ["e"]), node("ReduceMean", ["e"], ["y"], axes=[1], keepdims=0)]
    path = net(tmp_path, nodes, [weights("table", 10, 16)], [1, 7], kind=TensorProto.INT64)
    good(reports(path, np.random.default_rng(0).integers(0, 10, (40, 7))))


def test_an_op_without_a_float_form(tmp_path: Path) -> None:
    """Its integer artifact stands; only the float model beside it cannot be timed."""
    found = reports(net(tmp_path, [node("Erf", ["x"], ["y"])], [], [1, 16]), normal(40, 16), targets=BOTH[:1])
    good(found)
    assert found[0].float_latency is None and "Erf has no float operator" in " ".join(found[0].warnings)


@pytest.mark.parametrize("halved", ["after", "before"])
def test_gelu_spelled_out(tmp_path: Path, halved: str) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Div", ["c", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["a"]),
    ]
    if halved == "after":
        nodes += [node("Mul", ["c", "a"], ["m"]), node("Mul", ["m", "half"], ["y"])]
    else:
        nodes += [node("Mul", ["c", "half"], ["h"]), node("Mul", ["h", "a"], ["y"])]
    held = [const("root", 2**0.5, np.float32), const("one", 1, np.float32), const("half", 0.5, np.float32)]
    found = reports(
        net(tmp_path, nodes, [*held, weights("w", 4, 3, 3, 3)], IMAGE), normal(40, 3, 8, 8), targets=BOTH[:2]
    )
    good(found)
    assert [op["op"] for op in found[0].audit["ops"]] == ["CONV_2D", "GELU"] and found[0].float_latency is not None
    assert found[0].source_check is not None and float(found[0].source_check["snr_db"]) > 100


ENDS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "Clip": ([node("Clip", ["x", "", "high"], ["y"])], [const("high", 0.5, np.float32)]),
    "Clip-both": ([node("Clip", ["x", "", ""], ["a"]), node("Relu", ["a"], ["y"])], []),
    "Conv": ([node("Conv", ["x", "w", ""], ["y"])], [weights("w", 4, 3, 3, 3)]),
    "Gemm": ([node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w", ""], ["y"])], [weights("w", 192, 4)]),
    "Slice": (
        [node("Slice", ["x", "starts", "ends", "", "steps"], ["y"])],
        [const("starts", [0, 0, 1, 0]), const("ends", [1, 3, 8, 8]), const("steps", [1, 1, 2, 1])],
    ),
    "ReduceSum": ([node("ReduceSum", ["x", ""], ["y"])], []),
    "Squeeze": ([node("Squeeze", ["x", ""], ["y"])], []),
    "Resize": (
        [
            node(
                "Resize",
                ["x", "", "", "size"],
                ["y"],
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        [const("size", [1, 3, 16, 16])],
    ),
    "Trilu": ([node("Trilu", ["x", ""], ["y"])], []),
    "Dropout": ([node("Dropout", ["x", "", ""], ["d"]), node("Relu", ["d"], ["y"])], []),
}


def right(path: Path, least: float = 30.0) -> Both:
    """Both int8 artifacts keep ``least`` dB of the source, and both float ones are it."""
    built = both(path)
    for emit in (onnx_qdq.emit, tflite.emit):
        assert min(built.snr(emit(built.graph, built.plan)).values()) > least
        assert min(built.snr(emit(built.graph, QuantPlan({}))).values()) > 90
    return built


@pytest.mark.parametrize("name", ENDS)
def test_inputs_left_empty(tmp_path: Path, name: str) -> None:
    right(net(tmp_path, *ENDS[name], IMAGE))


def test_a_bias_left_empty_at_the_end(tmp_path: Path) -> None:
    """ONNX Runtime crashes when it opens such a LayerNormalization."""
    nodes = [node("LayerNormalization", ["x", "scale", ""], ["y"])]
    built = both(net(tmp_path, nodes, [const("scale", np.ones(8), np.float32)], IMAGE))
    assert min(built.snr(tflite.emit(built.graph, QuantPlan({}))).values()) > 90


@pytest.mark.parametrize("rank", range(6))
def test_ranks(tmp_path: Path, rank: int) -> None:
    shape = [2, 3, 2, 4, 3][:rank]
    nodes = [
        node("Mul", ["x", "x"], ["a"]),
        node("Sigmoid", ["a"], ["b"]),
        node("Greater", ["x", "half"], ["m"]),
        node("Where", ["m", "half", "x"], ["w"]),
        node("Add", ["b", "w"], ["y"]),
    ]
    right(net(tmp_path, nodes, [const("half", 0.5, np.float32)], shape))


@pytest.mark.parametrize("rank", range(1, 6))
def test_axes_of_ranks(tmp_path: Path, rank: int) -> None:
    shape = [4, 3, 2, 4, 3][:rank]
    nodes = [
        node("Softmax", ["x"], ["s"], axis=0),
        node("CumSum", ["x", "first"], ["c"]),
        node("Concat", ["s", "c"], ["j"], axis=-1),
        node("TopK", ["j", "two"], ["t", "i"], axis=0),
        node("Gather", ["j", "order"], ["g"]),
        node("Transpose", ["g"], ["y"]),
    ]
    held = [const("first", 0), const("two", [2]), const("order", [1, 0, 1])]
    ports = [port("x", shape)], [port("y", None), port("t", None)]
    right(save(tmp_path / "net.onnx", nodes, ports, held, 17), 28.0)


def test_a_constant_that_ops_read_in_several_scales(tmp_path: Path) -> None:
    """Stored once, it had the scale of the last to read it."""
    nodes = [
        node("Max", ["x", "half"], ["a"]),
        node("Mul", ["x", "x"], ["b"]),
        node("Concat", ["b", "half"], ["c"], axis=0),
        node("Greater", ["x", "half"], ["g"]),
        node("Where", ["g", "half", "x"], ["d"]),
        node("Concat", ["a", "c", "d"], ["y"], axis=0),
    ]
    right(net(tmp_path, nodes, [const("half", np.full((1, 3, 8, 8), 0.5), np.float32)], IMAGE))


SHAPED: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[str]]] = {
    "Range": (
        [
            node("Gather", ["s", "last"], ["n"]),
            node("Range", ["zero", "n", "one"], ["r"]),
            node("Cast", ["r"], ["f"], to=FLOAT),
            node("Add", ["x", "f"], ["y"]),
        ],
        [const("last", 3), const("zero", 0), const("one", 1)],
        ["Add"],
    ),
    "ConstantOfShape": (
        [node("ConstantOfShape", ["s"], ["k"], value=const("v", [2.5], np.float32)), node("Mul", ["x", "k"], ["y"])],
        [],
        ["Mul"],
    ),
    "Size": (
        [node("Size", ["x"], ["n"]), node("Cast", ["n"], ["f"], to=FLOAT), node("Div", ["x", "f"], ["y"])],
        [],
        ["Mul"],
    ),
    "Expand": (
        [
            node("Equal", ["s", "three"], ["e"]),
            node("Where", ["e", "one", "s"], ["w"]),
            node("Expand", ["k", "w"], ["z"]),
            node("Add", ["x", "z"], ["y"]),
        ],
        [const("three", 3), const("one", 1), const("k", np.ones((1, 3, 1, 1)), np.float32)],
        ["Add"],
    ),
    "If": (
        [
            node("Gather", ["s", "zero"], ["n"]),
            node("Equal", ["n", "one"], ["c"]),
            node(
                "If",
                ["c"],
                ["z"],
                then_branch=helper.make_graph([node("Squeeze", ["x", "at"], ["t"])], "then", [], [port("t", None)]),
                else_branch=helper.make_graph([node("Identity", ["x"], ["e"])], "else", [], [port("e", None)]),
            ),
            node("Relu", ["z"], ["y"]),
        ],
        [const("zero", 0), const("one", 1), const("at", [0])],
        ["Squeeze", "Relu"],
    ),
}


@pytest.mark.parametrize("name", SHAPED)
def test_what_depends_on_shapes_alone_is_folded(tmp_path: Path, name: str) -> None:
    nodes, held, left = SHAPED[name]
    ports = [port("x", ["N", 3, 8, 8])], [port("y", ["a", "b", "c", "d"] if name != "If" else ["a", "b", "c"])]
    path = save(tmp_path / "net.onnx", [node("Shape", ["x"], ["s"]), *nodes], ports, held, 17)
    assert [n.op_type for n in right(path).graph.graph] == left


def test_bool_in_and_out(tmp_path: Path) -> None:
    nodes = [
        node("Where", ["mask", "x", "zero"], ["y"]),
        node("Greater", ["x", "zero"], ["g"]),
        node("And", ["mask", "g"], ["z"]),
    ]
    ports = [port("x", IMAGE), port("mask", [8, 8], BOOL)], [port("y", None), port("z", None, BOOL)]
    built = both(save(tmp_path / "net.onnx", nodes, ports, [const("zero", 0, np.float32)], 17))
    for artifact in (built.onnx, built.tflite):
        assert built.snr(artifact)["y"] > 30 and built.snr(artifact)["z"] > 15
    assert [port.dtype for port in (*built.tflite.contract.inputs, *built.tflite.contract.outputs)].count("bool") == 2


def test_choices_and_positions_compute_in_integers(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Greater", ["c", "limit"], ["g"]),
        node("Less", ["r", "c"], ["l"]),
        node("Relu", ["c"], ["r"]),
        node("Or", ["g", "l"], ["o"]),
        node("Where", ["o", "c", "limit"], ["z"]),
        node("TopK", ["z", "two"], ["t", "i"], axis=1),
        node("GatherElements", ["c", "i"], ["e"], axis=1),
        node("CumSum", ["t", "axis"], ["s"]),
        node("ScatterND", ["e", "at", "n"], ["d"]),
        node("Gather", ["s", "zero"], ["n"], axis=1),
        node("Cast", ["g"], ["f"], to=FLOAT),
        node("Concat", ["s", "d", "f"], ["y"], axis=1),
    ]
    order = [0, 1, 3, 2, 4, 5, 6, 7, 8, 10, 9, 11, 12]
    held = [const("limit", 0.2, np.float32), const("two", [2]), const("axis", 3), const("at", [[0, 1]])]
    path = net(tmp_path, [nodes[i] for i in order], [weights("w", 4, 3, 3, 3), const("zero", 0), *held], IMAGE)
    good(reports(path, normal(40, 3, 8, 8), targets=BOTH[:2]), least=8)


def masked(low: float, added: bool, reader: str = "Softmax") -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Scores of which the upper triangle is masked, and what reads them."""
    keep = np.tril(np.ones((8, 8), bool))
    step = node("Add", ["x", "mask"], ["m"]) if added else node("Where", ["keep", "x", "low"], ["m"])
    mask = np.where(keep, np.float32(0), np.float32(low))
    held = [const("mask", mask, np.float32)] if added else [const("keep", keep), const("low", low, np.float32)]
    return [step, node(reader, ["m"], ["y"], name="end")], held


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("low", [-np.inf, float(np.finfo(np.float32).min), -1e9])
def test_masks_before_a_softmax(tmp_path: Path, low: float, added: bool) -> None:
    """In the scale of such a number all scores were one integer, or LiteRT stopped the process."""
    right(net(tmp_path, *masked(low, added), IMAGE))


def test_an_infinite_mask_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="weights must be finite: mask has 28 infinite of 64 values"):
        both(net(tmp_path, *masked(-np.inf, True, "Relu"), IMAGE))


def test_a_softmax_guarded_against_nan(tmp_path: Path) -> None:
    nodes, held = masked(-np.inf, True)
    nodes = [
        nodes[0],
        node("Softmax", ["m"], ["s"]),
        node("IsNaN", ["s"], ["n"]),
        node("Where", ["n", "o", "s"], ["y"]),
    ]
    built = right(net(tmp_path, nodes, [*held, const("o", 0, np.float32)], IMAGE))
    assert [n.op_type for n in built.graph.graph] == ["Add", "Softmax"]


def test_sums_and_scatters_that_have_no_integer_form(tmp_path: Path) -> None:
    nodes = [
        node("CumSum", ["x", "axis"], ["c"], name="long"),
        node("ScatterND", ["c", "at", "one"], ["y"], reduction="add", name="adds"),
        node("Mod", ["c", "c"], ["z"], fmod=1, name="rest"),
    ]
    held = [const("axis", 1), const("at", [[0, 0]]), const("one", [1], np.float32)]
    ports = [port("x", [1, 2000])], [port("y", None), port("z", None)]
    with pytest.raises(UnsupportedError) as caught:
        both(save(tmp_path / "net.onnx", nodes, ports, held, 18))
    assert caught.value.problems == (
        "node long: CumSum: a sum along 2000 integers with a scale; at most 1024 can be lowered",
        "node adds: ScatterND: reduction add of integers with a scale; TFLite's SCATTER_ND does not look at it",
        "node rest: Mod: a divisor that is not one constant has no integer form",
    )


def test_a_float_model_without_anything_inside(tmp_path: Path) -> None:
    path = net(tmp_path, [node("MatMul", ["w", "x"], ["y"])], [weights("w", 5, 6)], [1, 6, 3])
    (report,) = reports(path, normal(40, 6, 3), {"quantization.precision": "float32"}, BOTH[1:2])
    assert report.artifact.precision == "float32"


@pytest.mark.parametrize(
    ("op", "kernel", "dtype"),
    [("Elu", "ELU", FLOAT), ("ArgMax", "ARG_MAX", TensorProto.INT64), ("ArgMin", "ARG_MIN", TensorProto.INT64)],
)
def test_an_op_that_has_no_sound_int16_kernel(tmp_path: Path, op: str, kernel: str, dtype: int) -> None:
    ports = [port("x", IMAGE)], [port("y", None, dtype)]
    path = save(tmp_path / "net.onnx", [node(op, ["x"], ["y"], name="steep")], ports)
    with pytest.raises(UnsupportedError, match=f"steep: {op}: {kernel} has no sound int16 kernel in LiteRT"):
        reports(path, normal(40, 3, 8, 8), {"quantization.precision": "int16x8"}, BOTH[:1])
    assert not (tmp_path / "out" / BOTH[0] / "model.tflite").exists()


def test_gates_of_a_target_that_there_is_not(tmp_path: Path) -> None:
    path = net(tmp_path, [node("Relu", ["x"], ["y"])], [], [1, 4])
    with pytest.raises(ConfigError, match=r"gates.raspbery-pi-4-litert: no target has that name; did you mean rasp"):
        reports(path, normal(8, 4), {"gates.raspbery-pi-4-litert.size": "1 KB"})


@pytest.mark.parametrize(
    ("metric", "labels", "line"),
    [
        ("own:raises", [0, 1], r"evaluation.metric own:raises: ValueError: boom \(own.py:2\)"),
        ("own:text", [0, 1], r"evaluation.metric own:text: ValueError: could not convert string to float"),
        ("top1", [0, 99], r"label 99 is none of the model's 4 classes, from 0"),
        ("top1", [0, 0.5], r"label 0.5 is none of the model's 4 classes, from 0"),
    ],
)
def test_evaluation_that_cannot_be(tmp_path: Path, metric: str, labels: list[float], line: str) -> None:
    source = "def raises(predictions):\n    raise ValueError('boom')\ndef text(predictions):\n    return 'fine'\n"
    (tmp_path / "own.py").write_text(source)
    path = net(tmp_path, [node("Relu", ["x"], ["y"])], [], [1, 4])
    np.savez(tmp_path / "test.npz", x=normal(2, 4), labels=np.asarray(labels))
    config = tmp_path / "edgekit.toml"
    config.write_text(
        f'[model]\nsource = "net.onnx"\n[calibration]\ndata = "test.npz"\n'
        f'[evaluation]\ndata = "test.npz"\nmetric = "{metric}"\n'
    )
    assert path.exists()
    with pytest.raises(DataError, match=line):
        build(Project.from_flags(None, config), BOTH[:1], tmp_path / "out")


def test_inputs_channels_first_on_request(tmp_path: Path) -> None:
    path = net(tmp_path, [node("Conv", ["x", "w"], ["y"])], [weights("w", 4, 3, 3, 3)], IMAGE)
    asked = {"model.inputs.x.artifact_layout": "NCHW"}
    (report,) = reports(path, normal(40, 3, 8, 8), asked, BOTH[:1])
    assert [port["shape"] for port in report.contract["inputs"]] == [IMAGE]
    with pytest.raises(ConfigError, match=r"artifact_layout NHWC: all inputs of raspberry-pi-4-onnxruntime are NCHW"):
        reports(path, normal(40, 3, 8, 8), {"model.inputs.x.artifact_layout": "NHWC"}, BOTH[1:2])


def test_evaluation_data_is_looked_at_too(tmp_path: Path) -> None:
    net(tmp_path, [node("Relu", ["x"], ["y"])], [], [1, 4])
    np.savez(tmp_path / "test.npz", x=normal(2, 4), labels=[1, 1])
    config = tmp_path / "edgekit.toml"
    config.write_text(
        '[model]\nsource = "net.onnx"\n[calibration]\ndata = "test.npz"\n[evaluation]\ndata = "test.npz"\n'
    )
    (report,) = build(Project.from_flags(None, config), BOTH[:1], tmp_path / "out")
    assert "evaluation: all 2 labels are 1" in report.warnings
    assert report.source_check is not None and report.source_check["samples"] == 2


@pytest.mark.parametrize("precision", ["dynamic-int8", "float16"])
def test_a_network_too_small_for_its_precision(tmp_path: Path, precision: str) -> None:
    path = net(tmp_path, [node("MatMul", ["x", "w"], ["y"])], [weights("w", 3, 2)], [1, 3])
    (report,) = reports(path, normal(40, 3), {"quantization.precision": precision}, BOTH[:1])
    assert report.artifact.precision == "float32"
    assert f"nothing in the network is large enough for {precision}; the artifact is float32" in report.warnings[-1]


def test_weights_of_dynamic_int8_are_rounded_by_what_they_multiply_where_there_is_data(tmp_path: Path) -> None:
    path = net(tmp_path, [node("MatMul", ["x", "w"], ["y"])], [weights("w", 48, 32)], [1, 48])
    data = normal(200, 6) @ np.random.default_rng(1).normal(size=(6, 48)).astype(np.float32)  # six directions of 48

    def snr(rounding: str) -> float:
        asked = {"quantization.precision": "dynamic-int8", "calibration.rounding": rounding}
        (report,) = reports(path, data, asked, BOTH[:1])
        assert report.artifact.precision == "dynamic-int8" and report.fidelity is not None
        return report.fidelity.outputs["y"]

    assert snr("reconstruct") > snr("nearest") + 2


def test_float_nodes_are_named_by_pattern_or_op(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Tanh", ["m"], ["t"]), node("MatMul", ["t", "v"], ["y"])]
    for position, name in enumerate(("block.0", "block.1", "head")):
        nodes[position].name = name
    path = net(tmp_path, nodes, [weights("w", 8, 6), weights("v", 6, 4)], [1, 8])
    for patterns, floats in ((["block.*"], ["FULLY_CONNECTED", "TANH"]), (["Tanh"], ["TANH"])):
        (report,) = reports(path, normal(40, 8), {"quantization.float_nodes": patterns}, BOTH[:1])
        kinds = {op["name"]: op["op"] for op in report.audit["ops"]}
        assert report.artifact.precision == "mixed"
        assert [
            kinds[name] for name in report.audit["float_ops"] if kinds[name] in {"FULLY_CONNECTED", "TANH"}
        ] == floats
    with pytest.raises(ConfigError, match=r"quantization.float_nodes: no node has the name or op blok.*; did you mean"):
        reports(path, normal(40, 8), {"quantization.float_nodes": ["blok.0"]}, BOTH[:1])
