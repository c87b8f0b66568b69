"""Resizing images."""

from __future__ import annotations

from collections.abc import Callable
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
    """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR, in the coordinate convention that reads the very same positions."""
    if antialias or mode == "cubic" or len(X.shape) != 4 or X.shape[:2] != tfl.shape[:2]:
        unsupported(
            f"mode {mode}, antialias {antialias}, {len(X.shape)} axes; nearest and linear over H and W are supported"
        )
    ratio = _ratios(X, tfl, scales, axes)
    positions = [
        _source(coordinate_transformation_mode, np.arange(n, dtype=np.float64), m, n, r)
        for m, n, r in zip(X.shape[2:], tfl.shape[2:], ratio, strict=True)
    ]
    nearest = mode == "nearest"
    for (corners, half), rule in TFLITE.items():
        if all(
            _agree(rule, p, m, n, nearest_mode if nearest else None, (corners, half))
            for p, m, n in zip(positions, X.shape[2:], tfl.shape[2:], strict=True)
        ):
            code = "RESIZE_NEAREST_NEIGHBOR" if nearest else "RESIZE_BILINEAR"
            size = np.asarray(tfl.out.shape[1:3])
            tfl.add(code, [X, size], align_corners=corners, half_pixel_centers=half)
            return
    if not nearest:
        unsupported(
            f"{coordinate_transformation_mode} from {X.shape[2:]} to {tfl.shape[2:]} reads positions that TFLite cannot"
        )
    source: Any = X
    for axis in (0, 1):
        index = _round(positions[axis], nearest_mode, X.shape[2 + axis])
        shape = list(tfl.tensor(source).shape)
        shape[1 + axis] = len(index)
        source = tfl.add(
            "GATHER", [source, index], tfl.temp(shape, X) if axis == 0 else tfl.out, axis=1 + axis, batch_dims=0
        )


def _ratios(X: Operand, tfl: Tfl, scales: Operand | None, axes: Any) -> list[float]:
    """Output size over input size of H and W, as ONNX uses them: the given scales where there are any."""
    given = scales.array if scales is not None and scales.array is not None and scales.array.size else None
    plain = [n / m for m, n in zip(X.shape[2:], tfl.shape[2:], strict=True)]
    if given is None:
        return plain
    by_axis = dict(zip([int(a) % 4 for a in axes] if axes else range(4), map(float, given), strict=True))
    return [by_axis.get(2 + i, 1.0) for i in range(2)]


def _source(mode: str, i: Array, m: int, n: int, ratio: float) -> Array:
    """Where ONNX reads output positions ``i`` (Resize, "coordinate_transformation_mode")."""
    if mode == "asymmetric":
        return i / ratio
    if mode == "align_corners":
        return i * (m - 1) / (n - 1) if n > 1 else i * 0
    if mode == "pytorch_half_pixel" and n == 1:
        return i * 0
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
    return bool(np.array_equal(np.clip(picked, 0, m - 1), _round(positions, nearest_mode, m)))


def _round(positions: Array, nearest_mode: str, m: int) -> Array:
    """ONNX's choice among neighbours ("nearest_mode")."""
    ways: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    index: Array = np.clip(ways[nearest_mode](positions), 0, m - 1).astype(np.int64)
    return index
