"""Models and settings that once broke a build: each is built, or refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import FLOAT, Array, const, node, port, save, weights
from onnx import TensorProto

from edgekit.build import build
from edgekit.errors import ConfigError, DataError, UnsupportedError
from edgekit.project import Project
from edgekit.report.model import Report

BOTH = ("raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime", "linux-x86_64-onnxruntime")
IMAGE = [1, 3, 8, 8]


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


def test_a_float_model_without_anything_inside(tmp_path: Path) -> None:
    path = net(tmp_path, [node("MatMul", ["w", "x"], ["y"])], [weights("w", 5, 6)], [1, 6, 3])
    (report,) = reports(path, normal(40, 6, 3), {"quantization.precision": "float32"}, BOTH[1:2])
    assert report.artifact.precision == "float32"


def test_an_op_that_has_no_sound_int16_kernel(tmp_path: Path) -> None:
    nodes = [node("PRelu", ["x", "slope"], ["y"], name="steep")]
    path = net(tmp_path, nodes, [const("slope", np.full((3, 1, 1), 0.2), np.float32)], IMAGE)
    with pytest.raises(UnsupportedError, match=r"steep: PRelu: PRELU has no sound int16 kernel in LiteRT"):
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
