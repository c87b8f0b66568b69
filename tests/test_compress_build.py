"""``[[compress]]`` in a build: real training on small data, real artifacts."""

from __future__ import annotations

from pathlib import Path

import compressible
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import Builder

from edgekit.build import build
from edgekit.errors import ConfigError, DataError, ModelError, UnsupportedError
from edgekit.project import load_project
from edgekit.reference import serialize
from edgekit.report import html, markdown, terminal
from edgekit.report.model import Report

TFLITE, ONNX = TARGETS = ("raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime")
PROJECT = """[model]
source = "net.onnx"
[calibration]
data = "data.npz"
samples = 64
[evaluation]
data = "data.npz"
"""
TRAINED = 'epochs = 5\nbatch = 16\noptimizer = "adam"\nrate = 0.01'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a network and labelled data that it can learn."""
    (tmp_path / "net.onnx").write_bytes(serialize(compressible.network()))
    samples = compressible.samples(256)
    data = {"x": np.concatenate([sample.inputs["x"] for sample in samples])}
    np.savez(tmp_path / "data.npz", **data, y=np.array([sample.label for sample in samples]))
    return tmp_path


def built(project: Path, *steps: str, more: str = "", targets: tuple[str, ...] = TARGETS) -> list[Report]:
    """Reports of a build with these steps."""
    file = project / "edgekit.toml"
    file.write_text(PROJECT + more + "".join(f"[[compress]]\n{step}\n" for step in steps))
    return build(load_project(file), targets, project / "out")


def step(method: str, *keys: str) -> str:
    return "\n".join((f'method = "{method}"', *keys))


def integers(report: Report) -> list[np.ndarray]:
    """The int8 weights of two axes or more of an ONNX artifact, from its bytes."""
    model = onnx.load(report.artifact.path)
    arrays = [numpy_helper.to_array(found) for found in model.graph.initializer]
    return [array for array in arrays if array.ndim >= 2 and array.dtype == np.int8]


def holds(report: Report) -> bool:
    """Whether the artifact answers as the compressed network does, which learned something."""
    metric = report.compression[-1].metric
    assert report.evaluation is not None and metric is not None
    return metric > 0.6 and report.evaluation.artifact_value > metric - 0.05


def cached(report: Report) -> list[bool]:
    return [stage.cached for stage in report.stages if stage.name.startswith("compress: ")]


def test_zeros_and_shared_values_stay_in_the_integers(project: Path) -> None:
    tflite, found = built(project, step("prune", "sparsity = 0.6", TRAINED), step("cluster", "clusters = 8", TRAINED))
    assert {report.artifact.precision for report in (tflite, found)} == {"int8"}
    weights = [array for array in integers(found) if array.size >= 32]
    assert len(weights) >= 5 and all(len(np.unique(array)) <= 8 for array in weights)
    assert sum(int((array == 0).sum()) for array in weights) >= 0.6 * sum(array.size for array in weights)
    assert tflite.parity is not None and tflite.parity.max_steps <= 1
    for report in (tflite, found):
        assert report.artifact.packed["coded"] < report.artifact.bytes
        assert holds(report)
    first, second = found.compression
    assert first.nonzero < 0.45 * first.parameters and second.packed["gzip"] < 0.5 * first.packed["gzip"]
    assert first.packed["gzip"] < first.packed["raw"]


def test_trained_scales_are_those_of_the_artifacts(project: Path) -> None:
    steps = step("prune", "sparsity = 0.5", TRAINED), step("quantize-aware", TRAINED)
    tflite, found = built(project, *steps)
    plans = [(Path(report.artifact.path).parent / "plan.json").read_text() for report in (tflite, found)]
    assert plans[0] == plans[1]
    assert {report.artifact.precision for report in (tflite, found)} == {"int8"}
    assert not {"equalize", "calibrate", "round"} & {stage.name for stage in found.stages}
    assert sum(int((a == 0).sum()) for a in integers(found)) >= 0.45 * sum(a.size for a in integers(found))
    assert tflite.parity is not None and tflite.parity.max_steps <= 1
    for report in (tflite, found):
        assert holds(report)
    again, _ = built(project, *steps, more="[gates]\nsize = '1 MB'\n")
    assert cached(again) == [True, True] and again.artifact.sha256 == tflite.artifact.sha256


def test_a_teacher_that_changed_teaches_anew(project: Path) -> None:
    (project / "teacher.onnx").write_bytes(serialize(compressible.network(1)))
    taught = step("distill", 'teacher = "teacher.onnx"', "epochs = 1", "batch = 64")
    built(project, taught, targets=(TFLITE,))
    assert cached(built(project, taught, targets=(TFLITE,))[0]) == [True]
    (project / "teacher.onnx").write_bytes(serialize(compressible.network(2)))
    assert cached(built(project, taught, targets=(TFLITE,))[0]) == [False]


@pytest.mark.parametrize(
    ("late", "error", "said"),
    [
        (step("fine-tune", 'data = "gone.npz"'), DataError, "gone.npz: no such file"),
        (step("distill", 'teacher = "gone.onnx"'), ModelError, "gone.onnx: no such file"),
    ],
)
def test_data_and_teachers_are_there_before_anything_trains(
    project: Path, late: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=rf"edgekit.toml:compress\[1\]: .*{said}"):
        built(project, step("prune", "sparsity = 0.5", "epochs = 0"), late, targets=(TFLITE,))
    assert not list((project / "out").rglob("compress-*"))


def test_what_a_step_complains_of_says_which_step(project: Path) -> None:
    steps = step("prune", "sparsity = 0.5", "epochs = 0"), step("cluster", 'skip = ["con"]', "epochs = 0")
    with pytest.raises(ConfigError, match=r"edgekit.toml:compress\[1\]: skip: con names no weight and no node"):
        built(project, *steps, targets=(TFLITE,))


def test_a_misspelled_key_is_named_before_what_is_missing_without_it(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"compress\[0\].mac: unknown key; did you mean macs"):
        built(project, step("channel-prune", "mac = 0.5"), targets=(TFLITE,))


def test_recurrent_layers_are_not_trained_for_integers(project: Path) -> None:
    b = Builder()
    h = b.node("Transpose", b.input(1, 3, 4), perm=[1, 0, 2])
    h = b.nodes("LSTM", 3, h, b.weights(1, 16, 4), b.weights(1, 16, 4), b.uniform(-0.1, 0.1, 1, 32), hidden_size=4)[1]
    (project / "net.onnx").write_bytes(serialize(b.model(b.node("Squeeze", h, b.const([0])))))
    np.savez(project / "data.npz", x=np.random.default_rng(0).normal(size=(40, 3, 4)), y=np.arange(40) % 4)
    steps = step("prune", "sparsity = 0.5", "epochs = 0"), step("quantize-aware", "epochs = 1")
    with pytest.raises(UnsupportedError, match="node lstm1: quantize-aware does not train LSTM"):
        built(project, *steps, targets=(TFLITE,))
    assert not list((project / "out").rglob("compress-*"))


def test_every_form_of_the_report_shows_the_steps(project: Path) -> None:
    steps = step("low-rank", "energy = 0.8", "epochs = 0"), step("prune", "sparsity = 0.5", "epochs = 0")
    (report,) = built(project, *steps, targets=(TFLITE,))
    printed = terminal.render([report], 200)
    for said in (html.render(report), markdown.render([report]), printed):
        assert all(word in said for word in ("source", "low-rank", "prune", "multiply-adds", "as gzip"))
    assert "in a Huffman code" in printed


@pytest.mark.parametrize(
    ("steps", "more", "said"),
    [
        (
            (step("quantize-aware"), step("fine-tune")),
            "",
            r"edgekit.toml:compress\[0\].method: no step can follow quantize-aware",
        ),
        (
            (step("quantize-aware"),),
            '[quantization]\nprecision = "int16x8"\n',
            "quantize-aware trains int8 weights and activations; other precisions: raspberry-pi-4-litert int16x8",
        ),
        ((step("prune", "sparsity = 2"),), "", r"edgekit.toml:compress\[0\].sparsity: 2 was given, a share from 0"),
    ],
)
def test_what_cannot_be_is_said_before_work_starts(project: Path, steps: tuple[str, ...], more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(project, *steps, more=more, targets=(TFLITE,))
    assert not list((project / "out").glob("*/*.tflite"))
