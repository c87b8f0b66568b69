"""Resizing images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from edgekit.ops.context import Array, Operand, Tfl
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
    sound = picks or (mode == "linear" and not antialias and (tfl.out.dtype != "int16" or _in_bits(positions)))
    for (corners, half), rule in TFLITE.items() if sound else ():
        if all(
            _agree(rule, p, m, n, nearest_mode if picks else None, (corners, half))
            for p, (m, n) in zip(positions, sides, strict=True)
        ):
            tfl.add(code, [X, np.asarray(tfl.out.shape[1:3])], align_corners=corners, half_pixel_centers=half)
            return
    if not picks:
        kernel = kernel_of(mode, cubic_coeff_a)
        shares = [
            shares_of(kernel, p, m, min(r, 1.0) if antialias else 1.0, bool(exclude_outside))
            for p, (m, _), r in zip(positions, sides, ratio, strict=True)
        ]
        _mixed(tfl, X, shares)
        return
    source: Any = X
    for axis in (0, 1):
        index = nearest(positions[axis], nearest_mode, X.shape[2 + axis])
        shape = list(tfl.tensor(source).shape)
        shape[1 + axis] = len(index)
        source = tfl.add(
            "GATHER", [source, index], tfl.temp(shape, X) if axis == 0 else tfl.out, axis=1 + axis, batch_dims=0
        )


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
