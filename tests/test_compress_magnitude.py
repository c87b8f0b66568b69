"""Magnitude pruning: what is zero, when, and that it stays so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compressible import compressed, network, samples, weights
from small_graphs import floating, quantized

from edgekit.compress import magnitude
from edgekit.compress.coded import constants, packed
from edgekit.compress.magnitude import Prune
from edgekit.compress.steps import Context
from edgekit.compress.training import Training
from edgekit.errors import ConfigError
from edgekit.progress import SilentProgress

SHORT = {"epochs": 3, "batch": 8, "rate": 0.05, "every": 2}


def shares(graph) -> dict[str, float]:
    return {name: float((array == 0).mean()) for name, array in weights(graph).items()}


def test_every_layer_loses_the_share_of_its_smallest_weights_and_nothing_else_changes() -> None:
    graph = network()
    pruned = compressed(graph, method="prune", sparsity=0.75, epochs=0)
    for name, before in weights(graph).items():
        after = weights(pruned.graph)[name]
        assert np.count_nonzero(after) == before.size - round(0.75 * before.size)
        assert (after[after != 0] == before[after != 0]).all()
        assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
    assert pruned.facts["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert set(shares(graph).values()) == {0.0}, "the given graph stays"


def test_a_global_threshold_is_one_for_all_layers() -> None:
    graph = network()
    pruned = compressed(graph, method="prune", sparsity=0.5, scope="global", epochs=0)
    found = shares(pruned.graph)
    assert len({round(share, 2) for share in found.values()}) > 2
    total = sum(array.size for array in weights(graph).values())
    assert sum(share * weights(graph)[n].size for n, share in found.items()) == pytest.approx(total / 2, abs=1)
    kept = min(np.abs(a[a != 0]).min() for a in weights(pruned.graph).values())
    gone = max(np.abs(weights(graph)[n][a == 0]).max(initial=0) for n, a in weights(pruned.graph).items())
    assert gone <= kept


@pytest.mark.parametrize(("pattern", "keep", "of"), [("2:4", 2, 4), ("4:8", 4, 8)])
@pytest.mark.parametrize("epochs", [0, 2])
def test_patterns_hold_along_the_inputs_after_training_too(pattern: str, keep: int, of: int, epochs: int) -> None:
    graph = network()
    pruned = compressed(graph, method="prune", pattern=pattern, **(SHORT | {"epochs": epochs}))
    inputs = {2: {"Gemm": 1, "MatMul": 0}, 4: {"Conv": 1}}
    seen = 0
    for node in pruned.graph.graph:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        array = weights(pruned.graph)[node.inputs[1].name]
        axis = inputs[array.ndim][node.op_type]
        if array.shape[axis] % of:
            assert node.inputs[1].name in pruned.facts["left"]
            continue
        groups = np.moveaxis(array, axis, -1).reshape(-1, of)
        assert (np.count_nonzero(groups, axis=1) <= keep).all()
        assert np.count_nonzero(groups) == keep * len(groups)
        seen += 1
    assert seen == (5 if of == 4 else 4)


@pytest.mark.parametrize(
    "more", [{}, {"scope": "global"}, {"regrow": True}, {"ramp": 0.0}, {"ema": 0.9}, {"rewind": 2}]
)
def test_the_sparsity_is_reached_and_held_in_training(more: dict[str, object]) -> None:
    graph = network()
    pruned = compressed(graph, method="prune", sparsity=0.8, **SHORT, **more)
    assert pruned.facts["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert pruned.facts["epochs"] == 3
    before, after = weights(graph), weights(pruned.graph)
    assert all((after[n] != before[n])[after[n] != 0].any() for n in before), "what is left was trained"


def test_sparsity_grows_by_the_cubic_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []
    advance = magnitude.Masks.advance

    def watched(self, values) -> None:
        advance(self, values)
        zeros = sum(int((v == 0).sum()) for v in values.values())
        seen.append((int(self.step), zeros / sum(v.numel() for v in values.values())))

    monkeypatch.setattr(magnitude.Masks, "advance", watched)
    compressed(network(), method="prune", sparsity=0.8, scope="global", **(SHORT | {"epochs": 4, "every": 4}))
    assert len(seen) == 32
    for step, share in seen:
        moved = min(step // 4 * 4, 16) / 16
        assert share == pytest.approx(0.8 * (1 - (1 - moved) ** 3), abs=0.001), step


def test_what_was_pruned_comes_back_only_with_regrowth() -> None:
    graph = network()
    settings = {"method": "prune", "sparsity": 0.6, **SHORT, "rate": 0.2, "epochs": 5, "ramp": 0.9}
    assert compressed(graph, **settings).facts["returned"] == 0
    assert compressed(graph, **settings, regrow=True).facts["returned"] > 0


def test_fine_tuning_afterwards_keeps_the_zeros_and_only_them() -> None:
    pruned = compressed(network(), method="prune", sparsity=0.6, epochs=0).graph
    tuned = weights(compressed(pruned, method="fine-tune", epochs=2, batch=8, rate=0.05).graph)
    for name, array in weights(pruned).items():
        assert ((tuned[name] == 0) == (array == 0)).all()
        assert (tuned[name] != array)[array != 0].mean() > 0.9


def test_rewinding_trains_the_surviving_weights_from_where_they_were() -> None:
    graph = network()
    settings = Prune(0.5, rewind=1, training=Training(epochs=2, batch=8, rate=0.05))
    seen: list[dict[str, np.ndarray]] = []
    train = magnitude.train

    def watched(module, *given, **more):
        seen.append({n: module.tensor(n).detach().numpy().copy() for n in weights(graph)})
        return train(module, *given, **more)

    magnitude.train = watched
    try:
        magnitude.prune(graph, settings, Context(samples(), samples(), SilentProgress()))
    finally:
        magnitude.train = train
    assert len(seen) == 2
    for name, before in weights(graph).items():
        assert (seen[0][name] == before).all()
        on = seen[1][name] != 0
        assert np.count_nonzero(on) == before.size - round(0.5 * before.size)
        assert (seen[1][name][on] == before[on]).all()


def test_a_killed_run_goes_on_to_the_same_masks(tmp_path) -> None:
    graph, data = network(), samples()
    settings = Prune(0.8, every=2, regrow=True, training=Training(epochs=4, batch=8, rate=0.05))
    whole = magnitude.prune(graph, settings, Context(data, data, SilentProgress()))
    killed = Context(data, data, Killing(after=19), tmp_path / "state.pt")
    with pytest.raises(KeyboardInterrupt):
        magnitude.prune(graph, settings, killed)
    again = magnitude.prune(graph, settings, replace(killed, progress=SilentProgress()))
    for name, array in weights(whole.graph).items():
        assert (weights(again.graph)[name] == array).all()


class Killing(SilentProgress):
    """Ends the process, as it were, after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def task(self, name, total=None):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def __call__(self, *said: object) -> None:
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt


def test_zeros_save_bytes_in_a_compressed_file_only() -> None:
    graph = network()
    pruned = compressed(graph, method="prune", sparsity=0.9, epochs=0)
    dense = packed(constants(graph))
    assert pruned.facts["bytes"]["raw"] == dense["raw"]
    assert pruned.facts["bytes"]["gzip"] < 0.4 * dense["gzip"]


def test_skipped_weights_stay() -> None:
    graph = network()
    last = next(n for n in graph.graph if n.op_type == "Gemm").name
    pruned = compressed(graph, method="prune", sparsity=0.5, skip=["c0", last], epochs=0)
    assert {n for n, share in shares(pruned.graph).items() if share == 0} == {"c0", "c11"}


def test_both_artifacts_take_it_in_float_and_int8() -> None:
    pruned = compressed(network(), method="prune", sparsity=0.7, **SHORT)
    data = [sample.inputs for sample in samples(8)]
    for outcome, least in ((floating(pruned.graph, data), 90), (quantized(pruned.graph, data), 20)):
        assert outcome.snr("onnx") > least and outcome.snr("tflite") > least


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({}, "either sparsity or a pattern"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "either sparsity or a pattern"),
        ({"sparsity": 1.0}, "a share from 0 to below 1"),
        ({"sparsity": 0.5, "regrow": True, "epochs": 0}, "regrow and rewind train; at least 1"),
        ({"sparsity": 0.5, "rewind": 1, "epochs": 0}, "regrow and rewind train; at least 1"),
        ({"sparsity": 0.5, "regrow": True, "rewind": 1}, "leave regrow out"),
        ({"sparsity": 0.5, "regrow": True, "ramp": 0.0}, "more than 0 is needed"),
        ({"sparsity": 0.5, "every": 0}, "every: 0 was given, at least 1 is needed"),
        ({"sparsity": 0.5, "ramp": 5.0}, "ramp: 5 was given, a share from 0 to 1 is needed"),
        ({"sparsity": 0.5, "skip": ["con_0"]}, "con_0 names no weight and no node"),
        ({"sparsity": 0.5, "skip": ["*"]}, "no weight is left to compress"),
        ({"pattern": "1:4"}, "is not one of any, 2:4, 4:8"),
    ],
)
def test_settings_that_say_nothing_sound_are_refused(written: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compressed(network(), method="prune", **written)
