"""From LiteRT's kernels back to the ops of the file.

An op that TFLite ran itself has its number in the file. XNNPACK does not say which op a kernel is for, but runs them in
their order: the two sequences are aligned (as in Needleman and Wunsch 1970) by what kinds of kernel an op can become.
An op may have none (merged into another), and more than one: what XNNPACK adds to it. Other kernels belong to no layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.emitters import tflite_bytes
from edgekit.emitters.tflite_graph import Op
from edgekit.profile.facts import Kernel, LayerTime

CONVOLUTIONS = ("Convolution", "Fully Connected", "VMulCAddC")
REDUCTIONS = ("Mean", "Mean Squared", "Sum", "Average Pooling", "Global Average Pooling", "Global Sum Pooling")
SLICES = ("Slice", "Copy", "Static Reshape", "Split")
BECOMES = {
    "CONV_2D": CONVOLUTIONS,
    "DEPTHWISE_CONV_2D": CONVOLUTIONS,
    "TRANSPOSE_CONV": ("Deconvolution",),
    "FULLY_CONNECTED": ("Fully Connected", "Dynamic Fully Connected", "Convolution"),
    "BATCH_MATMUL": ("Batch Matrix Multiply", "Fully Connected"),
    "ADD": ("Add",),
    "SUB": ("Subtract", "Add"),
    "MUL": ("Multiply",),
    "DIV": ("Divide",),
    "MEAN": REDUCTIONS,
    "SUM": REDUCTIONS,
    "AVERAGE_POOL_2D": REDUCTIONS,
    "MAX_POOL_2D": ("Max Pooling",),
    "LOGISTIC": ("Sigmoid",),
    "RELU": ("Clamp",),
    "RELU6": ("Clamp",),
    "RELU_N1_TO_1": ("Clamp",),
    "HARD_SWISH": ("HardSwish", "Hard Swish"),
    "LEAKY_RELU": ("Leaky ReLU",),
    "PRELU": ("PReLU",),
    "SQRT": ("Square Root",),
    "RSQRT": ("Reciprocal Square Root",),
    "NEG": ("Negate",),
    "QUANTIZE": ("Convert",),
    "DEQUANTIZE": ("Convert",),
    "RESHAPE": ("Static Reshape", "Copy"),
    "EXPAND_DIMS": ("Static Reshape", "Static Expand Dims", "Copy"),
    "SQUEEZE": ("Static Reshape", "Copy"),
    "PAD": ("Constant Pad",),
    "PADV2": ("Constant Pad",),
    "SLICE": SLICES,
    "STRIDED_SLICE": SLICES,
    "SPLIT": SLICES,
    "CONCATENATION": ("Concatenate", "Copy"),
    "RESIZE_BILINEAR": ("Resize Bilinear", "Static Resize Bilinear"),
}
TABLE = "Invalid Unary Op"  # what XNNPACK calls the table that it makes of one or more of these, the others constant
IN_A_TABLE = (
    "ABS", "ADD", "CAST", "CEIL", "COS", "DIV", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG",
    "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "NEG", "RELU", "RELU6", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "SUB",
    "TANH",
)  # fmt: skip
SEVERAL = ("SPLIT", "CONCATENATION", "SOFTMAX")  # have a kernel for every part
ADDED = ("Clamp", "Static Reshape", "Copy", "Convert")  # what XNNPACK appends to an op: an activation, another form
MERGED, APPENDED, LEFT = 2, 1, 5  # what it costs that an op has no kernel, another one more, and a kernel no op


def attribute(data: bytes, kernels: Sequence[Kernel]) -> tuple[tuple[LayerTime, ...], list[Kernel]]:
    """The layers that took time, in the order of the file, and the kernels that belong to none."""
    ops = tflite_bytes.read(data).ops
    owned: dict[int, list[Kernel]] = {}
    for kernel in kernels:
        if kernel.node is not None and kernel.node < len(ops):
            owned.setdefault(kernel.node, []).append(kernel)
    delegated = [number for number in range(len(ops)) if number not in owned]
    inside = [kernel for kernel in kernels if kernel.node is None]
    owners = align([ops[number].code for number in delegated], [kernel.op for kernel in inside])
    left = [kernel for kernel in kernels if kernel.node is not None and kernel.node >= len(ops)]
    for kernel, owner in zip(inside, owners, strict=True):
        (left if owner is None else owned.setdefault(delegated[owner], [])).append(kernel)
    return tuple(_layer(ops[number], owned[number]) for number in sorted(owned)), left


def _layer(op: Op, kernels: Sequence[Kernel]) -> LayerTime:
    name = op.outputs[0].name if op.outputs else op.code
    return LayerTime(name, op.code, name, sum(kernel.ms for kernel in kernels), tuple(kernel.op for kernel in kernels))


def align(ops: Sequence[str], kernels: Sequence[str]) -> list[int | None]:
    """The op of every kernel, or None, at the least cost; both are in the order of execution."""
    step = _steps(ops, kernels)
    owners: list[int | None] = [None] * len(kernels)
    op, kernel = len(ops), len(kernels)
    while op or kernel:
        taken = step[op][kernel]
        if taken in ("matched", "appended"):
            owners[kernel - 1] = op - 1
        kernel -= taken != "merged"
        op -= taken in ("matched", "merged")
    return owners


def _steps(ops: Sequence[str], kernels: Sequence[str]) -> list[list[str]]:
    """The last step to the first m ops and n kernels at the least cost."""
    above = [LEFT * number for number in range(len(kernels) + 1)]
    step = [["left"] * (len(kernels) + 1)]
    for op in ops:
        row, taken = [above[0] + MERGED], ["merged"]
        for n, kernel in enumerate(kernels, 1):
            ways = [(above[n] + MERGED, "merged"), (row[n - 1] + LEFT, "left")]
            if may_become(op, kernel):
                ways.append((above[n - 1], "matched"))
            if taken[n - 1] in ("matched", "appended") and _appends(op, kernel):
                ways.append((row[n - 1] + APPENDED, "appended"))
            least = min(ways)
            row.append(least[0])
            taken.append(least[1])
        above = row
        step.append(taken)
    return step


def may_become(op: str, kernel: str) -> bool:
    """Whether an op can be run by a kernel: those that have the same name need no entry in ``BECOMES``."""
    if kernel == TABLE:
        return op in IN_A_TABLE
    return kernel in BECOMES.get(op, ()) or kernel.replace(" ", "_").upper() == op


def _appends(op: str, kernel: str) -> bool:
    return kernel in ADDED or (op in SEVERAL and may_become(op, kernel))
