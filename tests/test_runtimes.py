"""Sessions: what they say of a model, that they run it, and that bad input gets one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_onnx import conv_relu, qdq_conv_relu

from edgekit.errors import DataError, DeviceError, ModelError
from edgekit.runtimes import TensorInfo, open_session, runtime_for
from edgekit.runtimes.litert import LiteRTSession, quiet_stderr, runtime_version

RNG = np.random.default_rng(0)


@pytest.fixture
def resnet(shared: Path) -> Path:
    return shared / "peers/int8/resnet20.tinynn.tflite"


def test_onnxruntime_runs_a_model_and_names_its_ends() -> None:
    session = open_session(conv_relu(), "onnxruntime")
    assert session.inputs == (TensorInfo("x", (1, 3, 8, 8), "float32"),)
    assert session.outputs == (TensorInfo("y", (1, 4, 8, 8), "float32"),)
    found = session.run({"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)})
    assert list(found) == ["y"] and found["y"].shape == (1, 4, 8, 8) and found["y"].min() >= 0


def test_onnxruntime_opens_a_path_and_says_minus_one_for_an_open_dimension(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(conv_relu(batch="N"))
    session = open_session(path, "onnxruntime", threads=2)
    assert session.inputs[0].shape == (-1, 3, 8, 8)
    assert session.run({"x": np.zeros((5, 3, 8, 8), np.float32)})["y"].shape == (5, 4, 8, 8)


def test_onnxruntime_keeps_the_tensors_of_a_float_model() -> None:
    session = open_session(conv_relu(), "onnxruntime", keep_intermediates=True)
    assert [info.name for info in session.outputs] == ["y"]
    feeds = {"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}
    assert list(session.run(feeds)) == ["y"]
    tensors = session.tensors()
    assert set(tensors) == {"c", "y"}
    np.testing.assert_array_equal(np.maximum(tensors["c"], 0), tensors["y"])


def test_onnxruntime_keeps_integers_of_a_quantized_model_without_changing_its_result() -> None:
    feeds = {"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}
    plain = open_session(qdq_conv_relu(), "onnxruntime").run(feeds)
    session = open_session(qdq_conv_relu(), "onnxruntime", keep_intermediates=True)
    np.testing.assert_array_equal(session.run(feeds)["y"], plain["y"])
    tensors = session.tensors()
    assert {name: str(value.dtype) for name, value in tensors.items()} == {"xq": "int8", "yq": "int8", "y": "float32"}


def test_litert_runs_a_model_and_gives_scales(resnet: Path) -> None:
    session = open_session(resnet, "litert")
    (image,), (scores,) = session.inputs, session.outputs
    assert (image.shape, image.dtype, image.zero_point) == ((1, 32, 32, 3), "int8", -14)
    assert image.scale == pytest.approx(0.018422, rel=1e-4)
    assert (scores.shape, scores.dtype, scores.zero_point) == ((1, 10), "int8", 8)
    found = session.run({image.name: np.zeros((1, 32, 32, 3), np.int8)})
    assert found[scores.name].shape == (1, 10) and found[scores.name].dtype == np.int8


def test_litert_counts_what_its_delegate_took(resnet: Path) -> None:
    assert LiteRTSession(resnet).partitions == 1


def test_litert_keeps_tensors_without_changing_the_result(resnet: Path) -> None:
    name = "input.9_te_transform"
    feeds = {name: RNG.integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)}
    plain = open_session(resnet.read_bytes(), "litert").run(feeds)
    session = open_session(resnet, "litert", keep_intermediates=True)
    kept = session.run(feeds)
    np.testing.assert_array_equal(kept["Xq.1"], plain["Xq.1"])
    tensors = session.tensors()
    assert len(tensors) == 35 and tensors["Xq.1"].shape == (1, 10)
    assert all(value.dtype == np.int8 for value in tensors.values())


def test_litert_takes_an_open_batch(shared: Path) -> None:
    session = open_session(shared / "peers/mlperf_tiny/kws_ref_model.tflite", "litert")
    (words,) = session.inputs
    assert words.shape == (-1, 49, 10, 1)
    one = RNG.integers(-128, 128, (1, 49, 10, 1)).astype(np.int8)
    alone = session.run({words.name: one})["Identity"]
    pair = session.run({words.name: np.concatenate([one, one])})["Identity"]
    np.testing.assert_array_equal(pair, np.concatenate([alone, alone]))


@pytest.mark.parametrize("data", [b"", b"not a model", conv_relu()[:60]])
@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_an_unreadable_model_gets_one_line(data: bytes, runtime: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="cannot load it") as caught:
        open_session(data, runtime)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert capfd.readouterr() == ("", "")


def test_keeping_tensors_of_an_unreadable_model_gets_one_line() -> None:
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        open_session(b"\x08\xff\xff", "onnxruntime", keep_intermediates=True)


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_a_missing_file_gets_the_systems_reason(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: cannot be read: No such file"):
        open_session(tmp_path / "none.onnx", runtime)
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        open_session(tmp_path, runtime)


def test_wrong_inputs_are_refused() -> None:
    session = open_session(conv_relu(), "onnxruntime")
    with pytest.raises(DataError, match="no value for input x; given: image"):
        session.run({"image": np.zeros((1, 3, 8, 8), np.float32)})
    with pytest.raises(DataError, match=r"input x: shape \[1, 8, 8, 3\] was given, \[1, 3, 8, 8\] is needed"):
        session.run({"x": np.zeros((1, 8, 8, 3), np.float32)})
    with pytest.raises(DataError, match="input x: dtype float64 was given, float32 is needed"):
        session.run({"x": np.zeros((1, 3, 8, 8))})


def test_tensors_need_a_session_that_keeps_them(resnet: Path) -> None:
    for session in (open_session(conv_relu(), "onnxruntime"), open_session(resnet, "litert")):
        with pytest.raises(DataError, match="keep_intermediates"):
            session.tensors()


def test_an_unknown_runtime_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="'tflm' cannot run here; known: onnxruntime, litert") as caught:
        open_session(b"", "tflm")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(("runtime", "package"), [("onnxruntime", "onnxruntime"), ("litert", "ai-edge-litert")])
def test_a_missing_runtime_is_a_device_error_with_the_install_line(runtime: str, package: str) -> None:
    code = (
        "import sys\n"
        "for name in ('onnxruntime', 'ai_edge_litert', 'tflite_runtime'): sys.modules[name] = None\n"
        "from edgekit.errors import DeviceError\n"
        "from edgekit.runtimes import open_session\n"
        "try: open_session(b'', sys.argv[1])\n"
        "except DeviceError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, runtime], capture_output=True, text=True, check=True)
    assert f"pip install {package}" in done.stdout and done.stderr == ""


def test_the_runtime_is_found_from_the_bytes(resnet: Path, tmp_path: Path) -> None:
    assert runtime_for(resnet) == "litert"
    assert runtime_for(resnet.read_bytes()) == "litert"
    assert runtime_for(conv_relu()) == "onnxruntime"
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match=r"empty\.onnx: is empty"):
        runtime_for(tmp_path / "empty.onnx")


def test_litert_says_its_version() -> None:
    assert runtime_version().split()[0] in ("ai-edge-litert", "tflite-runtime")


def test_litert_chatter_does_not_reach_the_user(resnet: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_session(resnet, "litert")
    assert capfd.readouterr() == ("", "")


def test_what_is_not_chatter_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os; os.write(2, b'INFO: hello\\nWARNING: real\\nother\\n')"
    with quiet_stderr():
        subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr().err == "WARNING: real\nother\n"


def test_loading_the_package_loads_no_runtime() -> None:
    code = "import sys, edgekit.runtimes; print({'onnxruntime', 'ai_edge_litert', 'onnx'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
