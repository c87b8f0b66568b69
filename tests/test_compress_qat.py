"""Quantization-aware training: what it rounds, that the artifact computes the same integers, and what it wins back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from nets import Array, cnn, inputs_of
from sklearn.datasets import load_digits
from small_graphs import Builder

from edgekit.compress.cluster import Cluster
from edgekit.compress.grids import Grid, Learned, MovingRange, MovingWeight, Rounded
from edgekit.compress.kept import Kept
from edgekit.compress.magnitude import Prune
from edgekit.compress.module import GraphModule, to_torch
from edgekit.compress.qat import QuantizeAware, QuantizedModule, finished, post_training
from edgekit.compress.steps import METHODS, Context, Outcome, read_step
from edgekit.compress.training import Training, train
from edgekit.emitters import Artifact, onnx_qdq, tflite, tflite_bytes
from edgekit.errors import ConfigError, DataError
from edgekit.passes import opened, prepare
from edgekit.progress import SilentProgress
from edgekit.quant import numerics
from edgekit.quant.plan import QuantPlan
from edgekit.quant.solve import Rules
from edgekit.runners import ArtifactModel
from edgekit.samples import Sample

SILENT = SilentProgress()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def digits() -> tuple[list[Sample], list[Sample]]:
    """scikit-learn's digits: what trains, and what judges."""
    found = load_digits()
    images = (found.images[:, None] / 16.0).astype(np.float32)
    samples = [Sample({"x": image[None]}, int(label)) for image, label in zip(images, found.target, strict=True)]
    return samples[:1200], samples[1200:]


def network() -> ir.Model:
    """Conv, BatchNormalization, Relu, a residual Conv, MaxPool, mean over space, Gemm: 1x8x8 -> 10 scores."""
    b = Builder(3)
    x = b.conv(b.input(1, 1, 8, 8), 1, 8, (3, 3), pads=[1, 1, 1, 1])
    scales = [b.uniform(0.5, 1.5, 8), b.uniform(-0.2, 0.2, 8), b.uniform(-0.1, 0.1, 8), b.uniform(0.8, 1.2, 8)]
    x = b.node("Relu", b.node("BatchNormalization", x, *scales))
    y = b.node("Relu", b.conv(x, 8, 8, (3, 3), pads=[1, 1, 1, 1]))
    x = b.node("MaxPool", b.node("Add", x, y), kernel_shape=[2, 2], strides=[2, 2])
    x = b.node("Relu", b.conv(x, 8, 16, (3, 3), pads=[1, 1, 1, 1]))
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    return b.model(b.node("Gemm", x, b.weights(10, 16), b.weights(10), transB=1))


@cache
def trained_float() -> ir.Model:
    """The network after some training."""
    from edgekit.compress.module import from_torch

    module = to_torch(opened(network()))
    train(module, digits()[0], Training(epochs=25, batch=32, rate=0.1), SILENT)
    return from_torch(module)


def context(training: Sequence[Sample] | None = None, source: ir.Model | None = None) -> Context:
    learned = digits()[0]
    return Context(learned if training is None else training, learned[:64], SILENT, source=source)


def right(runner: ArtifactModel | torch.nn.Module, count: int = 300) -> float:
    """The share of the judging samples that a model gets right."""
    samples = digits()[1][:count]
    if isinstance(runner, ArtifactModel):
        answers = [next(iter(runner.outputs(s.inputs).values())) for s in samples]
    else:
        with torch.no_grad():
            answers = [runner(torch.from_numpy(s.inputs["x"])).numpy() for s in samples]
    return float(np.mean([a.reshape(-1).argmax() == s.label for a, s in zip(answers, samples, strict=True)]))


def artifacts(graph: ir.Model, plan: QuantPlan) -> list[Artifact]:
    return [onnx_qdq.emit(graph, plan), tflite.emit(graph, plan)]


def steps_apart(module: QuantizedModule, artifact: Artifact, plan: QuantPlan, samples: Sequence[Sample]) -> Array:
    """How many integers lie between what a module and an artifact answer."""
    name = str(module.graph.graph.outputs[0].name)
    runner = ArtifactModel(artifact.data)
    with torch.no_grad():
        ours = [module(*(torch.from_numpy(v) for v in s.inputs.values())).numpy() for s in samples]
    theirs = [runner.outputs(s.inputs)[name] for s in samples]
    return np.rint(np.abs(np.concatenate(ours) - np.concatenate(theirs)) / plan[name].scale[0])


# -- what is rounded --------------------------------------------------------------------------------------------------


def test_a_grid_rounds_as_the_numerics_do() -> None:
    q = numerics.affine(-1.3, 2.7)
    x = np.random.default_rng(0).normal(0, 2, 1000).astype(np.float32)
    x[:4] = np.float32(q.scale[0]) * np.array([0.5, 1.5, 2.5, -0.5], np.float32)
    found = Grid(q)(torch.from_numpy(x), "x").numpy()
    np.testing.assert_array_equal(found, numerics.dequantize(numerics.quantize(x, q), q))


def test_the_gradient_of_a_scale_is_that_of_learned_step_sizes() -> None:
    x = torch.tensor([0.26, -0.9, 5.0, -7.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    Rounded.apply(x, scale, torch.tensor(-4.0), torch.tensor(3.0)).sum().backward()
    assert x.grad is not None and scale.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0]
    inside = (1 - 0.52) + (-2 + 1.8)  # round(v) - v
    assert scale.grad.item() == pytest.approx(inside + 3 - 4)


def test_a_learned_scale_changes_by_a_share_and_at_most_by_the_rate() -> None:
    for size in (1e-4, 1.0, 1e4):
        grid = Learned(numerics.affine(0, size))
        optimizer = torch.optim.SGD(grid.parameters(), 0.1)
        (-1e6 * grid(torch.tensor([2 * size]), "x")).sum().backward()
        optimizer.step()
        assert grid.now(grid.first).scale[0] == pytest.approx(numerics.affine(0, size).scale[0] * np.exp(0.1))


def test_what_must_share_a_scale_has_one_parameter_and_what_is_fixed_none() -> None:
    b = Builder()
    x = b.input(1, 4, 6, 6)
    left, right_ = b.node("Relu", b.conv(x, 4, 4)), b.node("Sigmoid", b.conv(x, 4, 4))
    pooled = b.node("MaxPool", b.conv(x, 4, 4), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph = prepare(b.model(b.node("Concat", left, pooled, axis=1), right_))
    _, plan = post_training(graph, QuantizeAware(), Context([], inputs_of(graph), SILENT))
    module = QuantizedModule(graph, plan, learned=True)
    grids = module._of
    concat = next(n for n in graph.graph if n.op_type == "Concat")
    shared = [*(str(v.name) for v in concat.inputs), str(concat.outputs[0].name)]
    assert len({id(grids[name]) for name in shared}) == 1
    pool = next(n for n in graph.graph if n.op_type == "MaxPool")
    assert grids[str(pool.inputs[0].name)] is grids[str(pool.outputs[0].name)]
    fixed = grids[str(graph.graph.outputs[1].name)]
    assert type(fixed) is Grid and not list(fixed.parameters())
    assert set(grids) == {name for name, q in plan.items() if q.dtype == "int8"}


def test_weights_have_a_learned_scale_a_channel(tmp_path: Path) -> None:
    graph = prepare(load(cnn(tmp_path / "net.onnx")))
    _, plan = post_training(graph, QuantizeAware(), Context([], inputs_of(graph), SILENT))
    module = QuantizedModule(graph, plan, learned=True)
    for name in ("w1", "w2", "head"):
        assert module._of[name].first.shape == (graph.graph.initializers[name].shape[0],)  # type: ignore[index]
        assert plan[name].narrow and module._of[name].low == -127
    assert "bias" not in module._of and plan["bias"].dtype == "int32"


def load(path: Path) -> ir.Model:
    from edgekit.frontends import load_graph

    return load_graph(str(path))


def test_moving_ranges_follow_what_is_seen_and_span_all_that_share_them() -> None:
    grid = MovingRange(numerics.affine(-1, 1), ["a", "b"])
    for _ in range(1000):
        grid(torch.tensor([0.0, 4.0]), "a")
        grid(torch.tensor([-2.0, 1.0]), "b")
    q = grid.now(grid.first)
    assert q.range == pytest.approx((-2, 4), abs=0.03)
    grid.eval()
    grid(torch.tensor([100.0]), "a")
    assert grid.now(grid.first) == q


def test_a_moving_weight_scale_is_that_of_the_largest() -> None:
    weight = torch.tensor([[0.5, -1.0], [0.1, 0.2]])
    grid = MovingWeight(numerics.symmetric(np.ones(2), 0))
    assert grid.now(weight) == numerics.symmetric(np.array([1.0, 0.2], np.float32), 0)


# -- the artifact is what was trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", ["learned", "moving"])
def test_both_artifacts_compute_the_trained_integers(scales: str) -> None:
    prepared, plan = post_training(trained_float(), QuantizeAware(), context())
    module = QuantizedModule(prepared, plan, scales == "learned")
    train(module, digits()[0], Training(epochs=1, batch=32, rate=0.02), SILENT, after_step=Kept(module, units={}))
    graph, found = finished(module)
    moved = [name for name in plan if plan[name].scale != found[name].scale]
    assert len(moved) > len(plan) / 2 and set(found) == set(plan)
    for artifact in artifacts(graph, found):
        apart = steps_apart(module, artifact, found, digits()[1][:100])
        assert (apart <= 1).mean() > 0.99 and (apart == 0).mean() > 0.9  # a tie before the last layer may weigh two


def test_what_comes_out_is_prepared_already() -> None:
    outcome = quantized(QuantizeAware(training=Training(epochs=1, batch=32, rate=0.01)))
    assert outcome.plan is not None
    again = prepare(outcome.graph)
    names = [str(value.name) for node in outcome.graph.graph for value in node.outputs]
    assert [str(value.name) for node in again.graph for value in node.outputs] == names
    for name, q in outcome.plan.items():
        value = outcome.graph.graph.initializers.get(name)
        if value is not None and value.const_value is not None and q.dtype == "int8":
            array = value.const_value.numpy()
            np.testing.assert_array_equal(numerics.dequantize(numerics.quantize(array, q), q), array)


def quantized(settings: QuantizeAware, graph: ir.Model | None = None, given: Context | None = None) -> Outcome:
    return METHODS["quantize-aware"].run(graph or trained_float(), settings, given or context())


@pytest.mark.parametrize("scales", ["learned", "moving"])
def test_what_a_target_asks_of_the_plan_is_kept(scales: Any) -> None:
    rules = Rules(per_channel_fully_connected=False)
    how = QuantizeAware(scales=scales, training=Training(epochs=1, batch=32, rate=0.02))
    outcome = quantized(how, given=replace(context(digits()[0][:300]), rules=rules))
    assert outcome.plan is not None
    gemm = next(node for node in outcome.graph.graph if node.op_type == "Gemm")
    assert outcome.plan[str(gemm.inputs[1].name)].axis is None  # type: ignore[union-attr]
    first, second = (ArtifactModel(artifact.data) for artifact in artifacts(outcome.graph, outcome.plan))
    assert abs(right(first) - right(second)) < 0.02


# -- what it wins back ------------------------------------------------------------------------------------------------


def damaged(plan: QuantPlan, graph: ir.Model, cut: float = 1.0, coarse: float = 1.0) -> QuantPlan:
    """A plan whose activations are cut off and whose weights keep few integers."""
    inner = {str(v.name) for node in graph.graph for v in node.outputs} - {str(v.name) for v in graph.graph.outputs}
    tensors = {}
    for name, q in plan.items():
        factor = coarse if q.narrow else cut if name in inner else 1.0
        tensors[name] = replace(q, scale=tuple(float(np.float32(s * factor)) for s in q.scale))
    return QuantPlan(tensors)


@pytest.mark.parametrize(("cut", "coarse"), [(0.05, 1.0), (1.0, 80.0)], ids=["cut ranges", "weights of 2 bits"])
def test_it_wins_back_what_a_bad_plan_lost(cut: float, coarse: float) -> None:
    graph = trained_float()
    floating = right(to_torch(graph))
    prepared, plan = post_training(graph, QuantizeAware(), context())
    module = QuantizedModule(prepared, damaged(plan, prepared, cut, coarse), learned=True)
    before = right(module)
    train(module, digits()[0], Training(epochs=6, batch=32, rate=0.02), SILENT, after_step=Kept(module, units={}))
    after, found = finished(module)
    assert before < floating - 0.1
    for artifact in artifacts(after, found):
        assert right(ArtifactModel(artifact.data)) > floating - 0.03


def test_it_needs_no_labels_where_the_source_teaches() -> None:
    unlabelled = [Sample(s.inputs) for s in digits()[0][:400]]
    graph = trained_float()
    how = QuantizeAware(distil=1.0, training=Training(epochs=2, batch=32, rate=0.01))
    outcome = quantized(how, graph, context(unlabelled, graph))
    assert outcome.plan is not None
    found = right(ArtifactModel(onnx_qdq.emit(outcome.graph, outcome.plan).data))
    assert found > right(to_torch(graph)) - 0.03
    with pytest.raises(DataError, match="has no labels; distillation can do without"):
        quantized(replace(how, distil=0.0), graph, context(unlabelled))


# -- what stays as it was ---------------------------------------------------------------------------------------------


@cache
def sparse_and_clustered() -> ir.Model:
    """The trained network after pruning and clustering."""
    how = Training(epochs=1, batch=32, rate=0.02)
    pruned = METHODS["prune"].run(trained_float(), Prune(0.4, training=how), context())
    return METHODS["cluster"].run(pruned.graph, Cluster(8, training=how), context()).graph


def stored_weights(artifact: Artifact) -> list[Array]:
    """The int8 constants of two axes or more that the bytes of an artifact hold, output channels first."""
    if artifact.data[4:8] == b"TFL3":
        tensors = tflite_bytes.read(artifact.data).tensors()
        return [t.data for t in tensors if t.data is not None and t.data.dtype == np.int8 and t.data.ndim > 1]
    constants = [onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(artifact.data).graph.initializer]
    return [array for array in constants if array.dtype == np.int8 and array.ndim > 1]


@pytest.mark.parametrize("scales", ["learned", "moving"])
def test_prune_cluster_quantize_aware_ends_in_few_integers_and_zeros(scales: Any) -> None:
    graph = sparse_and_clustered()
    outcome = quantized(QuantizeAware(scales=scales, training=Training(epochs=1, batch=32, rate=0.02)), graph)
    assert outcome.plan is not None
    held = {name: v.const_value.numpy() for name, v in graph.graph.initializers.items()}  # type: ignore[union-attr]
    before = {name: array for name, array in held.items() if array.ndim > 1}
    assert len(before) == 4
    for artifact in artifacts(outcome.graph, outcome.plan):
        found = {array.size: array for array in stored_weights(artifact)}
        for array in before.values():
            stored = found[array.size]
            assert 4 < len(np.unique(stored)) <= len(np.unique(array)) <= 8
            assert (stored == 0).mean() >= (array == 0).mean() > 0.35


def test_zeros_and_clusters_need_not_stay() -> None:
    graph, how = sparse_and_clustered(), Training(epochs=1, batch=32, rate=0.05)
    outcome = quantized(QuantizeAware(keep_zeros=False, keep_clusters=False, training=how), graph)
    assert outcome.plan is not None
    before = prepare(graph).graph.initializers
    for name, value in outcome.graph.graph.initializers.items():
        old, new = before[name].const_value.numpy(), value.const_value.numpy()  # type: ignore[union-attr]
        if old.ndim > 1:
            assert (new[old == 0] != 0).mean() > 0.1
            assert len(np.unique(numerics.quantize(new, outcome.plan[name]))) > 8


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mixed": True}, r"mixed: bfloat16 does not tell neighbouring integers apart"),
        ({"distil": 2}, r"distil: 2 was given, a share from 0 to 1 is needed"),
        ({"scales": "fixed"}, r"scales: 'fixed' is not one of learned, moving"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=r"edgekit.toml:compress\[0\]." + said):
        read_step({"method": "quantize-aware", **keys}, "edgekit.toml", 0)


def test_moving_ranges_need_samples_apart() -> None:
    b = Builder()
    x = b.conv(b.input(1, 4, 6, 6), 4, 4)
    flat = b.node("Reshape", x, b.const([4, 36]))
    graph = prepare(b.model(b.node("Reshape", b.node("Relu", flat), b.const([1, 4, 6, 6]))))
    _, plan = post_training(graph, QuantizeAware(), Context([], inputs_of(graph), SILENT))
    with pytest.raises(ConfigError, match='scales: the graph mixes the batch with other axes.*take "learned"'):
        QuantizedModule(graph, plan, learned=False)
    module = QuantizedModule(graph, plan, learned=True)
    batch = torch.cat([torch.from_numpy(s.inputs["x"]) for s in inputs_of(graph, 3)])
    found = module(batch)
    found.sum().backward()
    assert torch.equal(found, torch.cat([module(one[None]) for one in batch]))
    assert all(grid.growth.grad is not None for grid in module._of.values() if isinstance(grid, Learned))


class Interrupt(Kept):
    """Stops a training in its n-th step."""

    def __init__(self, module: QuantizedModule, step: int) -> None:
        super().__init__(module, units={})
        self.left = step

    def __call__(self, module: GraphModule) -> None:
        super().__call__(module)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("scales", ["learned", "moving"])
def test_it_goes_on_to_the_same_plan_after_a_kill(scales: str, tmp_path: Path) -> None:
    prepared, plan = post_training(trained_float(), QuantizeAware(), context())
    how = Training(epochs=3, batch=32, rate=0.02)

    def run(stop: int, resume: Path | None) -> QuantPlan:
        module = QuantizedModule(prepared, plan, scales == "learned")
        data = digits()[0][:320]
        train(module, data, how, SILENT, after_step=Interrupt(module, stop), resume=resume)
        return finished(module)[1]

    with pytest.raises(KeyboardInterrupt):
        run(15, tmp_path / "t.pt")
    assert run(0, tmp_path / "t.pt") == run(0, None)
