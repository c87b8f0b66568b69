"""Element by element: arithmetic on one, two or many tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.ops.context import Array, Operand, Tfl
from edgekit.ops.declare import Layout, Quant, Scale, op, unsupported

BINARY = [  # ONNX op, since, TFLite operator, has a fused activation, has an int8 kernel
    ("Add", 14, "ADD", True, True),
    ("Sub", 14, "SUB", True, True),
    ("Mul", 14, "MUL", True, True),
    ("Div", 14, "DIV", True, False),
    ("Pow", 15, "POW", False, False),
]


def _binary(name: str, since: int, code: str, fuses: bool, integer: bool) -> None:
    def lower(tfl: Tfl, A: Operand, B: Operand) -> None:
        if tfl.quantized and not integer:
            unsupported(f"{name} of two computed tensors has no int8 kernel in TFLite")
        options = {"fused_activation_function": tfl.activation} if fuses else {}
        tfl.add(code, [tfl.aligned(A), tfl.aligned(B)], **options)

    def power(tfl: Tfl, X: Operand, Y: Operand) -> None:
        lower(tfl, X, Y)

    lower.__doc__ = power.__doc__ = code
    op(name, since=since, layout=Layout.ANY, fuses=fuses)(power if name == "Pow" else lower)


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

    lower.__doc__ = code
    op(name, since=13, layout=Layout.ANY, quant=Quant(scale=Scale.SHARED))(lower)


_variadic("Max", "MAXIMUM")
_variadic("Min", "MINIMUM")

Function = Callable[[Array], Array]
UNARY: list[tuple[str, int, str, bool, Function]] = [  # ONNX op, since, TFLite operator, has an int8 kernel, the function
    ("Abs", 13, "ABS", False, np.abs),
    ("Exp", 13, "EXP", False, np.exp),
    ("Log", 13, "LOG", False, np.log),
    ("Neg", 13, "NEG", False, np.negative),
    ("Sqrt", 13, "SQRT", False, np.sqrt),
    ("Floor", 13, "FLOOR", False, np.floor),
    ("Ceil", 13, "CEIL", False, np.ceil),
    ("Round", 11, "ROUND", False, np.rint),
    ("Sin", 7, "SIN", False, np.sin),
    ("Cos", 7, "COS", False, np.cos),
    ("Sign", 13, "SIGN", False, np.sign),
]


def _unary(name: str, since: int, code: str, integer: bool, function: Function) -> None:
    def lower(tfl: Tfl, X: Operand) -> None:
        if tfl.quantized and not integer:
            tfl.lookup(X, function)
        else:
            tfl.add(code, [X])

    def renamed(tfl: Tfl, input: Operand) -> None:
        lower(tfl, input)

    lower.__doc__ = renamed.__doc__ = f"{code}; in int8 a table" if not integer else code
    op(name, since=since, layout=Layout.ANY)(renamed if name in ("Exp", "Log", "Sin", "Cos", "Sign") else lower)


for entry in UNARY:
    _unary(*entry)


@op("Reciprocal", since=13, layout=Layout.ANY)
def reciprocal(tfl: Tfl, X: Operand) -> None:
    """DIV of one; in int8 a table."""
    if tfl.quantized:
        tfl.lookup(X, np.reciprocal)
    else:
        tfl.add("DIV", [tfl.number(1.0, tfl.out), X], fused_activation_function="NONE")


def _identity(tfl: Tfl, source: Any) -> None:
    """QUANTIZE when the scales differ, else a reshape that changes nothing (the runtimes make it free)."""
    tensor = tfl.tensor(source)
    if tensor.quant != tfl.out.quant:
        tfl.add("QUANTIZE", [source])
    else:
        tfl.reshape(source, tfl.out.shape, tfl.out)


@op("Identity", since=21, layout=Layout.ANY)
def identity(tfl: Tfl, input: Operand) -> None:
    """Nothing, or QUANTIZE between two scales."""
    _identity(tfl, input)


@op("Cast", since=21, layout=Layout.ANY, quant=Quant(scale=Scale.NONE))
def cast(tfl: Tfl, input: Operand, *, saturate: int = 1, to: int | None = None) -> None:
    """CAST."""
    source = tfl.tensor(input)
    tfl.add("CAST", [input], in_data_type=source.dtype.upper(), out_data_type=tfl.out.dtype.upper())
