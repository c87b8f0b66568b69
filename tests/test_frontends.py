"""Sources of every form become the right graph, or one line that says what is wrong."""

from __future__ import annotations

import io
import os
import pickle
import sys
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_onnx
from command import program
from nets import FLOAT, Both, both, cnn, const, inputs_of, node, port, save, weights
from onnx import TensorProto, helper

from edgekit.errors import EdgekitError, ModelError, UnsupportedError
from edgekit.frontends import load_graph, load_source
from edgekit.graph import OPSET
from edgekit.passes import prepare
from edgekit.runners import FloatModel

NEWEST = onnx.defs.onnx_opset_version()
X, Y = [port("x", [1, 4])], [port("y", [1, 4])]
NETS = Path(__file__).parent / "torch_nets.py"


def said(source: str | Path, kind: type[EdgekitError] = ModelError, **options: Any) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(kind) as caught:
        prepare(load_graph(str(source), **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def right(built: Both, least: float = 25.0) -> None:
    """Both artifacts give what the source gives, and the prepared graph does so to float precision."""
    reference = FloatModel(built.graph)
    for sample in built.samples[:2]:
        found = reference.outputs(sample.inputs)
        for value, wanted in zip(built.graph.graph.outputs, built.loaded.run(sample.inputs), strict=True):
            np.testing.assert_allclose(found[str(value.name)], wanted, rtol=1e-4, atol=1e-5)
    for artifact in (built.onnx, built.tflite):
        assert min(built.snr(artifact).values()) > least, artifact.format


# -- ONNX: opsets, shapes, inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", sorted({11, 12, 13, 15, 17, 20, 21, 22, 23, 24, NEWEST}))
def test_opset(tmp_path: Path, opset: int) -> None:
    built = both(cnn(tmp_path / "net.onnx", opset))
    right(built)
    assert built.graph.graph.opset_imports[""] == OPSET
    assert not [n.op_type for n in built.graph.graph if n.op_type == "BatchNormalization"]


@pytest.mark.parametrize("opset", [11, 12])
def test_forms_that_later_opsets_changed(tmp_path: Path, opset: int) -> None:
    """Softmax over all that follows its axis, axes and split as attributes, Resize with three inputs."""
    nodes = [
        node("Resize", ["x", "", "scales"], ["big"], mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
        node("Split", ["big"], ["a", "b"], axis=1, split=[1, 2]),
        node("ReduceSum", ["a"], ["sum"], axes=[2, 3], keepdims=0),
        node("Unsqueeze", ["sum"], ["up"], axes=[2]),
        node("Squeeze", ["up"], ["down"], axes=[2]),
        node("Clip", ["b", "low", "high"], ["clipped"]),
        node("Dropout", ["clipped"], ["dropped"]),
        node("Softmax", ["dropped"], ["soft"], axis=1),
    ]  # fmt: skip
    held = [const("scales", [1, 1, 2, 2], np.float32), const("low", -0.5, np.float32), const("high", 2, np.float32)]
    if opset < 13:
        nodes[0].input[1] = "roi"
        held.append(const("roi", [], np.float32))
    ports = [port("x", [1, 3, 2, 2])], [port("down", [1, 1]), port("soft", [1, 2, 4, 4])]
    right(both(save(tmp_path / "old.onnx", nodes, ports, held, opset)), least=15)


def test_opset_too_old(tmp_path: Path) -> None:
    path = save(tmp_path / "old.onnx", [node("Relu", ["x"], ["y"])], (X, Y), opset=9, ir_version=4)
    assert said(path).endswith("opset 9; 10 and later are supported; export it anew")


def test_opset_from_the_future(tmp_path: Path) -> None:
    path = save(tmp_path / "new.onnx", [node("Relu", ["x"], ["y"])], (X, Y), opset=99)
    assert said(path).endswith(f"opset 99 is newer than this onnx knows ({NEWEST}); update onnx")


def test_newer_form_of_an_op_that_the_opset_lacks(tmp_path: Path) -> None:
    axis = const("axis", 1)
    path = save(tmp_path / "new.onnx", [node("CumProd", ["x", "axis"], ["y"])], (X, Y), [axis], opset=26)
    assert said(path).endswith(f"opset 26 has CumProd in a form that opset {OPSET} lacks")


NEWER: dict[str, tuple[int, list[str], dict[str, Any]]] = {
    "Attention": (23, ["q", "k", "v"], {"is_causal": 1}),
    "RMSNormalization": (23, ["q", "s"], {"epsilon": 1e-6}),
    "Swish": (24, ["q"], {}),
}


@pytest.mark.parametrize("op", NEWER)
def test_newer_ops_that_others_define_are_written_as_those(tmp_path: Path, op: str) -> None:
    opset, inputs, given = NEWER[op]
    fed = [port(name, [1, 2, 6, 8]) for name in inputs if name != "s"]
    ports = (fed, [port("y", [1, 2, 6, 8])])
    path = save(tmp_path / "new.onnx", [node(op, inputs, ["y"], **given)], ports, [weights("s", 8)], opset=opset)
    right(both(path))


def test_initializers_listed_as_inputs(tmp_path: Path) -> None:
    built = both(cnn(tmp_path / "net.onnx", 11, listed=True, ir_version=3))
    right(built)
    assert [p.name for p in built.tflite.contract.inputs] == ["image"]


def test_open_batch_becomes_one(tmp_path: Path) -> None:
    built = both(cnn(tmp_path / "net.onnx", 17, ["N", 3, 8, 8]))
    right(built)
    assert built.tflite.contract.inputs[0].shape == (1, 8, 8, 3)


def test_open_axes_are_pinned(tmp_path: Path) -> None:
    path = cnn(tmp_path / "net.onnx", 17, ["N", 3, "H", "W"])
    built = both(path, {"image": [1, 3, 10, 12]})
    right(built)
    assert built.onnx.contract.inputs[0].shape == (1, 3, 10, 12)
    assert said(path).endswith("input image has open axes [N, 3, H, W]; pin them with [model.inputs.image] shape")


def test_unknown_rank_is_pinned(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], ([port("x", None)], [port("y", None)]))
    right(both(path, {"x": [1, 6]}))
    assert said(path).endswith("input x has an unknown shape; pin it with [model.inputs.x] shape")


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"imag": [1, 3, 8, 8]}, "has no input imag; its inputs are image"),
        ({"image": [3, 8, 8]}, "input image has shape [N, 3, H, W]; [model.inputs.image] shape says [3, 8, 8]"),
        ({"image": [1, 4, 8, 8]}, "input image has shape [N, 3, H, W]; [model.inputs.image] shape says [1, 4, 8, 8]"),
        ({"image": [1, 3, 0, 8]}, "input image has shape [1, 3, 0, 8]; every axis must be 1 or more"),
        ({"image": [1, 3, -1, 8]}, "input image has shape [1, 3, -1, 8]; every axis must be 1 or more"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, told: dict[str, list[int]], line: str) -> None:
    assert said(cnn(tmp_path / "net.onnx", 17, ["N", 3, "H", "W"]), shapes=told).endswith(line)


def test_empty_axis(tmp_path: Path) -> None:
    ports = [port("x", [0, 4])], [port("y", [0, 4])]
    path = save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], ports)
    assert said(path).endswith("input x has shape [0, 4]; every axis must be 1 or more")


def test_empty_tensor_inside(tmp_path: Path) -> None:
    nodes = [node("Slice", ["x", "two", "two", "one"], ["none"]), node("Concat", ["none", "x"], ["y"], axis=1)]
    right(both(save(tmp_path / "net.onnx", nodes, (X, Y), [const("two", [2]), const("one", [1])])))


def test_several_inputs(tmp_path: Path) -> None:
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Mul", ["sum", "s"], ["y"])]
    ports = [port("a", [1, 4]), port("b", [1, 4]), port("s", [])], Y
    built = both(save(tmp_path / "net.onnx", nodes, ports))
    right(built)
    assert [p.name for p in built.tflite.contract.inputs] == ["a", "b", "s"]


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
def test_no_floating_point_at_all(tmp_path: Path, kind: int) -> None:
    ports = [port("x", [1, 4], kind)], [port("y", [1, 4], kind)]
    built = both(save(tmp_path / "net.onnx", [node("Add", ["x", "x"], ["y"])], ports))
    assert not built.plan
    right(built, least=200)


def test_integer_input_of_a_float_model(tmp_path: Path) -> None:
    nodes = [node("Gather", ["table", "x"], ["e"]), node("Relu", ["e"], ["y"])]
    ports = [port("x", [1, 4], TensorProto.INT64)], [port("y", [1, 4, 8])]
    right(both(save(tmp_path / "net.onnx", nodes, ports, [weights("table", 10, 8)])))


def test_raw_bytes_as_input(tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], ["f"], to=FLOAT), node("Mul", ["f", "k"], ["y"])]
    ports = [port("x", [1, 4], TensorProto.UINT8)], Y
    built = both(save(tmp_path / "net.onnx", nodes, ports, [const("k", 1 / 255, np.float32)]))
    assert built.tflite.contract.inputs[0].dtype == "uint8"
    right(built)


# -- ONNX: names and outputs -------------------------------------------------------------------------------------------


def test_nodes_of_one_name(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["a"], name="n"), node("Neg", ["a"], ["y"], name="n")]
    built = both(save(tmp_path / "net.onnx", nodes, (X, Y)))
    right(built)
    names = [n.name for n in built.graph.graph]
    assert len(set(names)) == len(names)


def test_unnamed_output_of_a_node(tmp_path: Path) -> None:
    """ONNX Runtime itself crashes on such a Split."""
    nodes = [node("Split", ["x"], ["a", ""], axis=1, num_outputs=2), node("Relu", ["a"], ["y"])]
    right(both(save(tmp_path / "net.onnx", nodes, (X, [port("y", [1, 2])]), opset=18)))


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    built = both(save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], (X, [*Y, *X])))
    right(built)
    assert [p.name for p in built.tflite.contract.outputs] == ["y", "x"]


def test_one_tensor_as_two_outputs(tmp_path: Path) -> None:
    built = both(save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], (X, [*Y, *Y])))
    right(built)
    assert [p.name for p in built.onnx.contract.outputs] == ["y", "y.1"]


def test_constants_as_outputs(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], ["y"]),
        node("Constant", [], ["k"], value=const("k", [1.0, 2.0], np.float32)),
        node("Constant", [], ["f"], value_float=3.0),
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["sf"], to=FLOAT),
        node("Add", ["sf", "k"], ["z"]),
    ]
    outputs = [*Y, port("k", [2]), port("f", []), port("s", [2], TensorProto.INT64), port("z", [2]), port("held", [2])]
    built = both(save(tmp_path / "net.onnx", nodes, (X, outputs), [const("held", [5, 6], np.float32)]))
    right(built)
    assert [p.name for p in built.tflite.contract.outputs] == ["y", "k", "f", "s", "z", "held"]


def test_names_that_the_emitters_could_take(tmp_path: Path) -> None:
    names = ["x/int", "x/real", "x/raw", "x/int/raw", "x/quantized", "x/float32", "scale.0", "zero_point.0", "const0"]
    nodes = [node("Relu", [a], [b]) for a, b in zip(["x", *names], [*names, "x/1"], strict=True)]
    nodes = [n if i % 2 else node("Mul", [n.input[0], "half"], [n.output[0]]) for i, n in enumerate(nodes)]
    built = both(save(tmp_path / "net.onnx", nodes, (X, [port("x/1", [1, 4])]), [const("half", 0.9, np.float32)]))
    right(built, least=15)
    assert built.tflite.contract.outputs[0].name == built.onnx.contract.outputs[0].name == "x/1"


def test_unused_input_stays(tmp_path: Path) -> None:
    built = both(save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], ([*X, port("u", [1, 3])], Y)))
    right(built)
    assert [p.name for p in built.onnx.contract.inputs] == ["x", "u"]


@pytest.mark.parametrize("op", ["Identity", "Relu"])
def test_smallest_models(tmp_path: Path, op: str) -> None:
    ports = [port("s", [])], [port("y", [])]
    right(both(save(tmp_path / "net.onnx", [node(op, ["s"], ["y"])], ports)))


@pytest.mark.parametrize(("ports", "what"), [(([], [port("y", [2])]), "inputs"), ((X, []), "outputs")])
def test_no_inputs_or_outputs(tmp_path: Path, ports: tuple[list[Any], list[Any]], what: str) -> None:
    first = "x" if ports[0] else "k"
    path = save(tmp_path / "net.onnx", [node("Relu", [first], ["y"])], ports, [const("k", [1, 2], np.float32)])
    assert said(path).endswith(f"has no {what}")


# -- ONNX: what is inside ----------------------------------------------------------------------------------------------


def _if(condition: bool | None) -> list[onnx.NodeProto]:
    then = helper.make_graph([node("Relu", ["x"], ["t"])], "then", [], [port("t", [1, 4])])
    otherwise = helper.make_graph([node("Neg", ["x"], ["e"])], "else", [], [port("e", [1, 4])])
    return [
        node("If", ["condition"], ["z"], then_branch=then, else_branch=otherwise, name="branch"),
        node("Add", ["z", "one"], ["y"]),
    ]


@pytest.mark.parametrize("condition", [True, False])
def test_constant_condition_is_folded(tmp_path: Path, condition: bool) -> None:
    held = [const("condition", condition), const("one", 1, np.float32)]
    built = both(save(tmp_path / "net.onnx", _if(condition), (X, Y), held))
    right(built)
    assert [n.op_type for n in built.graph.graph] == ["Relu" if condition else "Neg", "Add"]


def test_other_subgraphs_are_refused(tmp_path: Path) -> None:
    inputs = [*X, port("condition", [], TensorProto.BOOL)]
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["v", "v"], ["w"])],
        "body",
        [port("i", [], TensorProto.INT64), port("go", [], TensorProto.BOOL), port("v", [1, 4])],
        [port("on", [], TensorProto.BOOL), port("w", [1, 4])],
    )
    nodes = [*_if(None), node("Loop", ["n", "", "x"], ["l"], body=body, name="loop")]
    held = [const("one", 1, np.float32), const("n", 3)]
    path = save(tmp_path / "net.onnx", nodes, (inputs, [*Y, port("l", [1, 4])]), held)
    with pytest.raises(UnsupportedError) as caught:
        prepare(load_graph(str(path)))
    assert caught.value.problems == ("node branch: op If is not supported", "node loop: op Loop is not supported")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("opset", [13, 21])
def test_unknown_domains_are_named_all_at_once(tmp_path: Path, opset: int) -> None:
    """Even where a later op cannot know its shapes."""
    nodes = [
        node("Frob", ["x"], ["a"], domain="my.ops", name="f"),
        node("Gemm", ["a", "w"], ["b"]),
        node("Det", ["b"], ["c"], name="d"),
        node("Zap", ["c"], ["y"], domain="other", name="z"),
    ]
    path = save(tmp_path / "net.onnx", nodes, (X, Y), [weights("w", 4, 4)], opset, domains=["my.ops", "other"])
    with pytest.raises(UnsupportedError) as caught:
        prepare(load_graph(str(path)))
    assert caught.value.problems == (
        "node f: op my.ops.Frob is not supported",
        "node d: op Det is not supported",
        "node z: op other.Zap is not supported",
    )


def test_ops_unknown_to_onnx(tmp_path: Path) -> None:
    nodes = [node("Frobnicate", ["x"], ["a"]), node("Zap", ["a"], ["y"], name="zap")]
    line = said(save(tmp_path / "net.onnx", nodes, (X, Y)), UnsupportedError)
    assert line == "node a: op Frobnicate is not known to ONNX; node zap: op Zap is not known to ONNX"


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    own = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [node("Twice", ["x"], ["t"], domain="mine"), node("Twice", ["t"], ["y"], domain="mine")]
    built = both(save(tmp_path / "net.onnx", nodes, (X, Y), opset=17, domains=["mine"], functions=[own]))
    right(built)
    assert [n.op_type for n in built.graph.graph] == ["Add", "Add"]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_become_float32(tmp_path: Path, dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Cast", ["c"], ["single"], to=FLOAT),
        node("Relu", ["single"], ["r"]),
        node("Cast", ["r"], ["y"], to=kind),
    ]
    ports = [port("x", [1, 3, 8, 8], kind)], [port("y", [1, 4, 6, 6], kind)]
    held = [weights("w", 4, 3, 3, 3, dtype=dtype), weights("b", 4, dtype=dtype)]
    built = both(save(tmp_path / "net.onnx", nodes, ports, held))
    right(built)
    assert built.tflite.contract.outputs[0].dtype == "int8"
    assert {p.dtype for p in (*built.onnx.contract.inputs, *built.onnx.contract.outputs)} == {"float32"}


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    ports = [port("x", [1, 4], TensorProto.BFLOAT16)], [port("y", [1, 4], TensorProto.BFLOAT16)]
    right(both(save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], ports)))


def test_double_weights_beyond_float32(tmp_path: Path) -> None:
    ports = [port("x", [1, 4], TensorProto.DOUBLE)], [port("y", [1, 4], TensorProto.DOUBLE)]
    path = save(tmp_path / "net.onnx", [node("Mul", ["x", "w"], ["y"])], ports, [const("w", [1e300, 1, 1, 1])])
    assert said(path).endswith("weights must be finite: w has 1 infinite of 4 values")


@pytest.mark.parametrize("float_io", [True, False])
def test_quantized_models_are_refused(tmp_path: Path, float_io: bool) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(small_onnx.qdq_conv_relu(float_io))
    line = said(path, UnsupportedError)
    assert line.startswith("the model is quantized already (") and line.endswith("give the float model")


def test_quantized_weights_are_only_storage(tmp_path: Path) -> None:
    """A constant behind a DequantizeLinear is a float constant. ONNX Runtime quantizes x too when it runs the file."""
    nodes = [node("DequantizeLinear", ["q", "scale"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    held = [const("q", np.arange(-8, 8).reshape(4, 4), np.int8), const("scale", 0.1, np.float32)]
    built = both(save(tmp_path / "net.onnx", nodes, (X, Y), held))
    reference = FloatModel(built.graph)
    for sample in built.samples:
        wanted = sample.inputs["x"] @ (0.1 * np.arange(-8, 8).reshape(4, 4))
        np.testing.assert_allclose(reference.outputs(sample.inputs)["y"], wanted, rtol=1e-4, atol=1e-5)
    assert min(*built.snr(built.tflite).values(), *built.snr(built.onnx).values()) > 25


@pytest.mark.parametrize(
    ("value", "where", "line"),
    [
        (np.nan, "weight", "w has 1 NaN of 16 values"),
        (np.inf, "weight", "w has 1 infinite of 16 values"),
        (np.nan, "constant", "w has 1 NaN of 16 values"),
        (-np.inf, "mask", "w has 1 infinite of 16 values"),
    ],
)
def test_weights_that_are_not_finite(tmp_path: Path, value: float, where: str, line: str) -> None:
    array = np.ones((4, 4), np.float32)
    array[1, 2] = value
    nodes = [node("Add" if where == "mask" else "MatMul", ["x", "w"], ["y"])]
    if where == "constant":
        nodes.insert(0, node("Constant", [], ["w"], value=const("w", array)))
    ports = [port("x", [4, 4])], [port("y", [4, 4])]
    path = save(tmp_path / "net.onnx", nodes, ports, [const("w", array)] if where != "constant" else [])
    assert said(path).endswith(f"weights must be finite: {line}")


def test_infinite_limits_of_a_clip_are_no_limits(tmp_path: Path) -> None:
    held = [const("low", -np.inf, np.float32), const("high", 0.5, np.float32)]
    right(both(save(tmp_path / "net.onnx", [node("Clip", ["x", "low", "high"], ["y"])], (X, Y), held)))


def test_negative_variance(tmp_path: Path) -> None:
    names = ["g", "b", "m", "v"]
    held = [const(name, [1, -2 if name == "v" else 1, 1], np.float32) for name in names]
    ports = [port("x", [1, 3, 4, 4])], [port("y", [1, 3, 4, 4])]
    path = save(tmp_path / "net.onnx", [node("BatchNormalization", ["x", *names], ["y"], name="bn")], ports, held)
    assert said(path) == "node bn: BatchNormalization with a variance of -2; it cannot be below zero"


def test_shapes_that_contradict_each_other(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Add", ["x", "k"], ["y"])], (X, Y), [const("k", [1, 2, 3], np.float32)])
    with pytest.raises(ModelError, match="Incompatible dimensions"):
        load_source(str(path)).run({"x": np.zeros((1, 4), np.float32)})


# -- ONNX: files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 7, 100, 0.5, -1, -40])
def test_truncated(tmp_path: Path, keep: float) -> None:
    path = cnn(tmp_path / "net.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert "not an ONNX file" in said(path)


@pytest.mark.parametrize("content", [b"", b"hello, this is no model\n" * 40, bytes(1000), b"\x08\x07"])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert said(path).startswith(f"model {path}: not an ONNX file")


def test_damaged_anywhere(tmp_path: Path) -> None:
    """Whatever byte is wrong: a graph, or one line."""
    data = cnn(tmp_path / "net.onnx").read_bytes()
    generator = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            damaged[place] = generator.integers(0, 256)
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            prepare(load_graph(str(tmp_path / "net.onnx")))
        except EdgekitError as error:
            assert "\n" not in str(error)


def test_no_such_file(tmp_path: Path) -> None:
    assert said(tmp_path / "none.onnx").endswith("none.onnx: no such file")
    assert said(tmp_path / "none.pt2").endswith("none.pt2: no such file")
    (tmp_path / "dir.onnx").mkdir()
    assert said(tmp_path / "dir.onnx").endswith("dir.onnx: is a folder")


@pytest.mark.parametrize("source", ["net.h5", "net", "", "net.tflite"])
def test_other_files(source: str) -> None:
    assert said(source) == f"model {source}: expected file.onnx, file.pt2 or package.module:callable"


def test_external_data(tmp_path: Path) -> None:
    path = cnn(tmp_path / "net.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    assert path.stat().st_size < (tmp_path / "net.bin").stat().st_size + path.stat().st_size
    right(both(path))
    (tmp_path / "net.bin").write_bytes(b"123")
    assert "net.onnx: not an ONNX file, truncated or corrupt" in said(path)
    (tmp_path / "net.bin").unlink()
    assert "net.onnx: not an ONNX file, truncated or corrupt" in said(path)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])],
        [node("Add", ["x", "nowhere"], ["y"])],
        [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])],
        [node("Relu", ["x", "x"], ["y"])],
        [node("Relu", ["x"], ["y"], speed=3)],
    ],
)
def test_not_valid_onnx(tmp_path: Path, nodes: Sequence[onnx.NodeProto]) -> None:
    assert "net.onnx: not valid ONNX: " in said(save(tmp_path / "net.onnx", nodes, (X, Y)))


def test_weights_beside_a_file_that_holds_its_own(tmp_path: Path) -> None:
    line = said(cnn(tmp_path / "net.onnx"), weights=tmp_path / "w.safetensors")
    assert line.endswith("holds its own weights; [model] weights is for package.module:callable")


# -- torch -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A project folder with tests/torch_nets.py in it as ``nets``."""
    (tmp_path / "nets.py").write_text(NETS.read_text())
    return tmp_path


def test_callable(torch: Any, nets: Path) -> None:
    built = both("nets:small_with_examples", folder=nets)
    right(built)
    assert {"conv.weight", "fc.weight", "fc.bias"} <= {str(name) for name in built.graph.graph.initializers}
    assert built.tflite.contract.inputs[0].name == "x"


def test_attention_whose_kernel_lays_its_result_out_by_itself(torch: Any, nets: Path) -> None:
    right(both("nets:attention", folder=nets))


def test_callable_that_returns_a_module_takes_declared_shapes(torch: Any, nets: Path) -> None:
    built = both("nets:small", {"image": [1, 3, 8, 8]}, nets)
    right(built)
    assert built.onnx.contract.inputs[0].name == "image"


@pytest.mark.parametrize("name", ["one_tensor", "two", "named", "half", "double"])
def test_example_inputs_of_any_form(torch: Any, nets: Path, name: str) -> None:
    loaded = load_source(f"nets:{name}", folder=nets)
    graph = prepare(loaded.model)
    reference = FloatModel(graph)
    tolerance = 2e-3 if name == "half" else 1e-5
    for sample in inputs_of(graph, 2):
        wanted, found = loaded.run(sample.inputs), reference.outputs(sample.inputs)
        for a, b in zip(wanted, found.values(), strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_outputs_of_any_form(torch: Any, nets: Path) -> None:
    """A dictionary of outputs, one twice, the input itself, a constant, None."""
    built = both("nets:outputs", folder=nets)
    right(built)
    assert len(built.tflite.contract.outputs) == 5


def test_package_beside_the_project(torch: Any, tmp_path: Path) -> None:
    (tmp_path / "zoo" / "deep").mkdir(parents=True)
    (tmp_path / "zoo" / "deep" / "small.py").write_text(NETS.read_text())
    assert load_graph("zoo.deep.small:small_with_examples", folder=tmp_path).graph.name


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("nets:small", "no example inputs; give [model.inputs.NAME] shape, or return (module, example_inputs)"),
        ("nets:a_list", "returned list; expected an nn.Module or (module, example_inputs)"),
        ("nets:nothing", "returned NoneType; expected an nn.Module or (module, example_inputs)"),
        ("nets:raises", "RuntimeError: no weights (nets.py:63)"),
        ("nets:leaves", "SystemExit: 3 (nets.py:67)"),
        ("nets:wants_more", "TypeError: wants_more() missing 1 required positional argument: 'a'"),
        ("nets:NUMBER", "is of type int, and cannot be called for an nn.Module"),
        ("nets:text_example", "an example input is of type str; expected tensors"),
        ("nets:smal", "nets has no 'smal'; it has small"),
        ("nets:", "nets is named without an attribute; it has Small"),
        ("nowhere:f", "no module 'nowhere' (looked in"),
        ("broken:f", "no module 'nothing_like_it' (looked in"),
        ("wrong:f", "wrong cannot be imported: invalid syntax (wrong.py, line 1)"),
        ("boom:f", "ZeroDivisionError: division by zero (boom.py:2)"),
        ("nets:bad_forward", "torch cannot export it: ValueError: the forward pass is wrong (nets.py:"),
        ("nets:branches", "torch cannot export it: "),
        ("nets:nan", "weights must be finite: fc.weight has 1 NaN of 20 values"),
        ("nets:no_inputs", "has no inputs"),
    ],
)
def test_callables_that_cannot_be_used(torch: Any, nets: Path, source: str, line: str) -> None:
    (nets / "broken.py").write_text("import nothing_like_it\n")
    (nets / "wrong.py").write_text("def f(:\n")
    (nets / "boom.py").write_text("\n1 / 0\n")
    found = said(source, folder=nets)
    assert found.startswith(f"model {source}: ") and line in found


def test_declared_shape_against_the_example(torch: Any, nets: Path) -> None:
    line = said("nets:small_with_examples", shapes={"x": [1, 3, 9, 9]}, folder=nets)
    assert line.endswith("input x has shape [1, 3, 8, 8]; [model.inputs.x] shape says [1, 3, 9, 9]")
    line = said("nets:two", shapes={"c": [1, 4]}, folder=nets)
    assert line.endswith("has no input c; its inputs are a, b")


def test_export_says_nothing(torch: Any, nets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_graph("nets:small_with_examples", folder=nets)
    said("nets:branches", folder=nets)
    assert capfd.readouterr() == ("", "")


# -- torch: weights ----------------------------------------------------------------------------------------------------


class _Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _state(torch: Any, seed: int = 5) -> dict[str, Any]:
    torch.manual_seed(seed)
    sys.path.insert(0, str(NETS.parent))
    try:
        from torch_nets import Small  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    return dict(Small().state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights(torch: Any, nets: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    state, path = _state(torch), nets / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    graph = load_graph("nets:small_with_examples", path, folder=nets).graph
    np.testing.assert_array_equal(graph.initializers["conv.weight"].const_value.numpy(), state["conv.weight"].numpy())


def test_weights_of_another_precision(torch: Any, nets: Path) -> None:
    torch.save({name: value.half() for name, value in _state(torch).items()}, nets / "w.pt")
    graph = load_graph("nets:small_with_examples", nets / "w.pt", folder=nets).graph
    assert graph.initializers["conv.weight"].dtype.name == "FLOAT"


def test_weights_that_do_not_fit(torch: Any, nets: Path) -> None:
    state = _state(torch)
    state["head.weight"] = state.pop("fc.weight")
    state["fc.bias"] = torch.zeros(7)
    state["epoch"] = 3
    torch.save(state, nets / "w.pt")
    line = said("nets:small_with_examples", weights=nets / "w.pt", folder=nets)
    assert line == (
        f"weights {nets / 'w.pt'}: do not fit the model: missing fc.weight; unknown epoch, head.weight; "
        "fc.bias is [7], the model wants [5]"
    )


@pytest.mark.parametrize("content", [{"fc.bias": 3.0}, [1, 2], {"state_dict": {}}, 3])
def test_weights_that_are_none(torch: Any, nets: Path, content: Any) -> None:
    torch.save(content, nets / "w.pt")
    assert said("nets:small_with_examples", weights=nets / "w.pt", folder=nets).startswith(f"weights {nets / 'w.pt'}: ")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(64)])
def test_weights_that_are_damaged(torch: Any, nets: Path, name: str, content: bytes) -> None:
    (nets / name).write_bytes(content)
    line = said("nets:small_with_examples", weights=nets / name, folder=nets)
    assert line.startswith(f"weights {nets / name}: not safetensors or a plain state_dict")


def test_truncated_weights(torch: Any, nets: Path) -> None:
    from safetensors.torch import save_file

    for path in (nets / "w.safetensors", nets / "w.pt"):
        save_file(_state(torch), path) if path.suffix == ".safetensors" else torch.save(_state(torch), path)
        path.write_bytes(path.read_bytes()[:-100])
        line = said("nets:small_with_examples", weights=path, folder=nets)
        assert line.startswith(f"weights {path}: not safetensors or a plain state_dict")


def test_missing_weights(torch: Any, nets: Path) -> None:
    line = said("nets:small_with_examples", weights=nets / "w.pt", folder=nets)
    assert line == f"weights {nets / 'w.pt'}: no such file"


def test_pickled_module_is_refused(torch: Any, nets: Path) -> None:
    torch.save(torch.nn.Linear(3, 3), nets / "w.pt")
    line = said("nets:small_with_examples", weights=nets / "w.pt", folder=nets)
    assert line.endswith(
        "save with safetensors.torch.save_file(model.state_dict(), ...); a pickled module can run code and is refused"
    )


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_malicious_weights_do_not_run(torch: Any, nets: Path, kind: str) -> None:
    mark, path = nets / "ran", nets / "w.pt"
    torch.save(_Evil(mark), path) if kind == "torch" else path.write_bytes(pickle.dumps(_Evil(mark)))
    assert "refused" in said("nets:small_with_examples", weights=path, folder=nets)
    assert not mark.exists()


def test_nan_in_the_weights(torch: Any, nets: Path) -> None:
    state = _state(torch)
    state["conv.weight"][0, 0, 0, :2] = float("nan")
    torch.save(state, nets / "w.pt")
    line = said("nets:small_with_examples", weights=nets / "w.pt", folder=nets)
    assert line == "model nets:small_with_examples: weights must be finite: conv.weight has 2 NaN of 108 values"


# -- torch.export programs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved program of ``small``."""
    folder = tmp_path_factory.mktemp("pt2")
    (folder / "torch_nets_pt2.py").write_text(NETS.read_text())
    script = textwrap.dedent("""
        import torch, torch_nets_pt2
        module, examples = torch_nets_pt2.small_with_examples()
        torch.export.save(torch.export.export(module.eval(), examples), "small.pt2")
        batch = torch.export.Dim("batch", min=1, max=64)
        wide = (torch.zeros(4, 3, 8, 8),)
        torch.export.save(torch.export.export(module.eval(), wide, dynamic_shapes={"x": {0: batch}}), "open.pt2")
    """)
    import subprocess

    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_program(exported: Path) -> None:
    built = both(exported / "small.pt2")
    right(built)
    assert "conv.weight" in built.graph.graph.initializers


def test_program_with_an_open_batch(exported: Path) -> None:
    built = both(exported / "open.pt2")
    right(built)
    assert built.tflite.contract.inputs[0].shape == (1, 8, 8, 3)


def _rewritten(source: Path, target: Path, member: str, content: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            if name != f"{root}/{member}":
                new.writestr(name, old.read(name))
        new.writestr(f"{root}/{member}", content)
    return target


@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt"])
def test_malicious_program_does_not_run(torch: Any, exported: Path, tmp_path: Path, member: str) -> None:
    buffer = io.BytesIO()
    torch.save((_Evil(tmp_path / "ran"),), buffer)
    path = _rewritten(exported / "small.pt2", tmp_path / "evil.pt2", member, buffer.getvalue())
    assert said(path).endswith("holds pickled objects besides tensors; they can run code and are refused")
    assert not (tmp_path / "ran").exists()


def test_program_with_pickled_constants(exported: Path, tmp_path: Path) -> None:
    evil = pickle.dumps(_Evil(tmp_path / "ran"))
    path = _rewritten(exported / "small.pt2", tmp_path / "evil.pt2", "data/constants/opaque_obj_0", evil)
    assert "they can run code and are refused" in said(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no program", None])
def test_not_a_program(exported: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes((exported / "small.pt2").read_bytes()[:-5000] if content is None else content)
    assert said(path).startswith(f"model {path}: not a torch.export program, truncated or corrupt")


def test_a_zip_that_is_no_program(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("a/b", b"c")
    assert said(tmp_path / "net.pt2").startswith(f"model {tmp_path / 'net.pt2'}: not a sound torch.export program")


# -- what is imported --------------------------------------------------------------------------------------------------

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""


def python(code: str, folder: Path, blocked: Sequence[str] = ()) -> str:
    """Run code in a process of its own where some packages cannot be imported."""
    import subprocess

    text = f"BLOCKED = {tuple(blocked)!r}\n" + BLOCKED + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": str(NETS.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_cheap(tmp_path: Path) -> None:
    loaded = python("import edgekit; print(*sys.modules)", tmp_path).split()
    assert not {"torch", "onnxruntime", "onnx", "onnx_ir", "ai_edge_litert", "numpy"} & set(loaded)


def test_onnx_needs_no_torch(tmp_path: Path) -> None:
    """A whole build from .onnx where torch cannot be imported."""
    cnn(tmp_path / "net.onnx")
    np.save(tmp_path / "calib.npy", np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    code = """
        from pathlib import Path
        from edgekit.build import build
        from edgekit.project import Project
        project = Project.from_flags("net.onnx", None, {"calibration.data": "calib.npy"})
        build(project, ["linux-x86_64-litert", "linux-x86_64-onnxruntime"], Path("out"))
        print(*sys.modules)
    """
    for blocked in ((), ("torch", "safetensors")):
        assert "torch" not in python(code, tmp_path, blocked).split()


def test_callable_without_torch(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def f():\n    return 1\n")
    code = """
        from edgekit.errors import EdgekitError
        from edgekit.frontends import load_graph
        try:
            load_graph("nets:f")
        except EdgekitError as error:
            print(error)
    """
    assert python(code, tmp_path, ["torch"]).startswith("model nets:f: needs torch, which cannot be imported")


# -- the program -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "code", "start"),
    [
        (lambda path: path.write_bytes(b"no model"), 2, "error: model net.onnx: not an ONNX file"),
        (lambda path: save(path, [node("Det", ["x"], ["y"], name="d")], ([port("x", [3, 3])], [port("y", [])])), 5,
         "error: node d: op Det is not supported"),
        (lambda path: cnn(path, 17, ["N", 3, "H", "W"]), 2, "error: model net.onnx: input image has open axes"),
    ],
)  # fmt: skip
def test_program_says_one_line(tmp_path: Path, write: Any, code: int, start: str) -> None:
    write(tmp_path / "net.onnx")
    done = program("build", "net.onnx", "-t", "linux-x86_64-litert", "--calibration", "calib.npy", cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1 and not done.stdout
