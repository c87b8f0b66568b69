"""AdaRound: never worse than rounding in closed form, and where the first axis is no batch."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Builder, planned

from edgekit.compress import adaround
from edgekit.graph import constant
from edgekit.progress import SilentProgress
from edgekit.quant.reconstruct import layers_of, reconstruct
from edgekit.quant.simulate import on_grid
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


def test_without_learning_it_is_what_the_closed_form_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate with the least error is kept: after no steps that is not the nearest integers."""
    monkeypatch.setattr(adaround, "STEPS", 0)
    b = Builder(3)
    x = b.conv(b.input(1, 6, 8, 8), 6, 12, (3, 3))
    samples = [Sample(sample) for sample in b.samples(24)]
    graph, plan = planned(b.model(x), [sample.inputs for sample in samples], "int8")
    found = adaround.adaround(graph, plan, samples, SilentProgress(), len(samples))
    closed = reconstruct(graph, plan, samples, SilentProgress(), len(samples))
    (layer,) = layers_of(graph, plan)
    name = str(layer.weight.name)
    np.testing.assert_allclose(found[name], closed[name], atol=1e-7)
    nearest = on_grid(np.asarray(constant(layer.weight)), plan[name])
    assert np.abs(closed[name] - nearest).max() > 0.5 * min(plan[name].scale)
