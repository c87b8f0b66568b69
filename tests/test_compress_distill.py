"""Distillation: each loss against its formula, what a teacher teaches without labels, and teachers from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from small_graphs import Builder
from torch.nn import functional

from edgekit.compress.distill import Distill, Distillation, attention_of
from edgekit.compress.module import arrays_of, from_torch, to_torch
from edgekit.compress.steps import METHODS, Context, Outcome, read_step
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError, ModelError
from edgekit.passes import opened
from edgekit.progress import SilentProgress
from edgekit.samples import Sample

SILENT = SilentProgress()
HOW = Training(epochs=6, batch=16, rate=0.02, decay=0.0, clip=1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network(width: int, stride: int = 1, seed: int = 0, classes: int = 3) -> ir.Model:
    """Two convolutions with Relu, mean over space, Gemm: 2x8x8 -> scores. Its tensors are relu1, relu3 and so on."""
    b = Builder(seed)
    x = b.node("Relu", b.conv(b.input(1, 2, 8, 8), 2, width, (3, 3), pads=[1, 1, 1, 1], strides=[stride, stride]))
    x = b.node("Relu", b.conv(x, width, width, (3, 3), pads=[1, 1, 1, 1]))
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    return opened(b.model(b.node("Gemm", x, b.weights(classes, width), b.weights(classes), transB=1)))


def samples(labels: bool = True, count: int = 128, seed: int = 0) -> list[Sample]:
    """Images whose two channels have other means in each of three classes."""
    draw = np.random.default_rng(seed)
    means = np.array([[-0.3, 0.3], [0.3, -0.3], [0.3, 0.3]])
    classes = draw.integers(0, 3, count)
    images = (means[classes][:, :, None, None] + draw.normal(size=(count, 2, 8, 8))).astype(np.float32)
    return [Sample({"x": x[None]}, int(c) if labels else None) for x, c in zip(images, classes, strict=True)]


def teacher() -> ir.Model:
    module = to_torch(network(12, seed=5))
    train(module, samples(count=256), replace(HOW, epochs=20), SILENT)
    return from_torch(module)


def batch(count: int = 8, labels: bool = True) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    held = samples(labels, count)
    known = torch.tensor([s.label for s in held]) if labels else None
    return [torch.cat([torch.from_numpy(s.inputs["x"]) for s in held])], known


def values(graph: ir.Model, inputs: list[torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return to_torch(graph).run(inputs, names)


def loss_of(settings: Distill, taught: ir.Model, student: ir.Model, labels: bool = True) -> tuple[float, Distillation]:
    loss = Distillation(settings, taught, student)
    given = batch(labels=labels)
    output = str(student.graph.outputs[0].name)
    return float(loss(values(student, given[0], output, *loss.names), output, given).detach()), loss


def agreement(graph: ir.Model, taught: ir.Model) -> float:
    inputs, _ = batch(100, labels=False)
    answers = [values(g, inputs, name := str(g.graph.outputs[0].name))[name].argmax(1) for g in (graph, taught)]
    return float((answers[0] == answers[1]).float().mean())


# -- the losses -------------------------------------------------------------------------------------------------------


def test_answers_are_softened_and_labels_take_their_share() -> None:
    taught, student = network(12, seed=5), network(4)
    inputs, labels = batch()
    ours, theirs = values(student, inputs, "gemm6")["gemm6"], values(taught, inputs, "gemm6")["gemm6"]
    p, q = torch.softmax(theirs / 3, 1), torch.softmax(ours / 3, 1)
    soft = float((p * (p / q).log()).sum(1).mean()) * 9
    hard = float(functional.cross_entropy(ours, labels))  # type: ignore[arg-type]
    settings = Distill(alpha=0.7, temperature=3.0)
    assert loss_of(settings, taught, student)[0] == pytest.approx(0.7 * soft + 0.3 * hard, rel=1e-4)
    assert loss_of(settings, taught, student, labels=False)[0] == pytest.approx(soft, rel=1e-4)
    squared = float((ours - theirs).pow(2).mean())
    assert loss_of(Distill(answers="squared", alpha=1.0), taught, student)[0] == pytest.approx(squared, rel=1e-4)


def test_features_are_compared_through_a_projection() -> None:
    taught, student = network(12, seed=5), network(4, stride=2)
    base = loss_of(Distill(), taught, student)[0]
    found, loss = loss_of(Distill(features=("relu3=relu3",), feature_weight=0.5), taught, student)
    inputs, _ = batch()
    ours, theirs = values(student, inputs, "relu3")["relu3"], values(taught, inputs, "relu3")["relu3"]
    weight = loss.learned["0"].weight.detach()
    assert weight.shape == (12, 4) and ours.shape[2:] == (4, 4) and theirs.shape[2:] == (8, 8)
    projected = torch.einsum("oi,nihw->nohw", weight, ours).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert found - base == pytest.approx(0.5 * float((projected - theirs).pow(2).mean()), rel=1e-3)


def test_attention_is_where_the_power_is() -> None:
    taught, student = network(12, seed=5), network(4)
    base = loss_of(Distill(), taught, student)[0]
    found, _ = loss_of(Distill(attention=("relu1",), attention_weight=8.0), taught, student)
    maps = []
    for graph in (student, taught):
        power = values(graph, batch()[0], "relu1")["relu1"].pow(2).sum(1).flatten(1)
        maps.append(power / power.norm(dim=1, keepdim=True))
    assert found - base == pytest.approx(4 * float((maps[0] - maps[1]).pow(2).sum(1).mean()), rel=1e-3)
    assert attention_of(torch.ones(1, 3, 4, 4), (2, 2)).tolist() == [[0.5] * 4]


# -- what is taught ---------------------------------------------------------------------------------------------------


def distilled(settings: Distill, student: ir.Model, data: list[Sample], **more: Any) -> Outcome:
    return METHODS["distill"].run(student, settings, Context(data, data, SILENT, **more))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"answers": "squared"},
        {"features": ("relu1", "relu3"), "attention": ("relu3",)},
    ],
    ids=["softened", "squared", "features and attention"],
)
def test_a_student_learns_without_labels(how: dict[str, Any]) -> None:
    taught, student = teacher(), network(4)
    before = agreement(student, taught)
    outcome = distilled(Distill(training=replace(HOW, epochs=20), **how), student, samples(labels=False), source=taught)
    assert agreement(outcome.graph, taught) > max(0.75, before + 0.2)
    assert arrays_of(to_torch(outcome.graph)).keys() == arrays_of(to_torch(student)).keys()
    assert agreement(student, taught) == before


def test_projections_learn_along_and_are_resumed(tmp_path: Path) -> None:
    taught, student = network(12, seed=5), network(4)
    settings = Distill(features=("relu3",), training=HOW)

    def run(stop: int = 0, resume: Path | None = None) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
        module, loss = to_torch(student), Distillation(settings, taught, student)
        first = loss.learned["0"].weight.detach().clone()
        left = stop

        def count(_: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

        train(module, samples(), HOW, SILENT, loss=loss, after_step=count, resume=resume)
        assert not torch.equal(loss.learned["0"].weight, first)
        return dict(arrays_of(module)), loss.learned["0"].weight.detach().numpy()

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(20, tmp_path / "t.pt")
    again = run(resume=tmp_path / "t.pt")
    np.testing.assert_array_equal(whole[1], again[1])
    for name, array in whole[0].items():
        np.testing.assert_array_equal(array, again[0][name])


def test_a_teacher_from_a_file_and_from_a_callable(tmp_path: Path) -> None:
    taught = teacher()
    onnx.save(ir.to_proto(taught), tmp_path / "teacher.onnx")
    lines = ("from torch import nn", "def net():", "    return nn.Sequential(nn.Conv2d(2, 3, 8), nn.Flatten())")
    (tmp_path / "big.py").write_text("\n".join(lines))
    short = Distill(training=replace(HOW, epochs=1))
    same = distilled(short, network(4), samples(), source=taught).facts["loss"]
    given: dict[str, Any] = {"source": network(4), "folder": tmp_path}
    assert distilled(replace(short, teacher="teacher.onnx"), network(4), samples(), **given).facts["loss"] == same
    torch.manual_seed(0)
    torch.save({"0.weight": torch.randn(3, 2, 8, 8), "0.bias": torch.zeros(3)}, tmp_path / "big.pt")
    named = replace(short, teacher="big:net", teacher_weights="big.pt")
    found = [distilled(named, network(4), samples(), **given).facts["loss"] for _ in range(2)]
    assert found[0] == found[1] != same


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"alpha": 1.5}, "alpha: 1.5 was given, a share from 0 to 1 is needed"),
        ({"temperature": 0}, "temperature: 0 was given, more than 0 is needed"),
        ({"answers": "hard"}, "answers: 'hard' is not one of softened, squared"),
        ({"teachr": "x.onnx"}, "teachr: unknown key; did you mean teacher"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"edgekit.toml:compress\[0\].{said}"):
        read_step({"method": "distill", **keys}, "edgekit.toml", 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Distill(features=("relu9",)), "features: the network has no tensor relu9; did you mean"),
        (Distill(features=("relu3=conv99",)), "features: its teacher has no tensor conv99"),
        (Distill(attention=("gemm6",)), "attention: gemm6: of 2 and 2 axes; the same number is needed, and positions"),
        (Distill(features=("relu3=gemm6",)), "features: relu3=gemm6: of 4 and 2 axes"),
    ],
)
def test_tensors_that_cannot_be_compared(settings: Distill, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        distilled(settings, network(4), samples(), source=network(12))


def test_teachers_that_cannot_be() -> None:
    with pytest.raises(ModelError, match='teacher "source": the model before compression is not there'):
        distilled(Distill(), network(4), samples())
    b = Builder()
    other = opened(b.model(b.node("Relu", b.input(1, 3, 8, 8))))
    with pytest.raises(
        ModelError, match=r"the teacher's inputs are of shape \[\(3, 8, 8\)\], the network's \[\(2, 8, 8\)\]"
    ):
        distilled(Distill(), network(4), samples(), source=other)
    with pytest.raises(ModelError, match=r"the teacher answers with shape \[5\], the network with \[3\]"):
        distilled(Distill(), network(4), samples(), source=network(4, classes=5))
