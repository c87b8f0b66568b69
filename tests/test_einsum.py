"""Einsum in the forms that networks have: the same numbers, in float and in int8, from products that runtimes know."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Builder, floating, quantized

from edgekit.errors import UnsupportedError
from edgekit.passes import prepare

SIZES = dict(zip("bhqkdeijlmn", (1, 2, 5, 6, 4, 3, 5, 6, 4, 3, 7), strict=True))
COMPUTED = [
    "bhqd,bhkd->bhqk",
    "bhqk,bhkd->bhqd",
    "bqhd,bkhd->bhqk",
    "bhqk,bkhd->bqhd",
    "...qd,...kd->...qk",
    "ij,jl->il",
    "ij,jl",
    "ij,ij->i",
    "ij,ij->",
    "bij,bij->bij",
    "i,j->ij",
    "ij,jl,lm->im",
    "bij->bji",
    "bij->bj",
    "b i j -> j i b",
    "bij,jl->bl",
    "j,jl->l",
]


def shape(term: str) -> tuple[int, ...]:
    return tuple(SIZES[x] for x in term.strip().replace("...", "bh").replace(" ", ""))


def terms(equation: str) -> list[str]:
    return equation.split("->", maxsplit=1)[0].split(",")


@pytest.mark.parametrize("equation", COMPUTED)
def test_of_computed_tensors(equation: str) -> None:
    g = Builder()
    model = g.model(g.node("Einsum", *[g.input(*shape(term)) for term in terms(equation)], equation=equation))
    samples = g.samples()
    found = floating(model, samples)
    for which in (found.onnx, found.tflite):
        for sample, got in zip(samples, which, strict=True):
            wanted = np.einsum(equation, *sample.values())
            np.testing.assert_allclose(got[0], wanted, rtol=1e-4, atol=1e-5)
    integers = quantized(model, samples)
    assert min(integers.snr("onnx"), integers.snr("tflite")) > 28
    assert integers.steps() <= 1.001


@pytest.mark.parametrize(
    ("equation", "shapes", "codes"),
    [
        ("bqd,de->bqe", [(1, 5, 4), (4, 3)], ["FULLY_CONNECTED"]),
        ("bqd,ed->bqe", [(1, 5, 4), (3, 4)], ["FULLY_CONNECTED"]),
        ("bqd,dhe->bqhe", [(1, 5, 4), (4, 2, 3)], ["FULLY_CONNECTED", "RESHAPE"]),
        ("bqhe,hed->bqd", [(1, 5, 2, 3), (2, 3, 4)], ["RESHAPE", "FULLY_CONNECTED", "RESHAPE"]),
    ],
)
def test_a_constant_is_a_layers_weight(equation: str, shapes: list[tuple[int, ...]], codes: list[str]) -> None:
    g = Builder()
    model = g.model(g.node("Einsum", g.input(*shapes[0]), g.weights(*shapes[1], scale=0.5), equation=equation))
    found = quantized(model, g.samples())
    assert min(found.snr("onnx"), found.snr("tflite")) > 35
    assert [code for code in found.codes if code not in ("QUANTIZE", "DEQUANTIZE")] == codes


def test_a_constant_on_the_left_comes_to_the_right() -> None:
    g = Builder()
    model = prepare(g.model(g.node("Einsum", g.weights(3, 4), g.input(1, 5, 4), equation="ed,bqd->bqe")))
    assert [node.op_type for node in model.graph] == ["MatMul"]


@pytest.mark.parametrize(("equation", "shapes"), [("ii->i", [(4, 4)]), ("...i,...i->...i", [(2, 3), (1, 3)])])
def test_other_forms_are_refused(equation: str, shapes: list[tuple[int, ...]]) -> None:
    g = Builder()
    model = g.model(g.node("Einsum", *[g.input(*one) for one in shapes], equation=equation))
    with pytest.raises(UnsupportedError, match=f"op Einsum of {equation.replace('.', '[.]')} is not supported"):
        prepare(model)
