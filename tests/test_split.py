"""Outputs that join parts of very different ranges, given in these parts (``[quantization] split_outputs``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_graphs import Builder

from edgekit import ladder, measure
from edgekit.artifact import read_artifact
from edgekit.build import prepared
from edgekit.built import Built
from edgekit.compress import adaround
from edgekit.contract import Contract, Join, rejoined
from edgekit.passes import prepare
from edgekit.passes.split import split_outputs
from edgekit.progress import SilentProgress
from edgekit.project import load_project
from edgekit.recheck import recheck
from edgekit.reference import Reference, serialize
from edgekit.report.model import Report
from edgekit.reporting import report_of
from edgekit.runners import FloatModel

TARGETS = ("raspberry-pi-4-litert", "raspberry-pi-4-onnxruntime")
PROJECT = """[model]
source = "net.onnx"
[calibration]
data = "data.npz"
{calibration}
[evaluation]
data = "data.npz"
metric = "metric_of_split:shares"
[quantization]
split_outputs = {split}
[gates]
accuracy = 0.5
"""
METRIC = '''"""How well the small parts of the output are told apart."""


def shares(predictions):
    """The share of probabilities within 0.05 of the label's."""
    right = [abs(outputs["y"][0, 2:] - label).max() < 0.05 for outputs, label in predictions]
    return sum(right) / len(right)
'''


def head() -> Builder:
    """Boxes in the hundreds and shares below one, in one output as a detector has them, and a second output."""
    b = Builder()
    x = b.input(1, 3, 8, 8)
    wide = b.node("Conv", x, b.const(np.full((2, 3, 1, 1), 60.0)))
    b.node("Concat", wide, b.node("Sigmoid", b.conv(x, 3, 2)), axis=1)
    return b


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose metric reads the output whole."""
    b = head()
    model = b.model("concat3")
    model.graph.outputs[0].name = "y"
    (tmp_path / "net.onnx").write_bytes(serialize(model))
    images = np.random.default_rng(0).normal(0, 1, (32, 3, 8, 8)).astype(np.float32)
    reference = Reference(model)
    labels = np.stack([reference.run({"x": image[None]})["y"][0, 2:] for image in images])
    np.savez(tmp_path / "data.npz", x=images, labels=labels)
    (tmp_path / "metric_of_split.py").write_text(METRIC)
    monkeypatch.setattr(measure, "GLANCES", 1)
    return tmp_path


def built(folder: Path, split: bool, calibration: str = "") -> tuple[list[Report], list[Built]]:
    """Both artifacts and what is reported of them; their latency is not measured."""
    file = folder / "edgekit.toml"
    file.write_text(PROJECT.format(split=str(split).lower(), calibration=calibration))
    made = prepared(load_project(file), TARGETS, folder / "out")
    work = made.work
    found = ladder.climb(made) if calibration else work.built(made.lifted)
    for one in found:
        one.keep()
        work.judge(one, made.graph)
    return [report_of(work, one, found, made.facts) for one in found], list(found)


def test_parts_have_scales_of_their_own_and_the_source_speaks_of_one_output(folder: Path) -> None:
    (whole, _), _ = built(folder, False)
    assert whole.evaluation is not None and whole.evaluation.artifact_value == 0.0
    assert any("[quantization] split_outputs, or [model] outputs" in line for line in whole.warnings)
    reports, found = built(folder, True)
    for report, one in zip(reports, found, strict=True):
        assert (
            report.evaluation is not None and report.evaluation.artifact_value == report.evaluation.float_value == 1.0
        )
        assert report.fidelity is not None and list(report.fidelity.outputs) == ["y"]
        contract = read_artifact(one.artifact.data).contract
        assert contract.joins == (Join("y", 1, ("conv0", "sigmoid2")),)
        assert [port.name for port in contract.outputs] == ["conv0", "sigmoid2"]
        assert contract.source_outputs == {"y": (1, 4, 8, 8)}
        assert "output y is given in parts, conv0, sigmoid2: join them along axis 1" in report.warnings
        again = recheck(one.path, load_project(folder / "edgekit.toml"), SilentProgress())
        assert again.evaluation is not None and again.evaluation.artifact_value == 1.0
        assert again.fidelity.outputs == pytest.approx(report.fidelity.outputs)
    assert reports[0].parity is not None and reports[0].parity.max_steps <= 1


def test_the_ladder_splits_only_where_nothing_else_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "WAYS", {name: ladder.WAYS[name] for name in ("plain", "adaround")})
    monkeypatch.setattr(adaround, "STEPS", 10)
    (report, _), found = built(folder, True, 'method = "auto"')
    names = [rung.name for rung in report.rungs if rung.target == TARGETS[0]]
    assert names == [*ladder.WAYS, "outputs in parts"]
    assert [rung.holds for rung in report.rungs if rung.target == TARGETS[0]] == [False] * len(ladder.WAYS) + [True]
    assert found[0].artifact.contract.joins and {verdict.status for verdict in report.gates} == {"pass"}


def test_what_is_not_crushed_or_cannot_be_split_stays_whole() -> None:
    b = head()
    model = prepare(b.model("concat3"))
    assert split_outputs(model, [])[1] == ()
    same, joins = split_outputs(model, ["sigmoid2"])  # no output
    assert joins == () and [value.name for value in same.graph.outputs] == ["concat3"]
    twice = prepare(head().model("concat3", "sigmoid2"))  # a part that leaves the model already
    assert split_outputs(twice, ["concat3"])[1] == ()
    b = Builder()
    x = b.input(1, 3, 8, 8)
    fed = prepare(b.model(b.node("Concat", x, b.conv(x, 3, 2), axis=1)))  # a part that is an input
    assert split_outputs(fed, [str(fed.graph.outputs[0].name)])[1] == ()


def test_a_concat_that_others_read_is_still_computed() -> None:
    b = head()
    end = b.node("Relu", "concat3")
    model = prepare(b.model("concat3", end))
    split, joins = split_outputs(model, ["concat3"])
    assert [value.name for value in split.graph.outputs] == ["conv0", "sigmoid2", end]
    sample = b.samples(1)[0]
    wanted, got = (FloatModel(graph).outputs(sample) for graph in (model, split))
    for name, value in rejoined(got, joins).items():
        assert np.array_equal(value, wanted[name])


def test_a_contract_with_joins_is_json() -> None:
    contract = Contract((), (), joins=(Join("y", 1, ("a", "b")),))
    assert Contract.from_json(contract.to_json()) == contract
