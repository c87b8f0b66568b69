"""Element by element: arithmetic on one, two or many tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgekit.ops.context import Array, Operand, Tfl
from edgekit.ops.declare import ANYTHING, FLOAT, NUMBERS, Layout, Quant, Scale, Types, op, unsupported

BINARY: list[tuple[str, str, Types]] = [  # ONNX op, TFLite operator, element types
    ("Add", "ADD", NUMBERS),
    ("Sub", "SUB", NUMBERS),
    ("Mul", "MUL", NUMBERS),
    ("Div", "DIV", ("float32", "int32")),
]


def _binary(name: str, code: str, types: Types) -> None:
    def lower(tfl: Tfl, A: Operand, B: Operand) -> None:
        if tfl.quantized and code == "DIV":  # LiteRT stops the run when a divisor is stored as zero
            unsupported("an integer division; the passes make it a product")
        tfl.add(code, [tfl.aligned(A), tfl.aligned(B)], fused_activation_function=tfl.activation)

    lower.__doc__ = code + ("; in int8 the passes make it MUL with a table of reciprocals." if code == "DIV" else ".")
    op(name, since=14, layout=Layout.ANY, fuses=True, types=types)(lower)


for row in BINARY:
    _binary(*row)


def _variadic(name: str, code: str) -> None:
    def lower(tfl: Tfl, *data_0: Operand) -> None:
        items = [tfl.aligned(item) for item in data_0]
        if len(items) == 1:
            tfl.reshape(items[0], tfl.out.shape, tfl.out)
            return
        total = items[0]
        for i, item in enumerate(items[1:], 2):
            shape = np.broadcast_shapes(tfl.tensor(total).shape, tfl.tensor(item).shape)
            total = tfl.add(code, [total, item], tfl.out if i == len(items) else tfl.temp(shape, tfl.out))

    lower.__doc__ = f"{code}."
    op(name, since=13, layout=Layout.ANY, quant=Quant(scale=Scale.SHARED), types=NUMBERS)(lower)


_variadic("Max", "MAXIMUM")
_variadic("Min", "MINIMUM")


@op("Pow", since=15, layout=Layout.ANY, quant=Quant(inputs=(0,)), types=("float32", "int32"))
def power(tfl: Tfl, X: Operand, Y: Operand) -> None:
    """POW, or RSQRT; in int8 a table, for one constant exponent. The passes give x^2, x^0.5 and 1/x simpler names.

    Refused: in integers a computed exponent.
    """
    if not tfl.quantized and X.dtype == "float32" and Y.array is not None and Y.array.size == 1 and Y.array == -0.5:
        tfl.add("RSQRT", [X])
        return
    if tfl.quantized:
        exponents = [] if Y.array is None or X.array is not None else Y.array.reshape(-1).tolist()
        if len(exponents) != 1:
            unsupported("an exponent that is not one constant has no integer form")
        exponent = float(exponents[0])
        tfl.lookup(X, lambda x: np.power(x, exponent))
        return
    if X.dtype != Y.dtype:
        if Y.array is None or not np.array_equal(Y.array, Y.array.astype(X.dtype)):
            unsupported(f"a base and an exponent of two types, {X.dtype} and {Y.dtype}")
        Y = replace(Y, array=Y.array.astype(X.dtype), dtype=X.dtype)
    tfl.add("POW", [tfl.aligned(X), tfl.aligned(Y)])


@op("Mod", since=13, layout=Layout.ANY, types=NUMBERS)
def mod(tfl: Tfl, A: Operand, B: Operand, *, fmod: int = 0) -> None:
    """FLOOR_MOD; with fmod the SIGN of A by FLOOR_MOD of both ABS; in int8 a table, for one constant divisor.

    Refused: in integers a computed divisor; fmod of int64.
    """
    if tfl.quantized:
        if B.array is None or B.array.size != 1:
            unsupported("a divisor that is not one constant has no integer form")
        divisor = float(B.array.reshape(-1)[0])
        tfl.lookup(A, lambda x: np.fmod(x, divisor))
        return
    if not fmod:
        tfl.add("FLOOR_MOD", [tfl.aligned(A), tfl.aligned(B)])
        return
    items = [tfl.tensor(tfl.aligned(item)) for item in (A, B)]
    if items[0].dtype == "int64":
        unsupported("fmod of int64, of which LiteRT has no sign")
    sizes = [tfl.add("ABS", [item], tfl.temp(item.shape, item)) for item in items]
    rest = tfl.add("FLOOR_MOD", sizes, tfl.temp(tfl.out.shape, tfl.out))
    sign = tfl.add("SIGN", items[:1], tfl.temp(items[0].shape, items[0]))
    tfl.add("MUL", [rest, sign], fused_activation_function="NONE")


Function = Callable[[Array], Array]
# ONNX op, since, TFLite operator, its int8 kernel is exact, element types, the function. Measured on ai-edge-litert 2.3
# against the rounded function: EXP, LOG and ABS agree for every integer; SQRT is one step off for half of them; NEG
# does not look at the scale; the others have no int8 kernel.
UNARY: list[tuple[str, int, str, bool, Types, Function]] = [
    ("Abs", 13, "ABS", True, ("float32", "int32"), np.abs),
    ("Exp", 13, "EXP", True, FLOAT, np.exp),
    ("Log", 13, "LOG", True, FLOAT, np.log),
    ("Sqrt", 13, "SQRT", False, FLOAT, np.sqrt),
    ("Floor", 13, "FLOOR", False, FLOAT, np.floor),
    ("Ceil", 13, "CEIL", False, FLOAT, np.ceil),
    ("Round", 11, "ROUND", False, FLOAT, np.rint),
    ("Sin", 7, "SIN", False, FLOAT, np.sin),
    ("Cos", 7, "COS", False, FLOAT, np.cos),
    ("Sign", 13, "SIGN", False, ("float32", "int32"), np.sign),
]
INPUT_NAMED_INPUT = ("Exp", "Log", "Sin", "Cos", "Sign")
TABLES: list[tuple[str, int, Function]] = [  # ONNX ops without a float operator in TFLite: since, the function
    ("Acos", 7, np.arccos),
    ("Acosh", 9, np.arccosh),
    ("Asin", 7, np.arcsin),
    ("Asinh", 9, np.arcsinh),
    ("Atanh", 9, np.arctanh),
    ("Cosh", 9, np.cosh),
    ("Sinh", 9, np.sinh),
]


def _unary(name: str, since: int, code: str, integer: bool, types: Types, function: Function) -> None:
    def lower(tfl: Tfl, X: Operand) -> None:
        if tfl.quantized and not integer:
            tfl.lookup(X, function)
        else:
            tfl.add(code, [X])

    def renamed(tfl: Tfl, input: Operand) -> None:
        lower(tfl, input)

    lower.__doc__ = renamed.__doc__ = f"{code}." if integer else f"{code}; in int8 a table."
    op(name, since=since, layout=Layout.ANY, types=types)(renamed if name in INPUT_NAMED_INPUT else lower)


for entry in UNARY:
    _unary(*entry)


def _table(name: str, since: int, function: Function) -> None:
    def lower(tfl: Tfl, input: Operand) -> None:
        if not tfl.quantized:
            unsupported(f"{name} has no float operator in TFLite")
        tfl.lookup(input, function)

    lower.__doc__ = "A table in int8; float TFLite has no such operator."
    op(name, since=since, layout=Layout.ANY)(lower)


for item in TABLES:
    _table(*item)


@op("Atan", since=7, layout=Layout.ANY)
def atan(tfl: Tfl, input: Operand) -> None:
    """ATAN2 with one; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(input, np.arctan)
    else:
        shape = tfl.tensor(input).shape
        tfl.add("ATAN2", [input, tfl.number(np.ones(shape), tfl.out)])


@op("Tan", since=7, layout=Layout.ANY)
def tan(tfl: Tfl, input: Operand) -> None:
    """SIN by COS; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(input, np.tan)
    else:
        sides = [tfl.add(code, [input], tfl.temp(tfl.out.shape, tfl.out)) for code in ("SIN", "COS")]
        tfl.add("DIV", sides, fused_activation_function="NONE")


@op("Neg", since=13, layout=Layout.ANY, types=NUMBERS)
def neg(tfl: Tfl, X: Operand) -> None:
    """NEG; in int8 MUL by -1, as LiteRT's int8 NEG does not look at the scale."""
    if tfl.quantized:
        tfl.add("MUL", [X, tfl.number(-1.0, tfl.out)], fused_activation_function="NONE")
    else:
        tfl.add("NEG", [X])


@op("Reciprocal", since=13, layout=Layout.ANY)
def reciprocal(tfl: Tfl, X: Operand) -> None:
    """DIV of one; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(X, np.reciprocal)
    else:
        tfl.add("DIV", [tfl.number(1.0, tfl.out), X], fused_activation_function="NONE")


@op("Identity", since=21, layout=Layout.ANY, types=ANYTHING)
def identity(tfl: Tfl, input: Operand) -> None:
    """Nothing, or QUANTIZE between two scales."""
    if tfl.tensor(input).quant != tfl.out.quant:
        tfl.requantize(input)
    else:
        tfl.reshape(input, tfl.out.shape, tfl.out)


@op("Cast", since=21, layout=Layout.ANY, types=ANYTHING)
def cast(tfl: Tfl, input: Operand, *, saturate: int = 1, to: int | None = None) -> None:
    """CAST; from integers to int8 with a scale CAST and QUANTIZE, back a table.

    Refused: types but float32, bool, int8 to int64 and uint8.
    """
    source, out = tfl.tensor(input), tfl.out
    if source.quant is not None and out.quant is None:
        tfl.lookup(input, lambda x: np.trunc(x) if out.dtype != "bool" else x != 0)
        return
    target = out if out.quant is None else tfl.temp(out.shape, dtype="int32", quant=tfl.whole())
    if out.dtype not in ANYTHING:
        unsupported(f"to {out.dtype}")
    if source.quant is not None:
        tfl.add("QUANTIZE", [input])
        return
    tfl.add("CAST", [input], target, in_data_type=source.dtype.upper(), out_data_type=target.dtype.upper())
    if target is not out:
        tfl.add("QUANTIZE", [target])
