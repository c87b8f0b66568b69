"""A small seeded network with every kind of layer that the compression methods act on, and labelled samples for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from small_graphs import Builder

from edgekit.compress import cluster, low_rank, magnitude  # noqa: F401 - they declare their methods
from edgekit.compress.steps import METHODS, Context, Outcome, read_settings
from edgekit.passes import opened
from edgekit.progress import SilentProgress
from edgekit.samples import Sample
from edgekit.toml_table import Table

CLASSES = 4


def network(seed: int = 0) -> ir.Model:
    """Conv, BatchNormalization, Relu, Conv with stride, 1x1 Conv, mean, MatMul with a bias, Gemm: (1, 4, 8, 8)."""
    b = Builder(seed)
    x = b.input(1, 4, 8, 8)
    h = b.node("Conv", x, b.weights(8, 4, 3, 3), pads=[1, 1, 1, 1])
    h = b.node(
        "BatchNormalization", h, b.uniform(0.5, 1.5, 8), b.uniform(-0.1, 0.1, 8), b.uniform(-0.1, 0.1, 8),
        b.uniform(0.5, 1.5, 8),
    )  # fmt: skip
    h = b.node("Relu", h)
    h = b.node("Relu", b.conv(h, 8, 16, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    h = b.node("Relu", b.conv(h, 16, 16))
    h = b.node("Flatten", b.node("GlobalAveragePool", h))
    h = b.node("Relu", b.node("Add", b.node("MatMul", h, b.weights(16, 16)), b.uniform(-0.1, 0.1, 16)))
    out = b.node("Gemm", h, b.weights(CLASSES, 16), b.uniform(-0.1, 0.1, CLASSES), transB=1)
    return opened(b.model(out))


def samples(count: int = 64, seed: int = 3) -> list[Sample]:
    """Noise in which each class has its own mean by channel, so that it can be learned."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(11).normal(0, 1.5, (CLASSES, 4))
    labels = rng.integers(0, CLASSES, count)
    values = rng.normal(0, 1, (count, 1, 4, 8, 8)) + centres[labels][:, None, :, None, None]
    return [Sample({"x": v.astype(np.float32)}, int(label)) for v, label in zip(values, labels, strict=True)]


def compressed(graph: ir.Model, **written: object) -> Outcome:
    """What a ``[[compress]]`` table makes of a graph."""
    found, data = METHODS[str(written.pop("method"))], samples()
    table = Table(written, "edgekit.toml", "compress[0]")
    settings = read_settings(found.settings, table)
    table.close()
    return found.run(graph, settings, Context(data, data, SilentProgress(), source=graph))


def weights(graph: ir.Model) -> dict[str, np.ndarray]:
    """The weights of two axes or more, by name."""
    values = {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}
    return {name: array for name, array in values.items() if array.ndim >= 2}
