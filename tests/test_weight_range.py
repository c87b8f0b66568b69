"""How far the integers of a weight reach, and one scale in place of one for each channel, in both artifacts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import Array, inputs_of, plan_of
from small_graphs import Builder

from edgekit.emitters import onnx_qdq, tflite
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant import numerics
from edgekit.quant.precision import plan_for
from edgekit.quant.solve import Rules
from edgekit.quant.weight_range import BOUNDS, SHARES, largest, least_error
from edgekit.runners import ArtifactModel, FloatModel
from edgekit.verify import fidelity, parity


def drawn(name: str) -> Array:
    draw = np.random.default_rng(3)
    shape = (6, 16, 3, 3)
    values = {"normal": draw.normal, "laplace": draw.laplace, "uniform": lambda size: draw.uniform(-1, 1, size)}[name]
    return np.asarray(values(size=shape) * 10.0 ** np.arange(-3, 3).reshape(6, 1, 1, 1), np.float32)


def error(weights: Array, bound: Array, axis: int | None) -> Array:
    q = numerics.symmetric(bound, axis)
    off = np.square(numerics.dequantize(numerics.quantize(weights, q), q).astype(np.float64) - weights)
    return np.asarray(off.sum(tuple(i for i in range(weights.ndim) if i != axis)))


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("name", ["normal", "laplace", "uniform"])
def test_mse_finds_the_least_error(name: str, axis: int | None) -> None:
    weights = drawn(name)
    found, widest = least_error(weights, axis), largest(weights, axis)
    tried = np.asarray([error(weights, widest * share, axis) for share in SHARES])
    assert found.shape == widest.shape and max(SHARES) > 1 > min(SHARES)
    np.testing.assert_allclose(error(weights, found, axis), tried.min(0), rtol=1e-6)
    np.testing.assert_allclose(tried[0], error(weights, widest, axis))
    assert (error(weights, found, axis) < tried[0]).any() or (name, axis) == ("uniform", None)


def test_few_weights_gain_most() -> None:
    """Nine for a channel, as a depthwise convolution of 3x3 has."""
    weights = np.random.default_rng(4).normal(size=(64, 1, 3, 3)).astype(np.float32)
    assert error(weights, least_error(weights, 0), 0).sum() < 0.7 * error(weights, largest(weights, 0), 0).sum()


def test_where_none_is_better_the_largest_value_stays() -> None:
    weights = np.zeros((2, 4), np.float32)
    weights[1, 0] = 5.0
    assert least_error(weights, 0).tolist() == [0.0, 5.0]
    assert least_error(np.zeros((0, 3), np.float32), None).shape == (1,)


def network() -> ir.Model:
    g = Builder()
    x = g.input(1, 3, 8, 8)
    x = g.node("Relu", g.conv(x, 3, 8, (3, 3), pads=[1, 1, 1, 1]))
    x = g.node("Relu", g.conv(x, 8, 8, (3, 3), group=8))
    x = g.node("ConvTranspose", x, g.weights(8, 4, 2, 2), strides=[2, 2])
    x = g.node("Flatten", x)
    return prepare(g.model(g.node("Gemm", x, g.weights(5, 4 * 12 * 12), g.uniform(-1, 1, 5), transB=1)))


@pytest.mark.parametrize("rules", [Rules(per_channel=False), Rules(weight_range="mse")], ids=["one scale", "mse"])
def test_both_artifacts_keep_such_a_plan(rules: Rules) -> None:
    model = network()
    samples = inputs_of(model, 16)
    plan, plain = plan_of(model, samples, rules), plan_of(model, samples)
    weights = [name for name, q in plain.items() if q.narrow]
    assert len(weights) == 4 and plan != plain
    for name in weights:
        assert (len(plan[name].scale) == 1) == (not rules.per_channel)
    files = [onnx_qdq.emit(model, plan).data, tflite.emit(model, plan).data]
    for data in files:
        found = fidelity(model, data, samples, SilentProgress())
        assert min(found.outputs.values()) > 25
    one, other = (ArtifactModel(data) for data in files)
    assert parity(one, other, samples, "other").max_steps <= 1


def test_one_scale_without_calibration() -> None:
    g = Builder()
    x = g.node("Relu", g.conv(g.input(1, 3, 8, 8), 3, 64, (3, 3)))
    model = prepare(g.model(g.node("Gemm", g.node("Flatten", x), g.weights(5, 64 * 36), transB=1)))
    plan = plan_for(model, "dynamic-int8", {}, Rules(per_channel=False, weight_range="mse"))
    assert len(plan) == 2 and all(q.axis is None and len(q.scale) == 1 for q in plan.values())
    reference = FloatModel(model)
    for data in (onnx_qdq.emit(model, plan).data, tflite.emit(model, plan).data):
        artifact = ArtifactModel(data)
        for sample in inputs_of(model, 2):
            (wanted,), (got,) = (runner.outputs(sample.inputs).values() for runner in (reference, artifact))
            assert np.square(wanted - got).sum() < 1e-2 * np.square(wanted).sum()


def test_clustered_weights_may_have_one_scale() -> None:
    model = network()
    samples = inputs_of(model, 4)
    (name, *_) = [n for n, q in plan_of(model, samples).items() if q.narrow and len(q.scale) == 8]
    bounds = tuple(float(n) for n in range(1, 9))
    plan = plan_of(model, samples, Rules(per_channel=False, bounds={name: bounds}))
    assert plan[name].axis is None and plan[name].scale == pytest.approx((8 / 127,))


def test_the_names_are_the_settings() -> None:
    from edgekit.project import WEIGHT_RANGES

    assert tuple(BOUNDS) == WEIGHT_RANGES
