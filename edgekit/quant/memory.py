"""The range of an LSTM's cell state in int8.

A cell state grows with the length of the sequence, while the tanh behind it tells nothing apart beyond 3: in the scale
of its whole range, its eight bits are wasted. But a state that is cut off is also forgotten sooner, so how far it may
be cut is tried out on calibration inputs, with the state and what is kept of it rounded in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, constant
from edgekit.passes.recurrent import ACTIVATIONS, activations, weights
from edgekit.quant import numerics
from edgekit.quant.plan import QParams
from edgekit.quant.ranges import Range
from edgekit.reference import Reference
from edgekit.samples import Sample

SAMPLES = 32
LIMITS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # that are tried where the state goes beyond them
KEPT = ("memory", "kept")  # the state, and the part of it that the forget gate lets through


def limits(model: ir.Model, samples: Iterable[Sample], kept: Mapping[str, Range]) -> dict[str, Range]:
    """For each LSTM that keeps its cell state to itself, the range of it under which the output changes least.

    ``kept`` holds the ranges across all steps (``passes.steps.across_steps``); so does the result.
    """
    plain = [n for n in model.graph if n.op_type == "LSTM" and activations(n) == ACTIVATIONS["LSTM"]]
    nodes = [n for n in plain if not any(v.uses() or v.is_graph_output() for v in n.outputs[2:])]
    if not nodes:
        return {}
    names = list(dict.fromkeys(str(v.name) for n in nodes for v in _read(n) if constant(v) is None))
    reference = Reference(model, names)
    seen = [reference.run(sample.inputs) for sample in islice(samples, SAMPLES)]
    found: dict[str, Range] = {}
    for node in nodes:
        low, high = kept[f"{node.name}/memory"]
        inputs = [_stacked(value, seen) for value in _read(node)]
        exact = _run(node, inputs, None)
        tried = [
            (max(low, -limit), min(high, limit)) for limit in (*LIMITS, max(-low, high)) if limit <= max(-low, high)
        ]
        errors = [float(np.square(_run(node, inputs, numerics.affine(*r)) - exact).sum()) for r in tried]
        best = tried[int(np.argmin(errors))]
        found |= {f"{node.name}/{part}": best for part in KEPT}
    return found


def _read(node: ir.Node) -> list[ir.Value]:
    """The sequence and the initial states that a plain LSTM reads."""
    return [value for value in (node.inputs[0], *node.inputs[5:7]) if value is not None]


def _stacked(value: ir.Value, seen: list[dict[str, Array]]) -> Array:
    """A value of several samples, (time or 1, samples x batch, ...)."""
    array = constant(value)
    return np.concatenate([array if array is not None else s[str(value.name)] for s in seen], 1).astype(np.float64)


def _run(node: ir.Node, inputs: list[Array], memory: QParams | None) -> Array:
    """The hidden states (time, rows, hidden) of a plain LSTM, its cell state stored as ``memory`` says."""
    w, r, b = (array[0].astype(np.float64) for array in weights(node))
    source, hidden, state = inputs[0], inputs[1][0], inputs[2][0]
    taken = source @ w.T + b[: len(w)] + b[len(w) :]
    found = []
    for now in taken:
        i, o, f, new = np.split(now + hidden @ r.T, 4, axis=1)
        state = _stored(_sigmoid(f) * state, memory) + _sigmoid(i) * np.tanh(new)
        state = _stored(state, memory)
        hidden = _sigmoid(o) * np.tanh(state)
        found.append(hidden)
    return np.stack(found)


def _sigmoid(value: Array) -> Array:
    result: Array = 0.5 + 0.5 * np.tanh(0.5 * value)
    return result


def _stored(value: Array, q: QParams | None) -> Array:
    return value if q is None else numerics.dequantize(numerics.quantize(value, q), q).astype(np.float64)
