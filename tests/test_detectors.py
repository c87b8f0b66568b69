"""The ends of detectors: NonMaxSuppression, outputs chosen by the user, and parts of different ranges in one output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import FLOAT, const, node, port, save, weights
from onnx import TensorProto

from edgekit.artifact import read_artifact
from edgekit.build import build
from edgekit.errors import EdgekitError, ModelError, UnsupportedError
from edgekit.frontends import load_graph
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.project import Project
from edgekit.recheck import recheck
from edgekit.report.model import Report
from edgekit.runners import ArtifactModel, FloatModel

TFLITE, ONNX = "raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime"
FLOATING = {"quantization.allow_float": True}
MOST = 5


def detector(folder: Path, *more: onnx.NodeProto, most: str = "most", ends: Sequence[str] = ("picked",)) -> Path:
    """8x8 cells with a box and a score each, and a NonMaxSuppression over them."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["head"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Split", ["head", "four"], ["corners", "logits"], axis=1),
        node("Reshape", ["corners", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["boxes"], perm=[0, 2, 1]),
        node("Reshape", ["logits", "flat"], ["rows"]),
        node("Sigmoid", ["rows"], ["scores"]),
        node("NonMaxSuppression", ["boxes", "scores", most, "overlap", "least"], ["picked"]),
        *more,
    ]
    held = [
        weights("w", 8, 3, 3, 3),
        weights("b", 8),
        const("four", [4, 4], np.int64),
        const("flat", [1, 4, -1], np.int64),
        const("most", [MOST], np.int64),
        const("overlap", [0.5], np.float32),
        const("least", [0.1], np.float32),
    ]
    kinds = {"picked": TensorProto.INT64, "many": TensorProto.INT64}
    outputs = [port(name, None, kinds.get(name, FLOAT)) for name in ends]
    return save(folder / "net.onnx", nodes, ([port("x", [1, 3, 16, 16])], outputs), held, 17)


def built(path: Path, target: str, settings: dict[str, Any]) -> Report:
    data = path.with_suffix(".npz")
    np.savez(data, x=np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32))
    given = {"calibration.data": str(data), **settings}
    (report,) = build(Project.from_flags(str(path), None, given), [target], path.parent / "out")
    return report


def test_onnx_keeps_it_in_float_where_that_is_allowed(tmp_path: Path) -> None:
    path = detector(tmp_path, ends=["picked", "boxes"])
    report = built(path, ONNX, FLOATING)
    assert report.artifact.precision == "mixed"
    assert report.audit["float_ops"][-1] == "node_6"  # what it reads is made real too
    assert list(report.fidelity.outputs) == ["boxes"]  # type: ignore[union-attr]
    assert report.contract["outputs"][0]["shape"] == [4 * MOST, 3]  # at most
    artifact, reference = (
        ArtifactModel(Path(report.artifact.path).read_bytes()),
        FloatModel(prepare(load_graph(str(path)))),
    )
    sample = {"x": np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    found, wanted = artifact.outputs(sample)["picked"], reference.outputs(sample)["picked"]
    same = {tuple(row) for row in found.tolist()} & {tuple(row) for row in wanted.tolist()}
    assert len(same) > 0.8 * len(wanted)


def test_it_is_float_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="NonMaxSuppression has no integer kernel, .* allow it") as caught:
        built(detector(tmp_path), ONNX, {})
    assert len(caught.value.problems) == 1


def test_tflite_names_the_way_out_and_it_works(tmp_path: Path) -> None:
    path = detector(tmp_path)
    with pytest.raises(UnsupportedError, match=r'no fixed number of boxes; .*outputs = \["boxes", "scores"\]'):
        built(path, TFLITE, FLOATING)
    report = built(path, TFLITE, {"model.outputs": ["boxes", "scores"]})
    assert report.artifact.precision == "int8" and report.audit["float_ops"] == []
    assert [port["name"] for port in report.contract["outputs"]] == ["boxes", "scores"]
    assert min(report.fidelity.outputs.values()) > 25  # type: ignore[union-attr]
    assert float(report.source_check["snr_db"]) > 100  # type: ignore[index]
    settings = {"model.outputs": ["boxes", "scores"], "evaluation.data": str(path.with_suffix(".npz"))}
    again = recheck(Path(report.artifact.path), Project.from_flags(str(path), None, settings), SilentProgress())
    assert again.fidelity.outputs.keys() == {"boxes", "scores"}


def test_what_reads_a_selection_is_refused(tmp_path: Path) -> None:
    path = detector(tmp_path, node("Shape", ["picked"], ["many"]), ends=["many"])
    with pytest.raises(UnsupportedError, match="node .*: reads what NonMaxSuppression selects, which has no fixed"):
        built(path, ONNX, FLOATING)


def test_how_many_are_selected_has_to_be_constant(tmp_path: Path) -> None:
    path = detector(tmp_path, most="")
    with pytest.raises(UnsupportedError, match="how many boxes NonMaxSuppression may give has to be a constant"):
        built(path, ONNX, FLOATING)


def mixed(folder: Path) -> Path:
    """An output that joins a wide part and one of probabilities."""
    nodes = [
        node("Conv", ["x", "w"], ["wide"]),
        node("Conv", ["x", "v"], ["logit"]),
        node("Sigmoid", ["logit"], ["share"]),
        node("Concat", ["wide", "share"], ["y"], axis=1),
    ]
    held = [const("w", np.full((4, 3, 1, 1), 30.0), np.float32), weights("v", 2, 3, 1, 1)]
    return save(folder / "net.onnx", nodes, ([port("x", [1, 3, 16, 16])], [port("y", None)]), held, 17)


def test_an_output_of_mixed_ranges_is_warned_of_and_can_be_taken_apart(tmp_path: Path) -> None:
    path = mixed(tmp_path)
    (line,) = [text for text in built(path, TFLITE, {}).warnings if "joins parts" in text]
    assert line.startswith("output y joins parts of very different ranges in one scale: of 256 levels share keeps ")
    assert line.endswith("or [model] outputs = ['wide', 'share'], gives each a scale of its own")
    for target in (TFLITE, ONNX):
        report = built(path, target, {"model.outputs": ["wide", "share"]})
        assert not [text for text in report.warnings if "joins parts" in text]
        quant = read_artifact(Path(report.artifact.path).read_bytes()).quant
        assert quant["share"].scale[0] == 1 / 256 and quant["wide"].scale[0] > 0.5
        assert report.fidelity.outputs["share"] > 35  # type: ignore[union-attr]


def test_outputs_keep_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    graph = load_graph(str(mixed(tmp_path)), outputs=["share", "wide"]).graph
    assert [value.name for value in graph.outputs] == ["share", "wide"]
    assert {n.op_type for n in graph} == {"Conv", "Sigmoid"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shares", r"computes no tensor shares for \[model\] outputs; did you mean share\?"),
        ("x", "computes no tensor x"),
    ],
)
def test_an_output_that_is_not_computed(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_graph(str(mixed(tmp_path)), outputs=[name])


def test_only_a_file_can_be_cut() -> None:
    with pytest.raises(EdgekitError, match=r"\[model\] outputs is for file.onnx; let the module return what is wanted"):
        load_graph("torch_nets:small", outputs=["a"])
