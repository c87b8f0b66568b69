"""Normalisations in the forms that exporters spell them in become one op, or few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import node, port, save
from op_cases import C, H, W, group_norm, rms
from small_graphs import Builder

from edgekit.frontends import load_graph
from edgekit.passes import prepare


def ops(builder: Builder, out: str) -> list[str]:
    return [one.op_type for one in prepare(builder.model(out)).graph]


def test_group_norm_spelled_out_is_fused() -> None:
    g = Builder()
    assert ops(g, group_norm(g, g.input(1, C, H, W))) == ["GroupNormalization"]


@pytest.mark.parametrize("last", ["another reader", "by position", "not plain"])
def test_what_only_looks_like_group_norm_stays(last: str) -> None:
    g = Builder()
    x = g.input(1, C, H, W)
    scale = g.const(np.full(4, 2 if last == "not plain" else 1, np.float32))
    flat = g.node("Reshape", x, g.const([0, 4, -1]))
    plain = g.node("InstanceNormalization", flat, scale, g.const(np.zeros(4, np.float32)))
    back = g.node("Reshape", plain, g.const([1, C, H, W]))
    scaled = g.node("Mul", back, g.uniform(0.5, 1.5, W))
    out = g.node("Add", scaled, back) if last == "another reader" else scaled
    found = ops(g, out)
    assert found.count("Mul") == 1
    assert ("InstanceNormalization" in found) == (last == "not plain")


def test_an_inverse_root_is_one_op() -> None:
    g = Builder()
    assert ops(g, rms(g, g.input(1, 7, 16))) == ["Mul", "ReduceMean", "Add", "Pow", "Mul", "Mul"]


@pytest.mark.parametrize("op", ["GroupNormalization", "MeanVarianceNormalization"])
def test_shapes_that_onnx_does_not_infer(tmp_path: Path, op: str) -> None:
    given = {"num_groups": 2} if op == "GroupNormalization" else {}
    held = [onnx.numpy_helper.from_array(np.ones(4, np.float32), "s")] if given else []
    nodes = [node(op, ["x", "s", "s"] if given else ["x"], ["n"], **given), node("GlobalMaxPool", ["n"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, ([port("x", [1, 4, 6, 6])], [port("y", [1, 4, 1, 1])]), held, 21)
    graph = prepare(load_graph(str(path))).graph
    assert [one.op_type for one in graph] == [op, "GlobalMaxPool"]
    assert [str(one.outputs[0].shape) for one in graph] == ["[1,4,6,6]", "[1,4,1,1]"]
