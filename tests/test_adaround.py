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
    x, before = b.input(5, 1, 8), b.input(1, 1, 6)
    y = b.nodes("LSTM", 3, x, b.weights(1, 24, 8), b.weights(1, 24, 6), b.weights(1, 48), "", before, hidden_size=6)
    samples = b.samples(3)
    graph, plan = planned(b.model(y[0]), samples, "int8")
    found = adaround.adaround(graph, plan, [Sample(sample) for sample in samples], SilentProgress(), 3)
    layers = layers_of(graph, plan)
    assert layers and {str(layer.weight.name) for layer in layers} <= set(found)
    assert all(np.isfinite(array).all() for array in found.values())
