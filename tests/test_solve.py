"""Rules that turn ranges into a plan: the LiteRT 8-bit quantization specification, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from nets import cnn, inputs_of, plan_of
from small_graphs import Builder

from edgekit.audit import audit
from edgekit.emitters import onnx_qdq, tflite
from edgekit.frontends import load_graph
from edgekit.graph import activations, constant, units
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant import numerics
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.kernels import computes_in_integers
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.precision import plan_for
from edgekit.quant.ranges import Method
from edgekit.quant.solve import Rules, solve
from edgekit.runners import ArtifactModel, FloatModel
from edgekit.target import PRECISIONS


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    return prepare(load_graph(str(cnn(tmp_path_factory.mktemp("net") / "net.onnx"))))


def planned(
    build: Callable[[Builder, str], str], *shape: int, rules: Rules | None = None
) -> tuple[ir.Model, QuantPlan]:
    """A graph around x, and its plan from seeded samples."""
    g = Builder()
    model = prepare(g.model(build(g, g.input(*(shape or (1, 4, 6, 6))))))
    return model, plan_of(model, inputs_of(model, 8), rules)


def array_of(model: ir.Model, name: str) -> np.ndarray:
    found = constant(model.graph.initializers[name])
    assert found is not None
    return found


# -- weights and biases ---------------------------------------------------------------------------------------------


def test_weights_are_symmetric_per_output_channel(net: ir.Model) -> None:
    plan = plan_of(net, inputs_of(net))
    for name, channels in (("w1", 6), ("w2", 6), ("head", 5)):
        q, weights = plan[name], array_of(net, name)
        assert (q.dtype, q.axis, q.zero_point, q.limits) == ("int8", 0, (0,) * channels, (-127, 127))
        np.testing.assert_allclose(q.scale, np.abs(weights).max(tuple(range(1, weights.ndim))) / 127, rtol=1e-6)


def test_biases_have_the_scale_of_input_times_weight(net: ir.Model) -> None:
    plan = plan_of(net, inputs_of(net))
    for node in net.graph:
        if node.op_type in ("Conv", "Gemm"):
            source, weight, bias = (str(value.name) for value in node.inputs)
            assert plan[bias] == numerics.bias(plan[source], plan[weight]) and plan[bias].dtype == "int32"
            step = plan[source].scale[0] * np.asarray(plan[weight].scale)
            np.testing.assert_allclose(plan[bias].scale, step, rtol=1e-6)


def test_one_scale_for_a_fully_connected_layer_where_the_target_asks(net: ir.Model) -> None:
    plan = plan_of(net, inputs_of(net), Rules(per_channel_fully_connected=False))
    assert plan["head"].axis is None and len(plan["head"].scale) == len(plan["bias"].scale) == 1
    assert plan["head"].scale[0] == pytest.approx(np.abs(array_of(net, "head")).max() / 127, rel=1e-6)
    assert len(plan["w1"].scale) == 6


@pytest.mark.parametrize(
    ("build", "axis", "channels"),
    [
        (lambda g, x: g.conv(x, 4, 4, (3, 3), group=4), 0, 4),
        (lambda g, x: g.node("ConvTranspose", x, g.weights(4, 7, 2, 2)), 1, 7),
        (lambda g, x: g.node("MatMul", x, g.weights(6, 9)), 1, 9),
    ],
    ids=["depthwise", "transposed", "matmul"],
)
def test_the_output_channels_of_an_op(build: Callable[[Builder, str], str], axis: int, channels: int) -> None:
    model, plan = planned(build)
    weights = {name: q for name, q in plan.items() if q.narrow}
    (name, q), *none = weights.items()
    assert not none and q.axis == axis and len(q.scale) == channels == array_of(model, name).shape[axis]


def test_a_channel_of_zeros_or_with_a_huge_bias_still_fits_int32() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)
    weights[1], weights[2] = 0, weights[2] * 1e-12
    bias = np.float32([0.5, 0.0, 300.0, -300.0])
    model, plan = planned(lambda g, x: g.node("Conv", x, g.const(weights), g.const(bias)))
    q = next(plan[name] for name, q in plan.items() if q.dtype == "int32")
    stored = bias / np.float64(q.scale)
    assert (np.abs(stored) <= 2**30 * 1.0001).all() and np.isfinite(q.scale).all()
    sample = inputs_of(model, 8)[0]
    wanted = np.einsum("oi,nihw->nohw", weights[..., 0, 0], sample.inputs["x"]) + bias[:, None, None]
    for artifact in (onnx_qdq.emit(model, plan), tflite.emit(model, plan)):
        found = next(iter(ArtifactModel(artifact.data).outputs(sample.inputs).values()))
        assert np.abs(found - wanted).max() <= 600 / 255 * 1.01


# -- activations ----------------------------------------------------------------------------------------------------


def test_each_activation_has_the_scale_of_its_own_range(net: ir.Model) -> None:
    names = [str(value.name) for value in activations(net.graph)]
    ranges = {name: (-1.0 - i, 2.0 + i) for i, name in enumerate(names)}
    plan = solve(net, ranges)
    for name in ("image", "c2", "scores"):
        assert plan[name] == numerics.affine(*ranges[name])
    assert {q.dtype for name, q in plan.items() if name in names} == {"int8"}


def test_a_softmax_of_small_shares_has_a_scale_of_its_own_inside_the_network() -> None:
    g = Builder()
    shares = g.node("Softmax", g.node("Mul", g.input(1, 4, 200), g.const(0.5)))
    model = prepare(g.model(g.node("MatMul", shares, g.weights(200, 8))))
    plan = plan_of(model, inputs_of(model, 8))
    assert plan[shares].scale[0] < 1 / 2560 and plan[shares].range[0] == 0
    sample = inputs_of(model, 8)[0]
    (wanted,) = FloatModel(model).outputs(sample.inputs).values()
    for artifact in (onnx_qdq.emit(model, plan), tflite.emit(model, plan)):
        assert audit(artifact.data).precision == "int8"
        (found,) = ArtifactModel(artifact.data).outputs(sample.inputs).values()
        assert np.square(found - wanted).sum() < 10**-3.0 * np.square(wanted).sum()
    for last, high in ((False, 0.51), (True, 0.01)):
        g = Builder()
        shares = g.node("Softmax", g.input(1, 200))
        model = prepare(g.model(shares if last else g.node("Tanh", shares)))
        assert solve(model, {shares: (0.0, high), "x": (-1.0, 1.0)})[shares] == numerics.fixed(1 / 256, -128)


def test_pooling_and_reshaping_keep_the_scale(net: ir.Model) -> None:
    plan = plan_of(net, inputs_of(net))
    assert plan["r1"] == plan["p1"] and plan["g2"] == plan["f2"] and plan["r1"] != plan["r2"]


SHARING: dict[str, Callable[[Builder, str], str]] = {
    "MaxPool": lambda g, x: g.node("MaxPool", x, kernel_shape=[2, 2]),
    "AveragePool": lambda g, x: g.node("AveragePool", x, kernel_shape=[2, 2]),
    "Reshape": lambda g, x: g.node("Reshape", x, g.const([1, 8, -1])),
    "Transpose": lambda g, x: g.node("Transpose", x, perm=[0, 2, 3, 1]),
    "Slice": lambda g, x: g.node("Slice", x, g.const([1]), g.const([3]), g.const([2])),
    "Pad": lambda g, x: g.node("Pad", x, g.const([0, 1, 0, 0, 0, 2, 0, 0])),
    "Resize": lambda g, x: g.node("Resize", x, "", g.const([1.0, 1.0, 2.0, 2.0]), mode="nearest"),
}


@pytest.mark.parametrize("name", SHARING)
def test_ops_that_only_move_values_keep_one_scale(name: str) -> None:
    model, plan = planned(lambda g, x: SHARING[name](g, g.conv(x, 4, 8)))
    node = next(n for n in model.graph if n.op_type == name)
    before, after = str(node.inputs[0].name), str(node.outputs[0].name)  # type: ignore[union-attr]
    assert plan[before] == plan[after] != plan["x"]


def test_what_a_concat_joins_shares_the_widest_range() -> None:
    def build(g: Builder, x: str) -> str:
        small, large = g.node("Mul", x, g.const(np.float32(0.9))), g.node("Mul", x, g.const(np.float32(1.1)))
        return g.node("Concat", g.conv(small, 4, 4), g.conv(large, 4, 4), axis=1)

    model, plan = planned(build)
    node = next(n for n in model.graph if n.op_type == "Concat")
    joined = [plan[str(value.name)] for value in (*node.inputs, *node.outputs)]  # type: ignore[union-attr]
    assert len(set(joined)) == 1
    ranges = {str(value.name): (-1.0, 1.0) for value in activations(model.graph)}
    first, second = (str(value.name) for value in node.inputs)  # type: ignore[union-attr]
    ranges |= {first: (-1.5, 1.0), second: (-1.0, 1.9)}
    assert solve(model, ranges)[str(node.outputs[0].name)] == numerics.affine(-1.5, 1.9)


@pytest.mark.parametrize(
    ("op", "scale", "zero_point"),
    [("Softmax", 1 / 256, -128), ("Sigmoid", 1 / 256, -128), ("Tanh", 1 / 128, 0), ("LogSoftmax", 1 / 16, 127)],
)
def test_scales_that_the_specification_fixes(op: str, scale: float, zero_point: int) -> None:
    model, plan = planned(lambda g, x: g.node(op, g.conv(x, 4, 4)))
    assert plan[str(model.graph.outputs[0].name)] == QParams("int8", (scale,), (zero_point,))
    reshaped, through = planned(lambda g, x: g.node("Reshape", g.node(op, g.conv(x, 4, 4)), g.const([1, -1])))
    assert through[str(reshaped.graph.outputs[0].name)] == QParams("int8", (scale,), (zero_point,))


def test_sixteen_bit_activations_are_symmetric_with_wide_biases(net: ir.Model) -> None:
    ranges = {str(value.name): (-1.0, 3.0) for value in activations(net.graph)}
    plan = solve(net, ranges, None, "int16")
    kept = {str(value.name): plan[str(value.name)] for value in activations(net.graph)}
    assert {(q.dtype, q.zero_point) for q in kept.values()} == {("int16", (0,))}
    assert plan["w1"].dtype == "int8" and plan["b2"].dtype == "int64"


def test_what_stays_float_and_what_was_given(net: ir.Model) -> None:
    ranges = {str(value.name): (-1.0, 3.0) for value in activations(net.graph)}
    name = next(str(n.name) for n in net.graph if n.op_type == "Gemm")
    plan = solve(net, ranges, Rules(float_nodes=frozenset({name})))
    assert plan.float_nodes == {name} and not {"head", "bias", "scores"} & set(plan) and "f2" in plan
    given = QParams("int8", (0.125,), (5,))
    taken = solve(net, ranges, Rules(given={"p1": given, "scores": given}))
    assert taken["p1"] == taken["r1"] == taken["scores"] == given and taken.exact
    assert "image" in plan and "image" not in taken and not plan.exact  # it came without a scale


def test_the_scale_that_a_weight_came_with_is_kept_while_its_numbers_lie_on_it(net: ir.Model) -> None:
    ranges = {str(value.name): (-1.0, 3.0) for value in activations(net.graph)}
    off_grid = QParams("int8", (0.123,), (0,))
    plan = solve(net, ranges)
    given = {name: q for name, q in plan.items() if q.dtype == "int8"} | {"w2": off_grid}
    assert solve(net, ranges, Rules(given=given))["w2"] == plan["w2"]
    coarse = Builder()
    x = coarse.input(1, 3)
    y = coarse.node("MatMul", x, coarse.const(np.float32([[0.5, -1.0], [1.5, 0.0], [-60.0, 63.5]])))
    model = prepare(coarse.model(y))
    given = QParams("int8", (0.5,), (0,))
    name = next(iter(model.graph.initializers))
    assert solve(model, {"x": (-1, 1), y: (-1, 1)}, Rules(given={"x": given, name: given}))[name] == given


# -- precisions -----------------------------------------------------------------------------------------------------


def test_every_precision_is_a_plan(net: ir.Model) -> None:
    ranges = {str(value.name): (-1.0, 3.0) for value in activations(net.graph)}
    plans = {p: plan_for(net, p, ranges, Rules()) for p in PRECISIONS}
    assert len(plans["float32"]) == 0 and plans["int8"] == solve(net, ranges)
    assert plans["int16x8"]["image"].dtype == "int16" and plans["mixed"] == plans["int8"]
    halves = {"w1", "w2", "head"}  # biases are too small to be worth a conversion
    assert set(plans["float16"]) == halves and {q.dtype for q in plans["float16"].values()} == {"float16"}
    assert len(plans["dynamic-int8"]) == 0  # so are these weights in int8


def test_dynamic_int8_plans_large_weights_alone() -> None:
    g = Builder()
    x = g.input(1, 64)
    model = prepare(g.model(g.node("MatMul", g.node("MatMul", x, g.weights(64, 32)), g.weights(32, 4))))
    plan = plan_for(model, "dynamic-int8", {}, Rules())
    (name, q), *none = plan.items()
    assert not none and (q.dtype, q.axis, len(q.scale)) == ("int8", 1, 32)
    first = next(n for n in model.graph if n.op_type in ("MatMul", "Gemm"))
    left_out = Rules(float_nodes=frozenset({str(first.name)}))
    assert name == str(first.inputs[1].name)  # type: ignore[union-attr]
    assert len(plan_for(model, "dynamic-int8", {}, left_out)) == 0


def attention() -> ir.Model:
    """One block: normalisation, a product that makes q, k and v, attention of two heads, a product, the sum with x."""
    g = Builder()
    x = g.input(1, 10, 16)
    parts = g.node("MatMul", g.node("LayerNormalization", x, g.const(np.ones(16, np.float32))), g.weights(16, 48))
    heads = g.node("Transpose", g.node("Reshape", parts, g.const([1, 10, 6, 8])), perm=[0, 2, 1, 3])
    q, k, v = g.nodes("Split", 3, heads, axis=1, num_outputs=3)
    shares = g.node(
        "Softmax", g.node("MatMul", g.node("Mul", q, g.const(0.35)), g.node("Transpose", k, perm=[0, 1, 3, 2]))
    )
    mixed = g.node("Reshape", g.node("Transpose", g.node("MatMul", shares, v), perm=[0, 2, 1, 3]), g.const([1, 10, 16]))
    summed = g.node("Add", x, g.node("MatMul", mixed, g.weights(16, 16)))
    inner = g.node("Gelu", g.node("MatMul", summed, g.weights(16, 32)))
    return prepare(g.model(g.node("Relu", g.node("Transpose", inner, perm=[0, 2, 1]))))


def test_mixed_is_int8_where_there_are_weights_and_real_in_attention() -> None:
    model = attention()
    samples = inputs_of(model, 8)
    statistics = observe(model, samples, Method("minmax"), SilentProgress(), len(samples))
    plan = plan_for(model, "mixed", ranges_of(statistics, Method("minmax")), Rules())
    computed: dict[bool, list[str]] = {True: [], False: []}
    for unit in units(model.graph):
        computed[computes_in_integers(unit, plan)].append(unit.node.op_type)
    # the last Transpose stands between Gelu and a Relu that nothing real reads
    assert Counter(computed[True]) == {"MatMul": 3, "Transpose": 4, "Reshape": 2, "Split": 1, "Add": 1, "Relu": 1}
    assert Counter(computed[False]) == {"LayerNormalization": 1, "MatMul": 2, "Mul": 1, "Softmax": 1, "Gelu": 1}
    for artifact in (onnx_qdq.emit(model, plan), tflite.emit(model, plan)):
        assert audit(artifact.data).precision == "mixed"
        wanted = FloatModel(model).outputs(samples[0].inputs)
        for name, value in ArtifactModel(artifact.data).outputs(samples[0].inputs).items():
            assert np.square(value - wanted[name]).sum() < 10**-2.5 * np.square(wanted[name]).sum()


def test_what_moves_data_between_real_ops_is_real_in_mixed() -> None:
    g = Builder()
    turned = g.node("Transpose", g.node("Softmax", g.input(1, 4, 6)), perm=[0, 2, 1])
    model = prepare(
        g.model(g.node("MatMul", g.node("Gelu", g.node("Reshape", turned, g.const([1, 24]))), g.weights(24, 3)))
    )
    ranges = {str(value.name): (-1.0, 1.0) for value in activations(model.graph)}
    real = {node.op_type for node in model.graph if node.name in plan_for(model, "mixed", ranges, Rules()).float_nodes}
    assert real == {"Softmax", "Transpose", "Reshape", "Gelu"}


def test_halves_leave_out_what_half_precision_cannot_hold() -> None:
    g = Builder()
    x = g.input(1, 8)
    large = g.const(np.full((8, 8), 70_000.0, np.float32))
    model = prepare(g.model(g.node("MatMul", g.node("MatMul", x, large), g.weights(8, 8))))
    assert len(plan_for(model, "float16", {}, Rules())) == 1


@pytest.mark.parametrize("precision", ["dynamic-int8", "int8"])
def test_a_batch_of_constant_matrices_has_no_scale_per_column(precision: str) -> None:
    """Its second axis is no column; as an activation it has one scale, and in dynamic-int8 none."""
    g = Builder()
    held = g.weights(4, 16, 32)
    model = prepare(g.model(g.node("MatMul", g.input(4, 8, 16), held)))
    ranges = {str(value.name): (-1.0, 1.0) for value in activations(model.graph)}
    plan = plan_for(model, precision, ranges, Rules())
    assert [len(q.scale) for name, q in plan.items() if name == held] == ([1] if precision == "int8" else [])
