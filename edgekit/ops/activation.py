"""Activations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgekit.ops.context import Array, Operand, Tfl, full
from edgekit.ops.declare import NUMBERS, Layout, Quant, Scale, op, unsupported
from edgekit.quant.plan import QParams

FIRST = Quant(inputs=(0,))
UNIT = Quant(scale=Scale.FIXED, fixed=(1 / 256, -128))  # logistic and softmax: [0, 1)


@op("Relu", since=14, layout=Layout.ANY, types=NUMBERS)
def relu(tfl: Tfl, X: Operand) -> None:
    """RELU, where no operator before takes it in; MAXIMUM for integers without a scale."""
    _clip(tfl, X, 0.0, math.inf)


@op("Clip", since=13, layout=Layout.ANY, quant=FIRST, types=NUMBERS)
def clip(tfl: Tfl, input: Operand, min: Operand | None = None, max: Operand | None = None) -> None:
    """RELU, RELU6, or MAXIMUM and MINIMUM; in int8 QUANTIZE, where the limits of the result's scale clip alone."""
    _clip(tfl, input, float(full(min, np.asarray(-math.inf))), float(full(max, np.asarray(math.inf))))


def _clip(tfl: Tfl, source: Operand, low: float, high: float) -> None:
    known = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}.get((low, high))
    if known is not None and (tfl.quantized or tfl.out.dtype == "float32"):
        tfl.add(known, [source])
    else:
        tfl.clamp(source, low, high, tfl.out)


@op("LeakyRelu", since=16, layout=Layout.ANY)
def leaky_relu(tfl: Tfl, X: Operand, *, alpha: float = 0.01) -> None:
    """LEAKY_RELU."""
    tfl.add("LEAKY_RELU", [X], alpha=float(alpha))


@op("PRelu", since=16, layout=Layout.ANY)
def prelu(tfl: Tfl, X: Operand, slope: Operand) -> None:
    """PRELU; a slope per channel must be stored last, as broadcasting asks."""
    tfl.add("PRELU", [X, tfl.aligned(slope)])


@op("Elu", since=6, layout=Layout.ANY)
def elu(tfl: Tfl, X: Operand, *, alpha: float = 1.0) -> None:
    """ELU, whose alpha is 1 in TFLite; with another alpha RELU(x) + alpha (ELU(x) - RELU(x)), in int8 a table."""
    if alpha == 1.0:
        tfl.add("ELU", [X])
    elif tfl.quantized:
        tfl.lookup(X, lambda x: np.where(x < 0, alpha * np.expm1(x), x))
    else:
        plain, above, below, scaled = (tfl.temp(tfl.out.shape, tfl.out) for _ in range(4))
        tfl.add("ELU", [X], plain)
        tfl.add("RELU", [X], above)
        tfl.add("SUB", [plain, above], below, fused_activation_function="NONE")
        tfl.add("MUL", [below, tfl.number(alpha, tfl.out)], scaled, fused_activation_function="NONE")
        tfl.add("ADD", [above, scaled], fused_activation_function="NONE")


@op("Sigmoid", since=13, layout=Layout.ANY, quant=UNIT)
def sigmoid(tfl: Tfl, X: Operand) -> None:
    """LOGISTIC."""
    tfl.add("LOGISTIC", [X])


@op("Tanh", since=13, layout=Layout.ANY, quant=Quant(scale=Scale.FIXED, fixed=(1 / 128, 0)))
def tanh(tfl: Tfl, input: Operand) -> None:
    """TANH."""
    tfl.add("TANH", [input])


@op("HardSigmoid", since=6, layout=Layout.ANY)
def hard_sigmoid(tfl: Tfl, X: Operand, *, alpha: float = 0.2, beta: float = 0.5) -> None:
    """ADD, RELU6 and MUL, where alpha is 1/6 and beta 1/2 as torch has it; else a table, or clip(alpha x + beta)."""
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        quant = tfl.scaled(tfl.out.quant, 6.0)
        middle = tfl.temp(tfl.out.shape, dtype=tfl.out.dtype, quant=quant)
        tfl.add("ADD", [X, tfl.number(3.0, tfl.out)], middle, fused_activation_function="RELU6")
        tfl.add("MUL", [middle, tfl.number(1 / 6, tfl.out)], fused_activation_function="NONE")
    elif tfl.quantized:
        tfl.lookup(X, lambda x: np.clip(alpha * x + beta, 0, 1))
    else:
        scaled = tfl.temp(tfl.out.shape, tfl.out)
        tfl.add("MUL", [X, tfl.number(alpha, tfl.out)], scaled, fused_activation_function="NONE")
        shifted = tfl.temp(tfl.out.shape, tfl.out)
        tfl.add("ADD", [scaled, tfl.number(beta, tfl.out)], shifted, fused_activation_function="RELU")
        tfl.add("MINIMUM", [shifted, tfl.number(1.0, tfl.out)])


@op("HardSwish", since=14, layout=Layout.ANY)
def hard_swish(tfl: Tfl, X: Operand) -> None:
    """HARD_SWISH."""
    tfl.add("HARD_SWISH", [X])


@op("Gelu", since=20, layout=Layout.ANY)
def gelu(tfl: Tfl, X: Operand, *, approximate: str = "none") -> None:
    """GELU."""
    tfl.add("GELU", [X], approximate=approximate == "tanh")


@op("Softplus", since=1, layout=Layout.ANY)
def softplus(tfl: Tfl, X: Operand) -> None:
    """LOG of one plus EXP; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(X, lambda x: np.logaddexp(x, 0))
        return
    grown = tfl.add("EXP", [X], tfl.temp(tfl.out.shape, tfl.out))
    more = tfl.temp(tfl.out.shape, tfl.out)
    tfl.add("ADD", [grown, tfl.number(1.0, tfl.out)], more, fused_activation_function="NONE")
    tfl.add("LOG", [more])


@op("Erf", since=13, layout=Layout.ANY)
def erf(tfl: Tfl, input: Operand) -> None:
    """A table in int8; float TFLite has no such operator."""
    if not tfl.quantized:
        unsupported("Erf has no float operator in TFLite; Gelu as one op is supported")
    tfl.lookup(input, _erf)


def _erf(x: Array) -> Array:
    return np.asarray([math.erf(v) for v in x.ravel()], np.float32).reshape(x.shape)


@op("Softmax", since=13, layout=Layout.LAST, quant=replace(UNIT, finer=True))
def softmax(tfl: Tfl, input: Operand, *, axis: int = -1) -> None:
    """SOFTMAX over the axis that is stored last; by int16 and QUANTIZE to another int8 scale than 1/256."""
    out = tfl.out.quant
    if out is None or out.dtype != "int8" or (out.scale[0], out.zero_point[0]) == UNIT.fixed:
        tfl.add("SOFTMAX", [input], beta=1.0)
        return
    wide = tfl.temp(tfl.out.shape, dtype="int16", quant=QParams("int16", (2.0**-15,), (0,)))
    tfl.add("QUANTIZE", [tfl.add("SOFTMAX", [input], wide, beta=1.0)])


@op("LogSoftmax", since=13, layout=Layout.LAST, quant=Quant(scale=Scale.FIXED, fixed=(16 / 256, 127)))
def log_softmax(tfl: Tfl, input: Operand, *, axis: int = -1) -> None:
    """LOG_SOFTMAX over the axis that is stored last."""
    tfl.add("LOG_SOFTMAX", [input])
