"""Multiply-adds of one op from its shapes, by ONNX op and by TFLite operator. An op that multiplies nothing costs 0.

The shape of an input that is left out is (0,). A shape that is not known, or that the op cannot have, gives None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

Shape = tuple[int, ...]
Shapes = Sequence[Any]  # of Shape, or None where it is not known
Formula = Callable[[Shapes, Shapes, Mapping[str, Any]], int]


def convolution(output: Shape, weights: Shape) -> int:
    """Every output element adds one product per weight of its channel; weights start with the output channels."""
    return prod(output) * prod(weights[1:])


def transposed_convolution(data: Shape, weights: Shape) -> int:
    """Every input element is multiplied with its channel's weights, (I, O/group, ...) in ONNX."""
    return prod(data) * prod(weights[1:])


def product(left: Shape, output: Shape, transposed: bool = False) -> int:
    """A matrix product: every output element adds as many products as the inner dimension is long."""
    return prod(output) * left[-2 if transposed and len(left) > 1 else -1]


def recurrent(data: Shape, *weights: Shape) -> int:
    """ONNX RNN, GRU, LSTM: every weight once a step and sequence; data is (steps, batch, features)."""
    return data[0] * data[1] * sum(map(prod, weights))


def einsum(inputs: Sequence[Shape], equation: str) -> int:
    """The product of the lengths of all indices of an equation without an ellipsis."""
    terms = equation.replace(" ", "").split("->")[0].split(",")
    lengths = {
        label: size for term, shape in zip(terms, inputs, strict=True) for label, size in zip(term, shape, strict=True)
    }
    return prod(lengths.values()) if len(inputs) > 1 else 0


ONNX: dict[str, Formula] = {
    "Conv": lambda i, o, a: convolution(o[0], i[1]),
    "ConvInteger": lambda i, o, a: convolution(o[0], i[1]),
    "QLinearConv": lambda i, o, a: convolution(o[0], i[3]),
    "ConvTranspose": lambda i, o, a: transposed_convolution(i[0], i[1]),
    "Gemm": lambda i, o, a: product(i[0], o[0], bool(a.get("transA", 0))),
    "MatMul": lambda i, o, a: product(i[0], o[0]),
    "MatMulInteger": lambda i, o, a: product(i[0], o[0]),
    "QLinearMatMul": lambda i, o, a: product(i[0], o[0]),
    "RNN": lambda i, o, a: recurrent(i[0], i[1], i[2]),
    "GRU": lambda i, o, a: recurrent(i[0], i[1], i[2]),
    "LSTM": lambda i, o, a: recurrent(i[0], i[1], i[2]),
    "Einsum": lambda i, o, a: einsum(i, a["equation"].decode()),
}

# Weights are (O, ..., I) in TFLite, a depthwise convolution's (1, H, W, O), a transposed one's (O, H, W, I).
TFLITE: dict[str, Formula] = {
    "CONV_2D": lambda i, o, a: convolution(o[0], i[1]),
    "DEPTHWISE_CONV_2D": lambda i, o, a: prod(o[0]) * prod(i[1][1:3]),
    "CONV_3D": lambda i, o, a: prod(o[0]) * prod(i[1][:4]),
    "TRANSPOSE_CONV": lambda i, o, a: prod(i[2]) * prod(i[1][:3]),
    "FULLY_CONNECTED": lambda i, o, a: prod(o[0]) * i[1][-1],
    "BATCH_MATMUL": lambda i, o, a: product(i[0], o[0], bool(a.get("adj_x"))),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lambda i, o, a: prod(i[0][:2]) * sum(map(prod, i[1:9])),
}


def count(
    formulas: Mapping[str, Formula], op: str, shapes: tuple[Shapes, Shapes], options: Mapping[str, Any]
) -> int | None:
    """Multiply-adds of an op with these (input, output) shapes; 0 without a formula, None when a shape is amiss."""
    if op not in formulas:
        return 0
    try:
        return formulas[op](*shapes, options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def unknown(names: Sequence[str]) -> list[str]:
    """What to say of the ops whose multiply-adds are not known; nothing when there are none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"shapes are not known, so their multiply-adds count as 0: {', '.join(names[:3])}{more}"] if names else []
