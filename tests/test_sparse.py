"""Sparse tensors: smaller files that compute the very same numbers, and files of any traversal read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from small_graphs import Builder, planned

from edgekit import verify
from edgekit.audit import audit
from edgekit.compress.layers import layers_of
from edgekit.emit import emit
from edgekit.emitters import Artifact, sparse, tflite, tflite_bytes
from edgekit.emitters.tflite_graph import Graph, Op, Sparsity, Tensor
from edgekit.errors import ModelError
from edgekit.graph import with_constants
from edgekit.passes import opened
from edgekit.progress import SilentProgress
from edgekit.runtimes.litert import LiteRTSession
from edgekit.samples import Sample
from edgekit.target import load_target

Array = Any
KERNELS = (OpResolverType.BUILTIN, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
SPARSE, DENSE = tflite.Options(sparse=True), tflite.Options()


def pruned(graph: ir.Model, share: float) -> ir.Model:
    """The smallest of each layer's weights zeroed."""
    cut = {x.name: np.where(abs(x.array) < np.quantile(abs(x.array), share), 0, x.array) for x in layers_of(graph)}
    return with_constants(graph, {name: array.astype(np.float32) for name, array in cut.items()})


def layer(kind: str, share: float = 0.9) -> tuple[ir.Model, list[dict[str, Array]]]:
    b = Builder(1)
    x = b.input(1, 32, 9, 9)
    if kind == "TRANSPOSE_CONV":
        y = b.node("ConvTranspose", x, b.weights(32, 48, 3, 3), strides=[2, 2])
    elif kind == "DEPTHWISE_CONV_2D":
        y = b.node("Conv", x, b.weights(32, 1, 7, 7), group=32)
    elif kind == "FULLY_CONNECTED":
        y = b.node("Gemm", b.node("Flatten", b.node("GlobalAveragePool", x)), b.weights(64, 32), transB=1)
    else:
        y = b.node("Conv", x, b.weights(64, 32, 3, 3))
    return pruned(opened(b.model(y)), share), b.samples()


def network() -> tuple[ir.Model, list[dict[str, Array]]]:
    """Convolutions and a linear layer, pruned."""
    b = Builder(2)
    h = b.node("Relu", b.conv(b.input(1, 8, 12, 12), 8, 64, (3, 3), pads=[1, 1, 1, 1]))
    h = b.node("Relu", b.conv(h, 64, 64, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    h = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", b.conv(h, 64, 128))))
    return pruned(opened(b.model(b.node("Gemm", h, b.weights(40, 128), transB=1))), 0.8), b.samples()


def run(artifact: Artifact, samples: list[dict[str, Array]], kernels: Any = KERNELS[0]) -> Array:
    """What real LiteRT computes, with XNNPACK or without."""
    interpreter = Interpreter(model_content=artifact.data, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    places = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    found = []
    for sample in samples:
        for name, value in artifact.contract.encode(sample).items():
            interpreter.set_tensor(places[name], value)
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.stack(found)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "int16x8", "dynamic-int8"])
@pytest.mark.parametrize("kind", [kind for kind in sparse.READERS if kind != "DEQUANTIZE"])
def test_the_file_is_smaller_and_computes_the_same(kind: str, precision: str) -> None:
    graph, samples = layer(kind)
    prepared, plan = planned(graph, samples, precision)
    before, after = (tflite.emit(prepared, plan, how) for how in (DENSE, SPARSE))
    codes = [op.code for op in tflite_bytes.read(after.data).ops]
    weights = {t.dtype for t in tflite_bytes.read(before.data).tensors() if t.data is not None and t.data.ndim > 1}
    refused = precision.endswith("int8") or precision == "int16x8" if kind == "FULLY_CONNECTED" else False
    refused |= precision == "dynamic-int8" and weights == {"int8"}
    assert ("DENSIFY" in codes) is not refused
    assert after.data == before.data if refused else len(after.data) < 0.95 * len(before.data)
    for kernels in KERNELS:
        assert np.array_equal(run(before, samples, kernels), run(after, samples, kernels))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_network_stays_one_partition_and_reads_back_as_what_it_is(precision: str) -> None:
    graph, samples = network()
    prepared, plan = planned(graph, samples, precision)
    before, after = (tflite.emit(prepared, plan, how) for how in (DENSE, SPARSE))
    assert len(after.data) < 0.6 * len(before.data)
    assert np.array_equal(run(before, samples), run(after, samples))
    assert LiteRTSession(after.data).partitions == LiteRTSession(before.data).partitions == 1
    dense, found = audit(before.data), audit(after.data)
    assert (found.parameters, found.macs, found.precision) == (dense.parameters, dense.macs, precision)
    assert (found.integer_ops, found.counts, found.notes) == (dense.integer_ops, dense.counts, dense.notes)
    assert found.weight_bytes < 0.6 * dense.weight_bytes and found.weight_bytes < len(after.data)
    read = [tflite_bytes.read(artifact.data) for artifact in (before, after)]
    held = [{t.name.removesuffix("/sparse"): t.data for t in g.tensors() if t.data is not None} for g in read]
    assert held[0].keys() == held[1].keys()
    assert all(np.array_equal(held[0][name], held[1][name]) for name in held[0])
    assert tflite_bytes.write(read[1]) == after.data
    data = [Sample(sample) for sample in samples]
    one, other = (verify.fidelity(prepared, artifact.data, data, SilentProgress()) for artifact in (before, after))
    assert one == other and len(other.tensors) > 3


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.99])
def test_no_file_gets_larger(share: float, precision: str) -> None:
    for kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        graph, samples = layer(kind, share)
        prepared, plan = planned(graph, samples, precision)
        before, after = (tflite.emit(prepared, plan, how) for how in (DENSE, SPARSE))
        assert len(after.data) < len(before.data) or after.data == before.data


@pytest.mark.parametrize(("name", "spread"), [("linux-x86_64-litert", True), ("microcontroller-tflm", False)])
def test_a_target_says_whether_its_runtime_has_them(name: str, spread: bool) -> None:
    graph, samples = layer("CONV_2D")
    target = load_target(name)
    artifact = emit(*planned(graph, samples, "int8"), target)
    assert target.sparse is spread
    assert ("DENSIFY" in [op.code for op in tflite_bytes.read(artifact.data).ops]) is spread


def weight(name: str, array: Array) -> Tensor:
    return Tensor(name, array.shape, str(array.dtype), None, array)


def test_only_what_every_reader_can_take_and_not_mere_zeros() -> None:
    array = np.zeros((64, 96), np.float32)
    array[::7, ::5] = 1.0
    x, y, z = Tensor("x", (1, 96), "float32"), Tensor("y", (1, 64), "float32"), Tensor("z", (64, 96), "float32")
    read, shared, empty = weight("w", array), weight("shared", array), weight("empty", np.zeros_like(array))
    ops = [Op("FULLY_CONNECTED", (x, each, None), (y,)) for each in (read, read, shared, empty)]
    graph = Graph([*ops, Op("ABS", (shared,), (z,))], [x], [y, z])
    sparse.store(graph)
    assert [op.code for op in graph.ops] == ["DENSIFY", *["FULLY_CONNECTED"] * 4, "ABS"]
    spread = graph.ops[0].outputs[0]
    assert [op.inputs[1] for op in graph.ops[1:5]] == [spread, spread, shared, empty]


@pytest.mark.parametrize("shape", [(7, 5), (6, 1, 9), (3, 3, 3, 40), (2, 200, 300)])
def test_what_is_compressed_comes_back(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    array = np.where(rng.random(shape) < 0.6, rng.integers(-9, 9, shape), 0).astype(np.int8)
    for axis in range(len(shape)):
        how = sparse.compressed(array, axis)
        assert np.array_equal(sparse.dense(shape, how), array)
        assert len(how.values) == np.count_nonzero(array)
    widths = {
        part.dtype for level in sparse.compressed(array, 1).levels if not isinstance(level, int) for part in level
    }
    assert widths <= {np.dtype("uint8"), np.dtype("uint16"), np.dtype("int32")}


def blocks() -> tuple[Array, Sparsity]:
    """A matrix of 2x2 blocks, of which those in use are stored, as other tools write them."""
    array = np.array([[1, 0, 0, 2], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 9, 0]], np.float32)
    segments, indices = np.array([0, 2, 3], np.int32), np.array([0, 1, 1], np.int32)
    values = np.array([1, 0, 0, 3, 0, 2, 0, 0, 0, 0, 9, 0], np.float32)
    return array, Sparsity((0, 1, 2, 3), (2, (segments, indices), 2, 2), values, (0, 1))


def test_blocks_are_read_as_the_schema_says_and_as_litert_does() -> None:
    array, how = blocks()
    assert np.array_equal(sparse.dense((4, 4), how), array)
    kept = Tensor("w/sparse", (4, 4), "float32", None, array, sparsity=how)
    w, x, y = Tensor("w", (4, 4), "float32"), Tensor("x", (1, 4), "float32"), Tensor("y", (1, 4), "float32")
    ops = [Op("DENSIFY", (kept,), (w,)), Op("FULLY_CONNECTED", (x, w, None), (y,))]
    data = tflite_bytes.write(Graph(ops, [x], [y]))
    (again,) = (t for t in tflite_bytes.read(data).tensors() if t.data is not None)
    assert np.array_equal(again.data, array) and again.sparsity is not None and again.sparsity.blocks == (0, 1)
    row = np.arange(1.0, 5.0, dtype=np.float32)[None]
    assert LiteRTSession(data).run({"x": row})["y"] == pytest.approx(row @ array.T)


@pytest.mark.parametrize(
    "level",
    [
        (np.array([0, 2, 9], np.int32), np.array([0, 1, 1], np.int32)),
        (np.array([0], np.int32), np.array([0, 1, 1], np.int32)),
        (np.array([0, 2, 3], np.int32), np.array([0, 1, 7], np.int32)),
        (np.array([0, 2, 1 << 30], np.int32), np.array([0, 1, 1], np.int32)),
        1 << 30,
    ],
)
def test_a_file_whose_indices_lead_nowhere_is_refused(level: Any) -> None:
    array, how = blocks()
    spoilt = replace(how, levels=(2, level, 2, 2))
    kept = Tensor("w/sparse", (4, 4), "float32", None, array, sparsity=spoilt)
    w = Tensor("w", (4, 4), "float32")
    with pytest.raises(ModelError, match="not a sound TFLite file"):
        tflite_bytes.read(tflite_bytes.write(Graph([Op("DENSIFY", (kept,), (w,))], [], [w])))
