"""One or more small graphs for every declared op: ``tests/test_ops.py`` runs them in every precision (``op_run``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from small_graphs import Builder

C, H, W = 8, 6, 5


@dataclass(frozen=True)
class Case:
    """A graph around one op: ``build`` gets the input's name and gives the output's.

    ``steps``: by how many integers the int8 artifacts may differ. ``snr``: the least signal-to-noise ratio of int8
    against float, dB. ``low`` and ``high``: the range of the input (normal without them). ``transposes``: TRANSPOSE
    operators between two convolutions; None leaves out the test of that.
    """

    op: str
    build: Callable[[Builder, str], str]
    label: str = ""
    shape: tuple[int, ...] = (1, C, H, W)
    steps: float = 1.0
    snr: float = 35.0
    low: float | None = None
    high: float | None = None
    transposes: int | None = 0

    @property
    def name(self) -> str:
        return self.op + ("-" + self.label if self.label else "")


def unary(op: str, label: str = "", /, **attributes: Any) -> Callable[..., Case]:
    """A case of an op with one input and attributes only."""
    return lambda **facts: Case(op, lambda g, x: g.node(op, x, **attributes), label, **facts)


def other(g: Builder, x: str) -> str:
    """A second tensor of the same shape with another range."""
    return g.node("Sigmoid", g.node("Mul", x, g.const(np.float32(1.7))))


ACTIVATIONS = [
    unary("Relu")(),
    Case("Clip", lambda g, x: g.node("Clip", x, g.const(0.0), g.const(6.0)), "relu6"),
    Case("Clip", lambda g, x: g.node("Clip", x, g.const(-0.7), g.const(0.9)), "both"),
    Case("Clip", lambda g, x: g.node("Clip", x, g.const(-1.0), g.const(1.0)), "relu-n1-to-1"),
    Case("Clip", lambda g, x: g.node("Clip", x, g.const(0.5)), "above-zero"),
    Case("Clip", lambda g, x: g.node("Clip", x, "", g.const(0.5)), "below"),
    unary("LeakyRelu", alpha=0.1)(),
    Case("PRelu", lambda g, x: g.node("PRelu", x, g.uniform(-0.2, 0.4, C, 1, 1))),
    Case("PRelu", lambda g, x: g.node("PRelu", x, g.uniform(0.1, 0.4, 1)), "one"),
    unary("Elu")(),
    unary("Elu", "alpha", alpha=0.6)(),
    unary("Sigmoid")(),
    unary("Tanh")(),
    unary("HardSigmoid", "torch", alpha=1 / 6, beta=0.5)(low=-5, high=5),
    unary("HardSigmoid", "onnx")(low=-5, high=5),
    unary("HardSwish")(low=-5, high=5),
    unary("Gelu")(),
    unary("Gelu", "tanh", approximate="tanh")(),
    unary("Softplus")(),
    unary("Selu")(),
    unary("Celu")(),
    unary("Celu", "alpha", alpha=2.0)(),
    unary("ThresholdedRelu", alpha=0.25)(snr=25),
    unary("Shrink", lambd=0.5, bias=0.5)(),
    unary("Shrink", "hard", lambd=0.5)(snr=25),
    unary("Softsign")(),
    unary("Mish")(),
    unary("Softmax", "channels", axis=1)(snr=30),
    unary("Softmax", "last", axis=-1)(shape=(1, 4, 16), snr=30, transposes=None),
    unary("Softmax", "rows", axis=2)(transposes=2, snr=30),
    unary("LogSoftmax", axis=1)(snr=30),
    Case("Sigmoid", lambda g, x: g.node("Mul", x, g.node("Sigmoid", x)), "silu"),
]
ARITHMETIC = [
    Case("Add", lambda g, x: g.node("Add", x, other(g, x))),
    Case("Add", lambda g, x: g.node("Add", x, g.uniform(-1, 1, C, 1, 1)), "per-channel"),
    Case("Add", lambda g, x: g.node("Add", g.const(1.5), x), "scalar-first"),
    Case("Sub", lambda g, x: g.node("Sub", x, other(g, x))),
    Case("Sub", lambda g, x: g.node("Sub", g.const(1.0), x), "from-one"),
    Case("Mul", lambda g, x: g.node("Mul", x, other(g, x))),
    Case("Mul", lambda g, x: g.node("Mul", x, g.uniform(-1, 1, 1, C, 1, 1)), "per-channel"),
    Case("Mul", lambda g, x: g.node("Mul", x, g.node("Sigmoid", g.node("GlobalAveragePool", x))), "squeeze-excite"),
    Case("Mul", lambda g, x: g.node("Mul", x, x), "square"),
    Case("Div", lambda g, x: g.node("Div", x, g.uniform(0.5, 2, C, 1, 1)), "constant"),
    Case("Div", lambda g, x: g.node("Div", x, g.node("Add", other(g, x), g.const(0.5))), snr=30),
    Case("Div", lambda g, x: g.node("Div", g.const(1.0), g.node("Add", other(g, x), g.const(0.5))), "one-by"),
    Case("Max", lambda g, x: g.node("Max", x, other(g, x))),
    Case("Max", lambda g, x: g.node("Max", x, other(g, x), g.const(0.25)), "three"),
    Case("Min", lambda g, x: g.node("Min", x, other(g, x))),
    Case("Pow", lambda g, x: g.node("Pow", x, g.const(2.0)), "square"),
    Case("Pow", lambda g, x: g.node("Pow", other(g, x), g.const(2.5)), "table"),
    Case("Pow", lambda g, x: g.node("Pow", x, g.const(3)), "integer", snr=33),
    Case("Mod", lambda g, x: g.node("Mod", x, g.const(4.0), fmod=1)),
    Case("Sqrt", lambda g, x: g.node("Sqrt", other(g, x))),
    unary("Abs")(),
    unary("Neg")(),
    unary("Exp")(),
    Case("Log", lambda g, x: g.node("Log", g.node("Add", other(g, x), g.const(0.2)))),
    unary("Floor")(),
    unary("Ceil")(),
    unary("Round")(low=-4, high=4),
    unary("Sin")(),
    unary("Cos")(),
    unary("Sign")(),
    *(unary(op)(shape=(2, 99), low=-0.9, high=0.9, snr=30) for op in ("Acos", "Asin", "Asinh", "Atan", "Atanh")),
    *(unary(op)(low=-1.2, high=1.2, snr=30) for op in ("Cosh", "Sinh", "Tan")),
    unary("Acosh")(shape=(2, 99), low=1.1, high=3.0, snr=30),
    unary("Erf")(),
    Case("Reciprocal", lambda g, x: g.node("Reciprocal", g.node("Add", other(g, x), g.const(0.5)))),
    Case("Identity", lambda g, x: g.node("Identity", x)),
    Case("Cast", lambda g, x: g.node("Cast", g.node("Cast", x, to=7), to=1), snr=60, steps=0),
]


def conv(
    label: str,
    kernel: tuple[int, ...],
    out: int = 6,
    group: int = 1,
    shape: tuple[int, ...] = (1, C, H, W),
    op: str = "Conv",
    **attrs: Any,
) -> Case:
    """A convolution, or with ``op`` a transposed one, whose weights lie (in, out / group, kernel)."""

    def build(g: Builder, x: str) -> str:
        if op == "Conv":
            return g.conv(x, shape[1], out, kernel, group=group, **attrs)
        weights = g.weights(shape[1], out // group, *kernel, scale=0.2)
        return g.node(op, x, weights, g.uniform(-0.2, 0.2, out), group=group, **attrs)

    return Case(op, build, label, shape)


transposed = partial(conv, op="ConvTranspose")
LINE = (1, C, 12)
DEEP = (1, 3, 5, 6, 4)
WINDOWS = [
    conv("1x1", (1, 1)),
    conv("same", (3, 3), pads=[1, 1, 1, 1]),
    conv("stride", (3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    conv("asymmetric", (3, 2), pads=[2, 0, 1, 1], strides=[2, 1]),
    conv("dilated", (3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]),
    conv("same-lower", (2, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    conv("same-upper", (2, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    conv("valid", (2, 3), auto_pad="VALID"),
    conv("depthwise", (3, 3), C, C, pads=[1, 1, 1, 1]),
    conv("depthwise-twice", (3, 3), 2 * C, C, pads=[1, 1, 1, 1]),
    conv("grouped", (3, 3), 6, 2, pads=[1, 1, 1, 1]),
    conv("1d", (3,), shape=LINE, pads=[1, 1], strides=[2]),
    conv("1d-dilated", (3,), shape=LINE, pads=[4, 0], dilations=[2]),
    conv("1d-depthwise", (3,), C, C, shape=LINE, pads=[1, 1]),
    Case("Conv", lambda g, x: g.node("Relu", g.conv(x, C, 6)), "relu"),
    Case("Conv", lambda g, x: g.node("Clip", g.conv(x, C, 6), g.const(-0.4), g.const(0.6)), "clip"),
    Case("Conv", lambda g, x: g.node("Clip", g.conv(x, C, 6), g.const(0.2), g.const(0.9)), "clip-above-zero", snr=33),
    transposed("plain", (2, 2), strides=[2, 2]),
    transposed("torch", (4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    transposed("output-padding", (3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    transposed("dilated", (3, 3), dilations=[2, 2], pads=[1, 1, 1, 1]),
    transposed("grouped", (3, 3), 4, 2, pads=[1, 1, 1, 1]),
    transposed("depthwise", (3, 3), C, C, strides=[2, 2]),
    transposed("asymmetric", (3, 2), strides=[2, 1], pads=[0, 1, 1, 0]),
    transposed("same", (3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    transposed("shape", (3, 3), strides=[2, 2], output_shape=[13, 11]),
    transposed("1d", (4,), shape=LINE, strides=[2], pads=[1, 1]),
    transposed("1d-output-padding", (5,), shape=LINE, strides=[3], pads=[1, 1], output_padding=[2]),
    transposed("1d-grouped", (3,), 4, 2, shape=LINE, strides=[2], dilations=[2]),
    transposed("more-output-padding", (3, 3), strides=[3, 2], pads=[1, 0, 1, 1], output_padding=[2, 1]),
    Case("MaxPool", lambda g, x: g.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])),
    Case(
        "MaxPool", lambda g, x: g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), "padded"
    ),
    Case("MaxPool", lambda g, x: g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), "ceil"),
    Case("MaxPool", lambda g, x: g.node("MaxPool", x, kernel_shape=[2], strides=[2]), "1d", LINE),
    Case("AveragePool", lambda g, x: g.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])),
    Case("AveragePool", lambda g, x: g.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), "padded"),
    Case(
        "AveragePool",
        lambda g, x: g.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        "include-pad",
    ),
    Case(
        "AveragePool", lambda g, x: g.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), "ceil"
    ),
    Case("AveragePool", lambda g, x: g.node("AveragePool", x, kernel_shape=[3], strides=[2], pads=[1, 1]), "1d", LINE),
    Case("GlobalAveragePool", lambda g, x: g.node("GlobalAveragePool", x)),
    Case("GlobalMaxPool", lambda g, x: g.node("GlobalMaxPool", x)),
    Case("GlobalAveragePool", lambda g, x: g.node("GlobalAveragePool", x), "1d", LINE),
    Case("GlobalMaxPool", lambda g, x: g.node("GlobalMaxPool", x), "3d", DEEP, snr=30),
    conv("3d", (3, 3, 2), shape=DEEP, pads=[1, 1, 0, 1, 1, 1]),
    conv("3d-stride", (3, 3, 3), shape=DEEP, pads=[1] * 6, strides=[2, 2, 2]),
    conv("3d-dilated", (2, 2, 2), shape=DEEP, dilations=[3, 2, 1]),
    conv("3d-flat", (1, 3, 3), shape=DEEP, auto_pad="SAME_UPPER"),
    Case("Conv", lambda g, x: g.node("Relu", g.conv(x, DEEP[1], 6, (3, 1, 1), strides=[3, 1, 1])), "3d-relu", DEEP),
    unary("MaxPool", "3d", kernel_shape=[2, 3, 2], strides=[2, 2, 1], pads=[1, 1, 0, 0, 1, 1])(shape=DEEP),
    unary("MaxPool", "3d-same", kernel_shape=[3, 2, 2], strides=[2, 2, 2], auto_pad="SAME_LOWER")(shape=DEEP),
    unary("AveragePool", "3d", kernel_shape=[2, 2, 2], strides=[2, 2, 2])(shape=DEEP, snr=30),
    unary("AveragePool", "3d-padded", kernel_shape=[3, 3, 3], pads=[1] * 6)(shape=DEEP, snr=29),
    unary("AveragePool", "3d-depth", kernel_shape=[3, 1, 1], pads=[1, 0, 0, 1, 0, 0], count_include_pad=1)(
        shape=DEEP, snr=32
    ),
    Case("LRN", lambda g, x: g.node("LRN", x, size=3, alpha=0.9, beta=0.75, bias=1.5)),
    Case("LpPool", lambda g, x: g.node("LpPool", x, kernel_shape=[2, 2], strides=[2, 2]), snr=30),
    Case("LpPool", lambda g, x: g.node("LpPool", x, kernel_shape=[3, 3], p=3, pads=[1] * 4), "3", snr=24),
    Case("LpPool", lambda g, x: g.node("LpPool", x, kernel_shape=[3, 3], p=1, strides=[2, 2], ceil_mode=1), "1"),
    Case("GlobalLpPool", lambda g, x: g.node("GlobalLpPool", x), snr=28),
]
PRODUCTS = [
    Case("Gemm", lambda g, x: g.node("Gemm", x, g.weights(5, 16), g.uniform(-1, 1, 5), transB=1), shape=(1, 16)),
    Case("Gemm", lambda g, x: g.node("Gemm", x, g.weights(5, 16), g.uniform(-1, 1, 5), transB=1), "batch", (3, 16)),
    Case(
        "Gemm",
        lambda g, x: g.node("Gemm", x, g.weights(16, 5, scale=0.3), g.uniform(-1, 1, 1), alpha=0.5, beta=2.0),
        "scaled",
        (1, 16),
    ),
    Case("Gemm", lambda g, x: g.node("Gemm", x, g.node("Tanh", x), transA=1, alpha=0.5), "computed", (4, 6)),
    Case(
        "Gemm",
        lambda g, x: g.node("Relu", g.node("Gemm", g.node("Flatten", x), g.weights(5, C * H * W), transB=1)),
        "flat",
        transposes=None,
    ),
    Case("MatMul", lambda g, x: g.node("MatMul", x, g.weights(16, 5, scale=0.3)), "constant", (1, 7, 16)),
    Case(
        "MatMul",
        lambda g, x: g.node("MatMul", x, g.node("Transpose", g.node("Tanh", x), perm=[0, 1, 3, 2])),
        "computed",
        (1, 2, 5, 6),
        transposes=None,
    ),
    Case("MatMul", lambda g, x: g.node("MatMul", g.uniform(-1, 1, 4, 5), x), "constant-first", (1, 5, 6)),
    Case("MatMul", lambda g, x: g.node("MatMul", x, g.uniform(-1, 1, 2, 6, 3)), "constant-batch", (2, 5, 6)),
    Case(
        "MatMul",
        lambda g, x: g.node("MatMul", g.node("Reshape", x, g.const([1, 16])), g.weights(16, 5, scale=0.3)),
        "vector",
        (16,),
    ),
]
SHAPES = [
    Case("Reshape", lambda g, x: g.node("Reshape", x, g.const([1, C, H * W])), snr=38, transposes=None),
    Case("Reshape", lambda g, x: g.node("Reshape", x, g.const([1, 2, C // 2, H, W])), "split", transposes=None),
    Case("Flatten", lambda g, x: g.node("Flatten", x), transposes=None),
    Case("Squeeze", lambda g, x: g.node("Squeeze", g.node("GlobalAveragePool", x), g.const([2, 3])), transposes=None),
    Case("Unsqueeze", lambda g, x: g.node("Unsqueeze", x, g.const([2])), shape=LINE),
    Case("Transpose", lambda g, x: g.node("Transpose", x, perm=[0, 2, 3, 1]), transposes=1),
    Case("Transpose", lambda g, x: g.node("Transpose", x, perm=[0, 1, 3, 2]), "image", transposes=1),
    Case("Trilu", lambda g, x: g.node("Trilu", x, upper=0), "lower"),
    Case("Trilu", lambda g, x: g.node("Trilu", x, g.const(1)), "upper"),
    Case("Expand", lambda g, x: g.node("Expand", x, g.const([2, 1, 1, 1])), "batch"),
    Case("Expand", lambda g, x: g.node("Expand", x, g.const([3, C, H, W])), "more-axes", (C, 1, W)),
    Case("Expand", lambda g, x: g.node("Expand", g.node("GlobalAveragePool", x), g.const([1, C, H, W]))),
    Case("Tile", lambda g, x: g.node("Tile", x, g.const([1, 2, 1, 3]))),
    Case("Concat", lambda g, x: g.node("Concat", x, g.node("Tanh", x), axis=1)),
    Case("Concat", lambda g, x: g.node("Concat", x, g.uniform(-1, 1, 1, 2, H, W), axis=1), "constant"),
    Case("Concat", lambda g, x: g.node("Concat", x, x, g.node("Relu", x), axis=2), "rows"),
    Case("Split", lambda g, x: g.node("Add", *g.nodes("Split", 2, x, axis=1, num_outputs=2))),
    Case(
        "Split",
        lambda g, x: g.node("Concat", *g.nodes("Split", 3, x, g.const([1, 3, 4]), axis=1)[::-1], axis=1),
        "unequal",
    ),
    Case("Slice", lambda g, x: g.node("Slice", x, g.const([1, 2]), g.const([7, 4]), g.const([1, 3]))),
    Case(
        "Slice",
        lambda g, x: g.node("Slice", x, g.const([0, 0]), g.const([9, 9]), g.const([2, 3]), g.const([2, 2])),
        "strided",
    ),
    Case(
        "Slice",
        lambda g, x: g.node("Slice", x, g.const([-1]), g.const([-100]), g.const([2]), g.const([-1])),
        "backwards",
    ),
    Case("Gather", lambda g, x: g.node("Gather", x, g.const([3, 1, 1, 6]), axis=1)),
    Case("Gather", lambda g, x: g.node("Gather", x, g.const([1, 3, 5]), axis=1), "even"),
    Case("Gather", lambda g, x: g.node("Gather", x, g.const(2), axis=2), "one", transposes=None),
    Case("Gather", lambda g, x: g.node("Gather", x, g.const([[0, 2], [1, 3]]), axis=2), "matrix", transposes=None),
    Case(
        "Gather",
        lambda g, x: g.node("Gather", x, g.node("ArgMax", g.conv(x, C, 4), axis=1), axis=1),
        "computed",
        steps=0,
        snr=10,
        transposes=None,
    ),
    Case("Pad", lambda g, x: g.node("Pad", x, g.const([0, 0, 1, 2, 0, 0, 0, 1]))),
    Case("Pad", lambda g, x: g.node("Pad", x, g.const([0, 0, 1, 2, 0, 0, 0, 1]), g.const(1.5)), "value"),
    Case("Pad", lambda g, x: g.node("Pad", x, g.const([0, 0, 1, 2, 0, 0, 2, 1]), mode="reflect"), "reflect"),
    Case("Pad", lambda g, x: g.node("Pad", x, g.const([0, 0, 1, 2, 0, 0, 2, 1]), mode="edge"), "edge"),
    Case("Pad", lambda g, x: g.node("Pad", x, g.const([0, 0, 1, 2, 0, 0, 2, 1]), mode="wrap"), "wrap"),
    Case("Pad", lambda g, x: g.node("Pad", x, g.const([0, 4, 0, 0, 0, 4, 0, 0])), "channels"),
    Case("Pad", lambda g, x: g.node("Pad", x, g.const([0, -1, 1, 0, 0, 0, -2, 0])), "negative"),
    Case("DepthToSpace", lambda g, x: g.node("DepthToSpace", x, blocksize=2)),
    Case("DepthToSpace", lambda g, x: g.node("DepthToSpace", x, blocksize=2, mode="CRD"), "torch"),
    Case("SpaceToDepth", lambda g, x: g.node("SpaceToDepth", x, blocksize=2), shape=(1, C, 6, 4), transposes=None),
]


def resize(label: str, factor: float, steps: float = 1.0, snr: float = 35.0, **attrs: Any) -> Case:
    def build(g: Builder, x: str) -> str:
        return g.node("Resize", x, "", g.const([1.0, 1.0, factor, factor]), **attrs)

    return Case("Resize", build, label, steps=steps, snr=snr)


RESIZES = [
    resize("nearest", 2, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    resize("linear", 2, mode="linear", coordinate_transformation_mode="half_pixel"),
    resize("linear-corners", 2, mode="linear", coordinate_transformation_mode="align_corners"),
    resize("linear-fraction", 1.3, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    resize("linear-down", 0.5, 2, 32, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    resize("cubic", 2, 3, mode="cubic", coordinate_transformation_mode="pytorch_half_pixel"),
    resize("antialias", 0.5, 2, 32, mode="linear", antialias=1, exclude_outside=1),
]


def reduction(op: str, label: str, axes: list[int], **attrs: Any) -> Case:
    shape = (1, C, H, W)
    keep = attrs.get("keepdims", 1)
    return Case(op, lambda g, x: g.node(op, x, g.const(axes), **attrs), label, shape, transposes=0 if keep else None)


REDUCTIONS = [
    reduction("ReduceMean", "space", [2, 3]),
    reduction("ReduceMean", "space-flat", [2, 3], keepdims=0),
    reduction("ReduceMean", "channels", [1]),
    reduction("ReduceMean", "row", [3], keepdims=0),
    reduction("ReduceSum", "space", [2, 3]),
    reduction("ReduceMax", "space", [2, 3]),
    reduction("ReduceMax", "channels", [1], keepdims=0),
    reduction("ReduceMin", "space", [-1, -2]),
    *(
        Case(op, lambda g, x, op=op: g.node(op, x, g.const([1])), snr=30)  # type: ignore[misc]
        for op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
    ),
    Case("ReduceLogSum", lambda g, x: g.node("ReduceLogSum", other(g, x), g.const([2, 3])), snr=30),
    Case("ArgMax", lambda g, x: g.node("ArgMax", x, axis=1), steps=0, snr=20, transposes=None),
    Case("ArgMax", lambda g, x: g.node("ArgMax", x, axis=-1, keepdims=0), "flat", (1, 16), steps=0, snr=20),
]


def choice(op: str, label: str, *sides: Callable[[Builder, str], str], **facts: Any) -> Case:
    """The left side where ``op`` holds, else the right."""

    def build(g: Builder, x: str) -> str:
        left, right = (side(g, x) for side in sides)
        return g.node("Where", g.node(op, left, right), left, right)

    return Case(op, build, label, **facts)


def zeros(op: str, first: bool) -> Case:
    """Where what a Relu gave is zero, which integers hold exactly: ones, ..."""

    def build(g: Builder, x: str) -> str:
        sides = (g.node("Relu", x), g.const(0.0))
        return g.node("Cast", g.node(op, *(sides[::-1] if first else sides)), to=1)

    return Case(op, build, "zero-first" if first else "zero", snr=15, steps=0)


def itself(g: Builder, x: str) -> str:
    """The input."""
    return x


def limit(g: Builder, x: str) -> str:
    """A limit for each channel."""
    return g.uniform(-0.5, 0.5, C, 1, 1)


def above(g: Builder, x: str, value: float = 0.3) -> str:
    """Where the input is larger than a number."""
    return g.node("Greater", x, g.const(value))


def logical(op: str) -> Case:
    def build(g: Builder, x: str) -> str:
        return g.node("Where", g.node(op, above(g, x, -0.2), above(g, other(g, x))), x, g.node("Neg", x))

    return Case(op, build, snr=20)


COMPARED = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
LOGIC = [
    *(choice(op, "computed", itself, other, snr=30) for op in COMPARED),
    *(choice(op, "per-channel", itself, limit) for op in COMPARED),
    *(choice(op, "constant-first", limit, itself) for op in COMPARED),
    *(zeros(op, first) for op in COMPARED for first in (True, False) if op != ("GreaterOrEqual", "LessOrEqual")[first]),
    *(logical(op) for op in ("And", "Or", "Xor")),
    Case("Not", lambda g, x: g.node("Where", g.node("Not", above(g, x)), x, g.node("Neg", x)), snr=20),
    Case("Where", lambda g, x: g.node("Where", above(g, x), g.const(0.3), x), "number"),
    Case("Where", lambda g, x: g.node("Where", g.const(np.arange(W) % 2, "bool"), x, other(g, x)), "constant"),
    Case("Where", lambda g, x: g.node("Where", above(g, x), g.uniform(-1, 1, C, 1, 1), x), "per-channel", snr=15),
    Case("IsNaN", lambda g, x: g.node("Where", g.node("IsNaN", x), g.const(0.5), x)),
    Case("IsInf", lambda g, x: g.node("Where", g.node("IsInf", x), g.const(0.5), x)),
]


def indices(g: Builder, high: int, *shape: int) -> str:
    """Constant indices, of which some count from the end."""
    return g.const(g.rng.integers(-high, high, shape))


def computed(g: Builder, x: str, high: int) -> str:
    """Indices below ``high`` that are computed from the input."""
    return g.node("Cast", g.node("Clip", g.node("Abs", g.node("Mul", x, g.const(3.0))), "", g.const(high - 0.5)), to=7)


def places(g: Builder, *sizes: int) -> str:
    """Distinct positions in a tensor of ``sizes``: a third of all, as tuples."""
    flat = g.rng.permutation(int(np.prod(sizes)))[: int(np.prod(sizes)) // 3]
    return g.const(np.stack(np.unravel_index(flat, sizes), -1))


POSITIONS = [
    Case("GatherElements", lambda g, x: g.node("GatherElements", x, indices(g, C, 1, 4, H, W), axis=1)),
    Case("GatherElements", lambda g, x: g.node("GatherElements", x, indices(g, H, 1, C, 9, W), axis=-2), "rows"),
    Case(
        "GatherElements",
        lambda g, x: g.node("GatherElements", x, computed(g, x, C), axis=1),
        "computed",
        steps=0,
        snr=20,
        low=-1,
        high=1,
    ),
    Case("GatherND", lambda g, x: g.node("GatherND", x, places(g, 1, C)), transposes=None),
    Case("GatherND", lambda g, x: g.node("GatherND", x, indices(g, 5, 3, 2, 1), batch_dims=1), "batch", (3, 5, 4)),
    Case(
        "GatherND",
        lambda g, x: g.node("GatherND", x, g.node("Unsqueeze", g.nodes("TopK", 2, x, g.const([3]))[1], g.const([-1]))),
        "computed",
        (12,),
        steps=0,
        snr=20,
    ),
    Case("ScatterND", lambda g, x: g.node("ScatterND", x, places(g, 1, C), g.uniform(-1, 1, 2, H, W)), transposes=None),
    Case("ScatterND", lambda g, x: g.node("ScatterND", g.uniform(-1, 1, 9), places(g, 9), x), "updates", (3,)),
    Case(
        "ScatterElements",
        lambda g, x: g.node(
            "ScatterElements", x, g.const(np.zeros((1, 1, H, W), int)), g.uniform(-1, 1, 1, 1, H, W), axis=1
        ),
    ),
    Case("TopK", lambda g, x: g.nodes("TopK", 2, x, g.const([3]), axis=1)[0], transposes=0),
    Case("TopK", lambda g, x: g.nodes("TopK", 2, x, g.const([3]), axis=2, largest=0)[0], "smallest", transposes=2),
    Case("TopK", lambda g, x: g.nodes("TopK", 2, x, g.const([5]))[1], "indices", (2, 16), snr=0, steps=0),
    Case("CumSum", lambda g, x: g.node("CumSum", x, g.const(1))),
    Case("CumSum", lambda g, x: g.node("CumSum", x, g.const(-1), exclusive=1, reverse=1), "reverse", transposes=None),
    Case("ArgMin", lambda g, x: g.node("ArgMin", x, axis=1), steps=0, snr=20, transposes=None),
    reduction("ReduceProd", "row", [3]),
]


def norm(op: str, label: str = "", groups: int = 0, shape: tuple[int, ...] = (1, C, H, W), bias: float = 0.5) -> Case:
    """A normalisation of a convolution's channels, each with its own spread; computed on real numbers in int8 too."""

    def build(g: Builder, x: str) -> str:
        channels = g.conv(x, C, C, (1,) * (len(shape) - 2))
        spread = g.node("Mul", channels, g.uniform(0.05, 4, C, *[1] * (len(shape) - 2)))
        more = {"num_groups": groups} if groups else {}
        return g.node(op, spread, g.uniform(0.5, 1.5, C), g.uniform(-bias, bias, C), **more)

    return Case(op, build, label, shape, snr=28)


def rms(g: Builder, x: str) -> str:
    """RMSNormalization as torch spells it out."""
    mean = g.node("ReduceMean", g.node("Pow", x, g.const(2.0)), g.const([-1]))
    inverse = g.node("Reciprocal", g.node("Sqrt", g.node("Add", mean, g.const(1e-6))))
    return g.node("Mul", g.node("Mul", x, inverse), g.uniform(0.5, 1.5, 16))


def group_norm(g: Builder, x: str) -> str:
    """GroupNormalization as exports before opset 21 spell it out."""
    flat = g.node("Reshape", x, g.const([0, 4, -1]))
    plain = g.node("InstanceNormalization", flat, g.const(np.ones(4, np.float32)), g.const(np.zeros(4, np.float32)))
    back = g.node("Reshape", plain, g.const([1, C, H, W]))
    return g.node("Add", g.node("Mul", back, g.uniform(0.5, 1.5, C, 1, 1)), g.uniform(-1, 1, C, 1, 1))


NORMS = [
    norm("InstanceNormalization"),
    norm("InstanceNormalization", "plain", bias=0.0),
    norm("InstanceNormalization", "1d", shape=LINE),
    norm("GroupNormalization", groups=4),
    norm("GroupNormalization", "one", groups=1),
    norm("GroupNormalization", "1d", groups=2, shape=LINE),
    Case("GroupNormalization", group_norm, "spelled-out"),
    Case(
        "MeanVarianceNormalization", lambda g, x: g.node("MeanVarianceNormalization", g.conv(x, C, C), axes=[0, 2, 3])
    ),
    Case("MeanVarianceNormalization", lambda g, x: g.node("MeanVarianceNormalization", x, axes=[1]), "channels"),
    Case("LayerNormalization", lambda g, x: g.node("LayerNormalization", x, g.uniform(0.5, 1.5, 16)), "", (1, 7, 16)),
    Case(
        "LayerNormalization",
        lambda g, x: g.node("LayerNormalization", x, g.uniform(0.5, 1.5, 4, 8), g.uniform(-1, 1, 4, 8), axis=-2),
        "biased",
        (1, 7, 4, 8),
        transposes=2,
    ),
    Case("Pow", rms, "rms-norm", (1, 7, 16)),
]
DETECTIONS = [
    Case(
        "NonMaxSuppression",
        lambda g, x: g.node(
            "NonMaxSuppression",
            g.const([[[row, 0, row + 0.5, 1.0] for row in range(6)]]),
            x,
            g.const(2),
            g.const(0.5),
            g.const(-9.0),
        ),
        "",
        (1, 2, 6),
        transposes=None,
    )
]
CASES = [
    *NORMS,
    *ACTIVATIONS,
    *ARITHMETIC,
    *WINDOWS,
    *PRODUCTS,
    *SHAPES,
    *RESIZES,
    *REDUCTIONS,
    *LOGIC,
    *POSITIONS,
    *DETECTIONS,
]
