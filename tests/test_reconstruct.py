"""Rounding weights by what they multiply: on the grid, nearer in the outputs, right in the mean, always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from nets import FLOAT, Array, const, node, plan_of, port, save, weights

from edgekit.frontends import load_graph
from edgekit.graph import constant, with_constants
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant.numerics import dequantize, quantize
from edgekit.quant.plan import QuantPlan
from edgekit.quant.reconstruct import Layer, _observed, reconstruct, weights_of
from edgekit.quant.simulate import with_rounding
from edgekit.runners import FloatModel
from edgekit.samples import Sample

CASES = {
    "conv": ("Conv", {"pads": [1, 1, 1, 1]}, (12, 8, 3, 3), True),
    "strided": ("Conv", {"strides": [2, 1], "pads": [0, 1, 1, 0]}, (12, 8, 3, 2), True),
    "dilated": ("Conv", {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, (6, 8, 3, 3), True),
    "depthwise": ("Conv", {"pads": [1, 1, 1, 1], "group": 8}, (8, 1, 3, 3), True),
    "grouped": ("Conv", {"group": 2}, (6, 4, 1, 1), True),
    "gemm": ("Gemm", {"transB": 1}, (10, 32), True),
    "matmul": ("MatMul", {}, (32, 10), False),
}


def graph_of(folder: Path, name: str) -> tuple[ir.Model, QuantPlan, list[Sample]]:
    op, attributes, shape, bias = CASES[name]
    inputs = ["x", "w", *(["b"] if bias else [])]
    held = [weights("w", *shape), *([const("b", np.linspace(-1, 1, shape[0]), np.float32)] if bias else [])]
    source = [1, 8, 9, 9] if op == "Conv" else [1, 32]
    path = save(
        folder / "net.onnx", [node(op, inputs, ["y"], **attributes)], ([port("x", source)], [port("y", None)]), held
    )
    graph = prepare(load_graph(str(path)))
    draw = np.random.default_rng(1)
    mix = draw.normal(size=(source[1], source[1]))  # inputs that go together, as those of real layers do
    samples = [Sample({"x": _correlated(draw, mix, source)}) for _ in range(24)]
    return graph, plan_of(graph, samples), samples


def _correlated(draw: np.random.Generator, mix: Array, shape: list[int]) -> Array:
    values = np.abs(draw.normal(size=(shape[1], int(np.prod(shape[2:])))))
    return np.asarray((mix @ values).reshape(shape), np.float32)


def noise(graph: ir.Model, other: ir.Model, samples: list[Sample]) -> Array:
    """What the outputs of two graphs differ by, over all samples."""
    first, second = FloatModel(graph), FloatModel(other)
    found = [
        next(iter(first.outputs(s.inputs).values())) - next(iter(second.outputs(s.inputs).values())) for s in samples
    ]
    return np.concatenate(found).astype(np.float64)


def nearest(graph: ir.Model, plan: QuantPlan) -> dict[str, Array]:
    held = graph.graph.initializers
    return {
        name: dequantize(quantize(constant(held[name]), plan[name]), plan[name]).astype(np.float32)
        for name in weights_of(graph, plan)
    }


@pytest.mark.parametrize("name", CASES)
def test_rounded_by_what_they_multiply(tmp_path: Path, name: str) -> None:
    graph, plan, samples = graph_of(tmp_path, name)
    found = reconstruct(graph, plan, samples, SilentProgress(), len(samples))
    assert set(weights_of(graph, plan)) <= set(found)
    for weight, quant in weights_of(graph, plan).items():
        on_grid = dequantize(quantize(found[weight], quant), quant)
        np.testing.assert_allclose(found[weight], on_grid, rtol=1e-6, atol=1e-7)
    ours = noise(graph, with_constants(graph, found), samples)
    theirs = noise(graph, with_constants(graph, nearest(graph, plan)), samples)
    assert np.sum(ours**2) < 0.8 * np.sum(theirs**2)


def test_mean_error_goes_into_the_bias(tmp_path: Path) -> None:
    """Of what the layer gives for inputs that are integers, as those of the artifact are."""
    graph, plan, samples = graph_of(tmp_path, "gemm")
    found = reconstruct(graph, plan, samples, SilentProgress(), len(samples))
    assert "b" in found
    left = noise(graph, with_rounding(graph, {"x": plan["x"]}, found), samples).mean(0)
    only_weights = {key: value for key, value in found.items() if key != "b"}
    before = noise(graph, with_rounding(graph, {"x": plan["x"]}, only_weights), samples).mean(0)
    assert np.abs(left).max() < 1e-5 < np.abs(before).max()


def test_the_same_every_time_and_nothing_else_changes(tmp_path: Path) -> None:
    graph, plan, samples = graph_of(tmp_path, "conv")
    before = {name: constant(value) for name, value in graph.graph.initializers.items()}
    first = reconstruct(graph, plan, samples, SilentProgress(), len(samples))
    second = reconstruct(graph, plan, samples, SilentProgress(), len(samples))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    for name, array in before.items():
        np.testing.assert_array_equal(constant(graph.graph.initializers[name]), array)


def test_inputs_that_are_always_zero(tmp_path: Path) -> None:
    """A channel that never says anything leaves its weights as near as they can be, and nothing infinite."""
    graph, plan, samples = graph_of(tmp_path, "conv")
    silent = [
        Sample({"x": sample.inputs["x"] * (np.arange(8) > 3).astype(np.float32)[:, None, None]}) for sample in samples
    ]
    found = reconstruct(graph, plan, silent, SilentProgress(), len(silent))
    assert all(np.isfinite(array).all() for array in found.values())


def test_a_graph_without_layers(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], ([port("x", [1, 4], FLOAT)], [port("y", [1, 4])]))
    graph = prepare(load_graph(str(path)))
    samples = [Sample({"x": np.ones((1, 4), np.float32)})]
    assert reconstruct(graph, plan_of(graph, samples), samples, SilentProgress(), 1) == {}


def two_layers(folder: Path) -> tuple[ir.Model, QuantPlan, list[Sample]]:
    nodes = [node("Gemm", ["x", "w", "b"], ["h"], transB=1), node("Gemm", ["h", "v", "b"], ["y"], transB=1)]
    held = [weights("w", 32, 32), weights("v", 32, 32), weights("b", 32)]
    path = save(folder / "net.onnx", nodes, ([port("x", [1, 32])], [port("y", [1, 32])]), held)
    graph, draw = prepare(load_graph(str(path))), np.random.default_rng(2)
    samples = [Sample({"x": draw.normal(size=(1, 32)).astype(np.float32)}) for _ in range(200)]
    return graph, plan_of(graph, samples), samples


def test_a_layer_is_fed_what_the_one_before_gives_in_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, plan, samples = two_layers(tmp_path)
    fed = []

    def observed(layer: Layer, wanted: list[Array], given: list[Array]) -> object:
        fed.append((np.concatenate(wanted), np.concatenate(given)))
        return _observed(layer, wanted, given)

    monkeypatch.setattr("edgekit.quant.reconstruct._observed", observed)
    found = reconstruct(graph, plan, samples, SilentProgress(), len(samples))
    first = {name: array for name, array in found.items() if name != "v"}
    stored = {name: plan[name] for name in ("x", "h")}
    (wanted, given), rounded = fed[1], FloatModel(with_rounding(graph, stored, first), inner=True)
    for i, sample in enumerate(samples[::2][: len(given)]):
        rounded.outputs(sample.inputs)
        np.testing.assert_allclose(given[i], rounded.tensors["h/mul"][0], atol=1e-6)
    assert np.abs(wanted - given).max() > 0


def test_little_memory_takes_fewer_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, plan, samples = two_layers(tmp_path)
    looked_at = []

    def observed(layer: Layer, wanted: list[Array], given: list[Array]) -> object:
        looked_at.append(len(wanted))
        return _observed(layer, wanted, given)

    monkeypatch.setattr("edgekit.quant.reconstruct._observed", observed)
    for memory in (1 << 28, 2 * 32 * 4 * 50, 1):
        monkeypatch.setattr("edgekit.quant.reconstruct.MEMORY", memory)
        assert reconstruct(graph, plan, samples, SilentProgress(), len(samples))
    assert looked_at == [100, 100, 50, 50, 8, 8]
