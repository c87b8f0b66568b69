"""From a target profile to the emitter's options: what is written, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgekit.emitters import Artifact
from edgekit.errors import UnsupportedError
from edgekit.graph import activations
from edgekit.passes.known import unknown_ops
from edgekit.quant.plan import QuantPlan
from edgekit.quant.solve import Rules, solve
from edgekit.target import Target


@dataclass(frozen=True)
class Description:
    """What an artifact says of itself, beside its contract and its plan's hash."""

    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def emit(graph: ir.Model, plan: QuantPlan, target: Target, description: Description | None = None) -> Artifact:
    """The artifact for a target. Raises UnsupportedError that names every node which cannot be expressed."""
    said = description or Description()
    if target.format == "tflite":
        from edgekit.emitters import tflite

        options = tflite.Options(target.input_layout, target.io_dtype, target.ops, said.preprocessing, said.labels, said.facts)
        return tflite.emit(graph, plan, options)
    from edgekit.emitters import onnx_qdq

    return onnx_qdq.emit(graph, plan, onnx_qdq.Options(target.activations, said.preprocessing, said.labels, said.facts))


def emit_float(graph: ir.Model, target: Target) -> bytes:
    """The float32 model in the target's format, to measure the artifact against."""
    if target.format == "tflite":
        from edgekit.emitters import tflite

        return tflite.emit(graph, QuantPlan({}), tflite.Options(target.input_layout, "float32")).data
    from edgekit.emitters import onnx_qdq

    return onnx_qdq.emit(graph, QuantPlan({})).data


def refuse_unsupported(graph: ir.Model, targets: Sequence[Target]) -> None:
    """Write the model once with made-up scales, so that all that a target cannot express is said before work starts.

    Raises UnsupportedError with every problem of every target.
    """
    unknown = unknown_ops(graph.graph)
    if unknown:
        raise UnsupportedError(unknown)
    problems: list[str] = []
    ranges = {str(value.name): (-1.0, 1.0) for value in activations(graph.graph)}
    for target in targets:
        plan = solve(graph, ranges, Rules(per_channel_fully_connected=target.per_channel_fully_connected))
        try:
            emit(graph, plan, target)
        except UnsupportedError as error:
            problems += [f"{target.name}: {problem}" for problem in error.problems]
    if problems:
        raise UnsupportedError(problems)
