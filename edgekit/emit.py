"""From a target profile to the emitter's options: what is written, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import onnx_ir as ir

from edgekit.emitters import Artifact
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.graph import Unit, activations, all_units, units
from edgekit.passes.steps import Shaped, fuses, recurrent_nodes, shaped
from edgekit.project import QuantizationConfig
from edgekit.quant.kernels import (
    activations_of,
    computes_in_integers,
    constant_weight,
    has_integer_kernel,
    touches_floats,
)
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.precision import STATIC, default_precision, plan_for
from edgekit.quant.solve import Rules
from edgekit.target import Target
from edgekit.toml_table import near_misses


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

        options = tflite.Options(
            target.input_layout,
            target.io_dtype,
            target.ops,
            target.sparse,
            target.runtime == "litert",
            said.preprocessing,
            said.labels,
            said.facts,
        )
        return tflite.emit(graph, plan, options)
    from edgekit.emitters import onnx_qdq

    return onnx_qdq.emit(graph, plan, onnx_qdq.Options(target.activations, said.preprocessing, said.labels, said.facts))


def emit_float(graph: ir.Model, target: Target) -> bytes:
    """The float32 model in the target's format, to measure the artifact against."""
    graph = form(graph, target, "float32").model
    if target.format == "tflite":
        from edgekit.emitters import tflite

        return tflite.emit(graph, QuantPlan({}), tflite.Options(target.input_layout, "float32")).data
    from edgekit.emitters import onnx_qdq

    return onnx_qdq.emit(graph, QuantPlan({})).data


FLOAT_WHERE_ALLOWED = ("LayerNormalization",)  # its integers are as good and slower
FORMS = {"tflite": ("loop", "unrolled"), "onnx": ("whole", "unrolled")}  # where the target does not say


def form(graph: ir.Model, target: Target, precision: str, asked: str | None = None) -> Shaped:
    """The graph with its recurrent nodes in the form asked for, else in the first of the target's that they can have.

    Raises UnsupportedError that names every node which has none of them.
    """
    wanted = (asked,) if asked else _forms(target)
    chosen = {
        str(node.name): next((f for f in wanted if _has_form(node, f, target.format, precision)), None)
        for node in recurrent_nodes(graph.graph)
    }
    problems = [
        f"{target.name}: node {name}: has no form {' or '.join(wanted)} in {precision}; unrolled is always there"
        for name, found in chosen.items()
        if found is None
    ]
    if problems:
        raise UnsupportedError(problems)
    return shaped(graph, lambda node: chosen[str(node.name)] or "")


def _forms(target: Target) -> tuple[str, ...]:
    return target.recurrent or FORMS[target.format]


def _has_form(node: ir.Node, form: str, written: str, precision: str) -> bool:
    if form == "whole":
        return written == "onnx" and precision not in STATIC
    if form == "fused":
        return written == "tflite" and precision != "int16x8" and fuses(node)
    return form == "unrolled" or written == "tflite"


def precision_of(graph: ir.Model, target: Target, asked: str | None) -> str:
    """The precision to build: the one asked for, else the target's choice. Raises UnsupportedError if it lacks it."""
    if asked is None:
        whole = bool(recurrent_nodes(graph.graph)) and "whole" in _forms(target)
        return default_precision(graph, target.precisions, whole)
    if asked not in target.precisions:
        raise UnsupportedError([f"{target.name}: precision {asked}; this target has {', '.join(target.precisions)}"])
    return asked


def unasked(precisions: Mapping[Target, str], asked: str | None) -> list[str]:
    """A line for each target that gets another precision than its first, because of what the network is."""
    return [
        f"{target.name}: built in {chosen}, as the network has attention or recurrent layers; "
        f"or ask for --precision {target.precisions[0]}"
        for target, chosen in precisions.items()
        if asked is None and chosen != target.precisions[0]
    ]


def resolved(graph: ir.Model, config: QuantizationConfig, file: str) -> QuantizationConfig:
    """The settings with the nodes that their ``float_nodes`` patterns (``fnmatch``) name, by node name or op.

    Where floats are allowed, those of ``FLOAT_WHERE_ALLOWED`` are among them.

    Raises ConfigError for a pattern that names none: what it was to keep in float would be stored in integers.
    """
    nodes = [unit.node for unit in units(graph.graph)]
    found: list[str] = []
    for pattern in config.float_nodes:
        named = [str(n.name) for n in nodes if fnmatchcase(n.op_type, pattern) or fnmatchcase(str(n.name), pattern)]
        if not named:
            hint = near_misses(pattern, [*(str(n.name) for n in nodes), *(n.op_type for n in nodes)])
            raise ConfigError(f"{file}:quantization.float_nodes: no node has the name or op {pattern}{hint}")
        found += named
    if config.allow_float:
        found += [str(node.name) for node in nodes if node.op_type in FLOAT_WHERE_ALLOWED]
    return replace(config, float_nodes=tuple(dict.fromkeys(found)))


def rules_of(target: Target, float_nodes: Sequence[str] = (), given: Mapping[str, QParams] | None = None) -> Rules:
    """What a target and a project ask of a plan, and the scales that the model came with."""
    return Rules(target.per_channel_fully_connected, frozenset(float_nodes), given or {})


def refuse_unsupported(
    graph: ir.Model,
    precisions: Mapping[Target, str],
    config: QuantizationConfig,
    given: Mapping[str, QParams] | None = None,
) -> None:
    """Write the model once with made-up scales, so that all that a target cannot express is said before work starts.

    Nodes that would compute in float in an integer precision are problems too, unless they are allowed to.

    Raises UnsupportedError with every problem of every target.
    """
    problems: list[str] = []
    for target, precision in precisions.items():
        try:
            found = form(graph, target, precision, config.recurrent)
        except UnsupportedError as error:
            problems += error.problems
            continue
        model = found.model
        names = [*(str(value.name) for value in activations(model.graph)), *found.shared]
        ranges = dict.fromkeys(names, (-1.0, 1.0))
        plan = plan_for(model, precision, ranges, rules_of(target, found.nodes(config.float_nodes), given))
        if precision in STATIC and not config.allow_float:
            problems += [f"{target.name}: {problem}" for problem in _floating(model, plan, precision)]
        try:
            emit(model, plan, target)
        except UnsupportedError as error:
            problems += [f"{target.name}: {problem}" for problem in error.problems]
    if problems:
        raise UnsupportedError(list(dict.fromkeys(problems)))


def _floating(graph: ir.Model, plan: QuantPlan, precision: str) -> list[str]:
    """The nodes that compute on real numbers under a plan and were not told to."""
    return [
        f"node {unit.node.name}: {unit.node.op_type} {_why_float(unit, plan)}, so it would be float in {precision}; "
        "allow it (--allow-float), name it in quantization.float_nodes, or take another precision"
        for unit in all_units(graph.graph)
        if touches_floats(unit) and not computes_in_integers(unit, plan) and unit.node.name not in plan.float_nodes
    ]


def _why_float(unit: Unit, plan: QuantPlan) -> str:
    """Without a kernel, or because of what came without a scale in a model that was quantized elsewhere."""
    if not has_integer_kernel(unit):
        return "has no integer kernel"
    weight = constant_weight(unit)
    read = [*activations_of(unit), *([str(weight.name)] if weight is not None else [])]
    return f"has to do with {', '.join(name for name in read if name not in plan)}, which came without a scale"
