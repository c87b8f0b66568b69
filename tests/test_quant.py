"""Numbers of the quantizer: parameters from ranges, rounding as the runtimes round, ranges from what was seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from nets import Array, inputs_of, node, port, save
from onnx import TensorProto, helper, numpy_helper
from small_graphs import Builder

from edgekit.errors import DataError
from edgekit.frontends import load_graph
from edgekit.graph import OPSET
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant import numerics
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.plan import LIMITS, QParams
from edgekit.quant.ranges import BINS, METHODS, Method, Statistics
from edgekit.runtimes import open_session
from edgekit.samples import Sample

DRAWS = 200


def ranges_drawn(seed: int = 0) -> list[tuple[float, float]]:
    """Ranges of very different sizes and positions."""
    draw = np.random.default_rng(seed)
    ends = draw.normal(size=(DRAWS, 2)) * 10.0 ** draw.uniform(-6, 6, (DRAWS, 1))
    return [(float(min(pair)), float(max(pair))) for pair in ends]


# -- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_every_range_holds_zero_exactly_and_its_ends_within_a_step(dtype: str) -> None:
    for low, high in ranges_drawn():
        q = numerics.affine(low, high, dtype)
        assert numerics.dequantize(numerics.quantize(np.float32([0.0]), q), q)[0] == 0.0
        ends = np.float32([min(low, 0.0), max(high, 0.0), (low + high) / 2])
        off = np.abs(numerics.dequantize(numerics.quantize(ends, q), q) - ends)
        assert off.max() <= 1.001 * q.scale[0]
        assert float(np.float32(q.scale[0])) == q.scale[0] and q.scale[0] > 0


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale", "zero_point"),
    [
        (0.0, 255.0, "int8", 1.0, -128),
        (0.0, 255.0, "uint8", 1.0, 0),
        (-255.0, 0.0, "int8", 1.0, 127),
        (-128.0, 127.0, "int8", 1.0, 0),
        (2.0, 4.0, "int8", 4 / 255, -128),  # widened down to zero
        (-4.0, -2.0, "int8", 4 / 255, 127),
        (-1.0, 3.0, "int16", 3 / 32767, 0),
        (-3.0, 1.0, "int16", 3 / 32767, 0),
    ],
)
def test_parameters_of_known_ranges(low: float, high: float, dtype: str, scale: float, zero_point: int) -> None:
    assert numerics.affine(low, high, dtype) == QParams(dtype, (float(np.float32(scale)),), (zero_point,))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("end", [0.0, 1e-45, -1e-40, 1e-19, -1e-19])
def test_a_range_of_next_to_nothing_has_a_scale_that_can_be_used(dtype: str, end: float) -> None:
    q = numerics.affine(min(end, 0), max(end, 0), dtype)
    assert np.float32(1) / np.float32(q.scale[0]) < np.inf and q.scale[0] >= np.finfo(np.float32).tiny
    if abs(end) < 1e-30:
        assert q == numerics.affine(0.0, 1.0, dtype)
    values = np.float32([-1e6, 0.0, 1e6])
    stored = numerics.quantize(values, q)
    assert stored[1] == q.zero_point[0] and stored[2] == LIMITS[dtype][1] and stored[0] <= LIMITS[dtype][0] + 1
    assert np.isfinite(numerics.dequantize(stored, q)).all()


def test_weights_of_zero_have_a_scale_that_can_be_used() -> None:
    q = numerics.symmetric(np.zeros(3), 0)
    assert q.scale == (numerics.SMALLEST_SCALE,) * 3 and np.float32(1) / np.float32(q.scale[0]) < np.inf


def test_symmetric_weights_leave_out_the_lowest_integer() -> None:
    weights = np.random.default_rng(1).normal(size=(5, 3, 2)).astype(np.float32) * np.float32([[[0.1]], *[[[9]]] * 4])
    q = numerics.symmetric(np.abs(weights).max((1, 2)), 0)
    assert (q.axis, q.zero_point, q.limits) == (0, (0,) * 5, (-127, 127))
    stored = numerics.quantize(weights, q)
    assert stored.dtype == np.int8 and (np.abs(stored.astype(int)).max((1, 2)) == 127).all()
    off = np.abs(numerics.dequantize(stored, q) - weights).max((1, 2))
    assert (off <= 0.5001 * np.asarray(q.scale)).all()


def test_a_bias_has_the_scale_of_the_sum() -> None:
    weight = QParams("int8", (0.5, 0.125), (0, 0), 3, narrow=True)
    assert numerics.bias(QParams("int8", (0.25,), (9,)), weight) == QParams("int32", (0.125, 0.03125), (0, 0), 0)
    assert numerics.bias(QParams("int16", (0.25,), (0,)), weight).dtype == "int64"
    alone = numerics.bias(QParams("int8", (0.25,), (9,)), QParams("int8", (0.5,), (0,)))
    assert alone == QParams("int32", (0.125,), (0,))
    large = QParams("int32", (2.0**-30,), (0,))
    assert numerics.quantize(np.float32([1.0]) + np.float32(2**-20), large).tolist() == [2**30 + 2**10]


def test_fixed_and_unsigned_parameters() -> None:
    assert numerics.fixed(1 / 256, -128) == QParams("int8", (1 / 256,), (-128,))
    assert numerics.fixed(1 / 256, -128, "int16") == QParams("int16", (1 / 32768,), (0,))
    assert numerics.fixed(1 / 128, 0, "int16") == QParams("int16", (1 / 32768,), (0,))
    assert numerics.fixed(16 / 256, 127, "int16") == QParams("int16", (255 / 16 / 32768,), (0,))
    for low, high in ranges_drawn(2):
        q = numerics.affine(low, high)
        u = numerics.as_unsigned(q)
        assert u.range == q.range and u.dtype == "uint8"
        values = np.random.default_rng(3).uniform(2 * low, 2 * high, 50).astype(np.float32)
        assert (numerics.quantize(values, u).astype(int) - 128 == numerics.quantize(values, q)).all()


# -- rounding: ONNX Runtime is asked --------------------------------------------------------------------------------


def by_runtime(values: Array, q: QParams) -> tuple[Array, Array]:
    """What ONNX Runtime stores and gives back."""
    per_tensor = q.axis is None
    scale = np.asarray(q.scale, np.float32).reshape(() if per_tensor else -1)
    zero = np.asarray(q.zero_point, q.dtype).reshape(() if per_tensor else -1)
    axis = {} if per_tensor else {"axis": q.axis}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["stored"], **axis),
        node("DequantizeLinear", ["stored", "s", "z"], ["real"], **axis),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(q.dtype))
    ports = [port("x", values.shape)], [port("stored", values.shape, kind), port("real", values.shape)]
    held = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")]
    graph = helper.make_graph(nodes, "q", *ports, held)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    found = open_session(proto.SerializeToString(), "onnxruntime").run({"x": values})
    return found["stored"], found["real"]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_rounding_is_the_runtimes(dtype: str) -> None:
    draw = np.random.default_rng(4)
    for low, high in ranges_drawn(5)[:20]:
        q = numerics.affine(low, high, dtype)
        values = draw.uniform(1.2 * low, 1.2 * high, 400).astype(np.float32)
        stored, real = by_runtime(values, q)
        np.testing.assert_array_equal(numerics.quantize(values, q), stored)
        np.testing.assert_allclose(numerics.dequantize(stored, q), real, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_rounding_per_channel_is_the_runtimes(axis: int) -> None:
    values = np.random.default_rng(6).normal(size=(3, 4, 2, 5)).astype(np.float32)
    bound = np.abs(values).max(tuple(i for i in range(4) if i != axis)) * 0.9
    q = numerics.symmetric(bound, axis)
    stored, real = by_runtime(values, q)
    inside = stored > -128  # the runtime knows of no narrow range
    np.testing.assert_array_equal(numerics.quantize(values, q)[inside], stored[inside])
    np.testing.assert_allclose(numerics.dequantize(stored, q), real, rtol=1e-6)


def test_halves_go_to_the_even_neighbour() -> None:
    halves = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    q = QParams("int8", (1.0,), (0,))
    assert numerics.quantize(halves, q).tolist() == [-2, -2, 0, 0, 2, 2] == by_runtime(halves, q)[0].tolist()


# -- ranges ---------------------------------------------------------------------------------------------------------


def seen(values: Array, chunks: int = 1) -> Statistics:
    statistics = Statistics()
    for part in np.array_split(values.astype(np.float32), chunks):
        statistics.update(part)
    return statistics


def drawn(name: str, size: int = 50_000) -> Array:
    draw = np.random.default_rng(7)
    found: dict[str, Callable[[], Array]] = {
        "normal": lambda: draw.normal(size=size),
        "uniform": lambda: draw.uniform(-1, 1, size),
        "relu": lambda: np.maximum(draw.normal(size=size), 0),
        "outlier": lambda: np.append(draw.normal(size=size), 40.0),
        "negative": lambda: -1 - np.abs(draw.normal(size=size)),
        "heavy": lambda: draw.standard_t(3, size),
        "laplace": lambda: draw.laplace(size=6 * size),
    }
    return np.asarray(found[name](), np.float32)


DISTRIBUTIONS = ("normal", "uniform", "relu", "outlier", "negative", "heavy")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_in_parts_or_at_once_is_the_same(name: str) -> None:
    values = drawn(name)
    values = values[np.argsort(-np.abs(values))]  # the largest first: the histogram never has to widen
    once, parts = seen(values), seen(values, 37)
    assert (once.low, once.high, once.count, once.zeros) == (parts.low, parts.high, parts.count, parts.zeros)
    np.testing.assert_array_equal(once.bins, parts.bins)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "moving-average"])  # that tells samples apart
@pytest.mark.parametrize("name", ["normal", "uniform", "relu", "outlier"])
def test_a_histogram_that_grew_tells_nearly_the_same_range(name: str, method: str) -> None:
    values = drawn(name)
    grown = values[np.argsort(np.abs(values))]
    once, parts = Method(method).range_of(seen(values)), Method(method).range_of(seen(grown, 200))
    width = max(once[1] - once[0], float(np.ptp(values)) * 0.05)
    tolerance = 0.15 if method == "entropy" else 0.03  # its divergence is flat around the best range
    np.testing.assert_allclose(parts, once, atol=tolerance * width)


def test_a_histogram_that_grows_loses_no_value_and_no_memory_is_added() -> None:
    statistics, draw = Statistics(), np.random.default_rng(8)
    total = 0.0
    for exponent in range(-12, 6):
        values = (draw.normal(size=1000) * 10.0**exponent).astype(np.float32)
        statistics.update(values.reshape(10, 100))
        total += float(values.astype(np.float64).sum())
    assert statistics.bins.shape == (BINS,) and statistics.bins.sum() == statistics.count == 18_000
    assert statistics.reach >= max(-statistics.low, statistics.high)
    width = 2 * statistics.reach / BINS
    assert abs(float((statistics.centres * statistics.bins).sum()) - total) <= statistics.count * width


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_range_lies_within_what_was_seen_or_zero(name: str, method: str) -> None:
    values = drawn(name)
    low, high = Method(method).range_of(seen(values))
    assert min(float(values.min()), 0.0) <= low < high <= max(float(values.max()), 0.0)
    if name == "relu":
        assert low == 0.0
    if name == "uniform":
        assert low < -0.97 and high > 0.97


def test_minmax_is_all_that_was_seen() -> None:
    values = drawn("outlier")
    assert METHODS["minmax"](seen(values, 9)) == (float(values.min()), 40.0)


def test_a_moving_average_is_of_the_ends_of_samples() -> None:
    """A plain mean of the first hundred; from then on each new sample counts one in a hundred."""
    draw = np.random.default_rng(9)
    samples = [draw.normal(size=64) * scale for scale in (1, 2, 40, 3)]
    ends = [(sample.min(), sample.max()) for sample in samples]
    statistics = Statistics()
    for sample in samples:
        statistics.update(sample.astype(np.float32), histogram=Method("moving-average").needs_histogram)
    np.testing.assert_allclose(METHODS["moving-average"](statistics), np.mean(ends, 0), rtol=1e-6)
    assert not statistics.bins.any()
    for _ in range(196):
        statistics.update(np.float32([-1.0, 1.0]))
    before = statistics.average.copy()
    statistics.update(np.float32([-11.0, 6.0]))
    np.testing.assert_allclose(statistics.average, 0.99 * before + 0.01 * np.asarray([-11.0, 6.0]))
    assert statistics.low < 20 * METHODS["moving-average"](statistics)[0]


@pytest.mark.parametrize("keep", [80.0, 99.0, 99.9])
def test_percentile_leaves_out_its_share(keep: float) -> None:
    values = drawn("normal", 200_000)
    statistics = seen(values, 5)
    low, high = Method("percentile", keep).range_of(statistics)
    tail, slack = (1 - keep / 100) / 2, 4 * statistics.reach / BINS
    assert np.quantile(values, tail) - slack <= low <= np.quantile(values, tail) + slack
    assert np.quantile(values, 1 - tail) - slack <= high <= np.quantile(values, 1 - tail) + slack
    assert Method("percentile", 100.0).range_of(seen(values)) == (float(values.min()), float(values.max()))


def test_one_outlier_among_many_is_cut_off_by_all_but_minmax_and_mse() -> None:
    """For mse one value far out may cost more than all the rest gain; the next test says when."""
    statistics = seen(drawn("outlier"))
    assert Method("percentile").range_of(statistics)[1] < 5
    assert Method("entropy").range_of(statistics)[1] < 20


@pytest.mark.parametrize("name", ["normal", "relu", "outlier", "heavy", "laplace"])
def test_mse_finds_the_least_error(name: str) -> None:
    """The error is measured with the quantizer itself; clipping counts four times."""
    values = drawn(name)

    def error(low: float, high: float) -> float:
        q = numerics.affine(low, high)
        off = (numerics.dequantize(numerics.quantize(values, q), q) - values).astype(np.float64) ** 2
        outside = (values < low) | (values > high)
        return float(off[~outside].sum() + 4 * off[outside].sum())

    low, high = Method("mse").range_of(seen(values, 4))
    ends = [(values.min() * a, values.max() * b) for a in np.linspace(0.2, 1, 9) for b in np.linspace(0.2, 1, 9)]
    assert error(low, high) <= 1.001 * min(error(min(float(a), 0.0), float(b)) for a, b in ends)


def test_exact_zeros_do_not_move_the_range_of_mse() -> None:
    values = drawn("heavy")
    many = np.concatenate([values, np.zeros(20 * values.size, np.float32)])
    assert Method("mse").range_of(seen(many)) == Method("mse").range_of(seen(values))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-38])
def test_a_constant_tensor(method: str, value: float) -> None:
    low, high = Method(method).range_of(seen(np.full(64, value)))
    q = numerics.affine(low, high)
    found = numerics.dequantize(numerics.quantize(np.float32([value]), q), q)[0]
    assert abs(found - value) <= 0.02 * abs(value) + 1e-30


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        seen(np.asarray([0.0, value]))


def test_a_method_that_is_not_known() -> None:
    with pytest.raises(KeyError):
        Method("median").range_of(seen(np.ones(4)))


# -- calibration ----------------------------------------------------------------------------------------------------


def layers() -> ir.Model:
    g = Builder()
    x = g.input(1, 4, 6, 6)
    return prepare(g.model(g.node("Sigmoid", g.conv(g.node("Relu", g.conv(x, 4, 8)), 8, 3))))


def test_calibration_sees_every_activation_of_every_sample() -> None:
    model = layers()
    samples = inputs_of(model, 6)
    found = observe(model, (sample for sample in samples), Method("minmax"), SilentProgress(), 6)
    assert next(iter(found)) == "x" and len(found) == 4
    every = np.concatenate([sample.inputs["x"] for sample in samples])
    assert (found["x"].low, found["x"].high, found["x"].count) == (every.min(), every.max(), every.size)
    relu, sigmoid = list(found.values())[1], list(found.values())[-1]
    assert relu.low == 0.0 < relu.high and 0 < sigmoid.low < sigmoid.high < 1
    low, high = ranges_of(found, Method("minmax"))["x"]
    assert low == pytest.approx(every.min(), rel=2**-12) and high == pytest.approx(every.max(), rel=2**-12)


def test_ranges_forget_what_differs_between_machines() -> None:
    one, other = seen(np.float32([-1.2345678, 2.345679])), seen(np.float32([-1.234568, 2.345678]))
    assert one.low != other.low and one.high != other.high
    assert ranges_of({"t": one}, Method("minmax")) == ranges_of({"t": other}, Method("minmax"))


def test_calibration_without_samples_or_with_values_that_are_not_finite() -> None:
    with pytest.raises(DataError, match="calibration data: holds no samples"):
        observe(layers(), [], Method("mse"), SilentProgress(), 0)
    bad = [Sample({"x": np.full((1, 4, 6, 6), value, np.float32)}) for value in (0.0, np.inf)]
    with pytest.raises(DataError, match="calibration sample 1: tensor x takes values that are not finite"):
        observe(layers(), bad, Method("mse"), SilentProgress(), 2)


def test_whole_numbers_are_not_calibrated(tmp_path: Path) -> None:
    nodes = [node("Gather", ["table", "tokens"], ["x"]), node("Relu", ["x"], ["y"])]
    held = [numpy_helper.from_array(np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2), "table")]
    ports = [port("tokens", [1, 3], TensorProto.INT64)], [port("y", [1, 3, 2])]
    path = save(tmp_path / "net.onnx", nodes, ports, held)
    model = prepare(load_graph(str(path)))
    assert set(observe(model, inputs_of(model, 2), Method("mse"), SilentProgress(), 2)) == {"x", "y"}
