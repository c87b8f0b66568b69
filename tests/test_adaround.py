"""AdaRound where the first axis is no batch."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Builder, planned

from edgekit.compress import adaround
from edgekit.progress import SilentProgress
from edgekit.quant.reconstruct import layers_of
from edgekit.samples import Sample


def test_a_sequence_ahead_of_the_batch_is_looked_at_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaround, "STEPS", 4)
    b = Builder(3)
    x, before = b.node("Reshape", b.input(5, 1, 8), b.const([1, 40])), b.input(1, 6)
    y = b.node("Gemm", b.node("Concat", x, before, axis=1), b.weights(4, 46), transB=1)
    samples = b.samples(3)
    graph, plan = planned(b.model(y), samples, "int8")
    found = adaround.adaround(graph, plan, [Sample(sample) for sample in samples], SilentProgress(), 3)
    layers = layers_of(graph, plan)
    assert layers and {str(layer.weight.name) for layer in layers} <= set(found)
    assert all(np.isfinite(array).all() for array in found.values())
