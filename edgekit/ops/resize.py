"""Resizing images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from edgekit.ops.context import PLAIN, Array, Operand, Tfl
from edgekit.ops.declare import Layout, Quant, Scale, op, unsupported

# (align_corners, half_pixel_centers) of TFLite's resize kernels, and where each reads output position i of n from m
TFLITE: dict[tuple[bool, bool], Any] = {
    (False, True): lambda i, m, n: (i + 0.5) * m / n - 0.5,
    (False, False): lambda i, m, n: i * m / n,
    (True, False): lambda i, m, n: i * (m - 1) / max(n - 1, 1),
}


@op("Resize", since=19, layout=Layout.NHWC, quant=Quant(scale=Scale.SHARED, inputs=(0,)))
def resize(
    tfl: Tfl,
    X: Operand,
    roi: Operand | None = None,
    scales: Operand | None = None,
    sizes: Operand | None = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> None:
    """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR where they read the very same positions, else GATHER or ``_mixed``.

    Twice as large, each element four times, is DEPTH_TO_SPACE of four copies where the runtime is faster so.

    Refused: other than images; tf_crop_and_resize.
    """
    if len(X.shape) != 4 or X.shape[:2] != tfl.shape[:2]:
        unsupported(f"{len(X.shape)} axes or channels that change; H and W of images are supported")
    ratio = _ratios(X, tfl, scales, axes)
    sides = list(zip(X.shape[2:], tfl.shape[2:], strict=True))
    positions = [
        source_positions(coordinate_transformation_mode, np.arange(n, dtype=np.float64), m, n, r)
        for (m, n), r in zip(sides, ratio, strict=True)
    ]
    picks = mode == "nearest"
    code = "RESIZE_NEAREST_NEIGHBOR" if picks else "RESIZE_BILINEAR"
    indices = [nearest(p, nearest_mode, m) for p, (m, _) in zip(positions, sides, strict=True)] if picks else []
    sound = picks or (mode == "linear" and not antialias and (tfl.out.dtype != "int16" or _in_bits(positions)))
    flags = _same_positions(positions, sides, nearest_mode if picks else None) if sound else None
    if picks and _doubles(tfl, indices):
        _doubled(tfl, X)
    elif flags is not None:
        size = np.asarray(tfl.out.shape[1:3])
        tfl.add(code, [X, size], align_corners=flags[0], half_pixel_centers=flags[1])
    elif picks:
        _gathered(tfl, X, indices)
    else:
        kernel = kernel_of(mode, cubic_coeff_a)
        shares = [
            shares_of(kernel, p, m, min(r, 1.0) if antialias else 1.0, bool(exclude_outside))
            for p, (m, _), r in zip(positions, sides, ratio, strict=True)
        ]
        _mixed(tfl, X, shares)


def _same_positions(
    positions: list[Array], sides: list[tuple[int, int]], nearest_mode: str | None
) -> tuple[bool, bool] | None:
    """The flags with which TFLite's kernel reads the very same positions, or None."""
    for flags, rule in TFLITE.items():
        along = zip(positions, sides, strict=True)
        if all(_agree(rule, p, m, n, nearest_mode, flags) for p, (m, n) in along):
            return flags
    return None


def _gathered(tfl: Tfl, X: Operand, indices: list[Array]) -> None:
    """Rows, then columns picked one by one."""
    source: Any = X
    for axis, index in enumerate(indices):
        shape = list(tfl.tensor(source).shape)
        shape[1 + axis] = len(index)
        target = tfl.temp(shape, X) if axis == 0 else tfl.out
        source = tfl.add("GATHER", [source, index], target, axis=1 + axis, batch_dims=0)


def _doubles(tfl: Tfl, indices: list[Array]) -> bool:
    """Whether each element is taken twice along both axes, and XNNPACK makes it faster than the operator does."""
    each = all(np.array_equal(index, np.arange(len(index)) // 2) and len(index) % 2 == 0 for index in indices)
    return each and tfl.delegated and tfl.out.dtype in ("int8", "float32")


def _doubled(tfl: Tfl, X: Operand) -> None:
    n, height, width, channels = tfl.tensor(X).shape
    copies = tfl.add("CONCATENATION", [X] * 4, tfl.temp((n, height, width, 4 * channels), X), axis=3, **PLAIN)
    tfl.add("DEPTH_TO_SPACE", [copies], block_size=2)


def _in_bits(positions: list[Array]) -> bool:
    """Whether positions are exact in the 10 bits of LiteRT's integer kernel: what is cut off shows in 16-bit values."""
    return all(np.array_equal(p * 1024, np.rint(p * 1024)) for p in positions)


def kernel_of(mode: str, a: float) -> Callable[[Array], Array]:
    """How much a neighbour counts by its distance; ``a`` shapes the cubic one."""
    return _linear if mode == "linear" else partial(_cubic, a)


def _linear(t: Array) -> Array:
    weight: Array = np.maximum(1 - np.abs(t), 0)
    return weight


def _cubic(a: float, t: Array) -> Array:
    """R. Keys, "Cubic convolution interpolation for digital image processing" (1981)."""
    t = np.abs(t)
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, a * (((t - 5) * t + 8) * t - 4)
    weight: Array = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return weight


def shares_of(kernel: Callable[[Array], Array], positions: Array, m: int, scale: float, exclude_outside: bool) -> Array:
    """How much of each of ``m`` elements goes into each output, (n, m); ``scale`` below 1 widens the kernel.

    What lies outside is the element at the edge, or is left out.
    """
    reach = int(np.ceil(2 / scale)) + 1
    taps = np.floor(positions).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    weights = kernel(scale * (taps - positions[:, None]))
    if exclude_outside:
        weights = np.where((taps >= 0) & (taps < m), weights, 0)
    shares = np.zeros((len(positions), m))
    rows = np.arange(len(positions))[:, None]
    np.add.at(shares, (rows, np.clip(taps, 0, m - 1)), weights / weights.sum(1, keepdims=True))
    return shares


def _mixed(tfl: Tfl, X: Operand, shares: list[Array]) -> None:
    """Rows, then columns mixed by a constant matrix: BATCH_MATMUL."""
    n, height, width, channels = tfl.tensor(X).shape
    rows, columns = (len(matrix) for matrix in shares)
    mixed = tfl.temp((n, rows, width * channels), X)
    flat = tfl.reshape(X, (n, height, width * channels))
    tfl.add("BATCH_MATMUL", [tfl.number(shares[0][None], X), flat], mixed, adj_x=False, adj_y=False)
    lines = tfl.reshape(mixed, (n * rows, width, channels))
    result = tfl.temp((n * rows, columns, channels), tfl.out)
    tfl.add("BATCH_MATMUL", [tfl.number(shares[1][None], X), lines], result, adj_x=False, adj_y=False)
    tfl.reshape(result, tfl.out.shape, tfl.out)


def _ratios(X: Operand, tfl: Tfl, scales: Operand | None, axes: Any) -> list[float]:
    """Output size over input size of H and W, as ONNX uses them: the given scales where there are any."""
    given = scales.array if scales is not None and scales.array is not None and scales.array.size else None
    plain = [n / m for m, n in zip(X.shape[2:], tfl.shape[2:], strict=True)]
    if given is None:
        return plain
    by_axis = dict(zip([int(a) % 4 for a in axes] if axes else range(4), map(float, given), strict=True))
    return [by_axis.get(2 + i, 1.0) for i in range(2)]


def source_positions(mode: str, i: Array, m: int, n: int, ratio: float) -> Array:
    """Where ONNX reads output positions ``i`` (Resize, "coordinate_transformation_mode")."""
    if mode == "asymmetric":
        return i / ratio
    if mode == "align_corners":
        return i * (m - 1) / (n - 1) if n > 1 else i * 0
    if mode == "pytorch_half_pixel" and n == 1:
        return i * 0
    if mode == "half_pixel_symmetric":  # what rounding the size cut off is shared by both ends
        return (m - n / ratio) / 2 + (i + 0.5) / ratio - 0.5
    if mode not in ("half_pixel", "pytorch_half_pixel"):
        unsupported(f"coordinate_transformation_mode {mode}")
    return (i + 0.5) / ratio - 0.5


def _agree(rule: Any, positions: Array, m: int, n: int, nearest_mode: str | None, flags: tuple[bool, bool]) -> bool:
    """Whether TFLite reads what ONNX reads along one axis of ``m`` elements that becomes ``n`` long."""
    theirs = rule(np.arange(n, dtype=np.float64), m, n)
    if nearest_mode is None:
        return bool(np.allclose(np.clip(theirs, 0, m - 1), np.clip(positions, 0, m - 1), atol=1e-6))
    corners, half = flags
    picked = np.floor(theirs + 0.5) if corners or half else np.floor(theirs + 1e-9)
    return bool(np.array_equal(np.clip(picked, 0, m - 1), nearest(positions, nearest_mode, m)))


def nearest(positions: Array, nearest_mode: str, m: int) -> Array:
    """ONNX's choice among neighbours ("nearest_mode")."""
    ways: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    index: Array = np.clip(ways[nearest_mode](positions), 0, m - 1).astype(np.int64)
    return index
