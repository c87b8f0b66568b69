"""LayerNormalization on integers, against the float one of the very values that the stored integers stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import Builder, outcome, planned

from edgekit import emit
from edgekit.audit import audit
from edgekit.emitters import tflite, tflite_bytes
from edgekit.errors import UnsupportedError
from edgekit.graph import activations
from edgekit.ops import integer_norm
from edgekit.passes import prepare
from edgekit.project import QuantizationConfig
from edgekit.quant import numerics
from edgekit.quant.precision import plan_for
from edgekit.quant.solve import Rules
from edgekit.target import load_target

Array = NDArray[np.float32]
LITERT = load_target("linux-x86_64-litert")
HALF = 0.5  # of a step of the input: what rounding to int8 costs anyway, and what this may cost beside the table
OFF = 0.005  # of a value: what the table of inverse roots may be off


def spread(rng: np.random.Generator) -> Array:
    """Rows whose deviations are one to 36 steps, and one of equal values."""
    rows = rng.normal(0, 1, (1, 33, 64)) * np.logspace(-1.55, 0, 33)[:, None]
    rows[0, 5] = 0.25
    return rows.astype(np.float32)


VALUES = {
    "normal": lambda rng: rng.normal(0, 1, (1, 9, 64)),
    "one row": lambda rng: rng.normal(0, 1, (1, 1, 64)),
    "two values": lambda rng: rng.choice([-1.0, 1.0], (1, 9, 64)),
    "three in a row": lambda rng: rng.normal(0, 1, (2, 9, 3)),
    "many in a row": lambda rng: rng.normal(0, 1, (1, 2, 5000)),
    "large means": lambda rng: rng.normal(0, 1, (1, 9, 64)) + rng.choice([-40.0, 40.0], (1, 9, 1)),
    "spread": spread,
    "as small as epsilon": lambda rng: rng.normal(0, 3e-3, (1, 9, 64)),
    "smaller than epsilon": lambda rng: rng.normal(0, 1e-7, (1, 9, 64)),
}


def inverse(values: Array, axis: int, epsilon: float = 1e-5) -> Array:
    axes = tuple(range(axis % values.ndim, values.ndim))
    return 1 / np.sqrt(values.astype(np.float64).var(axes, keepdims=True) + epsilon)


def normalised(values: Array, axis: int, scale: Array, bias: Array) -> Array:
    mean = values.astype(np.float64).mean(tuple(range(axis % values.ndim, values.ndim)), keepdims=True)
    return (values - mean) * inverse(values, axis) * scale + bias


@pytest.mark.parametrize("form", ["plain", "scale", "scale and bias", "bias", "two axes"])
@pytest.mark.parametrize("name", VALUES)
def test_both_artifacts_give_the_float_result_to_one_step(name: str, form: str) -> None:
    rng = np.random.default_rng(3)
    x = np.asarray(VALUES[name](rng), np.float32)
    axis = -2 if form == "two axes" else -1
    scale, bias = np.ones(x.shape[axis:], np.float32), np.zeros(x.shape[axis:], np.float32)
    if form.startswith("scale"):
        scale = rng.uniform(0.3, 1.7, scale.shape).astype(np.float32)
    if form.endswith("bias"):
        bias = rng.normal(0, 1, bias.shape).astype(np.float32)
    g = Builder()
    constants = [g.const(scale), g.const(bias)] if form.endswith("bias") else [g.const(scale)]
    model = g.model(g.node("LayerNormalization", g.input(*x.shape), *constants, axis=axis))
    found = outcome(*planned(model, [{"x": x}], "int8"), model, [{"x": x}])
    assert not any(audit(artifact.data).float_ops for artifact in found.artifacts)
    given = {name: value for name, value in {"x": x, "c0": scale, "c1": bias}.items() if name in found.plan}
    stored = {k: numerics.dequantize(numerics.quantize(v, found.plan[k]), found.plan[k]) for k, v in given.items()}
    wanted = normalised(stored["x"], axis, stored.get("c0", scale), stored.get("c1", bias))
    quant = found.plan["layernormalization0"]
    real = normalised(stored["x"], axis, np.ones_like(scale), np.zeros_like(bias))
    a_half = HALF * found.plan["x"].scale[0] * inverse(stored["x"], axis)
    allowed = 0.51 * quant.scale[0] + (a_half + OFF * np.abs(real)) * stored.get("c0", scale)
    for got in (found.tflite[0][0], found.onnx[0][0]):
        assert (np.abs(got - np.clip(wanted, *quant.range)) <= allowed).all()
    assert found.steps() <= (2.001 if name == "spread" else 1.001)


def test_the_table_is_close_for_every_sum() -> None:
    table = integer_norm.inverse_roots()
    assert len(table) == integer_norm.ENTRIES
    parts = np.arange(16, integer_norm.VALUES)
    index = np.minimum(parts, integer_norm.FINE - 1) + parts // integer_norm.COARSE
    for end in (parts, parts + 1):
        assert np.abs(table[index] * np.sqrt(end) / integer_norm.ONE - 1).max() < 0.016
        late = parts >= 64
        assert np.abs(table[index] * np.sqrt(end) / integer_norm.ONE - 1)[late].max() < OFF


def test_all_nodes_share_one_table() -> None:
    g = Builder()
    x = g.input(1, 7, 64)
    for _ in range(3):
        x = g.node("LayerNormalization", g.node("Mul", x, g.const(0.5)), g.const(np.ones(64, np.float32)))
    model = g.model(x)
    found = outcome(*planned(model, g.samples(), "int8"), model, g.samples())
    tables = {op.inputs[0] for op in tflite_bytes.read(found.artifacts[1].data).ops if op.code == "GATHER"}
    assert len(tables) == 1 and found.codes.count("GATHER") == 3


@pytest.mark.parametrize("wanted", ["computed", "a mean of 132103 integers"])
def test_what_has_no_integer_form_is_said(wanted: str) -> None:
    g = Builder()
    width = 8 if wanted == "computed" else 132103
    x = g.input(1, 1, width)
    scale = g.node("Abs", g.input(width)) if wanted == "computed" else g.const(np.ones(width, np.float32))
    graph = prepare(g.model(g.node("LayerNormalization", x, scale)))
    plan = plan_for(graph, "int8", {str(v.name): (-1.0, 1.0) for v in activations(graph.graph)}, Rules())
    with pytest.raises(UnsupportedError, match=wanted):
        tflite.emit(graph, plan)


def test_where_floats_are_allowed_it_is_float() -> None:
    g = Builder()
    graph = prepare(g.model(g.node("LayerNormalization", g.input(1, 4, 8), g.const(np.ones(8, np.float32)))))
    config = QuantizationConfig(precision="int8")
    assert emit.resolved(graph, config, "").float_nodes == ()
    allowed = emit.resolved(graph, replace(config, allow_float=True), "")
    assert allowed.float_nodes == ("layernormalization0",)
    emit.refuse_unsupported(graph, {LITERT: "int8"}, config)
    with pytest.raises(UnsupportedError, match="no 32-bit sum holds the squares of int16 values"):
        emit.refuse_unsupported(graph, {LITERT: "int16x8"}, config)
    emit.refuse_unsupported(graph, {LITERT: "int16x8"}, allowed)


def test_a_runtime_without_these_operators_is_told_apart() -> None:
    """TFLM does not load such a file: not all of its operators take 32-bit integers."""
    g = Builder()
    graph = prepare(g.model(g.node("LayerNormalization", g.input(1, 4, 8), g.const(np.ones(8, np.float32)))))
    with pytest.raises(UnsupportedError, match="operator FLOOR_DIV, which the target's runtime does not have"):
        emit.refuse_unsupported(graph, {load_target("microcontroller-tflm"): "int8"}, QuantizationConfig())


def test_a_block_of_attention_is_all_integers() -> None:
    g = Builder()

    def dense(x: str, read: int, given: int) -> str:
        return g.node("Add", g.node("MatMul", x, g.weights(read, given, scale=read**-0.5)), g.uniform(-0.1, 0.1, given))

    def norm(x: str) -> str:
        return g.node("LayerNormalization", x, g.uniform(0.5, 1.5, 32), g.uniform(-0.2, 0.2, 32))

    x = g.input(1, 9, 32)
    query, key, value = (dense(y, 32, 32) for y in [norm(x)] * 3)
    scores = g.node("Mul", g.node("MatMul", query, g.node("Transpose", key, perm=[0, 2, 1])), g.const(32**-0.5))
    x = g.node("Add", x, g.node("MatMul", g.node("Softmax", scores), value))
    x = g.node("Add", x, dense(g.node("Gelu", dense(norm(x), 32, 64)), 64, 32))
    model = g.model(dense(norm(x), 32, 8))
    emit.refuse_unsupported(prepare(model), {LITERT: "int8"}, QuantizationConfig())
    found = outcome(*planned(model, g.samples(), "int8"), model, g.samples())
    for artifact in found.artifacts:
        checked = audit(artifact.data)
        assert checked.precision == "int8" and not checked.float_ops
    assert min(found.snr("onnx"), found.snr("tflite")) > 28
