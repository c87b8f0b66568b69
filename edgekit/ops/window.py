"""Where a sliding window starts and ends: ONNX pads against TFLite's SAME and VALID."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.ops.context import Operand, Tfl


@dataclass(frozen=True)
class Window:
    """The spatial side of a convolution or pooling, one number an axis: kernel, stride, dilation, and padding."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """The kernel's reach with its gaps."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def end(self) -> tuple[int, ...]:
        """How far the last window reaches over the end; pads that no window touches do not count."""
        rows = zip(self.size, self.out, self.extent, self.stride, self.begin, strict=True)
        return tuple(max(0, (o - 1) * s + e - n - b) for n, o, e, s, b in rows)

    @property
    def padding(self) -> str | None:
        """SAME or VALID when TFLite's rule puts the windows exactly here, else None.

        SAME: out = ceil(in / stride), and the odd element of padding comes last. torch's symmetric padding at stride 2
        is therefore not SAME.
        """
        if not any(self.begin) and not any(self.end):
            return "VALID"
        for n, o, e, s, b in zip(self.size, self.out, self.extent, self.stride, self.begin, strict=True):
            if o != -(-n // s) or b != max((o - 1) * s + e - n, 0) // 2:
                return None
        return "SAME"


def window(
    tfl: Tfl,
    X: Operand,
    kernel: tuple[int, ...],
    attrs: dict[str, object],
) -> Window:
    """The window of a node: ``attrs`` holds its auto_pad, pads, strides and dilations as given."""
    n = len(kernel)
    size, out = X.shape[2:], tfl.shape[2:]
    stride = _each(attrs.get("strides"), n, 1)
    dilation = _each(attrs.get("dilations"), n, 1)
    begin = _each(attrs.get("pads"), 2 * n, 0)[:n]
    auto = attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        rows = zip(size, out, kernel, stride, dilation, strict=True)
        total = [max((o - 1) * s + (k - 1) * d + 1 - i, 0) for i, o, k, s, d in rows]
        begin = tuple(t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total)
    elif auto == "VALID":
        begin = (0,) * n
    return Window(size, out, kernel, stride, dilation, begin)


def _each(values: object, n: int, default: int) -> tuple[int, ...]:
    return tuple(int(v) for v in values) if values is not None else (default,) * n  # type: ignore[attr-defined]


def two_dimensional(tfl: Tfl, source: object, w: Window) -> tuple[object, Window]:
    """A 1-D window as a 2-D one over an axis of length 1, as TFLite has no 1-D kernels."""
    if len(w.kernel) == 2:
        return source, w
    n, length, channels = source.tensor.shape  # type: ignore[attr-defined]
    wide = tfl.reshape(source, (n, 1, length, channels))
    return wide, Window((1, *w.size), (1, *w.out), (1, *w.kernel), (1, *w.stride), (1, *w.dilation), (0, *w.begin))


def surround(tfl: Tfl, source: object, w: Window, lowest: bool = False) -> tuple[object, str]:
    """The source with explicit padding where TFLite's own does not do, and the padding to name.

    The padding is zero; ``lowest`` asks for the smallest value, which a maximum ignores.
    """
    if w.padding is not None:
        return source, w.padding
    pads = np.asarray([(0, 0), *zip(w.begin, w.end, strict=True), (0, 0)])
    tensor = tfl.tensor(source)
    shape = [n + int(p.sum()) for n, p in zip(tensor.shape, pads, strict=True)]
    if lowest:
        low = tfl.lowest(source)
        return tfl.add("PADV2", [source, pads, low], tfl.temp(shape, source)), "VALID"
    return tfl.add("PAD", [source, pads], tfl.temp(shape, source)), "VALID"
