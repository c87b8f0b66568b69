"""Training: resumed to the same numbers after a kill, parts of a batch that add up, and each setting doing its part."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import compressible
import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_graphs import Builder
from torch.utils.data import DataLoader, TensorDataset

from edgekit.compress import engine, training
from edgekit.compress.distill import Distill, Distillation
from edgekit.compress.loss import classifier_input, scores_of
from edgekit.compress.module import GraphModule, arrays_of, from_torch, to_torch
from edgekit.compress.steps import METHODS, Context, FineTune, read_step
from edgekit.compress.training import History, Training, factor, optimizer, train
from edgekit.errors import ConfigError, DataError
from edgekit.passes import opened
from edgekit.progress import PlainProgress, SilentProgress
from edgekit.samples import Sample, open_samples

SILENT = SilentProgress()
STEADY = Training(epochs=2, batch=16, schedule="constant", warmup=0.0, rate=0.05)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network(norm: bool = True, end: str = "") -> ir.Model:
    """Conv (and BatchNormalization), Relu, mean over space, Gemm: 2x6x6 -> 3 scores."""
    b = Builder(1)
    x = b.conv(b.input(1, 2, 6, 6), 2, 6, (3, 3))
    if norm:
        x = b.node("BatchNormalization", x, *(b.uniform(0.5, 1.5, 6) for _ in range(4)))
    x = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", x)))
    x = b.node("Gemm", x, b.weights(3, 6), b.weights(3), transB=1)
    return opened(b.model(b.node(end, x) if end else x))


def samples(count: int = 96, labels: bool = True, seed: int = 0) -> list[Sample]:
    """Images whose mean tells their class."""
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, 3, count)
    images = draw.normal(classes[:, None, None, None] - 1.0, 1.5, (count, 2, 6, 6)).astype(np.float32)
    return [Sample({"x": x[None]}, int(c) if labels else None) for x, c in zip(images, classes, strict=True)]


def after(how: Training, data: Any = None, graph: ir.Model | None = None, **more: Any) -> tuple[GraphModule, History]:
    module = to_torch(graph or network())
    return module, train(module, samples() if data is None else data, how, SILENT, **more)


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


# -- a run that is killed ---------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_compress_training as t

saves, parent = 0, os.getpid()
save = torch.save
def deadly(*given):
    global saves
    saves += 1
    if saves == 3:
        os.kill(parent, signal.SIGKILL)
        os._exit(1)
    save(*given)
torch.save = deadly
t.on(int(sys.argv[2]))
t.after(t.LONG, resume=Path(sys.argv[1]))
"""
LONG = Training(
    epochs=5, batch=16, optimizer="adamw", rate=0.01, ema=0.9, validation=0.25, patience=4, dropout=0.2, clip=1.0
)


def on(processes: int, patch: Any = setattr) -> None:
    """Train in so many processes from now on."""
    if processes > 1:
        pytest.importorskip("lightning_fabric")
        patch(training, "engine", lambda mixed, fabric: engine.FabricEngine(mixed, processes))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    on(processes, monkeypatch.setattr)
    checkpoint, here = tmp_path / "training.pt", Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(processes)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=here.parent, check=False)
    assert done.returncode == -signal.SIGKILL
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 2
    resumed, history = after(LONG, resume=checkpoint)
    whole, wanted = after(LONG)
    assert vars(history) == vars(wanted) and len(wanted.losses) == 5
    assert apart(arrays_of(resumed), arrays_of(whole)) == 0.0
    assert apart(arrays_of(whole), arrays_of(to_torch(network()))) > 0.01


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.pt"
    first, history = after(STEADY, resume=checkpoint)
    again, more = after(STEADY, [*samples(80), *samples(16, seed=5)], resume=checkpoint)
    assert apart(arrays_of(first), arrays_of(again)) == 0.0 and vars(more) == vars(history)


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.pt"
    how = replace(STEADY, epochs=30, rate=3.0, validation=0.25, patience=2)
    _, first = after(how, resume=checkpoint)
    _, again = after(how, resume=checkpoint)
    assert len(first.losses) < 30 and vars(again) == vars(first)


def test_a_checkpoint_of_other_settings_counts_as_absent(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.pt"
    after(STEADY, resume=checkpoint)
    other = replace(STEADY, rate=0.01)
    assert apart(arrays_of(after(other, resume=checkpoint)[0]), arrays_of(after(other)[0])) == 0.0


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    after(replace(STEADY, dropout=0.5))
    assert torch.equal(torch.rand(3), wanted)


# -- each setting -----------------------------------------------------------------------------------------------------


def test_a_batch_in_parts_is_the_whole_batch() -> None:
    how = replace(STEADY, l1=0.01, clip=0.5, smoothing=0.1)
    whole, one = after(how, graph=network(norm=False))
    for count in (2, 3, 16):
        parts, other = after(replace(how, accumulate=count), graph=network(norm=False))
        assert apart(arrays_of(whole), arrays_of(parts)) < 1e-5
        assert other.losses == pytest.approx(one.losses, abs=1e-5)


def test_early_stopping_gives_the_best_epoch() -> None:
    how = replace(STEADY, epochs=30, rate=3.0, validation=0.25, patience=2)
    module, history = after(how)
    best = int(np.argmin(history.validation))
    assert len(history.validation) == best + 3 < 30
    short, _ = after(replace(how, epochs=best + 1, patience=0))
    assert apart(arrays_of(module), arrays_of(short)) == 0.0
    outcome = METHODS["fine-tune"].run(network(), FineTune(how), context())
    assert outcome.facts["validation_loss"] == pytest.approx(min(history.validation))


def context(data: Sequence[Sample] | None = None) -> Context:
    return Context(samples() if data is None else data, samples(), SILENT)


def test_an_average_is_what_comes_out_and_what_is_judged() -> None:
    seen: list[dict[str, Any]] = []
    how = replace(STEADY, epochs=3, ema=0.8, validation=0.25)
    module, history = after(how, after_step=lambda m: seen.append(dict(arrays_of(m))))
    average = {name: np.float64(array) for name, array in seen[0].items()}
    for i, state in enumerate(seen[1:], 2):
        decay = min(0.8, (1 + i) / (10 + i))
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in average}
    assert apart(arrays_of(module), average) < 1e-4
    assert apart(arrays_of(module), seen[-1]) > 1e-3
    _, plain = after(replace(how, ema=0.0))
    assert history.losses == plain.losses and history.validation != plain.validation


def test_smoothing_and_penalties_act() -> None:
    base, history = after(STEADY)
    _, smooth = after(replace(STEADY, smoothing=0.3))
    assert smooth.losses[0] > history.losses[0]
    size = {name: np.abs(array).sum() for name, array in arrays_of(base).items() if array.ndim > 1}
    for more in ({"l1": 0.05}, {"decay": 0.5}):
        small, _ = after(replace(STEADY, **more))
        assert all(np.abs(arrays_of(small)[name]).sum() < 0.95 * total for name, total in size.items())


def test_a_gradient_is_clipped() -> None:
    before = arrays_of(to_torch(network()))
    how = replace(STEADY, epochs=1, batch=96, momentum=0.0, decay=0.0, clip=1e-3)
    moved = arrays_of(after(how)[0])
    learned = [n for n in before if n in dict(to_torch(network()).named_parameters())]
    length = float(np.sqrt(sum(((moved[n] - before[n]) ** 2).sum() for n in learned)))
    assert length == pytest.approx(how.rate * 1e-3, rel=0.02)


def test_dropout_drops_what_the_last_layer_reads_in_training_only() -> None:
    graph = network(norm=False)
    name = classifier_input(graph.graph)
    assert name == str(graph.graph.outputs[0].producer().inputs[0].name)  # type: ignore[union-attr]
    dropped: list[float] = []
    judged: list[float] = []

    class Seen(GraphModule):
        def _compute(self, node: ir.Node, read: list[Any], batch: int) -> Any:
            if node.op_type == "Gemm" and self.dropped:
                (dropped if self.training else judged).append(float((read[0] == 0).float().mean()))
            return super()._compute(node, read, batch)

    module = Seen(graph.clone()).eval()
    train(module, samples(), replace(STEADY, dropout=0.5, validation=0.25), SILENT)
    assert 0.4 < np.mean(dropped) < 0.6 and max(judged) < 0.2
    assert not module.dropped
    b = Builder()
    alone = opened(b.model(b.node("Gemm", b.input(1, 4), b.weights(3, 4), transB=1)))
    with pytest.raises(ConfigError, match="dropout: the first output comes from no layer with weights"):
        after(replace(STEADY, dropout=0.5), graph=alone)


def test_losses_are_of_scores_where_a_softmax_ends_the_graph() -> None:
    plain, ended = network(), network(end="Softmax")
    assert scores_of(ended.graph) == str(ended.graph.outputs[0].producer().inputs[0].name)  # type: ignore[union-attr]
    assert after(STEADY, graph=ended)[1].losses == after(STEADY, graph=plain)[1].losses


def test_bfloat16_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain = after(STEADY)
    monkeypatch.setattr(engine, "computes_in_half", lambda device: True)
    module, mixed = after(replace(STEADY, mixed=True))
    assert mixed.losses != plain.losses and mixed.losses == pytest.approx(plain.losses, rel=0.05)
    assert {array.dtype for array in arrays_of(module).values()} == {np.dtype(np.float32)}
    monkeypatch.setattr(engine, "computes_in_half", lambda device: False)
    stream = io.StringIO()
    history = train(to_torch(network()), samples(), replace(STEADY, mixed=True), PlainProgress(stream))
    assert history.losses == plain.losses
    assert "mixed: this device does not multiply in bfloat16; training in float32" in stream.getvalue()


def test_several_gpus_need_lightning_fabric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ConfigError, match=r"fabric: needs Lightning Fabric \(.*\); pip install lightning-fabric"):
        after(replace(STEADY, fabric=True))


@pytest.mark.parametrize(
    "how",
    [
        {"clip": 0.1, "l1": 1e-3},
        {"batch": 17, "ema": 0.9, "validation": 0.25, "patience": 1},
        {"batch": 5, "accumulate": 3},
        {"batch": 1, "epochs": 1},
    ],
)
def test_two_processes_train_as_one(monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    graph, settings = network(norm=False), replace(STEADY, **how)
    alone, wanted = after(settings, graph=graph)
    on(2, monkeypatch.setattr)
    both, history = after(settings, graph=graph)
    assert apart(arrays_of(alone), arrays_of(both)) < 1e-5 and history.steps == wanted.steps
    assert history.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert history.validation == pytest.approx(wanted.validation, rel=1e-5)


def test_one_process_of_lightning_fabric_trains_as_without_it() -> None:
    alone, _ = after(STEADY)
    pytest.importorskip("lightning_fabric")
    same, _ = after(replace(STEADY, fabric=True))
    assert apart(arrays_of(alone), arrays_of(same)) == 0.0


def test_two_processes_distil_with_projections_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, checkpoint = network(norm=False), tmp_path / "training.pt"
    settings = Distill(features=(str(next(iter(graph.graph)).outputs[0].name),), training=STEADY)

    def distilled(**more: Any) -> dict[str, Any]:
        return arrays_of(after(STEADY, graph=graph, loss=Distillation(settings, network(norm=False), graph), **more)[0])

    alone = distilled()
    on(2, monkeypatch.setattr)
    assert apart(alone, distilled(resume=checkpoint)) < 1e-5
    assert set(torch.load(checkpoint, weights_only=True)["learned"]) == {"0.weight"}
    assert apart(alone, distilled(resume=checkpoint)) < 1e-5


def test_two_processes_leave_alone_what_the_loss_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder(1)
    h = b.node("Flatten", b.node("GlobalAveragePool", b.conv(b.input(1, 2, 6, 6), 2, 6, (3, 3))))
    ends = [b.node("Gemm", h, b.weights(count, 6), transB=1) for count in (3, 4)]
    graph = opened(b.model(*ends))
    alone, _ = after(STEADY, graph=graph)
    on(2, monkeypatch.setattr)
    both, _ = after(STEADY, graph=graph)
    assert apart(arrays_of(alone), arrays_of(both)) < 1e-5
    assert np.array_equal(arrays_of(both)["c3"], arrays_of(to_torch(graph))["c3"])


def test_two_processes_prune_while_they_train(monkeypatch: pytest.MonkeyPatch) -> None:
    on(2, monkeypatch.setattr)
    found = compressible.compressed(compressible.network(), method="prune", sparsity=0.7, regrow=True, epochs=2)
    assert found.facts["sparsity"] == pytest.approx(0.7, abs=0.01)


def test_two_processes_after_threads_have_been_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU OpenMP hangs in a fork that works with several threads where its parent has."""

    def threads(module: GraphModule) -> None:
        torch.ones(1_000_000).add_(1)

    torch.set_num_threads(2)
    threads(to_torch(network()))
    on(2, monkeypatch.setattr)
    assert after(STEADY, after_step=threads)[1].steps == 12


def test_what_a_process_refuses_is_said_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    on(2, monkeypatch.setattr)
    with pytest.raises(DataError, match="training data: has no labels"):
        after(STEADY, [Sample(sample.inputs) for sample in samples()])


def test_processes_cannot_follow_a_step_that_used_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    on(2, monkeypatch.setattr)
    with pytest.raises(ConfigError, match="fabric: an earlier step has used a GPU in this process; set fabric in ever"):
        after(STEADY)


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam", "adamw", "rmsprop"])
def test_every_optimizer_learns(kind: Any) -> None:
    how = replace(STEADY, epochs=6, optimizer=kind, rate=0.02, momentum=0.5)
    module, history = after(how)
    assert history.losses[-1] < 0.8 * history.losses[0]
    assert type(optimizer(module.parameters(), how)).__name__.lower() in (kind, "sgd")


def test_schedules() -> None:
    for name, middle, last in (
        ("constant", 1, 1), ("linear", 0.5, 0.01), ("cosine", 0.5, 0.0002), ("exponential", 0.1, 0.0105),
        ("step", 0.1, 0.01),
    ):  # fmt: skip
        how = replace(STEADY, schedule=name)  # type: ignore[arg-type]
        assert factor(how, 0, 100) == 1
        assert factor(how, 50, 100) == pytest.approx(middle) and factor(how, 99, 100) == pytest.approx(last, abs=2e-4)
    assert [factor(replace(STEADY, warmup=0.04), step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1]


# -- data -------------------------------------------------------------------------------------------------------------


def test_samples_of_a_file_and_of_a_module(tmp_path: Path) -> None:
    held = samples(32)
    images = np.concatenate([s.inputs["x"] for s in held])
    np.savez(tmp_path / "train.npz", x=images, labels=np.array([s.label for s in held]))
    (tmp_path / "given.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n\ndef stream():\n"
        "    found = np.load(Path(__file__).parent / 'train.npz')\n"
        "    yield from zip(found['x'], found['labels'])\n"
    )
    wanted = after(STEADY, held)[1].losses
    for data in ("train.npz", "given:stream"):
        found = open_samples(data, {"x": (1, 2, 6, 6)}, folder=tmp_path)
        assert after(STEADY, found)[1].losses == wanted


def loader(shuffle: bool = True, **more: Any) -> DataLoader[Any]:
    held = samples()
    images = torch.cat([torch.from_numpy(s.inputs["x"]) for s in held])
    return DataLoader(
        TensorDataset(images, torch.tensor([s.label for s in held])), batch_size=16, shuffle=shuffle, **more
    )


def test_a_data_loader_is_read_anew_in_every_epoch(tmp_path: Path) -> None:
    drawn: list[int] = []

    def collate(pairs: list[Any]) -> Any:
        drawn.extend(int(label) for _, label in pairs)
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    how = replace(STEADY, epochs=3)
    module, history = after(how, loader(collate_fn=collate))
    assert history.steps == 18 and drawn[:96] != drawn[96:192] and sorted(drawn[:96]) == sorted(drawn[96:192])
    again, _ = after(how, loader())
    assert apart(arrays_of(module), arrays_of(again)) == 0.0
    checkpoint = tmp_path / "training.pt"
    with pytest.raises(KeyboardInterrupt):
        after(how, loader(), resume=checkpoint, after_step=Interrupt(13))
    resumed, _ = after(how, loader(), resume=checkpoint)
    assert apart(arrays_of(module), arrays_of(resumed)) == 0.0


class Interrupt:
    """Stops a training in its n-th step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, module: GraphModule) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_data_loader_may_name_its_tensors() -> None:
    def collate(pairs: list[Any]) -> Any:
        return {"labels": torch.stack([y for _, y in pairs]), "x": torch.stack([x for x, _ in pairs])}

    named, plain = after(STEADY, loader(collate_fn=collate)), after(STEADY, loader())
    assert named[1].losses == plain[1].losses


def test_progress_says_loss_metric_rate_and_the_time_left() -> None:
    stream = io.StringIO()
    train(to_torch(network()), samples(), STEADY, PlainProgress(stream, interval=0.0))
    first = stream.getvalue().splitlines()[0]
    assert first.startswith("  train: 1 of 12, 0 s left, loss ") and first.endswith("%, rate 0.05")
    assert ", top-1 " in first


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"batch": 0}, "batch: 0 was given, at least 1 is needed"),
        ({"accumulate": 0}, "accumulate: 0 was given, at least 1 is needed"),
        ({"validation": 1.0}, "validation: 1 was given, a share from 0 to below 1 is needed"),
        ({"dropout": 1.5}, "dropout: 1.5 was given, a share from 0 to below 1 is needed"),
        ({"momentum": 1.0}, "momentum: 1 was given, a share from 0 to below 1 is needed"),
        ({"optimizer": "nesterov", "momentum": 0.0}, "momentum: nesterov looks ahead along it; more than 0 is needed"),
        ({"patience": 3}, "patience: needs samples that validate; set validation to their share"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"edgekit.toml:compress\[0\].{said}"):
        read_step({"method": "fine-tune", **keys}, "edgekit.toml", 0)


def labelled(label: Any) -> list[Sample]:
    return [Sample(s.inputs, label) for s in samples(32)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "holds no samples"),
        (labelled(None), "has no labels; distillation can do without"),
        (labelled("cat"), "label 'cat' is no class; whole numbers from 0 are needed"),
        (labelled(3), "a label is 3; output gemm4 has 3 classes, from 0"),
        (labelled(-1), "a label is -1; output gemm4 has 3 classes, from 0"),
        (labelled([0, 1, 0]), r"a label is of shape \[3\], scores of shape \[3\]; a label is the number of a class"),
        ([*labelled(0), *labelled([0, 1])], r"labels are of different shapes: \(\), \(2,\)"),
    ],
    ids=["nothing", "no labels", "text", "too many classes", "below zero", "one-hot", "ragged"],
)
def test_data_that_cannot_be(data: list[Sample], said: str) -> None:
    with pytest.raises(DataError, match=f"training data: {said}"):
        after(STEADY, data, network(norm=False))


@pytest.mark.parametrize("how", [{"rate": 1e30}, {"rate": 1e30, "validation": 0.1, "patience": 2, "ema": 0.9}])
def test_a_training_that_diverges_is_no_result(tmp_path: Path, how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"rate: at 1e\+30 training diverged in epoch 1, its numbers are not finite"):
        after(replace(STEADY, **how), resume=tmp_path / "training.pt")
    assert not list(tmp_path.iterdir())


def test_data_loaders_that_cannot_be() -> None:
    with pytest.raises(DataError, match="a DataLoader has nothing to hold out"):
        after(replace(STEADY, validation=0.1), loader())
    with pytest.raises(DataError, match="a batch of the DataLoader is not made of the tensors x, labels"):
        after(STEADY, loader(collate_fn=lambda pairs: {"y": torch.zeros(2)}))
    with pytest.raises(DataError, match="holds no samples"):
        after(STEADY, DataLoader(TensorDataset(torch.zeros(1, 2, 6, 6)), batch_size=4, drop_last=True))

    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(DataError, match="the DataLoader has no length"):
        after(STEADY, DataLoader(Endless()))


def test_parameters_with_awkward_names_are_kept() -> None:
    """Folding gives ``w.bias`` beside ``w``, and a layer may be called as an attribute of a module is."""
    b = Builder()
    x = b.input(1, 4)
    graph = b.model(b.node("Add", b.node("Mul", x, b.weights(4)), b.weights(4)))
    one, two = list(graph.graph.initializers.values())
    del graph.graph.initializers[str(one.name)], graph.graph.initializers[str(two.name)]
    one.name, two.name = "training", "training.bias"
    graph.graph.initializers.add(one)
    graph.graph.initializers.add(two)
    module = to_torch(graph)
    assert set(module.held) == {"training", "training.bias"}
    again = from_torch(module).graph.initializers
    for value in (one, two):
        np.testing.assert_array_equal(again[str(value.name)].const_value.numpy(), value.const_value.numpy())  # type: ignore[union-attr]
