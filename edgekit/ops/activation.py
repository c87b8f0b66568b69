"""Activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgekit.ops.context import PLAIN, Array, Operand, Tensor, Tfl, full
from edgekit.ops.declare import NUMBERS, Layout, Quant, Scale, op, unsupported
from edgekit.quant import numerics
from edgekit.quant.plan import QParams

FIRST = Quant(inputs=(0,))
UNIT = Quant(scale=Scale.FIXED, fixed=(1 / 256, -128))  # logistic and softmax: [0, 1)
SIGNED_UNIT = Quant(scale=Scale.FIXED, fixed=(1 / 128, 0))
LOGARITHM = Quant(scale=Scale.FIXED, fixed=(16 / 256, 127))


@op("Relu", since=14, layout=Layout.ANY, types=NUMBERS)
def relu(tfl: Tfl, X: Operand) -> None:
    """RELU, where no operator before takes it in; in int8 QUANTIZE or ADD, MAXIMUM for integers without a scale."""
    _clip(tfl, X, 0.0, math.inf)


@op("Clip", since=13, layout=Layout.ANY, quant=FIRST, types=NUMBERS)
def clip(tfl: Tfl, input: Operand, min: Operand | None = None, max: Operand | None = None) -> None:
    """RELU, RELU6, or MAXIMUM and MINIMUM; in int8 QUANTIZE, where the limits of the result's scale clip alone.

    Refused: computed limits.
    """
    _clip(tfl, input, float(full(min, np.asarray(-math.inf))), float(full(max, np.asarray(math.inf))))


def _clip(tfl: Tfl, source: Operand, low: float, high: float) -> None:
    known = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}.get((low, high))
    slow = tfl.delegated and tfl.out.dtype == "int8"  # XNNPACK has these as a part of others alone
    integer = tfl.quantized and known != "RELU_N1_TO_1"  # LiteRT has that one in float alone
    if known is not None and not slow and (integer or tfl.out.dtype == "float32"):
        tfl.add(known, [source])
    else:
        tfl.clamp(source, low, high, tfl.out)


@op("LeakyRelu", since=16, layout=Layout.ANY)
def leaky_relu(tfl: Tfl, X: Operand, *, alpha: float = 0.01) -> None:
    """LEAKY_RELU, whose int8 kernel is a step off for many integers: where that counts it is a table."""
    if tfl.exact:
        tfl.lookup(X, lambda x: np.where(x < 0, np.float32(alpha) * x, x))
    else:
        tfl.add("LEAKY_RELU", [X], alpha=float(alpha))


@op("PRelu", since=16, layout=Layout.ANY)
def prelu(tfl: Tfl, X: Operand, slope: Operand) -> None:
    """PRELU; in integers RELU and slope x (x - RELU(x)), added, where the runtime is faster so, and in int16.

    A slope per channel must be stored last, as broadcasting asks.
    """
    source = tfl.tensor(X)
    if slope.array is None or source.quant is None or not (tfl.delegated or source.dtype == "int16"):
        tfl.add("PRELU", [X, tfl.aligned(slope)])
        return
    above, below = (tfl.temp(tfl.out.shape, source) for _ in range(2))
    tfl.clamp(X, 0.0, math.inf, above)
    tfl.add("SUB", [X, above], below, **PLAIN)
    ends = source.quant.range[0] * np.asarray([slope.array.min(), slope.array.max(), 0.0])
    bent = tfl.add("MUL", [below, tfl.aligned(slope)], _ranged(tfl, ends.min(), ends.max()), **PLAIN)
    tfl.add("ADD", [above, bent], **PLAIN)


def _ranged(tfl: Tfl, low: float, high: float) -> Tensor:
    """A tensor for integers between the input and the output of a node, with a range of its own."""
    return tfl.temp(tfl.out.shape, dtype=tfl.out.dtype, quant=numerics.affine(low, high, tfl.out.dtype))


@op("Elu", since=6, layout=Layout.ANY)
def elu(tfl: Tfl, X: Operand, *, alpha: float = 1.0) -> None:
    """ELU, whose alpha is 1 in TFLite; with another alpha RELU(x) + alpha (ELU(x) - RELU(x)), in int8 a table."""
    if alpha == 1.0:
        tfl.add("ELU", [X])
    elif tfl.quantized:
        tfl.lookup(X, lambda x: np.where(x < 0, alpha * np.expm1(x), x))
    else:
        _steeper_elu(tfl, X, alpha, tfl.out)


def _steeper_elu(tfl: Tfl, X: Operand, alpha: float, output: Any) -> Any:
    """RELU(x) + alpha (ELU(x) - RELU(x)), in float."""
    above = _step(tfl, "RELU", X)
    below = _step(tfl, "SUB", _step(tfl, "ELU", X), above)
    scaled = _step(tfl, "MUL", below, tfl.number(alpha, tfl.out))
    return tfl.add("ADD", [above, scaled], output, **PLAIN)


def _step(tfl: Tfl, code: str, *inputs: Any) -> Any:
    """A float operator between the input and the output of a node, of their shape."""
    return tfl.add(
        code, inputs, tfl.temp(tfl.out.shape, tfl.out), **(PLAIN if code in ("ADD", "SUB", "MUL", "DIV") else {})
    )


def _holds(tfl: Tfl, code: str, X: Operand, number: float) -> Any:
    """Where a comparison of X and a number holds."""
    return tfl.add(code, [X, tfl.number(number, X)], tfl.temp(tfl.out.shape, dtype="bool"))


@op("Selu", since=6, layout=Layout.ANY)
def selu(
    tfl: Tfl, X: Operand, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> None:
    """ELU with another alpha (see there), then MUL by gamma; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(X, lambda x: gamma * np.where(x < 0, alpha * np.expm1(x), x))
    else:
        steep = _steeper_elu(tfl, X, alpha, tfl.temp(tfl.out.shape, tfl.out))
        tfl.add("MUL", [steep, tfl.number(gamma, tfl.out)], **PLAIN)


@op("Celu", since=12, layout=Layout.ANY)
def celu(tfl: Tfl, X: Operand, *, alpha: float = 1.0) -> None:
    """MUL by 1 / alpha, ELU, MUL by alpha; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(X, lambda x: np.where(x < 0, alpha * np.expm1(x / alpha), x))
    else:
        small = _step(tfl, "ELU", _step(tfl, "MUL", X, tfl.number(1 / alpha, tfl.out)))
        tfl.add("MUL", [small, tfl.number(alpha, tfl.out)], **PLAIN)


@op("ThresholdedRelu", since=10, layout=Layout.ANY)
def thresholded_relu(tfl: Tfl, X: Operand, *, alpha: float = 1.0) -> None:
    """GREATER and SELECT_V2; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(X, lambda x: np.where(x > alpha, x, 0))
    else:
        tfl.add("SELECT_V2", [_holds(tfl, "GREATER", X, alpha), X, tfl.number(0.0, tfl.out)])


@op("Shrink", since=9, layout=Layout.ANY)
def shrink(tfl: Tfl, input: Operand, *, bias: float = 0.0, lambd: float = 0.5) -> None:
    """SUB where GREATER, ADD where LESS, by SELECT_V2; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(input, lambda x: np.where(x > lambd, x - bias, np.where(x < -lambd, x + bias, 0)))
        return
    offset = tfl.number(bias, tfl.out)
    low, high = _holds(tfl, "LESS", input, -lambd), _holds(tfl, "GREATER", input, lambd)
    below = _step(tfl, "SELECT_V2", low, _step(tfl, "ADD", input, offset), tfl.number(0.0, tfl.out))
    tfl.add("SELECT_V2", [high, _step(tfl, "SUB", input, offset), below])


@op("Softsign", since=1, layout=Layout.ANY)
def softsign(tfl: Tfl, input: Operand) -> None:
    """DIV by one plus ABS; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(input, lambda x: x / (1 + np.abs(x)))
    else:
        tfl.add("DIV", [input, _step(tfl, "ADD", _step(tfl, "ABS", input), tfl.number(1.0, tfl.out))], **PLAIN)


@op("Mish", since=18, layout=Layout.ANY)
def mish(tfl: Tfl, X: Operand) -> None:
    """MUL by the TANH of the LOG of one plus EXP; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(X, lambda x: x * np.tanh(np.logaddexp(x, 0)))
    else:
        tfl.add("MUL", [X, _step(tfl, "TANH", _softplus(tfl, X, tfl.temp(tfl.out.shape, tfl.out)))], **PLAIN)


@op("Sigmoid", since=13, layout=Layout.ANY, quant=UNIT)
def sigmoid(tfl: Tfl, X: Operand) -> None:
    """LOGISTIC; a table where the model came with another scale than the operator's."""
    _in_its_scale(tfl, "LOGISTIC", X, UNIT, lambda x: 1 / (1 + np.exp(-x)))


@op("Tanh", since=13, layout=Layout.ANY, quant=SIGNED_UNIT)
def tanh(tfl: Tfl, input: Operand) -> None:
    """TANH; a table where the model came with another scale than the operator's."""
    _in_its_scale(tfl, "TANH", input, SIGNED_UNIT, np.tanh)


def _in_its_scale(tfl: Tfl, code: str, source: Operand, quant: Quant, function: Callable[[Array], Array]) -> None:
    if tfl.in_scale(quant) is tfl.out:
        tfl.add(code, [source])
    else:
        tfl.lookup(source, function)


@op("HardSigmoid", since=6, layout=Layout.ANY)
def hard_sigmoid(tfl: Tfl, X: Operand, *, alpha: float = 0.2, beta: float = 0.5) -> None:
    """ADD, RELU6 and MUL, where alpha is 1/6 and beta 1/2 as torch has it; else a table, or clip(alpha x + beta).

    ADD rounds ties up, which is a step off at x = 0 in a scale of 1/255: where that counts it is a table.
    """
    if not tfl.exact and math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        _gate(tfl, X, tfl.out)
    elif tfl.quantized:
        tfl.lookup(X, lambda x: np.clip(np.float32(alpha) * x + np.float32(beta), 0, 1))
    else:
        scaled = tfl.temp(tfl.out.shape, tfl.out)
        tfl.add("MUL", [X, tfl.number(alpha, tfl.out)], scaled, fused_activation_function="NONE")
        shifted = tfl.temp(tfl.out.shape, tfl.out)
        tfl.add("ADD", [scaled, tfl.number(beta, tfl.out)], shifted, fused_activation_function="RELU")
        tfl.add("MINIMUM", [shifted, tfl.number(1.0, tfl.out)])


def _gate(tfl: Tfl, X: Operand, output: Tensor) -> Tensor:
    """clip(x + 3, 0, 6) / 6: the integers of both steps are the same."""
    middle = tfl.temp(tfl.out.shape, dtype=output.dtype, quant=tfl.scaled(output.quant, 6.0))
    tfl.add("ADD", [X, tfl.number(3.0, tfl.out)], middle, fused_activation_function="RELU6")
    return tfl.add("MUL", [middle, tfl.number(1 / 6, tfl.out)], output, **PLAIN)


@op("HardSwish", since=14, layout=Layout.ANY)
def hard_swish(tfl: Tfl, X: Operand) -> None:
    """HARD_SWISH; in integers ADD, RELU6, MUL and MUL where the runtime is faster so, and in int16.

    Both round some integers the other way: where that counts it is a table.
    """
    if tfl.exact:
        tfl.lookup(X, lambda x: x * np.clip(x / np.float32(6) + np.float32(0.5), 0, 1))
    elif tfl.quantized and (tfl.delegated or tfl.out.dtype == "int16"):
        tfl.add("MUL", [X, _gate(tfl, X, _ranged(tfl, 0.0, 1.0))], **PLAIN)
    else:
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
    else:
        _softplus(tfl, X, tfl.out)


def _softplus(tfl: Tfl, X: Operand, output: Any) -> Any:
    return tfl.add("LOG", [_step(tfl, "ADD", _step(tfl, "EXP", X), tfl.number(1.0, tfl.out))], output)


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


@op("LogSoftmax", since=13, layout=Layout.LAST, quant=LOGARITHM)
def log_softmax(tfl: Tfl, input: Operand, *, axis: int = -1) -> None:
    """LOG_SOFTMAX over the axis that is stored last."""
    tfl.requantize(tfl.add("LOG_SOFTMAX", [input], tfl.in_scale(LOGARITHM)))
