"""``channel-prune``: what goes by which criterion, how far, and what is said when it cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_graphs import Builder
from test_compress_channels import (
    block,
    depthwise,
    flattened,
    fused_heads,
    head,
    norm,
    perceptron,
    plain,
    residual,
    upsampled,
)

from edgekit.audit import audit
from edgekit.compress import channel_prune
from edgekit.compress.channel_cut import Cut, without
from edgekit.compress.channel_price import by_price, counted, timed
from edgekit.compress.channel_prune import ChannelPrune, Masked, Slimming, chosen
from edgekit.compress.channel_reconstruct import least_squares, reconstructed
from edgekit.compress.channels import Channels
from edgekit.compress.importance import importance
from edgekit.compress.module import to_torch
from edgekit.compress.steps import Context, Outcome, read_step
from edgekit.errors import ConfigError, DataError, ModelError
from edgekit.graph import constant, shape_of
from edgekit.passes import opened, prepare
from edgekit.progress import SilentProgress
from edgekit.reference import Reference, serialize
from edgekit.samples import Sample
from edgekit.target import load_target
from edgekit.timing import Timer


def opened_graph(net: Any, seed: int = 0) -> tuple[ir.Model, list[Sample]]:
    builder = Builder(seed)
    graph = opened(builder.model(net(builder)))
    return graph, [Sample(values, i % 4) for i, values in enumerate(builder.samples(64))]


def pruned(graph: ir.Model, samples: list[Sample], clock: Any = None, **keys: Any) -> Outcome:
    written = {"method": "channel-prune", "multiple": 1, "fine_tune": False, **keys}
    context = Context(samples, samples, SilentProgress(), latency=clock)
    return read_step(written, "edgekit.toml", 0).run(graph, context)


@pytest.mark.parametrize("goal", ["macs", "parameters", "bytes"])
@pytest.mark.parametrize("net", [residual, depthwise, flattened, perceptron, fused_heads, upsampled])
def test_the_goal_is_reached_and_hardly_passed(net: Any, goal: str) -> None:
    graph, samples = opened_graph(net)
    outcome = pruned(graph, samples, **{goal: 0.7})
    before, after = outcome.facts[goal]
    assert 0.4 * before < after <= 0.7 * before
    if goal == "macs":
        assert (audit(serialize(graph)).macs, audit(serialize(outcome.graph)).macs) == (before, after)
    reference = Reference(outcome.graph)
    assert np.isfinite(reference.run(samples[0].inputs)[reference.outputs[0]]).all()
    assert all(kept >= 1 for _, kept in outcome.facts["layers"].values())


def test_the_given_graph_stays() -> None:
    graph, samples = opened_graph(residual)
    before = serialize(graph)
    pruned(graph, samples, macs=0.5)
    assert serialize(graph) == before


def faint(b: Builder) -> str:
    """Channels 1, 4 and 6 of the first layer have small weights and a small factor."""
    weights = b.rng.normal(0, 0.4, (8, 3, 3, 3)).astype(np.float32)
    gamma = np.linspace(0.8, 1.2, 8).astype(np.float32)
    for channel in (1, 4, 6):
        weights[channel] *= 0.01
        gamma[channel] *= 0.01
    y = b.node("Conv", b.input(1, 3, 8, 8), b.const(weights), pads=[1] * 4)
    y = b.node("BatchNormalization", y, b.const(gamma), *(b.const(np.full(8, v, np.float32)) for v in (0, 0, 1)))
    return head(b, b.node("Relu", y), 8)


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor", "bn-gamma"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_what_matters_least_goes(criterion: str, scope: str) -> None:
    graph, samples = opened_graph(faint)
    outcome = pruned(graph, samples, criterion=criterion, scope=scope, parameters=0.66)
    weights = constant(graph.graph.initializers["c0"])
    left = constant(outcome.graph.graph.initializers["c0"])
    assert weights is not None and left is not None
    np.testing.assert_array_equal(left, weights[[0, 2, 3, 5, 7]])


def test_random_is_drawn_from_the_seed() -> None:
    graph, samples = opened_graph(plain)
    one, same, other = (pruned(graph, samples, criterion="random", macs=0.5, seed=seed) for seed in (0, 0, 1))
    assert serialize(one.graph) == serialize(same.graph) != serialize(other.graph)


def test_taylor_is_the_first_order_of_what_the_loss_changes_by() -> None:
    """Against gates behind each channel: the gradient of the loss by a gate at 1."""
    graph, samples = opened_graph(flattened)
    channels = Channels(graph)
    scores = importance(channels, "taylor", samples[:32], 0)
    module = to_torch(channels.model)
    gates = {}
    for layer, name in zip(channels.layers, ("batchnormalization1", "gemm5"), strict=True):
        gates[name] = (layer, torch.ones(len(layer.classes), requires_grad=True))

    def seen(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in gates:
            return tensor
        gate = gates[name][1]
        return tensor * gate.reshape(1, -1, *(1,) * (tensor.ndim - 2))

    module.seen = seen  # type: ignore[method-assign]
    inputs = torch.from_numpy(np.concatenate([next(iter(s.inputs.values())) for s in samples[:32]]))
    labels = torch.tensor([s.label for s in samples[:32]])
    torch.nn.functional.cross_entropy(module(inputs), labels).backward()
    for layer, gate in gates.values():
        assert gate.grad is not None
        np.testing.assert_allclose(scores[list(layer.classes)], gate.grad.numpy() ** 2, rtol=1e-3, atol=1e-12)


def test_kernels_get_the_multiples_they_like() -> None:
    def wide(b: Builder) -> str:
        y = block(b, block(b, b.input(1, 3, 8, 8), 3, 24), 24, 20)
        return head(b, block(b, y, 20, 16, group=2), 16)

    graph, samples = opened_graph(wide)
    layers = Channels(graph).layers
    assert sorted((len(layer.classes), layer.width) for layer in layers) == [(8, 2), (10, 2), (24, 1)]
    kept = pruned(graph, samples, macs=0.5, multiple=8).facts["layers"]
    counts = {len(layer.classes) * layer.width: kept[layer.name][1] * layer.width for layer in layers}
    assert all(count % 8 == 0 or count == whole for whole, count in counts.items())
    assert any(count < whole for whole, count in counts.items())


def test_every_layer_keeps_its_least() -> None:
    graph, samples = opened_graph(residual)
    kept = pruned(graph, samples, macs=0.5, least=0.6).facts["layers"].values()
    assert all(left >= 0.6 * count for count, left in kept)


def test_the_scan_spares_the_layer_that_hurts() -> None:
    """Of two layers alike, one is multiplied away behind it: that one is cut."""

    def idle(b: Builder) -> str:
        x = b.input(1, 3, 8, 8)
        one, two = (b.conv(block(b, x, 3, 8), 8, 4) for _ in range(2))
        return head(b, b.node("Add", one, b.node("Mul", two, b.const(np.float32(1e-3)))), 4)

    graph, samples = opened_graph(idle)
    counts = list(pruned(graph, samples, scope="layer", macs=0.75).facts["layers"].values())
    assert counts[0] == [8, 8] and counts[1][1] < 8


def test_masking_is_undone() -> None:
    graph, samples = opened_graph(plain)
    channels = Channels(graph)
    module = Masked(channels)
    inputs = [torch.from_numpy(next(iter(samples[0].inputs.values())))]
    whole = module.outputs(inputs)
    module.remove(channels.layers[0].classes[:4])
    assert not torch.equal(module.outputs(inputs), whole)
    module.remove(())
    assert torch.equal(module.outputs(inputs), whole)


def test_samples_are_taken_from_all_over_the_data() -> None:
    samples = [Sample({}, i) for i in range(10)]
    assert [s.label for s in channel_prune._spread(samples, 3)] == [0, 3, 6]
    assert [s.label for s in channel_prune._spread(iter(samples), 3)] == [0, 1, 2]
    assert len(list(channel_prune._spread(samples, 50))) == 10


def test_slimming_drives_factors_down_where_nothing_holds_them() -> None:
    graph, samples = opened_graph(plain)
    settings = ChannelPrune("bn-gamma", macs=0.5, penalty=0.0)
    module = to_torch(graph)
    free, driven = Slimming(module, settings), Slimming(module, ChannelPrune("bn-gamma", macs=0.5, penalty=0.5))
    found, batch = {"y": torch.zeros(2, 4)}, ([torch.zeros(1)], torch.tensor([0, 1]))
    factors = sum(float(factor.detach().abs().sum()) for factor in driven.factors)
    assert float((driven(found, "y", batch) - free(found, "y", batch)).detach()) == pytest.approx(0.5 * factors)

    def mean_factor(**keys: Any) -> float:
        outcome = pruned(graph, samples, criterion="bn-gamma", macs=0.6, sparse_epochs=4, rate=0.02, batch=8, **keys)
        nodes = [node for node in outcome.graph.graph if node.op_type == "BatchNormalization"]
        return float(np.mean([np.abs(constant(node.inputs[1])).mean() for node in nodes]))  # type: ignore[arg-type]

    assert mean_factor(penalty=0.05) < mean_factor(penalty=0.0) - 0.03


def test_layers_without_batch_normalization_are_left_by_bn_gamma() -> None:
    def half(b: Builder) -> str:
        y = b.node("Relu", norm(b, b.conv(b.input(1, 3, 8, 8), 3, 8), 8))
        return head(b, b.node("Relu", b.conv(y, 8, 6)), 6)

    graph, samples = opened_graph(half)
    facts = pruned(graph, samples, criterion="bn-gamma", macs=0.6).facts["layers"]
    assert [count == kept for count, kept in facts.values()] == [False, True]


def test_what_is_cut_is_trained() -> None:
    graph, samples = opened_graph(plain)
    outcome = pruned(graph, samples, macs=0.6, fine_tune=True, epochs=6, rate=0.05, batch=16, validation=0.25)
    bare = pruned(graph, samples, macs=0.6)
    assert outcome.facts["epochs"] == 6 and {"loss", "validation_accuracy"} <= set(outcome.facts)
    shapes = [{n: shape_of(v) for n, v in o.graph.graph.initializers.items()} for o in (outcome, bare)]
    assert shapes[0] == shapes[1]
    assert serialize(outcome.graph) != serialize(bare.graph)


def test_what_reaches_no_goal_says_how_far_it_came() -> None:
    graph, samples = opened_graph(plain)
    with pytest.raises(ModelError, match=r"channel-prune: macs = 0.01 cannot be reached, 0\.\d\d is left at least"):
        pruned(graph, samples, macs=0.01)
    with pytest.raises(ModelError, match="lower multiple or least, or choose another criterion"):
        pruned(graph, samples, macs=0.5, multiple=64)


def test_a_goal_is_one_share() -> None:
    with pytest.raises(ConfigError, match="give one of macs, parameters, bytes, latency, not none"):
        ChannelPrune()
    with pytest.raises(ConfigError, match="not macs and bytes"):
        ChannelPrune(macs=0.5, bytes=0.5)
    with pytest.raises(ConfigError, match=r"macs: the share to be left is between 0 and 1, not 2\.0"):
        ChannelPrune(macs=2.0)


@pytest.mark.parametrize("key", ["multiple", "samples", "scan"])
def test_counts_begin_at_one(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: 0 was given, at least 1 is needed"):
        ChannelPrune(macs=0.5, **{key: 0})  # type: ignore[arg-type]


def test_what_stays_is_a_share() -> None:
    with pytest.raises(ConfigError, match="least: 5 was given, a share from 0 to below 1 is needed"):
        ChannelPrune(macs=0.5, least=5.0)


def test_taylor_needs_labels() -> None:
    graph, samples = opened_graph(plain)
    with pytest.raises(DataError, match="has no labels, which criterion taylor needs"):
        bare = [Sample(samples[0].inputs)]
        chosen(Channels(graph), ChannelPrune("taylor", macs=0.5), Context(bare, bare, SilentProgress()))


def stairs(graphs: Sequence[ir.Model]) -> list[float]:
    """A device whose kernels compute four channels at once, and take as long for one."""
    times = []
    for graph in graphs:
        convs = [shape_of(node.inputs[1]) for node in graph.graph if node.op_type == "Conv"]  # type: ignore[arg-type]
        times.append(sum(-(-outs // 4) * -(-ins // 4) for outs, ins, *_ in convs))
    return [time / times[0] for time in times]


@pytest.mark.parametrize("keys", [{"criterion": "taylor"}, {"scope": "layer"}])
def test_latency_is_what_the_device_gives_back(keys: dict[str, str]) -> None:
    graph, samples = opened_graph(residual)
    outcome = pruned(graph, samples, stairs, latency=0.8, **keys)
    whole, left = outcome.facts["latency"]
    assert whole == 1.0 and stairs([graph, outcome.graph])[1] == left <= 0.8
    kept = [left for count, left in outcome.facts["layers"].values() if left < count]
    assert kept and all(count % 4 == 0 for count in kept)  # one more would have been free


def test_a_latency_that_only_noise_reached_is_looked_at_again() -> None:
    """The first time that little is gone it seems enough."""
    graph, samples = opened_graph(plain)
    looked: list[int] = []

    def lucky(graphs: Sequence[ir.Model]) -> list[float]:
        found = stairs(graphs)
        if len(graphs) == 2:
            looked.append(1)
            return [1.0, 0.1] if len(looked) == 1 else found
        return found

    outcome = pruned(graph, samples, lucky, latency=0.7)
    assert stairs([graph, outcome.graph])[1] <= 0.7


def test_latency_needs_a_target() -> None:
    graph, samples = opened_graph(plain)
    with pytest.raises(ModelError, match="latency can only be the goal in a build, which knows the target"):
        pruned(graph, samples, latency=0.7)
    with pytest.raises(ModelError, match=r"channel-prune: latency = 0\.01 cannot be reached, 0\.\d\d is left at least"):
        pruned(graph, samples, stairs, latency=0.01)


def test_what_latency_depends_on_is_where_it_is_measured() -> None:
    timer = Timer({load_target("linux-x86_64-litert"): "int8"})
    context = Context([], [], SilentProgress(), latency=timer)
    assert ChannelPrune(macs=0.5).depends_on(context) is None
    assert "linux-x86_64-litert" in str(ChannelPrune(latency=0.5).depends_on(context))


def test_layers_alike_are_timed_together_and_share_what_is_saved() -> None:
    def twins(b: Builder) -> str:
        y = block(b, b.input(1, 3, 8, 8), 3, 8)
        for _ in range(2):
            y = b.node("Add", y, b.conv(block(b, y, 8, 8), 8, 8))
        return head(b, y, 8)

    channels = Channels(opened_graph(twins)[0])
    blocks = [[[one] for one in layer.classes[:-1]] for layer in channels.layers]
    asked: list[int] = []

    def clock(graphs: Sequence[ir.Model]) -> list[float]:
        asked.append(len(graphs))
        return stairs(graphs)

    stream, *inner = timed(channels, blocks, clock)
    assert asked == [1 + 2 * 7]  # the whole, and each kind at seven depths
    np.testing.assert_array_equal(inner[0], inner[1])
    both = stairs([channels.model, without(channels, [c for layer in channels.layers[1:] for c in layer.classes[:4]])])
    assert inner[0][3] == 0.0 and inner[0][4] == pytest.approx((1 - both[1]) / 2)
    assert stream[-1] > inner[0][-1]


def test_what_gives_nothing_back_goes_with_what_does() -> None:
    lost = [np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 1.0, 9.0])]
    saved = [np.array([0.0, 0.0, 0.2, 0.2]), np.array([0.0, 0.2, 0.3])]
    assert by_price([[[1], [2], [3]], [[4], [5]]], lost, saved) == [[4], [1, 2], [5]]


def test_taylor_takes_what_is_cheap_for_what_it_saves() -> None:
    """Two layers alike but for the size of their images: of channels that matter alike those of the larger one go."""

    def twice(b: Builder) -> str:
        y = block(b, block(b, b.input(1, 3, 16, 16), 3, 8), 8, 8, strides=[4, 4])
        return head(b, block(b, y, 8, 8), 8)

    graph, _ = opened_graph(twice)
    channels = Channels(graph)
    blocks = [[[one] for one in layer.classes[:-1]] for layer in channels.layers]
    saved = counted(channels, blocks, "macs")
    whole = Cut(channels, ()).cost("macs")
    for layer, curve in zip(channels.layers, saved, strict=True):
        one = Cut(channels, layer.classes[:1]).cost("macs")
        assert curve[1] == pytest.approx(1 - one / whole)
    ranked = by_price(blocks, [np.arange(8.0)] * 3, saved)
    assert ranked[:7] == blocks[0]


def doubled(b: Builder) -> str:
    """The second half of the first layer's channels are copies of the first half."""
    half = b.rng.normal(0, 0.4, (4, 3, 3, 3)).astype(np.float32)
    y = b.node("Relu", b.node("Conv", b.input(1, 3, 8, 8), b.const(np.concatenate([half, half])), pads=[1] * 4))
    return b.node("Flatten", b.conv(y, 8, 5, (3, 3)))


def test_what_others_can_do_is_not_lost() -> None:
    """Without copies the network cannot do what it did, until those that are left take over."""
    graph, samples = opened_graph(doubled)
    channels = Channels(graph)
    removed = channels.layers[0].classes[4:]
    cut, left = Cut(channels, removed), without(channels, removed)
    inputs = [torch.from_numpy(np.concatenate([next(iter(s.inputs.values())) for s in samples[32:]]))]
    wanted = to_torch(graph)(*inputs).detach()

    def error(model: ir.Model) -> float:
        return float(((to_torch(model)(*inputs).detach() - wanted) ** 2).mean() / wanted.var())

    assert error(reconstructed(cut, left, samples[:32])) < 0.1 * error(left)


def test_pruning_reconstructs_where_it_is_told_to() -> None:
    graph, samples = opened_graph(plain)
    channels = Channels(graph)
    fitted, bare = (pruned(graph, samples, macs=0.6, reconstruct=given) for given in (True, False))
    removed = chosen(channels, ChannelPrune(macs=0.6, multiple=1), Context(samples, samples, SilentProgress()))
    expected = reconstructed(Cut(channels, removed), without(channels, removed), samples)
    assert serialize(fitted.graph) == serialize(expected) != serialize(bare.graph)


def test_least_squares_are_those_of_linear_algebra() -> None:
    rng = np.random.default_rng(0)
    rows, wanted = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))

    def output(change: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rows) @ change

    found = least_squares(output, torch.zeros(4, 1, dtype=torch.float64), torch.from_numpy(wanted))
    np.testing.assert_allclose(found, np.linalg.lstsq(rows, wanted, rcond=None)[0], rtol=1e-6)


def test_a_graph_that_mixes_the_batch_is_not_reconstructed() -> None:
    def mixing(b: Builder) -> str:
        y = b.node("Reshape", block(b, b.input(2, 3, 8, 8), 3, 8), b.const([1, 16, 8, 8]))
        return b.node("Reshape", b.conv(y, 16, 16), b.const([2, 8, 8, 8]))

    graph, samples = opened_graph(mixing)
    with pytest.raises(ModelError, match="reconstruct: the graph mixes the batch with other axes; leave it out"):
        reconstructed(Cut(Channels(graph), ()), graph, samples)


def test_a_timer_times_what_would_run_on_the_target() -> None:
    def wide(b: Builder) -> str:
        y = block(b, b.input(1, 3, 32, 32), 3, 64)
        return head(b, block(b, y, 64, 64), 64)

    channels = Channels(opened_graph(wide)[0])
    narrow = without(channels, [one for layer in channels.layers for one in layer.classes[16:]])
    timer = Timer({load_target("linux-x86_64-litert"): "int8"})
    one, less = timer([channels.model, narrow])
    assert one == 1.0 and less < 0.6
    ((target, precision),) = timer.targets.items()
    found = audit(timer.artifact(prepare(narrow), target, precision))
    assert found.precision == "int8"
