"""Matrix products."""

from __future__ import annotations

from typing import Any

from edgekit.ops.context import Array, Operand, Tfl
from edgekit.ops.declare import Layout, Quant, op, unsupported


def _columns(X: Operand, weights: Array) -> Array:
    """Weights (out, in) with their inputs in the order in which X stores its features."""
    return weights if X.features is None else weights[:, X.features]


@op("Gemm", since=13, layout=Layout.SOURCE, quant=Quant(weight=1, channel_axis=0, bias=2, inputs=(0,)), fuses=True)
def gemm(
    tfl: Tfl,
    A: Operand,
    B: Operand,
    C: Operand | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> None:
    """FULLY_CONNECTED; the passes have brought constant weights into the form alpha = beta = 1, transB = 1."""
    if B.array is None or transA or alpha != 1.0 or beta != 1.0 or not transB:
        unsupported("Gemm with weights that are computed at run time; use MatMul and Add")
    if C is not None and (C.array is None or C.array.size not in (1, tfl.out.shape[-1])):
        unsupported(f"bias {C.name} of shape {list(C.shape)}; a constant of one value per output is supported")
    weights = tfl.weight(B, lambda w: _columns(A, w), 0)
    tfl.add(
        "FULLY_CONNECTED",
        [A, weights, tfl.bias(C, tfl.out.shape[-1], A, weights)],
        fused_activation_function=tfl.activation,
        weights_format=0,
        keep_num_dims=False,
    )


@op("MatMul", since=13, layout=Layout.PRODUCT, quant=Quant(weight=1, channel_axis=1), fuses=True)
def matmul(tfl: Tfl, A: Operand, B: Operand) -> None:
    """FULLY_CONNECTED when B is a constant matrix, else BATCH_MATMUL."""
    if B.array is not None and B.array.ndim == 2 and len(A.shape) >= 2:
        weights = tfl.weight(B, lambda w: _columns(A, w.T), 0)
        tfl.add(
            "FULLY_CONNECTED",
            [A, weights, tfl.bias(None, tfl.out.shape[-1], A, weights)],
            fused_activation_function=tfl.activation,
            weights_format=0,
            keep_num_dims=len(A.shape) > 2,
        )
        return
    left: Any = A if len(A.shape) > 1 else tfl.reshape(A, (1, *A.shape))
    right: Any = B if len(B.shape) > 1 else tfl.reshape(B, (*B.shape, 1))
    batch = tfl.shape[: len(tfl.shape) - (len(A.shape) > 1) - (len(B.shape) > 1)]
    rows = A.shape[-2] if len(A.shape) > 1 else 1
    columns = B.shape[-1] if len(B.shape) > 1 else 1
    exact = (*batch, rows, columns)
    result = tfl.out if exact == tfl.out.shape and tfl.activation == "NONE" else tfl.temp(exact, tfl.out)
    turned = B.array is None and len(B.shape) > 2 and B.perm[-1] != len(B.shape) - 1
    tfl.add("BATCH_MATMUL", [left, right], result, adj_x=False, adj_y=turned)
    if result is not tfl.out:
        flat = result if exact == tfl.out.shape else None
        if tfl.activation == "NONE":
            tfl.reshape(result, tfl.out.shape, tfl.out)
        else:
            flat = flat or tfl.reshape(result, tfl.out.shape)
            tfl.add(tfl.activation, [flat])
