"""Constants pass from a bias to those behind it: the same function in a narrower range, and only where that can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import Builder, quantized

from edgekit.build import build
from edgekit.graph import activations, constant
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.project import load_project
from edgekit.quant.absorb import WORTH, absorbed, offsets, sites
from edgekit.recheck import recheck
from edgekit.reference import Reference, serialize
from edgekit.report.model import TensorFidelity
from edgekit.samples import Sample

SILENT = SilentProgress()
HEIGHTS = np.asarray([9.0, -7.0, 5.0, -3.0, 8.0, 0.0, 6.0, -8.0])
Net = Callable[[Builder], str]


def conv(g: Builder, x: str, outs: int, heights: np.ndarray | None = None, **attributes: object) -> str:
    """A 1x1 convolution whose channels lie at these heights."""
    width, group = 8 if x != "x" else 3, int(attributes.get("group", 1))  # type: ignore[call-overload]
    weights = g.weights(outs, width // group, *attributes.pop("kernel", (1, 1)))  # type: ignore[misc]
    bias = g.const(heights.astype(np.float32)) if heights is not None else g.uniform(-0.2, 0.2, outs)
    return g.node("Conv", x, weights, bias, **attributes)


def linear(g: Builder) -> str:
    return conv(g, conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS), 4)


def relu(g: Builder) -> str:
    return conv(g, g.node("Relu", conv(g, g.input(1, 3, 6, 6), 8, np.abs(HEIGHTS) + 20)), 4)


def relu6(g: Builder) -> str:
    x = g.node("Clip", conv(g, g.input(1, 3, 6, 6), 8, np.full(8, 10.0)), g.const(0.0), g.const(20.0))
    return conv(g, x, 4)


def depthwise(g: Builder) -> str:
    return conv(g, conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS), 8, group=8, kernel=(3, 3), strides=[2, 2])


def two_readers(g: Builder) -> str:
    x = conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS)
    return g.node("Add", conv(g, x, 4), conv(g, x, 4))


def fully_connected(g: Builder) -> str:
    x = g.node("Gemm", g.input(2, 3), g.weights(8, 3), g.const(HEIGHTS.astype(np.float32)), transB=1)
    return g.node("Gemm", x, g.weights(4, 8), g.uniform(-1, 1, 4), transB=1)


def matrices(g: Builder) -> str:
    x = g.node("Add", g.node("MatMul", g.input(1, 5, 3), g.weights(3, 8)), g.const(HEIGHTS.astype(np.float32)))
    return g.node("Add", g.node("MatMul", x, g.weights(8, 4)), g.uniform(-1, 1, 4))


MOVED = [linear, relu, relu6, depthwise, two_readers, fully_connected, matrices]


def padded(g: Builder) -> str:
    return conv(g, conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS), 4, kernel=(3, 3), pads=[1, 1, 1, 1])


def padded_alike(g: Builder) -> str:
    return conv(g, conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS), 4, kernel=(3, 3), auto_pad="SAME_UPPER")


def hard_swish(g: Builder) -> str:
    return conv(g, g.node("HardSwish", conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS)), 4)


def clipped_from_one(g: Builder) -> str:
    x = g.node("Clip", conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS), g.const(1.0), g.const(20.0))
    return conv(g, x, 4)


def saturated(g: Builder) -> str:
    x = g.node("Clip", conv(g, g.input(1, 3, 6, 6), 8, np.full(8, 5.0)), g.const(0.0), g.const(5.5))
    return conv(g, x, 4)


def read_by_a_sum(g: Builder) -> str:
    x = conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS)
    return g.node("Add", conv(g, x, 8), x)


def an_output(g: Builder) -> str:
    return conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS)


def without_bias(g: Builder) -> str:
    return g.node("Conv", conv(g, g.input(1, 3, 6, 6), 8, HEIGHTS), g.weights(4, 8, 1, 1))


def other_axis(g: Builder) -> str:
    x = g.node("Conv", g.input(1, 3, 8), g.weights(8, 3, 1), g.const(HEIGHTS.astype(np.float32)))
    return g.node("Add", g.node("MatMul", x, g.weights(8, 4)), g.uniform(-1, 1, 4))


def level(g: Builder) -> str:
    return conv(g, conv(g, g.input(1, 3, 6, 6), 8), 4)


LEFT_ALONE = [
    padded,
    padded_alike,
    hard_swish,
    clipped_from_one,
    saturated,
    read_by_a_sum,
    an_output,
    without_bias,
    other_axis,
    level,
]


def found(net: Net) -> tuple[ir.Model, list[Sample], dict[str, list[float]]]:
    g = Builder()
    graph = prepare(g.model(net(g)))
    samples = [Sample(values) for values in g.samples(16)]
    return graph, samples, offsets(graph, samples, SILENT, len(samples))


def span(graph: ir.Model, samples: list[Sample], name: str) -> float:
    reference = Reference(graph, [name])
    values = np.concatenate([reference.run(sample.inputs)[name].ravel() for sample in samples])
    return max(float(values.max()), 0.0) - min(float(values.min()), 0.0)


@pytest.mark.parametrize("net", MOVED, ids=lambda net: net.__name__)
def test_the_function_stays_and_the_range_gets_narrower(net: Net) -> None:
    graph, samples, given = found(net)
    assert len(given) == 1
    moved = absorbed(graph, given)
    before, after = Reference(graph), Reference(moved)
    for sample in samples:
        for wanted, got in zip(before.run(sample.inputs).values(), after.run(sample.inputs).values(), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(float(np.abs(wanted).max()), 10.0))
    (name,) = given
    assert span(moved, samples, name) <= 1.001 * WORTH * span(graph, samples, name)
    assert name in {str(value.name) for value in activations(moved.graph)}
    assert [site.name for site in sites(moved.graph)] == [site.name for site in sites(graph.graph)]


@pytest.mark.parametrize("net", LEFT_ALONE, ids=lambda net: net.__name__)
def test_what_cannot_pass_or_does_not_help_stays(net: Net) -> None:
    graph, _, given = found(net)
    assert given == {}
    moved = absorbed(graph, given)
    for name, value in graph.graph.initializers.items():
        np.testing.assert_array_equal(constant(moved.graph.initializers[name]), constant(value))


@pytest.mark.parametrize("net", [linear, relu, depthwise], ids=lambda net: net.__name__)
def test_both_artifacts_gain(net: Net) -> None:
    g = Builder()
    model = g.model(net(g))
    graph, values = prepare(model), g.samples(16)
    moved = absorbed(graph, offsets(graph, [Sample(v) for v in values], SILENT, 16))
    for kind in ("onnx", "tflite"):
        assert quantized(moved, values).snr(kind) > quantized(model, values).snr(kind) + 1


def test_a_build_does_it_where_asked_and_verify_knows(tmp_path: Path) -> None:
    g = Builder()
    (tmp_path / "net.onnx").write_bytes(serialize(g.model(linear(g))))
    np.savez(tmp_path / "data.npz", x=np.concatenate([values["x"] for values in g.samples(16)]))
    targets = ("linux-x86_64-litert", "linux-x86_64-onnxruntime")
    outcome: dict[str, list[float]] = {}
    for absorb in ("true", "false"):
        (tmp_path / "edgekit.toml").write_text(
            f'[model]\nsource = "net.onnx"\n[calibration]\ndata = "data.npz"\nabsorb = {absorb}\n'
            '[evaluation]\ndata = "data.npz"\nmetric = "metric:none"\n'
        )
        (tmp_path / "metric.py").write_text("def none(predictions):\n    return float(len(list(predictions)))\n")
        project = load_project(tmp_path / "edgekit.toml")
        for report in build(project, targets if absorb == "true" else targets[:1], tmp_path / absorb):
            assert ("absorb" in {stage.name for stage in report.stages}) == (absorb == "true")
            again = recheck(Path(report.artifact.path), project, SILENT).fidelity
            assert report.fidelity is not None and again.outputs == pytest.approx(report.fidelity.outputs, abs=0.1)
            outcome.setdefault(absorb, []).append(min(again.outputs.values()))
            (inner,) = [row for row in again.tensors if row.name == sites_name(tmp_path)]
            assert isinstance(inner, TensorFidelity) and inner.snr_db > 25
    assert min(outcome["true"]) > max(outcome["false"]) + 2


def sites_name(folder: Path) -> str:
    from edgekit.frontends import load_graph

    (site,) = sites(prepare(load_graph(str(folder / "net.onnx"))).graph)
    return site.name
