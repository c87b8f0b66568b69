"""Models quantized elsewhere: the same integers in TFLite, and one line where a form has no plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_onnx
from nets import Array, cnn, const, inputs_of, node, port, save

from edgekit.build import build
from edgekit.errors import UnsupportedError
from edgekit.frontends import load_graph, load_source
from edgekit.project import Project
from edgekit.quant.from_qdq import take_out
from edgekit.quant.numerics import quantize
from edgekit.runtimes import open_session

WITHIN_ONE_STEP = 0.999
ORT = pytest.importorskip("onnxruntime.quantization")
quant_pre_process = pytest.importorskip("onnxruntime.quantization.shape_inference").quant_pre_process


class Reader(ORT.CalibrationDataReader):  # type: ignore[name-defined,misc]
    """Samples, as ONNX Runtime's quantizer wants them."""

    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantized(source: Path, target: Path, samples: list[dict[str, Array]], **options: Any) -> Path:
    """ONNX Runtime's own static quantization of a file, in QDQ form."""
    folded = target.with_suffix(".folded.onnx")
    quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
    ORT.quantize_static(str(folded), str(target), Reader(samples), quant_format=ORT.QuantFormat.QDQ, **options)
    return target


def built(path: Path, samples: list[dict[str, Array]]) -> Any:
    """The report of a TFLite build of that file, beside it."""
    np.savez(path.with_suffix(".npz"), **{name: np.concatenate([s[name] for s in samples]) for name in samples[0]})
    settings = {"calibration.data": str(path.with_suffix(".npz"))}
    project = Project.from_flags(str(path), None, settings)
    return build(project, ["linux-x86_64-litert"], path.parent / "out")[0]


INT8, UINT8 = ORT.QuantType.QInt8, ORT.QuantType.QUInt8


@pytest.mark.parametrize(
    "options",
    [
        {"activation_type": INT8, "weight_type": INT8},
        {"activation_type": UINT8, "weight_type": INT8},
        {"activation_type": INT8, "weight_type": INT8, "per_channel": True},
        {"activation_type": INT8, "weight_type": INT8, "extra_options": {"DedicatedQDQPair": True}},
    ],
    ids=["int8", "uint8", "per-channel", "dedicated-pairs"],
)
def test_the_same_integers(tmp_path: Path, options: dict[str, Any]) -> None:
    source = cnn(tmp_path / "float.onnx", opset=17)
    samples = [sample.inputs for sample in inputs_of(load_graph(str(source)), 200)]
    path = quantized(source, tmp_path / "net.onnx", samples[:32], **options)
    report = built(path, samples[:32])
    assert report.artifact.precision == "int8" and report.audit["float_ops"] == []
    session = open_session((tmp_path / "out/linux-x86_64-litert/model.tflite").read_bytes(), "litert")
    theirs = load_source(str(path))
    given = take_out(theirs.model)
    near = []
    for sample in samples:
        feeds = {"image": quantize(sample["image"].transpose(0, 2, 3, 1), given["image"])}
        found = next(iter(session.run({session.inputs[0].name: feeds["image"]}).values()))
        wanted = quantize(theirs.run(sample)[0], given["scores"])
        near.append(np.abs(found.astype(int) - wanted.astype(int)) <= 1)
    assert np.mean(near) >= WITHIN_ONE_STEP
    assert f"{len(given)} of its {len(given)} scales are kept" in " ".join(report.warnings)


def test_a_batch_norm_that_was_quantized_apart(tmp_path: Path) -> None:
    """It is folded, so that its convolution gets other weights: their old scales are not kept, and that is said."""
    source = cnn(tmp_path / "float.onnx", opset=17)
    samples = [sample.inputs for sample in inputs_of(load_graph(str(source)), 32)]
    path = tmp_path / "net.onnx"
    ORT.quantize_static(str(source), str(path), Reader(samples), activation_type=INT8, weight_type=INT8)
    report = built(path, samples)
    said = next(line for line in report.warnings if "quantized elsewhere" in line)
    assert "not those of" in said and "w1" in said
    assert report.fidelity.outputs["scores"] > 25


def test_float_models_are_left_alone(tmp_path: Path) -> None:
    model = load_graph(str(cnn(tmp_path / "net.onnx")))
    count = len(list(model.graph))
    assert take_out(model) == {} and len(list(model.graph)) == count


def test_a_relu_that_the_integers_do_comes_back(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xr"]),
        node("DequantizeLinear", ["wq", "s", "z8"], ["w"]),
        node("Gemm", ["xr", "w"], ["h"]),
        node("QuantizeLinear", ["h", "s", "low"], ["hq"]),
        node("DequantizeLinear", ["hq", "s", "low"], ["y"]),
    ]
    held = [const("s", 0.1, np.float32), const("z", 3, np.int8), const("z8", 0, np.int8), const("low", -128, np.int8)]
    held += [const("wq", np.arange(-8, 8).reshape(4, 4), np.int8)]
    path = save(tmp_path / "net.onnx", nodes, ([port("x", [1, 4])], [port("y", [1, 4])]), held)
    model = load_graph(str(path))
    given = take_out(model)
    assert [n.op_type for n in model.graph] == ["Gemm", "Relu"]
    assert given["x"].zero_point == (3,) and given["y"].zero_point == (-128,) and set(given) == {"x", "w", "y"}


def qdq(tmp_path: Path, **changes: Any) -> Path:
    """x in integers and back, and a Relu; ``changes`` spoil it."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", changes.get("read", "z")], ["xr"]),
        node("DequantizeLinear", ["wq", "s", "wz"], ["w"]),
        node("MatMul", ["xr", "w"], ["y"]),
    ]
    held = [const("s", 0.1, np.float32), const("z", 3, np.int8), const("other", 4, np.int8)]
    held += [const("wq", np.ones((4, 4)), np.int8), const("wz", changes.get("weight_zero", 0), np.int8)]
    return save(tmp_path / "net.onnx", nodes, ([port("x", [1, 4])], [port("y", [1, 4])]), held)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"read": "other"}, "tensor xq: is written in one scale and read in another"),
        ({"weight_zero": 7}, "weight wq: int8 with a zero point; integer kernels take symmetric int8"),
    ],
)
def test_forms_without_a_plan(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        take_out(load_graph(str(qdq(tmp_path, **changes))))
    assert str(caught.value) == line


def test_integers_at_the_edge(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(small_onnx.qdq_conv_relu(False))
    with pytest.raises(UnsupportedError, match=r"integers at the model's edge; give a model with float edges"):
        take_out(load_graph(str(path)))
