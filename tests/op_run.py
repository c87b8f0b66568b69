"""Runs every op in every precision through both artifacts; ``tests/golden/ops.json`` holds what came of it.

A key is a case of ``op_cases``, or a recurrent op with one of its forms, as ``test_recurrent`` builds them. A precision
holds ``snr``, the worst of the artifacts against the float graph in dB (at most ``EXACT``), and ``steps``, by how many
integers they differ; where TFLite has to refuse ``refused`` says why, and ``snr`` is that of the ONNX artifact alone.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any
from unittest import mock

import test_recurrent as recurrent
from op_cases import CASES, Case
from small_graphs import Builder, Outcome, onnx_alone, outcome, planned, snr

from edgekit.errors import UnsupportedError
from edgekit.quant import precision as rules
from edgekit.quant.precision import DYNAMIC, STATIC

EXACT = 100  # dB: float32 keeps more
ONE_BIT = 6  # dB: machines differ by less
WIDE = 32  # of recurrent layers: large enough for dynamic-int8
PRECISIONS = ("float32", "dynamic-int8", "int8", "int16x8")
FORMS = {
    "fused": (recurrent.LITERT,),
    "loop": (recurrent.LITERT,),
    "unrolled": (recurrent.LITERT, recurrent.ORT),
    "whole": (recurrent.ORT,),
}
"""Of recurrent ops: the runtimes that have each; ``fused`` is only for LSTM."""

Result = dict[str, Any]


@cache
def run(case: Case, precision: str) -> tuple[Outcome, str]:
    """A case through both artifacts; or through ONNX alone, and why TFLite cannot express it."""
    builder = Builder()
    out = case.build(builder, builder.input(*case.shape))
    model, samples = builder.model(out), builder.samples(low=case.low, high=case.high)
    with mock.patch.object(rules, "SMALLEST_DYNAMIC", 1):  # the weights of the cases are small
        graph, plan = planned(model, samples, precision)
    try:
        return outcome(graph, plan, model, samples), ""
    except UnsupportedError as error:
        return onnx_alone(graph, plan, model, samples), _reason(error)


def _reason(error: UnsupportedError) -> str:
    """The op and what is said of it: all but the node and the way out."""
    said = [problem.partition(": ")[2].partition(";")[0] for problem in error.problems]
    return "; ".join(dict.fromkeys(said))


def results() -> dict[str, dict[str, Result]]:
    """What comes of every case and form, by precision."""
    found = {case.name: {p: _result(case, p) for p in PRECISIONS if _has(case, p)} for case in CASES}
    with mock.patch.multiple(recurrent, WIDTH=WIDE, HIDDEN=WIDE):
        for op in recurrent.GATES:
            for form in FORMS if op == "LSTM" else [f for f in FORMS if f != "fused"]:
                found[f"{op}-{form}"] = {p: _formed(op, form, p) for p in PRECISIONS}
    loops = [found[f"{op}-loop"] for op in recurrent.GATES]
    found["Scan"] = {p: min((loop[p] for loop in loops), key=lambda one: float(one["snr"])) for p in PRECISIONS}
    return dict(sorted(found.items()))


def agree(written: dict[str, Result], found: dict[str, Result]) -> bool:
    """Whether the same is refused for the same reason, and the rest is alike: one bit, twice the steps and one."""
    return written.keys() == found.keys() and all(_alike(written[p], found[p]) for p in found)


def _alike(a: Result, b: Result) -> bool:
    if a.keys() != b.keys() or a.get("refused") != b.get("refused"):
        return False
    few, many = sorted((a.get("steps", 0), b.get("steps", 0)))
    return abs(a.get("snr", 0) - b.get("snr", 0)) <= ONE_BIT and many <= 2 * few + 1


def text(found: dict[str, dict[str, Result]]) -> str:
    """JSON with a line for each case."""
    lines = [f"{json.dumps(name)}: {json.dumps(result)}" for name, result in found.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _has(case: Case, precision: str) -> bool:
    return precision != "dynamic-int8" or (case.op in DYNAMIC and bool(run(case, precision)[0].plan.tensors))


def _result(case: Case, precision: str) -> Result:
    found, refused = run(case, precision)
    if refused:
        return {"snr": _whole(found.snr("onnx")), "refused": refused}
    least = {"snr": _whole(min(found.snr("onnx"), found.snr("tflite")))}
    return least | ({"steps": round(found.steps())} if precision in STATIC else {})


def _formed(op: str, form: str, precision: str) -> Result:
    """The worst of an op's layers in a form, each in the runtimes that have it."""
    least = float(EXACT)
    for given in _layers(op, form):
        layer = recurrent.layer(op, **given)
        source, samples = layer.network(), layer.samples()
        wanted = recurrent.wanted(source, samples)
        for target in FORMS[form]:
            try:
                artifact = recurrent.built(source, samples, target, precision, form)
            except UnsupportedError as error:
                return {"refused": error.problems[0].rpartition(" in ")[0].rpartition(": ")[2]}
            least = min(least, snr(wanted, recurrent.outputs(artifact, samples)))
    return {"snr": _whole(least)}


def _layers(op: str, form: str) -> list[dict[str, Any]]:
    """The layers of an op that have a form: fused are only those that start at zero and say nothing else."""
    return [given for name, given in recurrent.LAYERS.values() if name == op and (form != "fused" or not given)]


def _whole(snr: float) -> int:
    return int(min(snr, EXACT))
