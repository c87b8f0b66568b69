"""Masks before a Softmax: one finite addend in the graph, and no room in the scale of the scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import Builder, floating, quantized

from edgekit.emitters import tflite
from edgekit.passes import prepare
from edgekit.passes.attention import HIDDEN
from edgekit.progress import SilentProgress
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.masks import without_masks
from edgekit.quant.ranges import Method
from edgekit.quant.solve import solve
from edgekit.samples import Sample
from edgekit.verify import fidelity

N, WIDTH = 12, 16
SHOWN = np.tril(np.ones((N, N), bool))
CAUSAL = np.where(SHOWN, 0, -np.inf).astype(np.float32)


def attention(g: Builder, masked: Callable[[Builder, str], str]) -> str:
    """Attention of a projection with itself; ``masked`` hides some of its scores."""
    x = g.node("MatMul", g.input(1, N, WIDTH), g.weights(WIDTH, WIDTH, scale=0.5))
    scores = g.node("MatMul", x, g.node("Transpose", x, perm=[0, 2, 1]))
    return g.node("MatMul", g.node("Softmax", masked(g, g.node("Mul", scores, g.const(0.2)))), x)


def fed(g: Builder) -> str:
    return g.input(N, N, dtype="bool", name="mask")


def with_diagonal(samples: list[dict[str, np.ndarray]], shown: bool) -> list[dict[str, np.ndarray]]:
    """In every row the diagonal, which is its largest score, is shown; ``shown`` is how the fed mask says so."""
    for sample in samples:
        if "mask" in sample:
            np.fill_diagonal(sample["mask"], shown)
    return samples


def guarded(g: Builder, x: str) -> str:
    """torch's guard against rows of which all is hidden."""
    weights = g.node("Softmax", g.node("Add", x, g.const(CAUSAL)))
    return g.node("Where", g.node("IsNaN", weights), g.const(0.0), weights)


MASKS: dict[str, Callable[[Builder, str], str]] = {
    "constant": lambda g, x: g.node("Add", x, g.const(CAUSAL)),
    "constant first": lambda g, x: g.node("Add", g.const(np.maximum(CAUSAL, np.finfo(np.float32).min)), x),
    "twice": lambda g, x: g.node("Add", g.node("Add", x, g.uniform(-1, 1, N, N)), g.const(CAUSAL)),
    "hide": lambda g, x: g.node("Where", g.const(~SHOWN, "bool"), g.const(-np.inf), x),
    "show": lambda g, x: g.node("Where", g.const(SHOWN, "bool"), x, g.const([-1e9])),
    "fed": lambda g, x: g.node("Where", fed(g), x, g.const(-np.inf)),
    "fed, hides": lambda g, x: g.node("Where", fed(g), g.const(-1e30), x),
    "fed, added": lambda g, x: g.node("Add", x, g.node("Where", fed(g), g.const(0.0), g.const(-np.inf))),
}


def without(g: Builder, x: str) -> str:
    return x


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_costs_next_to_no_accuracy(name: str) -> None:
    plain, g = Builder(), Builder()
    open_, masked = plain.model(attention(plain, without)), g.model(attention(g, MASKS[name]))
    samples = with_diagonal(g.samples(8), name != "fed, hides")
    for one in floating(masked, samples).tflite, floating(masked, samples).onnx:
        for wanted, got in zip(floating(masked, samples).wanted, one, strict=True):
            np.testing.assert_allclose(got[0], wanted[0], rtol=1e-4, atol=1e-5)
    found, best = quantized(masked, samples), quantized(open_, plain.samples(8))
    assert min(found.snr("onnx"), found.snr("tflite")) > best.snr("tflite") - 4 > 28
    assert {"SELECT", "SELECT_V2"}.isdisjoint(found.codes)


def test_fidelity_does_not_ask_how_far_a_score_is_hidden() -> None:
    g = Builder()
    model = prepare(g.model(attention(g, MASKS["constant"])))
    samples = [Sample(sample) for sample in g.samples(8)]
    ranges = ranges_of(observe(model, samples, Method("minmax"), SilentProgress(), 8), Method("minmax"))
    data = tflite.emit(model, solve(model, ranges)).data
    rows = fidelity(model, data, samples, SilentProgress()).tensors
    assert min(row.snr_db for row in rows) > 25


def test_a_guard_against_nan_is_gone() -> None:
    g = Builder()
    graph = prepare(g.model(guarded(g, g.input(1, N, N)))).graph
    assert [node.op_type for node in graph] == ["Add", "Softmax"]


@pytest.mark.parametrize("always", [True, False])
def test_a_choice_that_is_none_is_gone(always: bool) -> None:
    g = Builder()
    x = g.input(1, N, N)
    condition = g.const(np.full((N, N), always), "bool")
    out = g.node("Where", condition, g.node("Abs", x), g.node("Sqrt", x))
    assert [node.op_type for node in prepare(g.model(out)).graph] == ["Abs" if always else "Sqrt"]


def masked_scores(mask: np.ndarray, *more: np.ndarray) -> tuple[ir.Model, list[str], list[str]]:
    """The prepared graph, and the names of the sums and of the masks."""
    g = Builder()
    x = g.input(1, N, N)
    outs = [g.node("Softmax", g.node("Add", x, g.const(one))) for one in (mask, *more)]
    model = prepare(g.model(*outs))
    sums = [node for node in model.graph if node.op_type == "Add"]
    return model, [str(node.outputs[0].name) for node in sums], [str(node.inputs[1].name) for node in sums]


DEPTH = {"int8": math.log(2 * 256 * N), "int16": math.log(2 * 65536 * N)}


@pytest.mark.parametrize("dtype", DEPTH)
def test_hidden_scores_end_where_a_softmax_gives_zero(dtype: str) -> None:
    model, (total,), (mask,) = masked_scores(CAUSAL)
    found = without_masks(model.graph, {"x": (-3.0, 5.0), total: (HIDDEN, 5.0)}, dtype)
    assert found[total] == pytest.approx((-3 - DEPTH[dtype], 5.0), abs=0.01)
    assert found[mask] == pytest.approx((-8 - DEPTH[dtype], 0.0), abs=0.01)
    assert found["x"] == (-3.0, 5.0)


def test_a_bias_is_kept_beside_what_is_hidden() -> None:
    bias = -0.5 * np.abs(np.arange(N)[:, None] - np.arange(N)) - 1
    model, (total,), (mask,) = masked_scores((bias + CAUSAL).astype(np.float32))
    found = without_masks(model.graph, {"x": (-3.0, 5.0), total: (HIDDEN, 5.0)}, "int8")
    assert found[total] == pytest.approx((-4 - DEPTH["int8"], 4.0), abs=0.01)
    assert found[mask] == pytest.approx((-9 - DEPTH["int8"], 0.0), abs=0.01)


def test_a_row_that_is_hidden_whole_widens_nothing() -> None:
    mask = CAUSAL.copy()
    mask[3] = -np.inf
    model, (total,), _ = masked_scores(mask)
    found = without_masks(model.graph, {"x": (-3.0, 5.0), total: (HIDDEN, 5.0)}, "int8")
    assert found[total] == pytest.approx((-3 - DEPTH["int8"], 5.0), abs=0.01)


@pytest.mark.parametrize("mask", [np.full((N, N), -2000.0), np.linspace(-3, 3, N), np.asarray([[-np.inf]] * N)])
def test_an_addend_that_hides_nothing_from_its_row_keeps_its_range(mask: np.ndarray) -> None:
    model, (total,), _ = masked_scores(mask.astype(np.float32))
    ranges = {"x": (-3.0, 5.0), total: (-3003.0, 5.0)}
    assert without_masks(model.graph, ranges, "int8") == ranges
