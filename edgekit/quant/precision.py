"""Precisions: what a whole model is stored and computed in. Each is a plan; the emitters know nothing of their names.

float32         nothing is planned
float16         constants in half precision, widened where they are read; arithmetic stays float32
dynamic-int8    weights int8 per output channel; activations stay real, and a runtime that can quantizes them as it runs
int8            weights and activations int8 from calibrated ranges (``solve``)
mixed           int8 where there are weights; normalisation, softmax, gelu, the products of attention and what is added
                and multiplied for them compute on real numbers
int16x8         weights int8, activations int16
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgekit.graph import GATES, Unit, all_units, constant, is_float, units
from edgekit.ops import OPS, Scale
from edgekit.quant import numerics
from edgekit.quant.kernels import constant_weight, has_integer_kernel, inputs_of, weights_of
from edgekit.quant.plan import HALF, QParams, QuantPlan
from edgekit.quant.ranges import Range
from edgekit.quant.solve import Rules, solve

STATIC = {"int8": "int8", "mixed": "int8", "int16x8": "int16"}  # precision -> activations
REAL = ("LayerNormalization", "Softmax", "Gelu")  # faster and better on real numbers in both runtimes
SMALLEST_HALF = 16  # elements: below, the conversion costs more than it saves
SMALLEST_DYNAMIC = 1024
DYNAMIC = ("Conv", "Gemm", "MatMul", *GATES)  # that kernels have with int8 weights and real activations


def needs_calibration(precision: str) -> bool:
    """Whether a precision is drawn from calibrated ranges."""
    return precision in STATIC


def plan_for(model: ir.Model, precision: str, ranges: Mapping[str, Range], rules: Rules) -> QuantPlan:
    """The plan of a precision (a name of ``PRECISIONS``) for a prepared model."""
    if precision == "float16":
        return QuantPlan(_halves(model))
    if precision == "dynamic-int8":
        return QuantPlan(_weights(model, rules))
    if precision == "mixed":
        rules = replace(rules, float_nodes=rules.float_nodes | real_nodes(model, rules.int16_nodes))
    if precision in STATIC:
        return solve(model, ranges, rules, STATIC[precision])
    return QuantPlan({})


def attends(model: ir.Model) -> bool:
    """Whether a model has attention: a product of two computed tensors that went through a Softmax."""
    for node in model.graph:
        products = [use.node for out in node.outputs for use in out.uses()] if node.op_type == "Softmax" else []
        if any(n.op_type == "MatMul" and all(constant(v) is None for v in n.inputs) for n in products):
            return True
    return False


def default_precision(model: ir.Model, available: tuple[str, ...], recurrent: bool = False) -> str:
    """The precision of a target's first choice; dynamic-int8 for attention where the target has it.

    The same for a model that is ``recurrent`` where the runtime has whole operators for that, and none in int8.

    In full int8 attention loses more signal than it gains speed: LayerNormalization, Softmax and the products between
    them compute faster on real numbers, and the weights are nearly all in fully-connected layers.
    """
    if "dynamic-int8" in available and available[0] == "int8" and (recurrent or attends(model)):
        return "dynamic-int8"
    return available[0]


def real_nodes(model: ir.Model, integer: Container[str] = ()) -> frozenset[str]:
    """The nodes that ``mixed`` computes on real numbers, none of those that are to be ``integer``.

    Those are ``REAL``, products of two computed tensors, and what computes without weights for one of them. What moves
    data is real between two that are, and int8 next to a layer with weights: fewer bytes to move, and no other values.
    """
    whole = units(model.graph)
    real: set[str] = set()
    moves: set[str] = set()
    for unit in reversed(whole):
        readers = {str(use.node.name) for out in unit.outputs for use in out.uses()}
        quant, name = OPS[unit.node.op_type].quant, str(unit.node.name)
        if name in integer:
            continue
        if quant.scale is Scale.SHARED:
            moves |= {name} if readers and readers <= real | moves else set()
        elif constant_weight(unit) is None and (_computes_real(unit) or readers & real):
            real.add(name)
    for unit in whole:
        producers = {str(node.name) for value in inputs_of(unit) if (node := value.producer()) is not None}
        if unit.node.name in moves and producers and producers <= real:
            real.add(str(unit.node.name))
    return frozenset(real)


def _computes_real(unit: Unit) -> bool:
    return unit.node.op_type in REAL or unit.node.op_type == "MatMul" or not has_integer_kernel(unit)


def _halves(model: ir.Model) -> dict[str, QParams]:
    """Constants that an op reads as weight, bias or activation, large enough, within the range of half precision."""
    found = {}
    for unit in all_units(model.graph):
        for value in (*inputs_of(unit), *weights_of(unit), unit.bias_value):
            array = constant(value)
            if value is None or array is None or not is_float(value) or array.size < SMALLEST_HALF:
                continue
            if float(np.abs(array).max()) < float(np.finfo(HALF).max):
                found[str(value.name)] = QParams(HALF, (), ())
    return found


def _weights(model: ir.Model, rules: Rules) -> dict[str, QParams]:
    found = {}
    for unit in all_units(model.graph):
        if unit.node.op_type not in DYNAMIC or unit.node.name in rules.float_nodes:
            continue
        axis = OPS[unit.node.op_type].quant.channel_axis if rules.per_channel else None
        for weight in weights_of(unit):
            array = np.asarray(constant(weight))
            if array.size >= SMALLEST_DYNAMIC and array.ndim >= 2:
                found[str(weight.name)] = numerics.symmetric(rules.weight_bound(array, axis), axis)
    return found
