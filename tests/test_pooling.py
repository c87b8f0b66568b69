"""What becomes of pools that no runtime has as one operator everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from op_cases import C, H, W
from small_graphs import Builder, floating, quantized

from edgekit.errors import UnsupportedError
from edgekit.passes import prepare


def ops(op: str, shape: tuple[int, ...], **attributes: Any) -> list[str]:
    g = Builder()
    return [node.op_type for node in prepare(g.model(g.node(op, g.input(*shape), **attributes))).graph]


def test_local_response_is_a_convolution_of_squares() -> None:
    assert ops("LRN", (1, C, H, W), size=3) == ["Mul", "Conv", "Pow", "Mul"]


@pytest.mark.parametrize(("p", "codes"), [(1, ["Abs", "Conv"]), (2, ["Mul", "Conv", "Sqrt"])])
def test_a_pool_of_powers_is_a_depthwise_convolution(p: int, codes: list[str]) -> None:
    assert ops("LpPool", (1, C, H, W), kernel_shape=[2, 2], p=p) == codes


@pytest.mark.parametrize(
    ("kernel", "codes"),
    [
        ([2, 2, 2], ["RESHAPE", "MAX_POOL_2D", "RESHAPE", "MAX_POOL_2D", "RESHAPE"]),
        ([1, 2, 2], ["RESHAPE", "MAX_POOL_2D", "RESHAPE"]),
        ([2, 1, 1], ["RESHAPE", "MAX_POOL_2D", "RESHAPE"]),
    ],
)
def test_a_pool_over_three_axes_is_two(kernel: list[int], codes: list[str]) -> None:
    g = Builder()
    found = floating(g.model(g.node("MaxPool", g.input(1, 3, 6, 4, 4), kernel_shape=kernel)), g.samples(1))
    assert [code for code in found.codes if code != "TRANSPOSE"] == codes


@pytest.mark.parametrize(
    ("op", "shape", "line"),
    [
        ("Conv", (1, 4, 3, 3, 3), "groups over three axes have no TFLite operator"),
        ("Resize", (1, 4, 6), "3 axes or channels that change; H and W of images are supported"),
    ],
)
def test_what_is_refused(op: str, shape: tuple[int, ...], line: str) -> None:
    g = Builder()
    x = g.input(*shape)
    if op == "Conv":
        out = g.conv(x, 4, 4, (1, 1, 1), group=2)
    else:
        out = g.node("Resize", x, "", g.const([1.0, 1.0, 2.0]), mode="linear")
    with pytest.raises(UnsupportedError, match=line):
        floating(g.model(out), g.samples(1))


@pytest.mark.parametrize("more", [{}, {"pads": [1, 1, 1, 1]}])
def test_a_mean_that_counts_padding_does_not_count_what_lies_beyond(more: dict[str, Any]) -> None:
    g = Builder()
    x = g.conv(g.input(1, C, 10, 10), C, C)
    counts = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1, **more}
    found = quantized(g.model(g.node("AveragePool", x, **counts)), g.samples())
    assert min(found.snr("onnx"), found.snr("tflite")) > 25


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_window_that_begins_in_the_padding_is_refused(op: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{op}: with ceil_mode its last window begins in the padding"):
        ops(op, (1, C, 9, 9), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
