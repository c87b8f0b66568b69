"""What is lifted, in which order, and what the rest could still win."""

from __future__ import annotations

import math

import pytest
from small_graphs import Builder, planned

from edgekit.diagnose.sensitivity import ACTIVATIONS, Effect, Sensitivity, Subject, groups
from edgekit.lifting import FLOAT, INT16, Candidate, candidates, lifted
from edgekit.passes.steps import Shaped
from edgekit.project import QuantizationConfig

NODES = {"conv0", "conv2", "maxpool3", "gemm5"}
COSTS = {"x": 8.0, "relu1": 10.0, "conv2": 20.0, "gemm5": 30.0, "c0": 12.0, "c2": 40.0}  # dB, of a group's first tensor


@pytest.fixture(scope="module")
def subject() -> Subject:
    b = Builder()
    x = b.node("Relu", b.conv(b.input(1, 3, 4, 4), 3, 4))
    x = b.node("MaxPool", b.conv(x, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
    model = b.model(b.node("Gemm", b.node("Flatten", x), b.weights(5, 16), transB=1))
    graph, plan = planned(model, b.samples(), "int8")
    return Subject(Shaped(graph), plan)


def found(subject: Subject, metric: float | None = None) -> Sensitivity:
    """As if each group cost so much alone."""
    effects = [Effect(group, COSTS.get(group.name, 60.0), metric=metric) for group in groups(subject)]
    return Sensitivity(8, tuple(sorted(effects, key=lambda effect: effect.snr_db)), metric)


def test_a_tensor_is_lifted_with_what_gives_and_what_reads_it(subject: Subject) -> None:
    order = candidates(subject, found(subject), NODES)
    assert [candidate.nodes for candidate in order] == [("conv0", "conv2"), ("maxpool3", "gemm5")]
    assert order[0].why == "activations of relu1 alone: 10.0 dB"
    shared = next(group for group in groups(subject) if group.name == "conv2" and group.kind == ACTIVATIONS)
    assert len(shared.tensors) > 1  # of one scale with what MaxPool gives


def test_to_int16_nothing_is_lifted_for_its_weights_or_the_ends(subject: Subject) -> None:
    order = candidates(subject, found(subject), NODES, set())
    assert [candidate.why.split(" alone")[0] for candidate in order] == ["activations of relu1", "activations of conv2"]
    assert [c.nodes for c in candidates(subject, found(subject), NODES, {"maxpool3"})] == [("conv0", "conv2")]
    assert candidates(subject, found(subject), NODES, {"conv2"}) == []


def test_what_is_left_to_win_is_the_noise_that_can_go(subject: Subject) -> None:
    first, second = candidates(subject, found(subject), NODES, set())
    stays = sum(10 ** (-db / 10) for db in (8.0, 12.0, 30.0, 40.0, 60.0))  # the input, weights and the output
    gains = [10 * math.log10((stays + rest) / stays) for rest in (0.1 + 0.01, 0.01)]
    assert [first.gain_db, second.gain_db] == pytest.approx(gains, abs=1e-6)


def test_the_reason_tells_the_metric_where_it_was_measured(subject: Subject) -> None:
    first = candidates(subject, found(subject, 0.75), NODES)[0]
    assert first.why == "activations of relu1 alone: 10.0 dB, the metric 0.75 in place of 0.75"


def test_the_settings_know_why() -> None:
    chosen = [Candidate(("a", "b"), "first", 3.0), Candidate(("c",), "second", 1.0)]
    config = QuantizationConfig(float_nodes=("z",), reasons={"z": "always"})
    real, wide = (lifted(config, to, chosen) for to in (FLOAT, INT16))
    assert real.float_nodes == ("z", "a", "b", "c") and wide.int16_nodes == ("a", "b", "c")
    assert real.reasons == wide.reasons == {"z": "always", "a": "first", "b": "first", "c": "second"}
