"""Every declared op: its signature is the schema's, and both artifacts compute it, in float and in integers."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import op_run
import pytest
from op_cases import CASES, Case
from op_run import run
from small_graphs import Builder, Outcome, quantized, runner

from edgekit.emitters import onnx_qdq, tflite
from edgekit.graph import OPSET
from edgekit.ops import OPS
from edgekit.ops.context import full
from edgekit.ops.declare import unsupported
from edgekit.passes import prepare
from edgekit.quant.precision import plan_for
from edgekit.quant.solve import Rules
from edgekit.reference import Reference

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "ops.json"
sys.path.insert(0, str(ROOT / "docs"))

import generate  # noqa: E402


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


# That the passes write as other ops; tests/test_onnx_nodes.py has the rest of them.
SPELLED_OUT = {"GlobalLpPool", "LRN", "LpPool", "Trilu", *(f"Reduce{n}" for n in ("L1", "L2", "LogSum", "LogSumExp"))}
SPELLED_OUT |= {"ReduceSumSquare"}


def test_every_op_has_a_case() -> None:
    # Recurrent layers, and Scan in their loops, take a form before they are written: tests/test_recurrent.py.
    assert {case.op for case in CASES} == set(OPS) - {"LSTM", "GRU", "RNN", "Scan"} | SPELLED_OUT


@cache
def refuses(function: Any) -> bool:
    """Whether a lowering can refuse a node, by itself or in what it calls."""
    called = [function.__globals__.get(name) for name in function.__code__.co_names]
    ours = [f for f in called if inspect.isfunction(f) and f.__module__.startswith("edgekit.ops") and f is not function]
    return unsupported in called or full in called or any(map(refuses, ours))


@pytest.mark.parametrize("name", sorted(OPS))
def test_what_a_lowering_refuses_is_said(name: str) -> None:
    """After ``Refused:`` in its docstring, unless a case shows it; docs/ops.md has both."""
    spared = name in (
        "Add",
        "Sub",
        "Mul",
        "Gemm",
    )  # Div has the lowering of the first; Gemm comes as the passes write it
    met = any(case.op == name and case.name in names for case in CASES for names in REFUSED.values())
    said = bool(generate.lowering(OPS[name].lower)[1])
    assert said or met or spared or not refuses(OPS[name].lower)
    assert not said or refuses(OPS[name].lower)


def because(line: str, names: str) -> dict[str, str]:
    """The same reason for each of some cases."""
    return dict.fromkeys(names.split(), line)


EVERYWHERE = {"NonMaxSuppression": "gives no fixed number of boxes"}
IN_INTEGERS = EVERYWHERE | {"ReduceProd-row": "a product of integers with a scale has no sound kernel"}
REFUSED: dict[str, dict[str, str]] = {
    "dynamic-int8": {},
    "float32": {
        **EVERYWHERE,
        **{
            op: f"{op} has no float operator in TFLite"
            for op in ("Acos", "Acosh", "Asin", "Asinh", "Atanh", "Cosh", "Erf", "Sinh")
        },
    },
    "int8": IN_INTEGERS,
    "int16x8": {
        **IN_INTEGERS,
        **because(
            "no table holds all int16 values",
            "Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Celu-alpha Cos Cosh Div Div-one-by Elu-alpha Erf Floor "
            "HardSigmoid-onnx IsInf IsNaN Mish Mod Pow-integer Pow-table Reciprocal Round Selu Shrink Shrink-hard Sign "
            "Sin Sinh Softplus Softsign Sqrt Tan ThresholdedRelu "  # and what is written with them:
            "GatherElements-computed GlobalLpPool LRN LpPool LpPool-3 Pow-rms-norm ReduceL2",
        ),
        **because("no 32-bit sum holds the squares of int16 values", "LayerNormalization LayerNormalization-biased"),
        **because("ARG_MAX has no sound int16 kernel", "ArgMax ArgMax-flat Gather-computed"),
        **because("ARG_MIN has no sound int16 kernel", "ArgMin"),
        **because("DEPTH_TO_SPACE has no sound int16 kernel", "DepthToSpace DepthToSpace-torch"),
        **because("ELU has no sound int16 kernel", "Elu"),
        **because("LOG_SOFTMAX has no sound int16 kernel", "LogSoftmax"),
        **because("SPACE_TO_DEPTH has no sound int16 kernel", "SpaceToDepth"),
    },
}
"""By precision: what TFLite cannot express, and what is said. The ONNX artifact keeps all of it."""
# Least signal-to-noise ratio, where the case's own is for more than four samples: a step function turns half a step of
# its input into a whole one of its output, and a mean or a maximum of few has a narrower range than its input.
LEAST = {
    **dict.fromkeys(("Floor", "Ceil", "Round", "Sign", "Cast"), 18.0),
    **dict.fromkeys(("AveragePool-padded", "AveragePool-include-pad", "AveragePool-ceil"), 32.0),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax-space", "ReduceProd-row"), 33.0),
    "TopK-indices": 0.0,
}
# In int16x8 LiteRT reads these functions off 513 points, and ONNX Runtime multiplies a MatMul's input as 8 bits.
STEPS_INT16 = {"Exp": 110, "Gelu": 45, "Gelu-tanh": 45, "Log": 15, "MatMul-constant": 140, "MatMul-vector": 290}
LEAST_INT16 = 67.0  # dB, and with weights of 8 bits, or a convolution before the op:
LEAST_WEIGHTED = 40.0
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", *(name for name in OPS if name.endswith("Normalization")))


def checked(case: Case, precision: str) -> tuple[Outcome, tuple[str, ...]]:
    """A case's outcome, with the formats that can express it; the other says why not, as it should."""
    found, refused = run(case, precision)
    line = REFUSED[precision].get(case.name, "")
    assert line in refused and bool(line) == bool(refused)
    return found, ("onnx",) if refused else ("onnx", "tflite")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_int8(case: Case) -> None:
    found, formats = checked(case, "int8")
    for which in formats:
        assert found.snr(which) >= LEAST.get(case.name, case.snr)
    if "tflite" in formats:
        assert found.steps() <= case.steps + 1e-3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_int16x8(case: Case) -> None:
    found, formats = checked(case, "int16x8")
    least = 60.0 if case.op == "Exp" else LEAST_WEIGHTED if case.op in WEIGHTED_OPS else LEAST_INT16
    for which in formats:
        assert found.snr(which) >= least
    if "tflite" in formats:
        assert found.steps() <= STEPS_INT16.get(case.name, 2) + 0.01


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float(case: Case) -> None:
    found, formats = checked(case, "float32")
    for which in formats:
        for wanted, got in zip(found.wanted, getattr(found, which), strict=True):
            np.testing.assert_allclose(got[0], wanted[0], rtol=1e-3, atol=1e-4)


def test_outcomes_are_as_written(request: pytest.FixtureRequest) -> None:
    """What docs/ops.md says of each op is what its cases give; machines may differ by a bit (``op_run.agree``)."""
    found = op_run.results()
    written = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if request.config.getoption("--update"):
        kept = {name: written[name] for name in found if name in written and op_run.agree(written[name], found[name])}
        GOLDEN.write_text(op_run.text(found | kept), encoding="utf-8")
        written = found
    stale = {*written} ^ {*found} or [name for name in found if not op_run.agree(written[name], found[name])]
    assert not stale, f"{GOLDEN.name} is stale: pytest tests/test_ops.py --update, then python docs/generate.py ops"


@pytest.mark.parametrize(
    "change", [{"snr": 33}, {"steps": 4}, {"refused": "no kernel"}], ids=["less accurate", "further apart", "refused"]
)
def test_another_outcome_is_seen(change: dict[str, Any]) -> None:
    found = {"int8": {"snr": 40, "steps": 1}}
    assert op_run.agree({"int8": {"snr": 44, "steps": 2}}, found)
    assert not op_run.agree({"int8": found["int8"] | change}, found)


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
        if case.transposes is not None and len(case.shape) == 4 and case.name not in REFUSED["int8"]
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
