"""Which units compute in integers: a fact of the op, of the plan, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgekit.graph import Unit, constant, is_float
from edgekit.ops import OPS, Scale
from edgekit.quant.plan import QuantPlan


def inputs_of(unit: Unit) -> list[ir.Value]:
    """The floating-point values that a unit reads as activations, constants among them."""
    quant = OPS[unit.node.op_type].quant
    positions = range(len(unit.node.inputs)) if quant.inputs is None else quant.inputs
    weight = quant.weight if constant_weight(unit) is not None else None
    values = [unit.node.inputs[i] for i in positions if i < len(unit.node.inputs) and i not in (weight, quant.bias)]
    return [value for value in values if value is not None and is_float(value)]


def activations_of(unit: Unit) -> list[str]:
    """The names of all activations that a unit reads or gives."""
    read = [str(value.name) for value in inputs_of(unit) if constant(value) is None]
    return read + [str(value.name) for value in unit.outputs if value.name and is_float(value)]


def constant_weight(unit: Unit) -> ir.Value | None:
    """The weight of a unit whose op has one and where it is constant; a batch of matrices is read as an activation."""
    position = OPS[unit.node.op_type].quant.weight
    value = unit.node.inputs[position] if position is not None else None
    array = constant(value)
    return None if array is None or (unit.node.op_type == "MatMul" and array.ndim != 2) else value


def weights_of(unit: Unit) -> list[ir.Value]:
    """The constant weights of a unit: one, or two of a recurrent layer."""
    quant = OPS[unit.node.op_type].quant
    found = [constant_weight(unit)]
    if quant.recurrent is not None:
        found.append(unit.node.inputs[quant.recurrent])
    return [value for value in found if value is not None]


def tied(unit: Unit) -> list[tuple[str, ...]]:
    """Sets of activations that must have one scale: all of some ops; what a loop and its body hand to each other."""
    node = unit.node
    if OPS[node.op_type].quant.scale is Scale.SHARED:
        return [tuple(activations_of(unit))]
    if node.op_type != "Scan":
        return []
    body = node.attributes["body"].as_graph()
    states = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    back = list(zip(body.outputs, node.outputs, strict=True))
    into = [
        (a, b, *(back[i] if i < states else ())) for i, (a, b) in enumerate(zip(node.inputs, body.inputs, strict=True))
    ]
    return [_computed(values) for values in (*into, *back[states:])]


def _computed(values: Iterable[ir.Value | None]) -> tuple[str, ...]:
    return tuple(str(value.name) for value in values if value is not None and constant(value) is None)


def has_integer_kernel(unit: Unit) -> bool:
    """Whether the unit's op can compute on activations in integers."""
    return OPS[unit.node.op_type].quant.scale is not Scale.NONE and bool(activations_of(unit))


def touches_floats(unit: Unit) -> bool:
    """Whether a unit reads or gives real numbers that are computed."""
    return any(
        is_float(value) and constant(value) is None for value in (*unit.node.inputs, *unit.outputs) if value is not None
    )


def computes_in_integers(unit: Unit, plan: QuantPlan) -> bool:
    """Whether a unit reads, computes and stores integers under a plan; else it reads and gives real numbers."""
    weight = constant_weight(unit)
    return (
        has_integer_kernel(unit)
        and unit.node.name not in plan.float_nodes
        and all(name in plan for name in activations_of(unit))
        and (weight is None or str(weight.name) in plan)
    )
