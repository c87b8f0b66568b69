"""Blocks of images and tables of indices, written as moves; what changes nothing is left out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from small_graphs import Builder, floating, quantized

from edgekit.errors import UnsupportedError
from edgekit.passes import prepare

EXACT = 100.0  # dB


def test_blocks_that_tile_an_image_are_put_together_by_moves() -> None:
    g = Builder()
    blocks = g.node("Reshape", g.conv(g.input(1, 3, 3, 4), 3, 24), g.const([1, 24, 12]))
    joined = g.node("Col2Im", blocks, g.const([6, 12]), g.const([2, 3]), strides=[2, 3])
    model = g.model(g.conv(joined, 4, 5))
    assert "Col2Im" not in {node.op_type for node in prepare(model).graph}
    found = floating(model, g.samples())
    assert min(found.snr("onnx"), found.snr("tflite")) > EXACT


@pytest.mark.parametrize("more", [{"strides": [1, 3]}, {"strides": [2, 3], "pads": [0, 0, 2, 0]}])
def test_blocks_that_overlap_are_refused(more: dict[str, list[int]]) -> None:
    g = Builder()
    rows = 5 if more["strides"][0] == 1 else 4
    model = g.model(g.node("Col2Im", g.input(1, 24, rows * 4), g.const([6, 12]), g.const([2, 3]), **more))
    with pytest.raises(UnsupportedError, match="op Col2Im is not supported"):
        prepare(model)


def test_a_table_of_indices_along_an_axis_that_is_stored_elsewhere() -> None:
    g = Builder()
    image = g.conv(g.input(1, 3, 6, 6), 3, 8, (3, 3), pads=[1, 1, 1, 1])
    model = g.model(g.node("Gather", image, g.const([[0, 2, 4], [5, 1, 3]]), axis=1))
    for found in (floating(model, g.samples()), quantized(model, g.samples())):
        assert found.steps() <= 1
    found = floating(model, g.samples())
    assert min(found.snr("onnx"), found.snr("tflite")) > EXACT


@pytest.mark.parametrize(("op", "number"), [("Add", 0.0), ("Sub", 0.0), ("Mul", 1.0), ("Div", 1.0)])
def test_what_changes_nothing_is_left_out(op: str, number: float) -> None:
    g = Builder()
    x = g.conv(g.input(1, 3, 4, 4), 3, 4)
    idle = g.node(op, x, g.const(np.full((4, 4), number)))
    wider = g.node(op, idle, g.const(np.full((2, 4, 4, 4), number)))
    other = g.node(op, wider, g.const(np.full((4, 4), 0.5)))
    kept = [node for node in prepare(g.model(other)).graph if node.op_type in ("Add", "Sub", "Mul", "Div")]
    assert len(kept) == 2, "one makes the result larger, one changes its values"


def test_a_window_wider_than_the_image_is_its_mean() -> None:
    g = Builder()
    x = g.conv(g.input(1, 3, 2, 2), 3, 8)
    model = g.model(g.node("AveragePool", x, kernel_shape=[64, 64], strides=[64, 64], ceil_mode=1))
    assert [node.op_type for node in prepare(model).graph] == ["Conv", "GlobalAveragePool"]
    assert floating(model, g.samples()).snr("tflite") > EXACT


def test_parts_that_nothing_reads_stop_no_build() -> None:
    g = Builder()
    parts = g.node("SplitToSequence", g.conv(g.input(1, 3, 4, 4), 3, 4), g.const([1, 3]), axis=1)
    model = g.model(g.node("SequenceAt", parts, g.const(1)))
    assert {node.op_type for node in prepare(model).graph} == {"Conv", "Split"}
    assert floating(model, g.samples()).snr("tflite") > EXACT


def test_folding_says_nothing_of_what_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    g = Builder()
    low, high = g.nodes("Split", 2, g.const([1.0, 2.0, 3.0, 4.0]), axis=0, num_outputs=2)
    logging.getLogger("onnxscript.optimizer").setLevel(logging.NOTSET)
    with caplog.at_level(logging.WARNING):
        prepare(g.model(g.node("Add", g.node("Add", g.input(1, 2), low), high)))
    assert not caplog.records
