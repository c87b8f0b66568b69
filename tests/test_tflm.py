"""Artifacts for microcontrollers, run by TensorFlow Lite Micro itself beside LiteRT: the same answers, each time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from nets import cnn
from small_graphs import Array, Builder
from test_recurrent import built, layer

from edgekit.audit import audit
from edgekit.emitters import tflite_bytes
from edgekit.frontends import load_graph
from edgekit.runtimes import open_session
from edgekit.target import load_target

tflm = pytest.importorskip(
    "tflite_micro.python.tflite_micro.runtime", reason="tflite-micro has no wheel for this machine"
)
TARGET = load_target("microcontroller-tflm")
ARENA = 1 << 20


def runs(data: bytes, inputs: list[Array]) -> list[Array]:
    """The first output for each input, one after another in one interpreter."""
    interpreter = tflm.Interpreter.from_bytes(data, arena_size=ARENA)
    found = []
    for value in inputs:
        interpreter.set_input(value, 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0).copy())
    return found


def alike(data: bytes, inputs: list[Array], steps: int = 1) -> None:
    """TFLM and LiteRT differ by few steps, and the first input gives the same in the end as in the beginning."""
    session = open_session(data, "litert")
    name = session.inputs[0].name
    here = runs(data, [*inputs, inputs[0]])
    for value, found in zip(inputs, here, strict=False):
        wanted = next(iter(session.run({name: value}).values()))
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= steps
    np.testing.assert_array_equal(here[0], here[-1])


def integers(shape: tuple[int, ...]) -> list[Array]:
    draw = np.random.default_rng(0)
    return [draw.integers(-128, 128, shape).astype(np.int8) for _ in range(3)]


def test_a_convolutional_network(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    source = load_graph(str(cnn(tmp_path / "net.onnx")))
    (name,) = (str(value.name) for value in source.graph.inputs)
    samples = [{name: draw.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    alike(built(source, samples, TARGET, "int8", None).data, integers((1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("op", "ends", "code"),
    [("LSTM", (0,), "LSTM"), ("GRU", (0,), "WHILE"), ("GRU", (1,), "WHILE"), ("RNN", (0,), "WHILE")],
)
def test_a_recurrent_layer(op: str, ends: tuple[int, ...], code: str) -> None:
    b = layer(op, ends, time=10)
    source, samples = b.network(), b.samples()
    artifact = built(source, samples, TARGET, "int8", None)
    assert code in " ".join(op.code for op in tflite_bytes.read(artifact.data).ops)
    alike(artifact.data, integers((10, 2, 5)), steps=2)  # what one step rounds otherwise, the next ones read


def test_pooling_padding_and_an_average() -> None:
    b = Builder()
    x = b.conv(b.input(1, 4, 12, 12), 4, 8, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    x = b.node("Relu", b.conv(b.node("Relu", x), 8, 8, (3, 3), group=8, pads=[1, 1, 1, 1]))
    x = b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.node("Flatten", b.node("GlobalAveragePool", b.node("Concat", x, x, axis=1)))
    source = b.model(b.node("Softmax", b.node("MatMul", x, b.weights(16, 5))))
    alike(built(source, b.samples(), TARGET, "int8", None).data, integers((1, 12, 12, 4)))


def head(data: bytes, capfd: pytest.CaptureFixture[str]) -> int:
    """What TFLM itself plans for the activations of a file."""
    interpreter = tflm.Interpreter.from_bytes(data, arena_size=ARENA)
    capfd.readouterr()
    interpreter.print_allocations()
    (found,) = re.findall(r"allocation head (\d+) bytes", "".join(capfd.readouterr()))
    return int(found)


def branches() -> Builder:
    """Tensors that live long beside others that do not."""
    b = Builder()
    x = b.conv(b.input(1, 4, 12, 12), 4, 8, (3, 3), pads=[1, 1, 1, 1])
    y = b.node("Relu", b.conv(x, 8, 4, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1]))
    z = b.node("Add", b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), b.conv(y, 4, 8))
    b.output = b.node("Concat", z, y, b.conv(z, 8, 3), axis=1)
    return b


@pytest.mark.parametrize("form", ["branches", "GRU", "LSTM"])
def test_the_memory_plan_is_that_of_tflm(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    b = branches() if form == "branches" else layer(form, (0,), time=10)
    source = b.model(b.output) if form == "branches" else b.network()
    artifact = built(source, b.samples(), TARGET, "int8", None)
    planned = audit(artifact.data).arena_bytes
    assert planned is not None
    if form == "LSTM":  # whose kernel asks for scratch memory besides
        assert planned < head(artifact.data, capfd)
    else:
        assert planned == head(artifact.data, capfd)
