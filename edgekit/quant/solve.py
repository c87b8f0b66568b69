"""Ranges + rules -> plan.

The rules are the LiteRT 8-bit quantization specification, read off the op declarations: scales that are observed,
shared, fixed, and weights and biases that follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from edgekit.graph import (
    GATES,
    MEMORY,
    Array,
    Unit,
    all_units,
    attributes,
    clip_bounds,
    constant,
    is_float,
    shape_of,
)
from edgekit.ops import OPS, Scale
from edgekit.quant import numerics
from edgekit.quant.kernels import activations_of, constant_weight, has_integer_kernel, inputs_of, tied, weights_of
from edgekit.quant.masks import without_masks
from edgekit.quant.plan import Lift, QParams, QuantPlan
from edgekit.quant.ranges import Range
from edgekit.quant.weight_range import BOUNDS

WIDEST_MERGE = 2.0  # an input joins a Concat's scale when that widens its own range at most so much (one bit)
SMALLEST_MULTIPLIER = 2.0**-28  # XNNPACK takes input scale x weight scale / output scale from 2^-32 on
LARGEST_BIAS = 2.0**30
ON_GRID = 1e-3  # of a step: what float32 leaves of a weight that was on its grid
EVERYTHING, NOTHING = (-math.inf, math.inf), (math.inf, -math.inf)


@dataclass(frozen=True)
class Rules:
    """What a target asks of the plan, and what it was ``given`` by name (``from_qdq``).

    Where scales are given, a tensor without one stays real; only that of the model's outputs are drawn from ranges.
    ``bounds`` are what a weight's channels are scaled by where their own largest is smaller (``codebook``).
    ``weight_range`` is a key of ``weight_range.BOUNDS``; without ``per_channel``, every weight has one scale. What
    ``int16_nodes`` read and give has 16 bits; nobody else may read or give it (``passes.width``). ``lifts`` say why.
    """

    per_channel_fully_connected: bool = True
    float_nodes: frozenset[str] = frozenset()
    int16_nodes: frozenset[str] = frozenset()
    lifts: tuple[Lift, ...] = ()
    given: Mapping[str, QParams] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weight_range: str = "minmax"
    per_channel: bool = True

    def weight_bound(self, weights: Array, axis: int | None) -> Array:
        """How far the integers of a weight reach: for each index along ``axis``, or one number."""
        return BOUNDS[self.weight_range](np.asarray(weights, np.float64), axis)


class Groups:
    """Tensors that must share one scale (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The name that stands for the tensor's group."""
        while (parent := self._parent.setdefault(name, name)) != name:
            name = parent
        return name

    def join(self, a: str, b: str) -> None:
        """Put two groups together."""
        self._parent[self.find(b)] = self.find(a)


def solve(
    model: ir.Model, ranges: Mapping[str, Range], rules: Rules | None = None, activations: str = "int8"
) -> QuantPlan:
    """The plan for a prepared model, given the range of each of its activations, which become int8 or int16.

    Only what an integer kernel reads or gives is planned.
    """
    rules = rules or Rules()
    ranges = without_masks(model.graph, ranges, activations)
    integer = [u for u in all_units(model.graph) if has_integer_kernel(u) and u.node.name not in rules.float_nodes]
    read = {name for unit in integer for name in activations_of(unit)}
    groups = _groups(integer, rules.given)
    wanted = {name: r for name, r in ranges.items() if name in read}
    if rules.given:
        known = {groups.find(name) for name in (*rules.given, *(str(value.name) for value in model.graph.outputs))}
        wanted = {name: r for name, r in wanted.items() if groups.find(name) in known}
    wide = {name for unit in integer if unit.node.name in rules.int16_nodes for name in activations_of(unit)}
    dtypes = {name: "int16" if name in wide else activations for name in read}
    plan = _activations(integer, groups, wanted, dtypes, rules.given)
    for unit in integer:
        _constants(unit, plan, ranges, rules, dtypes)
        if unit.node.op_type == "LSTM":
            name = f"{unit.outputs[0].name}{MEMORY}"
            plan[name] = numerics.power_of_two(max(map(abs, ranges[name])))
    return QuantPlan(plan, rules.float_nodes, exact=bool(rules.given), lifts=rules.lifts)


def _groups(graph_units: list[Unit], given: Mapping[str, QParams]) -> Groups:
    """Which activations share a scale."""
    groups = Groups()
    for unit in graph_units:
        clips = given and _clips_unstored(unit, given)
        for names in [tuple(activations_of(unit))] if clips else tied(unit):
            for name in names[1:]:
                groups.join(names[0], name)
    return groups


def _clips_unstored(unit: Unit, given: Mapping[str, QParams]) -> bool:
    """Whether a lone Relu or Clip reads what came without a scale: in that of its result it clips the same integers."""
    source = unit.node.inputs[0]
    alone = source is not None and str(source.name) not in given and len(source.uses()) == 1
    return alone and clip_bounds(unit.node) is not None


def _activations(
    graph_units: list[Unit],
    groups: Groups,
    ranges: Mapping[str, Range],
    dtypes: Mapping[str, str],
    given: Mapping[str, QParams],
) -> dict[str, QParams]:
    copies: list[tuple[str, str]] = []
    specified: dict[str, tuple[float, int]] = {}
    for unit in graph_units:
        quant = OPS[unit.node.op_type].quant
        outs = [str(v.name) for v in unit.outputs if is_float(v)]
        if quant.fixed is not None and not _finer(unit, ranges, dtypes):
            specified |= dict.fromkeys(outs, quant.fixed)
        elif unit.node.op_type == "Identity" and outs:
            source = str(unit.node.inputs[0].name)  # type: ignore[union-attr]
            if dtypes.get(source) == dtypes[outs[0]]:
                copies.append((source, outs[0]))
            elif source in specified:
                specified[outs[0]] = specified[source]
    fixed = {name: numerics.fixed(*values, dtypes[name]) for name, values in specified.items()}
    fixed |= {name: q for name, q in given.items() if name in ranges}
    hulls = _hulls(groups, ranges)
    pinned = {groups.find(name): q for name, q in fixed.items()}
    bounds = {str(unit.outputs[0].name): unit.bounds for unit in graph_units}
    for source, copy in copies:
        low, high = _merged(groups, hulls, pinned, source, copy)
        if bounds.get(source, EVERYTHING)[0] <= low <= high <= bounds.get(source, EVERYTHING)[1]:
            groups.join(source, copy)
            hulls[groups.find(source)] = (low, high)
    return {
        name: pinned.get(groups.find(name)) or numerics.affine(*hulls[groups.find(name)], dtypes[name])
        for name in ranges
    }


def _finer(unit: Unit, ranges: Mapping[str, Range], dtypes: Mapping[str, str]) -> bool:
    """Whether the output of an op of fixed scale gets a scale of its own: what attention gives each of many is small.

    In 1/256 a share of one in 200 tokens is one step. What leaves the network keeps the specification's scale.
    """
    out, quant = unit.outputs[0], OPS[unit.node.op_type].quant
    if not quant.finer or quant.fixed is None or dtypes[str(out.name)] != "int8" or out.is_graph_output():
        return False
    return ranges.get(str(out.name), EVERYTHING)[1] <= numerics.fixed(*quant.fixed).range[1] / WIDEST_MERGE


def _hulls(groups: Groups, ranges: Mapping[str, Range]) -> dict[str, Range]:
    hulls: dict[str, Range] = {}
    for name, (low, high) in ranges.items():
        root = groups.find(name)
        before = hulls.get(root, (low, high))
        hulls[root] = (min(before[0], low), max(before[1], high))
    return hulls


def _merged(groups: Groups, hulls: dict[str, Range], pinned: dict[str, QParams], source: str, copy: str) -> Range:
    """The range of a copy and its source in one scale, or NOTHING where that costs more than a QUANTIZE between two."""
    a, b = groups.find(source), groups.find(copy)
    if a not in hulls or b not in hulls or a in pinned or b in pinned:
        return NOTHING
    low, high = min(hulls[a][0], hulls[b][0], 0.0), max(hulls[a][1], hulls[b][1], 0.0)
    narrowest = min(max(hulls[r][1], 0.0) - min(hulls[r][0], 0.0) for r in (a, b))
    return (low, high) if high - low <= WIDEST_MERGE * narrowest else NOTHING


def _constants(
    unit: Unit, plan: dict[str, QParams], ranges: Mapping[str, Range], rules: Rules, dtypes: Mapping[str, str]
) -> None:
    """Quantize the constants of a unit whose activations are in the plan; one that is compared has its own scale."""
    node, quant = unit.node, OPS[unit.node.op_type].quant
    out = plan.get(str(unit.outputs[0].name))
    if not all(name in plan for name in activations_of(unit)):
        return
    for value in inputs_of(unit):
        array = constant(value)
        if array is not None:
            low, high = ranges.get(str(value.name), (float(array.min()), float(array.max())))
            found = rules.given.get(str(value.name)) or numerics.affine(low, high, dtypes[activations_of(unit)[0]])
            plan[str(value.name)] = out if out is not None and quant.scale is Scale.SHARED else found
    source = plan.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
    weight, bias = constant_weight(unit), unit.bias_value
    if weight is None or source is None or out is None or (rules.given and str(weight.name) not in rules.given):
        return
    if quant.recurrent is not None:
        plan |= {
            str(value.name): _by_gate(value, shape_of(weight)[1] // GATES[node.op_type]) for value in weights_of(unit)
        }
        return
    parameters = _weight(unit, source, out, constant(bias), rules)
    plan[str(weight.name)] = parameters
    if bias is not None and constant(bias) is not None:
        plan[str(bias.name)] = numerics.bias(source, parameters)


def _by_gate(weight: ir.Value, hidden: int) -> QParams:
    """A recurrent layer's weights (1, gates x hidden, inputs): one scale a gate, as TFLite's kernels read them."""
    bound = np.abs(np.asarray(constant(weight), np.float64)).reshape(-1, hidden * shape_of(weight)[2]).max(1)
    return numerics.symmetric(np.repeat(bound, hidden), 1)


def _given_weight(unit: Unit, rules: Rules) -> QParams | None:
    """The scales that a weight came with, if its numbers still lie on their grid (a pass may fold factors in)."""
    weight = constant_weight(unit)
    given = rules.given.get(str(weight.name)) if weight is not None else None
    if weight is None or given is None:
        return None
    real = np.asarray(constant(weight), np.float64)
    if given.axis is not None:
        given = replace(given, axis=OPS[unit.node.op_type].quant.channel_axis)
        if given.axis is None or len(given.scale) != real.shape[given.axis]:
            return None
    off = np.abs(numerics.dequantize(numerics.quantize(real, given), given) - real).max()
    return given if off <= ON_GRID * min(given.scale) else None


def _weight(unit: Unit, source: QParams, out: QParams, bias: Array | None, rules: Rules) -> QParams:
    """Symmetric weight scales; none so small that its bias overflows int32 or a runtime cannot hold the multiplier."""
    node, quant = unit.node, OPS[unit.node.op_type].quant
    given = _given_weight(unit, rules)
    if given is not None:
        return given
    value = node.inputs[int(quant.weight or 0)]
    weights = np.asarray(constant(value))
    axis = quant.channel_axis if rules.per_channel else None
    linear = node.op_type in ("Gemm", "MatMul")
    grouped = node.op_type == "ConvTranspose" and int(attributes(node).get("group", 1)) > 1
    if (linear and not rules.per_channel_fully_connected) or grouped or weights.ndim < 2:
        axis = None
    bound = rules.weight_bound(weights, axis)
    if value is not None and (shared := rules.bounds.get(str(value.name))):
        bound = np.maximum(bound, shared if axis is not None else max(shared))
    return numerics.symmetric(np.maximum(bound, least_scale(source, out, bias, axis) * 127), axis)


def least_scale(source: QParams, out: QParams, bias: Array | None, axis: int | None) -> Array:
    """The smallest weight scale whose bias fits int32 and whose multiplier runtimes can hold; one a channel, or one."""
    floor: Array = np.asarray(out.scale[0] / source.scale[0] * SMALLEST_MULTIPLIER)
    if bias is None:
        return floor
    size = np.abs(bias.astype(np.float64)) if axis is not None else np.abs(bias.astype(np.float64)).max(initial=0.0)
    return np.asarray(np.maximum(floor, size / (source.scale[0] * LARGEST_BIAS)))


def joined(model: ir.Model, plan: QuantPlan) -> Groups:
    """Which tensors of a plan are one scale: those that must be, constants among them, and copies that came out so."""
    groups = Groups()
    for unit in all_units(model.graph):
        if not has_integer_kernel(unit) or unit.node.name in plan.float_nodes:
            continue
        sets = list(tied(unit))
        if OPS[unit.node.op_type].quant.scale is Scale.SHARED:
            sets = [(*sets[0], *(str(value.name) for value in inputs_of(unit) if constant(value) is not None))]
        names = activations_of(unit)
        if unit.node.op_type == "Identity" and len({plan.get(name) for name in names}) == 1:
            sets.append(tuple(names))
        for first, *others in filter(None, sets):
            for name in others:
                groups.join(first, name)
    return groups


def is_fixed(unit: Unit, plan: QuantPlan) -> bool:
    """Whether a unit's output has the scale that the specification fixes."""
    quant, q = OPS[unit.node.op_type].quant, plan.get(str(unit.outputs[0].name))
    return quant.fixed is not None and q is not None and q == numerics.fixed(*quant.fixed, q.dtype)
