"""Every declared op: its signature is the schema's, and both artifacts compute it, in float and in int8."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from op_cases import CASES, Case
from small_graphs import Array, Builder, floating, quantized, runner

from edgekit.emitters import onnx_qdq, tflite
from edgekit.errors import UnsupportedError
from edgekit.graph import OPSET
from edgekit.ops import OPS
from edgekit.passes import prepare
from edgekit.quant.precision import plan_for
from edgekit.quant.solve import Rules
from edgekit.reference import Reference


@pytest.mark.parametrize("name", sorted(OPS))
def test_signature_is_the_schema(name: str) -> None:
    found = OPS[name]
    schema = onnx.defs.get_schema(name, OPSET)
    assert found.since == schema.since_version
    parameters = list(inspect.signature(found.lower).parameters.values())[1:]
    inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    attributes = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert inputs == [one.name for one in schema.inputs][: len(inputs)]
    assert set(attributes) <= set(schema.attributes)
    for attribute, default in attributes.items():
        value = schema.attributes[attribute].default_value
        if value.name and default is not None:
            wanted = onnx.helper.get_attribute_value(value)
            if isinstance(wanted, list):
                wanted = tuple(item.decode() if isinstance(item, bytes) else item for item in wanted)
            assert default == (wanted.decode() if isinstance(wanted, bytes) else pytest.approx(wanted))


def test_every_op_has_a_case() -> None:
    # Recurrent layers take a form before they are written: tests/test_recurrent.py. NonMaxSuppression never computes in
    # integers; tests/test_onnx_nodes.py has it in float.
    assert {case.op for case in CASES} == set(OPS) - {"LSTM", "GRU", "RNN", "Scan", "NonMaxSuppression"}


# By precision: what TFLite cannot express, and what is said.
REFUSED = {
    ("int8", "ReduceProd-row"): "a product of integers with a scale has no sound kernel",
    **{
        ("float", op): f"{op} has no float operator in TFLite"
        for op in ("Acos", "Acosh", "Asin", "Asinh", "Atanh", "Cosh", "Erf", "Sinh")
    },
}
# Least signal-to-noise ratio, where the case's own is for more than four samples: a step function turns half a step of
# its input into a whole one of its output, and a mean or a maximum of few has a narrower range than its input.
LEAST = {
    **dict.fromkeys(("Floor", "Ceil", "Round", "Sign", "Cast"), 18.0),
    **dict.fromkeys(("AveragePool-padded", "AveragePool-include-pad", "AveragePool-ceil"), 32.0),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax-space"), 33.0),
}


def refused(case: Case, precision: str, run: Any) -> bool:
    """Whether the case cannot be expressed, and says so as it should."""
    line = REFUSED.get((precision, case.name))
    if line is not None:
        with pytest.raises(UnsupportedError, match=line):
            run(*graph(case))
    return line is not None


def graph(case: Case) -> tuple[ir.Model, list[dict[str, Array]]]:
    builder = Builder()
    out = case.build(builder, builder.input(*case.shape))
    return builder.model(out), builder.samples(low=case.low, high=case.high)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_int8(case: Case) -> None:
    if refused(case, "int8", quantized):
        return
    found = quantized(*graph(case))
    least = LEAST.get(case.name, case.snr)
    assert found.snr("onnx") >= least
    assert found.snr("tflite") >= least
    assert found.steps() <= case.steps + 1e-3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float(case: Case) -> None:
    if refused(case, "float", floating):
        return
    found = floating(*graph(case))
    for which in (found.onnx, found.tflite):
        for wanted, got in zip(found.wanted, which, strict=True):
            np.testing.assert_allclose(got[0], wanted[0], rtol=1e-3, atol=1e-4)


WEIGHTED: dict[str, tuple[tuple[int, ...], Callable[[Builder, str], str]]] = {
    "conv-3d": ((1, 8, 5, 6, 6), lambda g, x: g.conv(x, 8, 32, (3, 3, 3), pads=[1] * 6)),
    "einsum": ((1, 7, 64), lambda g, x: g.node("Einsum", x, g.weights(64, 4, 16, scale=0.1), equation="bqd,dhe->bhqe")),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_alone_in_int8(name: str) -> None:
    shape, build = WEIGHTED[name]
    g = Builder()
    model = g.model(build(g, g.input(*shape)))
    prepared, reference = prepare(model), Reference(model)
    plan = plan_for(prepared, "dynamic-int8", {}, Rules())
    assert len(plan.tensors) == 1
    for artifact in (onnx_qdq.emit(prepared, plan), tflite.emit(prepared, plan)):
        run = runner(artifact)
        for sample in g.samples():
            (wanted,), (got,) = reference.run(sample).values(), run(sample)
            assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case.transposes is not None and len(case.shape) == 4 and ("int8", case.name) not in REFUSED
    ],
    ids=lambda case: case.name,
)
def test_between_two_convolutions(case: Case) -> None:
    """No TRANSPOSE but where the case says that the graph forces one."""
    builder = Builder()
    inner = case.build(builder, builder.conv(builder.input(*case.shape), case.shape[1], case.shape[1]))
    channels = int(builder.model(inner).graph.outputs[0].shape[1])  # type: ignore[index,arg-type]
    model = builder.model(builder.conv(inner, channels, 4))
    assert quantized(model, builder.samples()).codes.count("TRANSPOSE") == case.transposes
