"""Artifacts against their source: noise of known size, metrics on known scores, and where a signal was lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nets import Array, Both, both, cnn, inputs_of
from small_graphs import Builder, planned

from edgekit import verify
from edgekit.emitters import onnx_qdq, tflite
from edgekit.errors import ConfigError, DataError
from edgekit.frontends import load_graph
from edgekit.progress import SilentProgress
from edgekit.quant import numerics
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.runners import ArtifactModel, FloatModel
from edgekit.samples import Sample
from edgekit.verify import Result

SILENT = SilentProgress()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cnn(tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def net(source: Path) -> Both:
    return both(source)


@dataclass
class Scores:
    """A runner that gives the sample itself, moved by ``shift`` steps of 0.5."""

    shift: float = 0.0
    quant: Mapping[str, QParams] | None = None

    @property
    def file(self) -> Any:
        return SimpleNamespace(quant={"y": QParams("int8", (0.5,), (0,))} if self.quant is None else self.quant)

    def outputs(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": sample["x"] + np.float32(self.shift * 0.5)}

    def ports(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        return self.outputs(sample)


def scored(*rows: list[float], labels: list[Any] | None = None) -> list[Sample]:
    return [Sample({"x": np.float32([row])}, labels[i] if labels else None) for i, row in enumerate(rows)]


# -- signal-to-noise ------------------------------------------------------------------------------------------------


def of_noise(signal: Array, noise: Array, keep_mean: bool = False) -> verify.Noise:
    found = verify.Noise()
    for wanted, off in zip(signal, noise, strict=True):
        found.add(wanted, wanted + off, keep_mean)
    return found


@pytest.mark.parametrize("size", [1.0, 0.1, 0.001])
def test_noise_of_known_size(size: float) -> None:
    draw = np.random.default_rng(0)
    signal, noise = draw.normal(size=(50, 400)), size * draw.normal(size=(50, 400))
    assert of_noise(signal, noise).snr_db == pytest.approx(-20 * math.log10(size), abs=0.2)
    assert of_noise(signal, noise, True).snr_db == pytest.approx(-20 * math.log10(size), abs=0.3)


def test_a_constant_offset_of_an_output_is_no_signal() -> None:
    draw = np.random.default_rng(1)
    signal, noise = draw.normal(size=(100, 8)), 0.1 * draw.normal(size=(100, 8))
    moved = signal + 1000 * np.arange(8)
    assert of_noise(moved, noise, True).snr_db == pytest.approx(of_noise(signal, noise, True).snr_db, abs=0.01)
    assert of_noise(moved, noise).snr_db > 80


def test_no_noise_and_no_signal() -> None:
    ones = np.ones((3, 4))
    assert of_noise(ones, 0 * ones).snr_db == math.inf
    assert of_noise(0 * ones, ones).snr_db == -math.inf


def test_values_at_the_ends_of_a_range_are_counted() -> None:
    noise = verify.Noise()
    assert noise.saturated is None
    noise.limits(np.float32([-1.28, -1.27, 0.0, 1.26, 1.27, 1.27]), QParams("int8", (0.01,), (0,)))
    assert noise.saturated == pytest.approx(3 / 6)
    relu = verify.Noise()
    relu.limits(np.float32([0.0, 0.0, 1.0, 2.55]), QParams("int8", (0.01,), (-128,)))
    assert relu.saturated == pytest.approx(1 / 4)  # zero as the lower end is no saturation


# -- fidelity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_every_tensor_of_an_artifact_is_compared(net: Both, kind: str) -> None:
    artifact = net.onnx if kind == "onnx" else net.tflite
    found = verify.fidelity(net.graph, artifact.data, net.samples, SILENT, 8)
    assert found.samples == 8 and set(found.outputs) == {"scores"} and 20 < found.outputs["scores"] < 60
    rows = {row.name: row for row in found.tensors}
    assert [name for name in rows if name != "image"] == ["r1", "p1", "c2", "r2", "g2", "f2", "scores"]
    for name, row in rows.items():
        q = net.plan[name]
        assert row.snr_db > 35, name
        assert (row.dtype, row.scale, row.zero_point) == ("int8", q.scale[0], q.zero_point[0])
        assert row.saturated is not None and row.saturated <= 0.05
    assert (rows["r1"].op, rows["p1"].op, rows["scores"].op) == ("Relu", "MaxPool", "Gemm")


@pytest.mark.parametrize("emitter", [onnx_qdq, tflite])
def test_a_float_artifact_has_next_to_no_noise(net: Both, emitter: Any) -> None:
    found = verify.fidelity(net.graph, emitter.emit(net.graph, QuantPlan({})).data, net.samples, SILENT, 4)
    assert found.outputs["scores"] > 100 and all(row.snr_db > 100 for row in found.tensors)
    assert {(row.dtype, row.saturated) for row in found.tensors} == {("float32", None)}


@pytest.mark.parametrize("emitter", [onnx_qdq, tflite])
def test_the_table_shows_where_the_signal_was_lost(net: Both, emitter: Any) -> None:
    low, high = net.plan["c2"].range
    spoilt = QuantPlan({**net.plan.tensors, "c2": numerics.affine(low / 8, high / 8)})
    found = verify.fidelity(net.graph, emitter.emit(net.graph, spoilt).data, net.samples, SILENT)
    rows = {row.name: row for row in found.tensors}
    assert rows["r1"].snr_db > 35 and rows["p1"].snr_db > 35 and rows["c2"].snr_db < 6
    assert (rows["c2"].saturated or 0) > 0.5 and (rows["p1"].saturated or 0) < 0.05
    assert found.outputs["scores"] < 0


def test_inner_tensors_are_the_same_in_both_formats(net: Both) -> None:
    first, second = ArtifactModel(net.onnx.data, net.graph), ArtifactModel(net.tflite.data, net.graph)
    sample = net.samples[0].inputs
    first.outputs(sample), second.outputs(sample)
    one, other = first.tensors(), second.tensors()
    for name in ("r1", "p1", "c2", "r2", "scores"):
        assert one[name].shape == other[name].shape
        assert np.abs(one[name] - other[name]).max() <= 1.001 * net.plan[name].scale[0]


def test_features_that_the_file_stores_in_another_order() -> None:
    """A Flatten that a Gemm alone reads keeps the order of channels-last; the weights take it instead."""
    g = Builder()
    flat = g.node("Flatten", g.node("Relu", g.conv(g.input(1, 3, 5, 4), 3, 6)))
    model = g.model(g.node("Gemm", flat, g.weights(10, 120), transB=1))
    prepared, plan = planned(model, g.samples(), "int8")
    samples = [Sample(values) for values in g.samples()]
    found = verify.fidelity(prepared, tflite.emit(prepared, plan).data, samples, SILENT)
    assert min(row.snr_db for row in found.tensors) > 30


def test_verifying_on_nothing(net: Both) -> None:
    with pytest.raises(DataError, match="verification data: holds no samples"):
        verify.fidelity(net.graph, net.onnx.data, [], SILENT)


# -- metrics --------------------------------------------------------------------------------------------------------


ROWS = ([3, 1, 2, 0, -1, -2], [0, 9, 8, 7, 6, 5], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 4])


@pytest.mark.parametrize(
    ("metric", "labels", "wanted"),
    [
        ("top1", [0, 1, 0, 5], 1.0),  # of equal scores the first counts
        ("top1", [0, 1, 1, 0], 0.5),
        ("top1", [np.int64(0), np.int64(2), 5, 4], 0.25),
        ("top5", [4, 5, 4, 0], 1.0),
        ("top5", [5, 0, 5, 4], 0.0),
    ],
)
def test_metrics_on_known_scores(metric: str, labels: list[Any], wanted: float) -> None:
    samples = scored(*(list(map(float, row)) for row in ROWS), labels=labels)
    found = verify.evaluate(Scores(), samples, verify.metric_of(metric, Path()), SILENT, "evaluate", 4)
    assert (found.value, found.count, found.choices.tolist()) == (wanted, 4, [0, 1, 0, 5])


def test_labels_and_samples_are_needed() -> None:
    top1 = verify.metric_of("top1", Path())
    with pytest.raises(DataError, match="evaluation data: has no labels, which top1 needs"):
        verify.evaluate(Scores(), scored([1.0, 2.0]), top1, SILENT, "evaluate", 1)
    with pytest.raises(DataError, match="evaluation data: holds no samples"):
        verify.evaluate(Scores(), [], top1, SILENT, "evaluate", 0)


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    source = """
size = 3
def error(predictions):
    return max(abs(float(outputs["y"].sum()) - label) for outputs, label in predictions)
"""
    (tmp_path / "own_metric_of_verify.py").write_text(source)
    metric = verify.metric_of("own_metric_of_verify:error", tmp_path)
    found = verify.evaluate(Scores(), scored([1.0], [5.0], labels=[1.0, 3.5]), metric, SILENT, "evaluate", 2)
    assert found.value == 1.5 and found.choices.size == 0  # one value is no list of scores
    with pytest.raises(ConfigError, match=r"evaluation.metric own_metric_of_verify:size: is a int, not top1, top5"):
        verify.metric_of("own_metric_of_verify:size", tmp_path)


def test_two_results_side_by_side() -> None:
    reference = Result(0.75, 4, np.asarray([0, 1, 2, 3]))
    found = verify.compared("top1", reference, Result(0.5, 4, np.asarray([0, 1, 2, 0])))
    assert (found.float_value, found.artifact_value, found.drop, found.agreement) == (0.75, 0.5, 0.25, 0.75)
    assert verify.compared("m", reference, Result(0.5, 4, np.asarray([], int))).agreement is None


# -- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "equal"), [(0.0, 1.0), (0.4, 1.0), (-1.0, 0.0), (3.0, 0.0)])
def test_parity_counts_steps(shift: float, equal: float) -> None:
    samples = scored([1.0, 2.0], [5.0, 0.0], [0.0, 0.0])
    found = verify.parity(Scores(), Scores(shift), samples, "other")  # type: ignore[arg-type]
    assert (found.other, found.samples, found.agreement) == ("other", 3, 1.0)
    assert (found.max_steps, found.share_equal) == (round(abs(shift)), equal)


def test_parity_of_choices_and_of_the_first_samples() -> None:
    class Turned(Scores):
        def outputs(self, sample: Mapping[str, Array]) -> dict[str, Array]:
            return {"y": sample["x"][:, ::-1]}

    samples = scored([1.0, 2.0], [5.0, 0.0], [0.5, 0.5], [3.0, 4.0])
    found = verify.parity(Scores(), Turned(), samples, "turned", limit=3)  # type: ignore[arg-type]
    assert (found.samples, found.agreement, found.max_steps) == (3, pytest.approx(1 / 3), 10)
    assert found.share_equal == pytest.approx(2 / 6)


def test_parity_of_real_artifacts(net: Both) -> None:
    one, other = ArtifactModel(net.onnx.data), ArtifactModel(net.tflite.data)
    found = verify.parity(one, other, inputs_of(net.graph, 30, seed=5), "litert", 20)
    assert found.samples == 20 and found.max_steps <= 1 and found.share_equal > 0.95 and found.agreement > 0.9
    assert replace(verify.parity(one, one, net.samples, "self"), samples=0) == verify.Parity("self", 0, 1.0, 0, 1.0)


# -- a finished file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_finished_artifact(net: Both, source: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"model.{kind}"
    path.write_bytes(net.onnx.data if kind == "onnx" else net.tflite.data)
    floating = FloatModel(net.graph)
    samples = [
        replace(sample, label=int(np.argmax(floating.outputs(sample.inputs)["scores"])))
        for sample in inputs_of(net.graph, 40, seed=3)
    ]
    model, top1 = load_graph(str(source)), ("top1", verify.metric_of("top1", tmp_path))
    fidelity, evaluation = verify.verify_artifact(path, model, samples, SILENT, top1)
    assert fidelity.samples == 40 and fidelity.outputs["scores"] > 10
    assert evaluation is not None and evaluation.float_value == 1.0 and evaluation.agreement is not None
    assert evaluation.artifact_value == evaluation.agreement >= 0.9 and evaluation.drop == 1 - evaluation.agreement
    assert verify.verify_artifact(path, model, samples, SILENT)[1] is None
