"""The graph as a torch module and back; ``[[compress]]`` in a build."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch_nets
from op_cases import CASES, Case
from small_graphs import Builder
from test_recurrent import layer

import edgekit
from edgekit.build import build
from edgekit.compress.functions import FUNCTIONS, PLAIN
from edgekit.compress.methods import METHODS, read_step
from edgekit.compress.module import arrays_of, from_torch, to_torch
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.frontends import load_source
from edgekit.graph import OPSET
from edgekit.passes import opened
from edgekit.progress import SilentProgress, Step
from edgekit.project import load_project
from edgekit.reference import Reference
from edgekit.samples import Sample

# The op table less what has no training form: the boxes that are left are chosen, not computed.
TRAINED = [case for case in CASES if case.op != "NonMaxSuppression"]


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_torch_computes_what_onnx_does(case: Case) -> None:
    builder = Builder()
    out = case.build(builder, builder.input(*case.shape))
    graph = opened(builder.model(out))
    module = to_torch(graph)
    (sample,) = builder.samples(1, case.low, case.high)
    wanted = Reference(graph).run(sample)[str(graph.graph.outputs[0].name)]
    with torch.no_grad():
        found = module(*(torch.from_numpy(sample[str(v.name)]) for v in graph.graph.inputs))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - set(PLAIN)))
def test_signature_is_the_schema(name: str) -> None:
    schema = onnx.defs.get_schema(name, OPSET)
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert inputs == [one.name for one in schema.inputs][: len(inputs)]
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == set(schema.attributes)


def small() -> Any:
    """A convolution with BatchNormalization and a linear layer, as a graph that can be trained."""
    loaded = load_source("torch_nets:small", None, {"x": [1, 3, 8, 8]}, Path(__file__).parent)
    return opened(loaded.model)


def test_a_round_trip_keeps_every_number_and_name() -> None:
    graph = small()
    module = to_torch(graph)
    assert set(torch_nets.small().state_dict()) - {"bn.num_batches_tracked"} <= set(module.state_dict())
    back = from_torch(module)
    for name, value in graph.graph.initializers.items():
        np.testing.assert_array_equal(back.graph.initializers[name].const_value.numpy(), value.const_value.numpy())


def test_the_public_functions_go_around() -> None:
    """From what a user loads to a trained graph: names stay, BatchNormalization trains, nothing else changes."""
    loaded = edgekit.load_graph("torch_nets:small", shapes={"x": [1, 3, 8, 8]}, folder=Path(__file__).parent)
    module, graph = edgekit.to_torch(loaded), opened(loaded)
    source = torch_nets.small()
    assert dict(source.named_parameters()).keys() <= dict(module.named_parameters()).keys()
    assert set(source.state_dict()) - {"bn.num_batches_tracked"} <= set(module.state_dict())
    same = edgekit.from_torch(module)
    assert [node.name for node in same.graph] == [node.name for node in graph.graph]
    for name, value in graph.graph.initializers.items():
        np.testing.assert_array_equal(same.graph.initializers[name].const_value.numpy(), value.const_value.numpy())
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module.train()(x).square().mean().backward()
    optimizer.step()
    trained = edgekit.from_torch(module.eval())
    before, after = arrays_of(edgekit.to_torch(graph)), arrays_of(edgekit.to_torch(trained))
    moved = {name for name, array in after.items() if not np.array_equal(array, before[name])}
    assert moved == set(module.state_dict())
    with torch.no_grad():
        wanted = module(x[:1]).numpy()
    found = Reference(trained).run({"x": x[:1].numpy()})
    np.testing.assert_allclose(next(iter(found.values())), wanted, rtol=1e-4, atol=1e-5)


def test_what_torch_has_no_form_of_is_spelled_out_first() -> None:
    loaded = load_source("torch_nets:tagger", None, {"x": [1, 6, 5]}, Path(__file__).parent)
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(to_torch(loaded.model)(x), torch_nets.tagger().eval()(x), rtol=1e-4, atol=1e-5)


def test_what_torch_has_no_form_of_is_named() -> None:
    builder = Builder()
    x, sizes = builder.input(1, 3, 8, 8), builder.const([1, 3, 4, 4])
    roi = builder.const(np.asarray([0, 0, 0, 0, 1, 1, 0.5, 0.5], np.float32))
    y = builder.node("Resize", x, roi, "", sizes, coordinate_transformation_mode="tf_crop_and_resize")
    with pytest.raises(UnsupportedError, match="node resize0: op Resize has no training form"):
        to_torch(opened(builder.model(y)))


RESIZED = [
    {"mode": mode, "coordinate_transformation_mode": positions, **more}
    for positions in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for mode, more in (
        ("nearest", {"nearest_mode": "floor"}),
        ("nearest", {"nearest_mode": "round_prefer_ceil"}),
        ("linear", {}),
        ("linear", {"antialias": 1}),
        ("cubic", {"cubic_coeff_a": -0.5, "exclude_outside": 1}),
    )
    if not (more.get("antialias") and positions not in ("half_pixel", "pytorch_half_pixel"))
]


@pytest.mark.parametrize("given", RESIZED, ids=lambda given: "-".join(map(str, given.values())))
@pytest.mark.parametrize("size", [(12, 5), (4, 20)], ids=str)
def test_torch_resizes_as_onnx_does(given: dict[str, Any], size: tuple[int, int]) -> None:
    builder = Builder()
    y = builder.node("Resize", builder.input(1, 2, 6, 10), "", "", builder.const([1, 2, *size]), **given)
    graph = opened(builder.model(y))
    (sample,) = builder.samples(1)
    with torch.no_grad():
        found = to_torch(graph)(torch.from_numpy(sample["x"])).numpy()
    np.testing.assert_allclose(
        found, Reference(graph).run(sample)[str(graph.graph.outputs[0].name)], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("given", [
    {}, {"direction": "bidirectional"}, {"direction": "reverse", "layout": 1}, {"fed": True},
    {"linear_before_reset": 1},
], ids=str)  # fmt: skip
def test_torch_runs_sequences_as_onnx_does(op: str, given: dict[str, Any]) -> None:
    if "linear_before_reset" in given and op != "GRU":
        given = {"activations": {"LSTM": ["Sigmoid", "Relu", "Tanh"], "RNN": ["Relu"]}[op]}
    network = layer(op, tuple(range(3 if op == "LSTM" else 2)), **given)
    graph = opened(network.network())
    (sample,) = network.samples(1)
    with torch.no_grad():
        found = to_torch(graph)(*(torch.from_numpy(sample[str(value.name)]) for value in graph.graph.inputs))
    wanted = Reference(graph).run(sample)
    for value, name in zip(found, (str(v.name) for v in graph.graph.outputs), strict=True):
        np.testing.assert_allclose(value.numpy(), wanted[name], rtol=1e-4, atol=1e-5)


def test_training_moves_batch_statistics_and_evaluation_does_not() -> None:
    module = to_torch(small())
    before = arrays_of(module)
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    module(x)
    assert all(np.array_equal(a, before[n]) for n, a in arrays_of(module).items())
    module.train()
    module(x)
    moved = {name for name, array in arrays_of(module).items() if not np.array_equal(array, before[name])}
    assert moved == {"bn.running_mean", "bn.running_var"}


def test_a_batch_gives_what_each_sample_gives() -> None:
    module = to_torch(small())
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = torch.cat([module(x[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(module(x), apart, rtol=1e-4, atol=1e-5)


PROJECT = """
[model]
source = "torch_nets:small"
[model.inputs.x]
shape = [1, 3, 8, 8]
[calibration]
data = "data.npz"
[evaluation]
data = "data.npz"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model that a build can train, and data with labels that its inputs show."""
    draw = np.random.default_rng(0)
    labels = np.arange(160) % 5
    x = draw.normal(0, 0.5, (160, 3, 8, 8)).astype(np.float32)
    x[np.arange(160), labels % 3] += (labels[:, None, None] - 2).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=labels)
    (tmp_path / "torch_nets.py").write_text((Path(__file__).parent / "torch_nets.py").read_text())
    return tmp_path


def test_a_build_trains_and_says_what_it_won(project: Path) -> None:
    file = project / "edgekit.toml"
    file.write_text(PROJECT + '[[compress]]\nmethod = "fine-tune"\nepochs = 8\nbatch = 16\nrate = 0.05\n')
    (first,) = build(load_project(file), ["raspberry-pi-4-litert"], project / "out")
    (step,) = first.compression
    assert step.method == "fine-tune" and step.parameters == first.model.parameters
    assert step.metric is not None and first.evaluation is not None
    assert step.metric > first.evaluation.float_value + 0.2  # drawn weights know nothing
    assert first.evaluation.artifact_value > step.metric - 0.05
    file.write_text(file.read_text() + "[gates]\nsize = '1 MB'\n")
    (again,) = build(load_project(file), ["raspberry-pi-4-litert"], project / "out")
    assert next(s for s in again.stages if s.name == "compress: fine-tune").cached
    assert again.artifact.sha256 == first.artifact.sha256


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"method": "fine-tun"}, r"compress\[0\].method: 'fine-tun' is no method; did you mean fine-tune"),
        ({"method": "fine-tune", "epoch": 3}, r"compress\[0\].epoch: unknown key; did you mean epochs"),
        ({"method": "fine-tune", "optimizer": "sgdd"}, r"compress\[0\].optimizer: 'sgdd' is not one of sgd, nesterov"),
        ({"method": "fine-tune", "epochs": "many"}, r"compress\[0\].epochs: .*a whole number"),
    ],
)
def test_what_is_wrong_with_a_step_is_said(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_step(written, "edgekit.toml", 0)


def test_every_method_is_declared_with_a_docstring() -> None:
    assert all(found.run.__doc__ and found.settings.__doc__ for found in METHODS.values())


def test_a_step_that_does_not_pay_on_the_target_is_taken_back(project: Path) -> None:
    file = project / "edgekit.toml"
    step = '[[compress]]\nmethod = "fine-tune"\nepochs = 1\nbatch = 32\nkeep_if = "latency"\n'
    file.write_text(PROJECT + step)
    (report,) = build(load_project(file), ["raspberry-pi-4-litert"], project / "out")
    (found,) = report.compression
    assert found.facts["kept"] is False and found.facts["latency raspberry-pi-4-litert"] > 0.5
    file.write_text(PROJECT)
    (plain,) = build(load_project(file), ["raspberry-pi-4-litert"], project / "out")
    assert plain.artifact.sha256 == report.artifact.sha256


class EndError(Exception):
    """Stands for the end of a process."""


class Mortal(SilentProgress):
    """Progress that ends its process after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Step]:
        def step(count: int = 1, said: str = "") -> None:
            self.left -= count
            if self.left < 0:
                raise EndError

        yield step


def labelled(count: int = 48) -> list[Sample]:
    draw = np.random.default_rng(0)
    return [Sample({"x": draw.normal(i % 5, 1, (1, 3, 8, 8)).astype(np.float32)}, i % 5) for i in range(count)]


def test_a_training_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    how = Training(epochs=5, batch=8, rate=0.05, validation=0.25, patience=2, ema=0.9, optimizer="adam")
    whole, again, samples = to_torch(small()), to_torch(small()), labelled()
    wanted = train(whole, samples, how, SilentProgress())
    with pytest.raises(EndError):
        train(again, samples, how, Mortal(11), resume=tmp_path / "training.pt")
    assert (tmp_path / "training.pt").is_file()
    found = train(to_torch(small()), samples, how, SilentProgress(), resume=tmp_path / "training.pt")
    assert found == wanted
    other = to_torch(small())
    train(other, samples, how, SilentProgress(), resume=tmp_path / "training.pt")
    for name, array in arrays_of(whole).items():
        np.testing.assert_array_equal(arrays_of(other)[name], array)


def test_parts_of_a_batch_add_up_to_it() -> None:
    """Without BatchNormalization, whose statistics are of a part."""
    builder = Builder()
    x = builder.node("Flatten", builder.conv(builder.input(1, 3, 8, 8), 3, 4, (3, 3)))
    graph = opened(builder.model(builder.node("Gemm", x, builder.weights(144, 5))))
    results = []
    for parts in (1, 4):
        module = to_torch(graph)
        how = Training(epochs=1, batch=16, accumulate=parts, l1=1e-3, decay=0.0)
        train(module, labelled(), how, SilentProgress())
        results.append(arrays_of(module))
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, rtol=1e-4, atol=1e-6)


def test_waiting_ends_a_training() -> None:
    how = Training(epochs=50, batch=8, rate=1.0, validation=0.25, patience=2)
    history = train(to_torch(small()), labelled(), how, SilentProgress())
    assert len(history.losses) < 50
    assert len(history.validation) - 1 - int(np.argmin(history.validation)) == 2
