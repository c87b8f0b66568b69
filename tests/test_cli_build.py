"""``edgekit build`` and ``edgekit verify`` on a tiny network: a real build in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import small_onnx
from command import edgekit, program
from onnx import helper

from edgekit.report import json as report_json
from edgekit.report.model import Report


def classifier() -> bytes:
    """3x8x8 -> Conv, Relu, pool, Gemm -> 4 scores."""
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["scores"]),
    ]
    weights = [small_onnx.weights("w", 4, 3, 3, 3), small_onnx.weights("b", 4), small_onnx.weights("head", 4, 4)]
    ports = [small_onnx.tensor("image", [1, 3, 8, 8])], [small_onnx.tensor("scores", [1, 4])]
    return small_onnx.model(nodes, *ports, weights)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny network, calibration data and labelled data, built once."""
    folder = tmp_path_factory.mktemp("network")
    generator = np.random.default_rng(7)
    images = generator.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    (folder / "net.onnx").write_bytes(classifier())
    np.savez(folder / "calib.npz", images=images)
    np.savez(folder / "test.npz", images=images, labels=generator.integers(0, 4, 48))
    (folder / "edgekit.toml").write_text(PROJECT)
    targets = ("-t", "linux-x86_64-litert", "-t", "linux-x86_64-onnxruntime")
    done = program("build", *targets, "--json", "--junit", "gates.xml", "--markdown", "report.md", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


PROJECT = """
[model]
source = "net.onnx"
[calibration]
data = "calib.npz"
[evaluation]
data = "test.npz"
[gates]
float_ops = 0
agreement = 0.5
"""


def test_build(network: Path) -> None:
    found = json.loads((network / "stdout").read_text())
    assert found["exit_code"] == 0
    for report, name in zip(found["reports"], ("linux-x86_64-litert", "linux-x86_64-onnxruntime"), strict=True):
        folder = network / "build" / name
        assert Report.from_json(report) == report_json.read(folder / "report.json")
        assert {"plan.json", "contract.json", "report.html"} <= {path.name for path in folder.iterdir()}
        assert [verdict["status"] for verdict in report["gates"]] == ["pass", "pass"]
    assert ElementTree.parse(network / "gates.xml").getroot().get("tests") == "4"
    assert "linux-x86_64-onnxruntime" in (network / "report.md").read_text()


def test_build_says_on_stderr_how_far_it_is(network: Path) -> None:
    assert any(line.startswith("calibrate: 48 of 48") for line in (network / "stderr").read_text().splitlines())


def test_build_whose_gate_fails(network: Path, tmp_path: Path) -> None:
    config = tmp_path / "edgekit.toml"
    config.write_text('[gates]\nsize = "1 KB"\n')
    result = edgekit("gate", network / "build" / "linux-x86_64-litert", "--config", config)
    assert result.exit_code == 1 and "FAIL  size" in result.stdout


def test_verify(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(network)
    artifact = Path("build/linux-x86_64-litert/model.tflite")
    result = edgekit("verify", artifact)
    assert result.exit_code == 0 and "top1" in result.stdout and "worst tensors" in result.stdout
    found = json.loads(edgekit("verify", artifact, "--samples", "10", "--quiet", "--json").stdout)
    assert found["evaluation"]["samples"] == found["fidelity"]["samples"] == 10


def test_verify_without_labels_preprocesses_as_the_artifact_says(network: Path) -> None:
    artifact = network / "build" / "linux-x86_64-onnxruntime" / "model.onnx"
    flags = ("--model", network / "net.onnx", "--data", network / "calib.npz", "--quiet", "--json")
    found = json.loads(edgekit("verify", artifact, *flags).stdout)
    assert found["evaluation"] is None
    assert min(found["fidelity"]["outputs"].values()) > 15
