"""One small torch function per op: its signature is the ONNX schema, as in ``edgekit.ops``.

``X`` and the like are tensors; an optional input that is left out is None. The specification of each is that of the
ONNX operator of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Ints = Sequence[int]
FUNCTIONS: dict[str, Callable[..., Any]] = {}


def op(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function for an op, or for several. Raises KeyError when one has a function already."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name in FUNCTIONS:
                raise KeyError(f"op {name} has two torch functions")
            FUNCTIONS[name] = function
        return function

    return register


# Ops whose torch function takes the same inputs in the same order and no attributes.
PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Add": torch.add, "And": torch.logical_and,
    "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil,
    "Cos": torch.cos, "Cosh": torch.cosh, "Div": torch.div, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "HardSwish": F.hardswish,
    "Identity": lambda x: x, "IsNaN": torch.isnan, "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log,
    "MatMul": torch.matmul, "Max": lambda *x: reduce(torch.maximum, x), "Min": lambda *x: reduce(torch.minimum, x),
    "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or,
    "Pow": torch.pow, "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x), "Reciprocal": torch.reciprocal,
    "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Sub": torch.sub,
    "Tan": torch.tan, "Tanh": torch.tanh, "Where": lambda condition, x, y: torch.where(condition.bool(), x, y),
    "Xor": torch.logical_xor,
}  # fmt: skip
FUNCTIONS.update(PLAIN)


@op("Gemm")
def gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha A B + beta C."""
    product = (A.T if transA else A) @ (B.T if transB else B)
    product = product if alpha == 1.0 else alpha * product
    return product if C is None else product + (C if beta == 1.0 else beta * C)


@op("Clip")
def clip(input: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    """Between two limits, either of which may be left out."""
    low = None if min is None else float(min)
    high = None if max is None else float(max)
    return input if low is None and high is None else torch.clamp(input, low, high)


@op("LeakyRelu")
def leaky_relu(X: Tensor, *, alpha: float = 0.01) -> Tensor:
    """x, or alpha x below zero."""
    return F.leaky_relu(X, alpha)


@op("Elu")
def elu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x, or alpha (e^x - 1) below zero."""
    return F.elu(X, alpha)


@op("Celu")
def celu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x, or alpha (e^(x / alpha) - 1) below zero."""
    return F.celu(X, alpha)


@op("Selu")
def selu(X: Tensor, *, alpha: float = 1.6732632, gamma: float = 1.0507010) -> Tensor:
    """gamma x, or gamma alpha (e^x - 1) below zero."""
    return gamma * F.elu(X, alpha)


@op("ThresholdedRelu")
def thresholded_relu(X: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above alpha, else zero."""
    return torch.where(alpha < X, X, 0.0)


@op("Shrink")
def shrink(input: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Nearer to zero by the bias, and zero within lambd of it."""
    return torch.where(input > lambd, input - bias, torch.where(input < -lambd, input + bias, 0.0))


@op("HardSigmoid")
def hard_sigmoid(X: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha x + beta, between 0 and 1."""
    return torch.clamp(alpha * X + beta, 0.0, 1.0)


@op("Gelu")
def gelu(X: Tensor, *, approximate: str = "none") -> Tensor:
    """x times the normal distribution's share below x."""
    return F.gelu(X, approximate=approximate)


@op("Softmax")
def softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    """e^x over its sum along an axis."""
    return torch.softmax(input, axis)


@op("LogSoftmax")
def log_softmax(input: Tensor, *, axis: int = -1) -> Tensor:
    """The logarithm of Softmax."""
    return torch.log_softmax(input, axis)


@op("BatchNormalization")
def batch_normalization(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    input_mean: Tensor,
    input_var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    """By the statistics of the batch in training (they move the running ones), else by the running ones."""
    return F.batch_norm(X, input_mean, input_var, scale, B, bool(training_mode), 1 - momentum, epsilon)


@op("LayerNormalization")
def layer_normalization(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Over the axes from ``axis`` on."""
    return F.layer_norm(X, X.shape[axis % X.ndim :], Scale, B, epsilon)


@op("InstanceNormalization")
def instance_normalization(input: Tensor, scale: Tensor, B: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Over the image of each channel."""
    return F.instance_norm(input, weight=scale, bias=B, eps=epsilon)


@op("GroupNormalization")
def group_normalization(
    X: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    epsilon: float = 1e-5,
    num_groups: int = 1,
    stash_type: int = 1,
) -> Tensor:
    """Over groups of channels."""
    return F.group_norm(X, num_groups, scale, bias, epsilon)


@op("Dropout")
def dropout(
    data: Tensor, ratio: Tensor | None = None, training_mode: Tensor | None = None, *, seed: int | None = None
) -> Tensor:
    """Drops in training only: ``training_mode`` is set by the module."""
    on = training_mode is not None and bool(training_mode)
    return F.dropout(data, 0.5 if ratio is None else float(ratio), on)


@op("MeanVarianceNormalization")
def mean_variance_normalization(X: Tensor, *, axes: Ints = (0, 2, 3)) -> Tensor:
    """Less its mean, over its deviation."""
    apart = X - X.mean(tuple(axes), keepdim=True)
    return apart / (apart.square().mean(tuple(axes), keepdim=True).sqrt() + 1e-9)


def _product(data: Tensor, axes: Ints, keep: bool) -> Tensor:
    for axis in sorted((axis % data.ndim for axis in axes), reverse=True):
        data = data.prod(axis, keep)
    return data


def _reduce(name: str, run: Callable[..., Tensor]) -> None:
    @op(name)
    def reduce(data: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        which = [] if axes is None else [int(a) for a in axes]
        if not which and noop_with_empty_axes:
            return data
        return run(data, which or list(range(data.ndim)), bool(keepdims))


_reduce("ReduceMean", torch.mean)
_reduce("ReduceSum", torch.sum)
_reduce("ReduceMax", torch.amax)
_reduce("ReduceMin", torch.amin)
_reduce("ReduceProd", _product)
_reduce("ReduceL2", lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep))
_reduce("ReduceSumSquare", lambda x, axes, keep: torch.sum(x * x, axes, keep))


@op("CumSum")
def cum_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """The sum of what comes before along an axis, or behind; itself among them or not."""
    along = int(axis)
    source = x.flip(along) if reverse else x
    total = source.cumsum(along) - (source if exclusive else 0)
    return total.flip(along) if reverse else total


@op("Mod")
def mod(A: Tensor, B: Tensor, *, fmod: int = 0) -> Tensor:
    """What is left of a division; its sign is the divisor's, or with ``fmod`` the dividend's."""
    return torch.fmod(A, B) if fmod else torch.remainder(A, B)


@op("IsInf")
def is_inf(X: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Whether infinite, of the signs asked for."""
    return (torch.isposinf(X) & bool(detect_positive)) | (torch.isneginf(X) & bool(detect_negative))


@op("Einsum")
def einsum(*Inputs: Tensor, equation: str) -> Tensor:
    """A sum of products by an equation."""
    return torch.einsum(equation, *Inputs)


@op("Cast")
def cast(input: Tensor, *, saturate: int = 1, to: int) -> Tensor:
    """To another element type, of which floating-point ones are all float32."""
    kinds = {1: torch.float32, 10: torch.float32, 11: torch.float32, 16: torch.float32, 6: torch.int32, 7: torch.int64,
             9: torch.bool, 3: torch.int8, 2: torch.uint8, 5: torch.int16}  # fmt: skip
    return input.to(kinds[to])
