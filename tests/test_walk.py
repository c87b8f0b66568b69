"""A graph run a few nodes at a time: the same values as in one run, and nothing kept that nobody reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from small_graphs import Array, Builder

from edgekit.passes import prepare, steps
from edgekit.quant.walk import Walk, most_held
from edgekit.reference import Reference

C, SIDE = 4, 6


def branched() -> tuple[ir.Model, list[dict[str, Array]]]:
    g = Builder()
    x = g.node("Relu", g.conv(g.input(1, C, SIDE, SIDE), C, C))
    y = g.node("Relu", g.conv(x, C, C))
    return prepare(g.model(g.conv(g.node("Add", x, g.conv(y, C, C)), C, 2))), g.samples()


def layers(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in ("Conv", "MatMul", "Gemm")]


def test_what_each_layer_reads_is_what_one_run_gives() -> None:
    model, samples = branched()
    reference = Reference(model, [str(node.inputs[0].name) for node in layers(model)])  # type: ignore[union-attr]
    walk, wanted = Walk(model, samples), [reference.run(sample) for sample in samples]
    for node in layers(model):
        for got, values in zip(walk.before(str(node.name)), wanted, strict=True):
            np.testing.assert_allclose(got, values[str(node.inputs[0].name)], atol=1e-6)  # type: ignore[union-attr]


def test_only_what_is_still_read_is_held() -> None:
    model, samples = branched()
    walk = Walk(model, samples)
    held = []
    for node in layers(model):
        walk.before(str(node.name))
        held.append(len(walk._held[0]))
    assert held == [1, 1, 2, 1]
    assert most_held(model.graph) == 2 * C * SIDE * SIDE * 4


def test_constants_that_change_change_what_comes_after() -> None:
    model, samples = branched()
    first, second, *_ = layers(model)
    walk, before = Walk(model, samples), Walk(model, samples)
    walk.before(str(first.name))
    weight = first.inputs[1]
    assert weight is not None and weight.const_value is not None
    walk.give({str(weight.name): 2 * weight.const_value.numpy()})
    assert not np.allclose(walk.before(str(second.name))[0], before.before(str(second.name))[0])


def test_the_body_of_a_loop_reads_from_outside() -> None:
    g = Builder()
    out = g.nodes("GRU", 1, g.input(10, 1, 4), g.weights(1, 24, 4), g.weights(1, 24, 8), hidden_size=8)[0]
    flat = g.node("Reshape", out, g.const([10, 8]))
    model = steps.shaped(prepare(g.model(g.node("MatMul", flat, g.weights(8, 3)))), lambda _: "loop").model
    assert any(node.op_type == "Scan" for node in model.graph)
    last, samples = layers(model)[-1], g.samples()
    reference = Reference(model, [str(last.inputs[0].name)])  # type: ignore[union-attr]
    for got, sample in zip(Walk(model, samples).before(str(last.name)), samples, strict=True):
        np.testing.assert_allclose(got, next(iter(reference.run(sample).values())), atol=1e-6)
