"""Per-layer times: the runtimes' own profilers on real artifacts, and how kernels find their layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from onnx import helper
from small_graphs import Builder
from small_onnx import conv_relu, model, tensor

from edgekit.agent import Problem
from edgekit.audit import audit_file
from edgekit.cli import cli
from edgekit.emitters import onnx_qdq, tflite
from edgekit.errors import DataError, DeviceError, ModelError
from edgekit.passes import prepare
from edgekit.profile import PROCESS, Kernel, LayerTimes, middle, profile
from edgekit.profile.litert import Event, kernels_of, library
from edgekit.profile.onnx import attribute as of_onnx
from edgekit.profile.process import WARM_UP, of_trace
from edgekit.profile.tflite import align
from edgekit.quant.plan import QuantPlan
from edgekit.quant.solve import Rules, solve

SIZE = 64  # so that each convolution takes some hundred microseconds, and 1x1 much less than 3x3


def written(path: Path, quantized: bool = True) -> Path:
    """Two convolutions, the first with 9 times the multiply-adds of the second."""
    b = Builder(0)
    x = b.node("Relu", b.conv(b.input(1, 16, SIZE, SIZE), 16, 64, (3, 3), pads=[1, 1, 1, 1]))
    graph = prepare(b.model(b.conv(x, 64, 16)))
    names = [*(str(v.name) for v in graph.graph.inputs), *(str(v.name) for n in graph.graph for v in n.outputs)]
    plan = solve(graph, dict.fromkeys(names, (-4.0, 4.0)), Rules()) if quantized else QuantPlan({})
    emit = tflite.emit if path.suffix == ".tflite" else onnx_qdq.emit
    path.write_bytes(emit(graph, plan).data)
    return path


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("profile") / f"net.{request.param}")


@pytest.fixture(scope="module")
def times(artifact: Path) -> LayerTimes:
    return profile(artifact, seconds=0.4)


def test_every_layer_of_the_file_has_its_time(artifact: Path, times: LayerTimes) -> None:
    ops = {op.name: op.op for op in audit_file(artifact).ops if op.op != "Relu"}  # part of the convolution's kernel
    found = {layer.name: layer.op for layer in times.layers if layer.op != "QuantizeLinear"}  # of the input
    assert found == ops
    assert all(layer.ms > 0 and layer.kernels for layer in times.layers)
    assert times.runs > 10 and times.machine["cpu"] and times.runtime_version


def test_the_larger_layer_takes_longer(times: LayerTimes) -> None:
    first, second = (layer.ms for layer in times.layers if layer.op.upper().startswith("CONV"))
    assert first > 2 * second


def test_the_layers_add_up_to_about_a_run(times: LayerTimes) -> None:
    """A busy machine only makes a run longer; the middle of each layer's times hardly sees it."""
    assert times.total_ms == pytest.approx(sum(layer.ms for layer in times.layers) + times.elsewhere_ms)
    assert times.total_ms < 1.6 * times.p50_ms
    assert times.elsewhere_ms < 0.5 * times.total_ms


def test_a_float_file_is_profiled_too(tmp_path: Path) -> None:
    found = profile(written(tmp_path / "net.tflite", quantized=False), seconds=0.1)
    assert {layer.op for layer in found.layers} == {"CONV_2D"} and len(found.layers) == 2


def test_the_parts_of_a_written_out_op_are_its_own(tmp_path: Path) -> None:
    """ONNX Runtime has no HardSwish: it writes a HardSigmoid and a Mul, without names."""
    nodes = [
        helper.make_node("HardSwish", [a], [b], name=name) for a, b, name in (("x", "t", "one"), ("t", "y", "two"))
    ]
    shape = [1, 64, 64, 64]
    (tmp_path / "net.onnx").write_bytes(model(nodes, [tensor("x", shape)], [tensor("y", shape)]))
    found = profile(tmp_path / "net.onnx", seconds=0.1)
    assert [(layer.name, layer.tensor) for layer in found.layers] == [("one", "t"), ("two", "y")]
    assert [sorted(layer.kernels) for layer in found.layers] == [["HardSigmoid", "Mul"]] * 2
    assert found.elsewhere == {}


def test_the_command(artifact: Path, times: LayerTimes) -> None:
    as_json = ["--json"] * (artifact.suffix == ".onnx")
    command = ["bench", str(artifact), "--per-layer", "--seconds", "0.05", "--runs", "5", *as_json]
    said = CliRunner().invoke(cli, command)
    assert said.exit_code == 0, said.output
    if as_json:
        found = json.loads(said.stdout)["layer_times"]
        assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in times.layers]
        return
    assert all(layer.op in said.output for layer in times.layers)
    assert "the layers add up to" in said.output and "without the profiler" in said.output


@pytest.mark.parametrize("more", [["--against", "b.onnx"], ["--device", "pi"]])
def test_the_command_profiles_one_file_here(more: list[str]) -> None:
    said = CliRunner().invoke(cli, ["bench", "a.onnx", "--per-layer", *more])
    assert said.exit_code == 2 and "--per-layer goes without --against and --device" in said.output


def test_what_cannot_be_profiled_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.tflite: cannot be read: No such file"):
        profile(tmp_path / "gone.tflite", "litert")
    (tmp_path / "broken.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 64)
    with pytest.raises(ModelError, match=r"broken\.tflite"):
        profile(tmp_path / "broken.tflite")
    with pytest.raises(DataError, match=r"none\.npz"):
        profile(written(tmp_path / "net.onnx"), inputs="none.npz")
    with pytest.raises(DeviceError, match="runtime 'coreml' cannot run here"):
        profile(tmp_path / "net.onnx", "coreml")


def test_a_runtime_without_a_profiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(Problem, match=r"LiteRT's profiler needs ai-edge-litert 2\.1\.6 or newer"):
        library()


def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.profile.litert.NEWEST_FUNCTION", "LiteRtOfTheFuture")
    with pytest.raises(Problem, match="2.1.6 or newer on Linux"):
        library()


def test_the_process_says_what_it_cannot_do_as_json() -> None:
    request = '{"artifacts": [{"path": "/nowhere.onnx", "runtime": "onnxruntime"}], "threads": 1}'
    command = [sys.executable, *PROCESS]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 2 and '"kind": "model"' in done.stdout and done.stderr == ""


def test_the_middle_of_many_times() -> None:
    assert middle([5, 1, 1, 2, 2, 2, 3, 900]) == pytest.approx(2.25)
    assert middle([7]) == 7


def test_kernels_find_their_ops_in_order() -> None:
    ops = ["CONV_2D", "ADD", "CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED"]
    kernels = ["Convolution", "Add", "Clamp", "Fully Connected", "Mean", "Static Reshape", "Static Reshape"]
    assert align(ops, [*kernels, "Fully Connected"]) == [0, 1, 1, 2, 3, 4, 4, 5]


def test_an_op_may_be_merged_and_a_kernel_nobodys() -> None:
    assert align(["PAD", "CONV_2D", "SOFTMAX"], ["Convolution", "Softmax"]) == [1, 2]
    assert align(["CONV_2D", "MAX_POOL_2D"], ["Transpose", "Convolution", "Max Pooling"]) == [None, 0, 1]
    assert align(["SPLIT", "TANH"], ["Slice", "Slice", "Tanh"]) == [0, 0, 1]
    chain = ["CONV_2D", "ADD", "MUL", "MUL", "MEAN"]  # a HardSwish: XNNPACK makes one table of its three ops
    assert align(chain, ["Convolution", "Invalid Unary Op", "Mean"]) == [0, 3, 4]
    assert align([], ["Copy"]) == [None] and align(["ADD"], []) == []


def node(name: str, op: str, ts: int, dur: int) -> dict[str, Any]:
    args = {"op_name": op}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def test_a_loop_holds_the_time_of_its_body() -> None:
    run = [node("a", "Conv", 0, 5), node("b", "Add", 7, 2), node("b", "Add", 9, 2), node("l", "Loop", 6, 8)]
    events = [*run, {"cat": "Session", "name": "model_run", "ts": 0, "dur": 15}] * (WARM_UP + 2)
    assert of_trace(events) == [
        {"name": "a", "op": "Conv", "node": None, "us": [5, 5]},
        {"name": "l", "op": "Loop", "node": None, "us": [8, 8]},
    ]


def test_an_op_that_runs_a_subgraph_holds_its_kernels() -> None:
    def event(tag: bytes, kind: int, start: int, us: int, index: int = 0) -> Event:
        return Event(tag=tag, kind=kind, start_us=start, us=us, node=index)

    events = [
        event(b"Invoke", 1, 0, 40),
        event(b"Convolution (NHWC, QC8) IGEMM", 8, 3, 3),
        event(b"WHILE", 2, 5, 20, 4),
        event(b"Add (ND)", 8, 9, 1),
        event(b"TANH", 2, 26, 2, 5),
    ]
    found = [(kernel["op"], kernel["node"], kernel["us"]) for kernel in kernels_of(events)]
    assert found == [("Convolution", None, 3), ("WHILE", 4, 20), ("TANH", 5, 2)]


def test_a_node_is_known_by_the_name_that_it_got() -> None:
    names = ("conv", "conv_token_12", "conv_nchwc", "conv/duplicated_nchwc", "relu", "y")
    kernels = [Kernel(name, "FusedConv", None, 1.0) for name in names]
    kernels.append(Kernel("made up", "FusedConv", None, 1.0, ("y",)))
    layers, left = of_onnx(conv_relu(), [*kernels, Kernel("ReorderInput", "ReorderInput", None, 0.5, ("reorder",))])
    assert [(layer.name, layer.tensor, layer.ms) for layer in layers] == [("conv", "y", 7.0)]
    assert [kernel.op for kernel in left] == ["ReorderInput"]
