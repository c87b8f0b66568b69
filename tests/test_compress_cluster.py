"""Weight clustering: how many values there are, that they stay shared, and what they weigh."""

from __future__ import annotations

import numpy as np
import pytest
from compressible import compressed, network, samples, weights
from small_graphs import floating, quantized

from edgekit.compress import channel_prune, coded, distill  # noqa: F401 - they declare their methods
from edgekit.compress.cluster import clustered, kmeans
from edgekit.compress.kept import Kept
from edgekit.compress.module import from_torch, to_torch
from edgekit.compress.steps import METHODS, Context, FineTune
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError
from edgekit.graph import with_constants
from edgekit.passes import prepare
from edgekit.progress import SilentProgress
from edgekit.quant import codebook, numerics
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.ranges import Method
from edgekit.quant.reconstruct import reconstruct
from edgekit.quant.solve import Rules, solve

SHORT = {"epochs": 3, "batch": 8, "rate": 0.05}


def values(graph) -> dict[str, int]:
    return {name: len(np.unique(array)) for name, array in weights(graph).items()}


def test_kmeans_finds_the_groups_that_are_there() -> None:
    rng = np.random.default_rng(0)
    means = np.array([-3.0, -1.0, 0.5, 4.0])
    found = kmeans(np.sort(np.concatenate([rng.normal(m, 0.01, 50) for m in means])), 4)
    assert found == pytest.approx(means, abs=0.01)
    assert list(kmeans(np.array([1.0, 1.0, 1.0]), 5)) == [1.0]


def test_each_weight_goes_to_its_nearest_value_and_lloyd_has_nothing_left_to_do() -> None:
    array = np.random.default_rng(1).normal(size=(20, 30)).astype(np.float32)
    found = clustered(array, 16)
    centroids = np.unique(found)
    assert len(centroids) == 16
    assert (np.abs(array - found) <= np.abs(array[..., None] - centroids).min(-1) + 1e-6).all()
    for centroid in centroids:
        assert array[found == centroid].mean() == pytest.approx(centroid, abs=1e-5)


def test_exact_zeros_stay_and_nothing_else_becomes_zero() -> None:
    array = np.random.default_rng(1).normal(size=(20, 30)).astype(np.float32)
    array[np.abs(array) < 0.7] = 0
    found = clustered(array, 8)
    assert ((found == 0) == (array == 0)).all()
    assert len(np.unique(found)) == 8
    assert (clustered(np.zeros((8, 8), np.float32), 8) == 0).all()


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_clusters_hold_in_training_and_their_values_are_trained(optimizer: str, ema: float) -> None:
    graph = network()
    still = compressed(graph, method="cluster", clusters=8, epochs=0)
    how = {**SHORT, "rate": 0.02, "optimizer": optimizer, "ema": ema}
    found = compressed(graph, method="cluster", clusters=8, **how)
    assert set(values(still.graph).values()) == {8}
    for name, before in weights(still.graph).items():
        after = weights(found.graph)[name]
        assert len(np.unique(after)) <= 8
        for value in np.unique(before):
            assert len(np.unique(after[before == value])) == 1, "weights of one value still share one"
        assert (after != before).any()


def test_a_value_moves_by_the_gradients_of_its_weights_over_the_root_of_their_number() -> None:
    graph = compressed(network(), method="cluster", clusters=4, epochs=0).graph
    plain, tied = to_torch(graph), to_torch(graph)
    how = Training(epochs=1, batch=8, rate=0.01, decay=0, momentum=0)
    train(plain, samples(8), how, SilentProgress())
    train(tied, samples(8), how, SilentProgress(), after_step=Kept(tied))
    for name, before in weights(graph).items():
        moved = plain.tensor(name).detach().numpy() - before
        shared = tied.tensor(name).detach().numpy() - before
        for value in np.unique(before):
            members = before == value
            assert shared[members] == pytest.approx(moved[members].sum() / members.sum() ** 0.5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", ["fine-tune", "distill"])
def test_prune_and_cluster_compose_and_later_training_keeps_both(method: str) -> None:
    pruned = compressed(network(), method="prune", sparsity=0.4, **SHORT).graph
    both = compressed(pruned, method="cluster", clusters=4, **SHORT).graph
    trained = weights(compressed(both, method=method, epochs=2, batch=8, rate=0.05, ema=0.9).graph)
    for name, array in weights(both).items():
        assert ((array == 0) == (weights(pruned)[name] == 0)).all()
        assert ((trained[name] == 0) == (array == 0)).all()
        assert len(np.unique(trained[name])) <= 4
        assert (trained[name] != array).any()


def test_what_is_cut_keeps_its_zeros_and_values() -> None:
    pruned = compressed(network(), method="prune", sparsity=0.4, epochs=0).graph
    both = compressed(pruned, method="cluster", clusters=4, epochs=0).graph
    still = compressed(both, method="channel-prune", macs=0.7, multiple=4, epochs=0).graph
    tuned = weights(compressed(both, method="channel-prune", macs=0.7, multiple=4, **SHORT).graph)
    cut = weights(still)
    assert any(array.shape != weights(both)[name].shape for name, array in cut.items())
    for name, array in cut.items():
        assert ((tuned[name] == 0) == (array == 0)).all()
        assert len(np.unique(tuned[name])) <= 4
        assert (tuned[name] != array).any()


def test_network_slimming_keeps_them_too() -> None:
    pruned = compressed(network(), method="prune", sparsity=0.4, epochs=0).graph
    both = compressed(pruned, method="cluster", clusters=4, epochs=0).graph
    how = channel_prune.ChannelPrune(macs=0.7, sparse_epochs=1, training=Training(batch=8, rate=0.05))
    found = weights(channel_prune.slimmed(both, how, Context(samples(), samples(), SilentProgress())))
    for name, array in weights(both).items():
        assert ((found[name] == 0) == (array == 0)).all()
        assert len(np.unique(found[name])) <= 4
        assert (found[name] != array).any()


def test_what_is_sparse_only_is_no_codebook() -> None:
    pruned = compressed(network(), method="prune", sparsity=0.9, epochs=0).graph
    assert max(values(pruned).values()) <= 256, "few values, but each of one weight"
    kept = Kept(to_torch(pruned))
    assert not kept.indices and len(kept.zeros) == 5
    assert not codebook.bounds(pruned, prepare(pruned))


def test_an_ordinary_network_trains_as_if_nothing_were_kept() -> None:
    graph = with_constants(network(), {"c5": np.zeros((16, 8, 3, 3), np.float32)})  # not pruned, but fresh
    module = to_torch(graph)
    kept = Kept(module)
    assert not kept.zeros and not kept.indices
    how = Training(epochs=1, batch=8, rate=0.05)
    train(module, samples(), how, SilentProgress())
    found = METHODS["fine-tune"].run(graph, FineTune(how), Context(samples(), samples(), SilentProgress()))
    for name, array in weights(from_torch(module)).items():
        assert (weights(found.graph)[name] == array).all()
    assert (weights(found.graph)["c5"] != 0).any()


def test_few_values_stay_few_integers() -> None:
    pruned = compressed(network(), method="prune", sparsity=0.4, epochs=0).graph
    graph = compressed(pruned, method="cluster", clusters=8, epochs=0).graph
    prepared, data = prepare(graph), samples(8)
    statistics = observe(prepared, data, Method("minmax"), SilentProgress(), len(data))
    ranges = ranges_of(statistics, Method("minmax"))
    alone = solve(prepared, ranges)
    shared = solve(prepared, ranges, Rules(bounds=codebook.bounds(graph, prepared)))
    grown = 0
    for name in (n for n, a in weights(prepared).items() if n in shared):
        array, before = weights(prepared)[name], weights(graph)[name]
        stored, own = (numerics.quantize(array, plan[name]) for plan in (shared, alone))
        assert len(np.unique(stored)) <= len(np.unique(before)) == 8, name
        assert ((stored == 0) >= (before == 0)).all()
        assert np.abs(stored).max() <= 127
        grown += len(np.unique(own)) > 8
    assert grown, "scales of the channels' own largest weights would have made more of them"
    fewer = coded.integers_bytes(prepared, shared)["weights"]
    assert fewer < coded.integers_bytes(prepared, alone)["weights"]


def test_a_weight_whose_values_are_shared_no_longer_gets_no_bounds() -> None:
    graph = compressed(network(), method="cluster", clusters=16, epochs=0).graph
    prepared = prepare(graph)
    names = list(codebook.bounds(graph, prepared))
    assert len(names) == 5
    array = weights(prepared)[names[0]].copy()
    array[:, 1] *= 1.5  # as equalizing channels does to those that read them
    assert list(codebook.bounds(graph, with_constants(prepared, {names[0]: array}))) == names[1:]
    assert not codebook.bounds(network(), prepare(network()))


def test_rounding_leaves_pruned_weights_at_zero() -> None:
    graph = prepare(compressed(network(), method="prune", sparsity=0.6, epochs=0).graph)
    data = samples(8)
    plan = solve(graph, ranges_of(observe(graph, data, Method("minmax"), SilentProgress(), 8), Method("minmax")))
    rounded = reconstruct(graph, plan, data, SilentProgress(), len(data))
    before = weights(graph)
    assert len([n for n in rounded if n in before]) == 5
    assert all((rounded[n][before[n] == 0] == 0).all() for n in rounded if n in before)


def test_both_artifacts_take_it_in_float_and_int8() -> None:
    found = compressed(network(), method="cluster", clusters=16, **SHORT)
    data = [sample.inputs for sample in samples(8)]
    for outcome, least in ((floating(found.graph, data), 90), (quantized(found.graph, data), 20)):
        assert outcome.snr("onnx") > least and outcome.snr("tflite") > least


def test_codes_are_as_long_as_information_theory_says() -> None:
    array = np.repeat([1, 2, 3, 4], [4, 2, 1, 1])
    assert coded.entropy(array) == pytest.approx(1.75)
    assert coded.huffman_bits(array) == 14
    assert coded.huffman_bits(np.ones(9)) == 9
    assert coded.entropy(np.ones(9)) == 0
    assert coded.huffman_bytes(array) == 2 + 4 * coded.TABLE
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = rng.geometric(0.3, 1000)
        assert coded.entropy(drawn) <= coded.huffman_bits(drawn) / 1000 < coded.entropy(drawn) + 1


def test_facts_add_up() -> None:
    graph = network()
    found = compressed(graph, method="cluster", clusters=32, skip=["c0"], epochs=0)
    sizes, after = found.facts["coded_bytes"], weights(found.graph)
    assert found.facts["left"] == ["c11"], "64 numbers are too few for 32 values"
    assert found.facts["layers"]["c5"]["values"] == len(np.unique(after["c5"])) == 32
    named = [after[n] for n in found.facts["layers"]]
    assert sizes["raw"] == len(coded.constants(graph))
    assert sizes["rest"] == sizes["raw"] - sum(a.nbytes for a in named)
    assert sizes["codebooks"] == 4 * 32 * len(named)
    assert sizes["coded"] == sizes["indices"] + sizes["codebooks"] + sizes["rest"]
    assert sizes["entropy"] <= sizes["indices"] <= sizes["entropy"] + sum(a.size / 8 + 1 + 64 for a in named)
    assert sizes["ratio"] == sizes["raw"] / sizes["coded"]


@pytest.mark.parametrize("count", [1, 257])
def test_a_number_of_clusters_that_is_none_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"edgekit.toml:compress\[0\].clusters: {count} was given, 2 to 256"):
        compressed(network(), method="cluster", clusters=count)
