"""Timing: the agent alone, the statistics by hand, and real models through both."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_onnx import conv_relu, model, qdq_conv_relu, tensor, weights

from edgekit import agent
from edgekit import measure as timing
from edgekit.errors import DataError, DeviceError, InputError, ModelError
from edgekit.measure import (
    Comparison,
    Measurement,
    ask,
    compare,
    hindered,
    measure,
    median_interval,
    quantiles,
    ratio_of_medians,
)
from edgekit.report.codec import decode, encode
from edgekit.transports.connection import FAR_END


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    path.write_bytes(conv_relu())
    return path


@pytest.fixture(scope="module")
def measured(small: Path) -> Measurement:
    return measure(small, runs=50, seconds=0.2)


@pytest.fixture(scope="module")
def against_larger(small: Path) -> Comparison:
    larger = small.with_name("larger.onnx")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    larger.write_bytes(model(nodes, [tensor("x", [1, 512])], [tensor("y", [1, 2048])], [weights("w", 512, 2048)]))
    return compare(larger, small, runs=9, seconds=0.3)


def request(path: Path, runtime: str = "onnxruntime", **more: Any) -> dict[str, Any]:
    quick = {"threads": 1, "inputs": "random", "runs": 3, "seconds": 0, "warmup_seconds": 0}
    return {"artifacts": [{"path": str(path), "runtime": runtime}], **quick, **more}


# What a measurement holds.


def test_a_measurement_is_in_order(measured: Measurement) -> None:
    m = measured
    assert 0 < m.min_ms <= m.p50_ms <= m.p90_ms <= m.p99_ms
    assert m.min_ms < m.mean_ms and m.stdev_ms > 0
    assert m.p50_interval_ms[0] <= m.p50_ms <= m.p50_interval_ms[1]
    assert m.runs >= 50 and m.warmup_runs >= m.processes == 5
    assert m.cold_start_ms >= m.load_ms > 0 and m.first_run_ms > 0
    assert m.peak_memory_bytes is not None and m.model_memory_bytes is not None
    assert 0 < m.model_memory_bytes < m.peak_memory_bytes
    assert (m.threads, m.runtime, m.inputs) == (1, "onnxruntime", "random")
    assert m.runtime_version.startswith("onnxruntime 1.")
    assert m.machine["cores"] >= m.machine["cores_allowed"] >= 1 and m.machine["cpu"]


def test_a_measurement_survives_a_report(measured: Measurement) -> None:
    value = json.loads(json.dumps(encode(measured)))
    assert decode(Measurement, value, "report") == measured
    assert json.loads(json.dumps(measured.to_json())) == value


def test_a_tflite_is_timed_under_litert(shared: Path) -> None:
    m = measure(shared / "peers/int8/ds_cnn.tinynn.tflite", runs=10, seconds=0.1)
    assert m.runtime == "litert" and m.runtime_version.split()[0] in ("ai-edge-litert", "tflite-runtime")
    assert 0 < m.p50_ms < 100


def test_a_larger_model_is_slower(against_larger: Comparison) -> None:
    c = against_larger
    assert c.low <= c.ratio <= c.high and c.low > 1.5
    assert c.verdict(1.0) == "fail" and c.verdict(1e9) == "pass" and c.verdict(c.ratio) == "inconclusive"
    assert c.a.p50_ms > c.b.p50_ms and c.a.processes == 9
    assert c.a.model_memory_bytes is not None and c.b.model_memory_bytes is not None
    assert c.a.model_memory_bytes > c.b.model_memory_bytes + 3_000_000  # 4 MB of weights
    assert json.loads(json.dumps(c.to_json()))["ratio"] == c.ratio


def test_a_model_is_as_fast_as_itself(small: Path) -> None:
    c = compare(small, small, runs=9, seconds=0.2)
    assert c.low <= c.ratio <= c.high and 0.7 < c.ratio < 1.4


# What a measurement warns of.


def test_nothing_to_warn_of(measured: Measurement) -> None:
    machine = {"cores_allowed": 4, "governor": "performance"}
    calm = replace(measured, p50_ms=1.0, p50_interval_ms=(0.99, 1.01), steady=True, load_average=0.5, machine=machine)
    assert calm.warnings() == ()


def test_warnings_say_what_was_seen(measured: Measurement) -> None:
    found = replace(
        measured,
        p50_ms=1.0,
        p50_interval_ms=(0.9, 1.1),
        runs=12,
        steady=False,
        warmup_runs=7,
        load_average=9.0,
        machine={"cores_allowed": 2, "governor": "powersave"},
    ).warnings()
    assert found == (
        "the median is only known within 20 % of itself after 12 runs",
        "after 7 warm-up runs the median was still moving",
        "other work was running: load average 9.0 on 2 cores",
        "the CPU frequency governor is powersave, so the clock may move",
    )


CALM: dict[str, Any] = {"throttled": 0, "throttle_count": 3, "temperature_c": 50.0, "mhz": 1500.0}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, []),
        ({}, {"throttled": 1}, ["the device reported under-voltage while it was timed; look at its power supply"]),
        ({}, {"throttled": 0x40000}, ["the device reported throttled while it was timed"]),
        (
            {"throttled": 0x10000},
            {"throttled": 0x10000},
            ["the device has reported under-voltage since it was started"],
        ),
        ({}, {"throttle_count": 4}, ["the CPU was throttled for its heat while it was timed"]),
        ({}, {"temperature_c": 84.2}, ["the CPU was at 84 degrees Celsius in the end"]),
        ({}, {"mhz": 600.0}, ["the clock fell from 1500 to 600 MHz"]),
        (dict.fromkeys(CALM), dict.fromkeys(CALM), []),
    ],
)
def test_what_hinders_a_machine_is_said(before: dict[str, Any], after: dict[str, Any], said: list[str]) -> None:
    found = hindered(CALM | before, CALM | after)
    assert len(found) == len(said) and all(map(str.startswith, found, said))


# Statistics.


def test_quantiles_by_hand() -> None:
    processes = [[[1_000_000 * i for i in range(1, 11)]], [[1_000_000 * i for i in range(11, 21)]]]
    values, intervals = quantiles(processes, (0.5, 0.9, 1.0))
    assert values == [10.0, 18.0, 20.0]
    assert intervals[0] == (5.0, 15.0)  # the medians of the two processes, and of their blocks
    assert intervals[2] == (10.0, 20.0)


def test_more_blocks_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)

    def width(blocks: int) -> float:
        draws = rng.normal(1e6, 1e5, (5, blocks, 20)).astype(int).tolist()
        _, ((low, high),) = quantiles(draws, (0.5,))
        assert low < 1.0 < high
        return high - low

    assert width(200) < width(5) / 2


@pytest.mark.parametrize(
    ("number", "low", "high"), [(1, 1, 1), (2, 1, 2), (5, 1, 5), (8, 1, 8), (9, 2, 8), (12, 3, 10)]
)
def test_the_interval_of_a_median_is_the_sign_tests(number: int, low: int, high: int) -> None:
    assert median_interval(np.arange(number) + 1.0).tolist() == [low, high]


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).exponential(size=(9, 4000))
    low, high = median_interval(draws)
    assert np.mean((low <= np.log(2)) & (np.log(2) <= high)) == pytest.approx(0.961, abs=0.012)


def test_the_ratio_of_medians_by_hand() -> None:
    assert ratio_of_medians([[10, 30, 20], [40]], [[10, 10], [20]]) == 2.0
    assert (
        ratio_of_medians([[10, 10], [10, 10**9]], [[20, 20], [20, 20]]) > 1e6
    )  # blocks, not single timings, are robust


# Bad input, each with one line.


@pytest.mark.parametrize(
    ("more", "text"), [({"threads": 0}, "threads: 0"), ({"runs": 0}, "0 runs"), ({"seconds": -1.0}, "-1.0 seconds")]
)
def test_nothing_to_measure_is_an_input_error(small: Path, more: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        measure(small, **more)


def test_a_missing_or_unreadable_model_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: cannot be read: No such file"):
        measure(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r"none\.onnx: cannot be read: No such file"):
        ask(request(tmp_path / "none.onnx"))
    for name, runtime in (("bad.onnx", "onnxruntime"), ("bad.tflite", "litert")):
        (tmp_path / name).write_bytes(b"\x1c\x00\x00\x00TFL3 and then nothing sound")
        with pytest.raises(ModelError, match="cannot run it") as caught:
            measure(tmp_path / name, runtime)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_an_unknown_runtime_is_a_device_error(small: Path) -> None:
    with pytest.raises(DeviceError, match="'tflm' cannot run here; known: onnxruntime, litert"):
        measure(small, "tflm")


@pytest.mark.parametrize(("runtime", "package"), [("onnxruntime", "onnxruntime"), ("litert", "ai-edge-litert")])
def test_a_missing_runtime_is_a_device_error(small: Path, tmp_path: Path, runtime: str, package: str) -> None:
    hide = (
        "import sys, runpy\nfor name in ('onnxruntime', 'ai_edge_litert', 'tflite_runtime'): sys.modules[name] = None\n"
    )
    (tmp_path / "hide.py").write_text(hide + "del sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n")
    with pytest.raises(DeviceError, match=f"pip install {package}"):
        ask(request(small, runtime), (sys.executable, str(tmp_path / "hide.py")))


def test_a_process_that_dies_says_how(small: Path) -> None:
    with pytest.raises(ModelError, match=r"the runtime crashed \(SIGSEGV\)"):
        ask(request(small), ("bash", "-c", "kill -SEGV $$"))
    with pytest.raises(DeviceError, match="ended by SIGKILL, as it is when memory runs out"):
        ask(request(small), ("bash", "-c", "kill -KILL $$"))
    with pytest.raises(DeviceError, match="exit status 7: no numpy here"):
        ask(request(small), ("bash", "-c", "echo first >&2; echo no numpy here >&2; exit 7"))
    with pytest.raises(DeviceError, match="/no/python cannot be started: No such file"):
        ask(request(small), ("/no/python",))


def test_a_process_that_hangs_is_ended(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(DeviceError, match="no answer within"):
        ask(request(small, max_seconds=0), ("bash", "-c", "sleep 5"))


# The agent.


def test_an_npz_is_fed_by_name_or_as_the_only_array(small: Path, tmp_path: Path) -> None:
    value = np.ones((1, 3, 8, 8), np.float32)
    for name, arrays in (
        ("named", {"x": value, "y": value}),
        ("only", {"images": value}),
        ("batch", {"x": np.ones((5, 3, 8, 8), np.float32)}),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        answer = ask(request(small, inputs=str(tmp_path / f"{name}.npz")))
        assert answer["artifacts"][0]["inputs"] == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}]


def test_an_npz_that_does_not_fit_is_a_data_error(small: Path, tmp_path: Path) -> None:
    def found(**arrays: Any) -> str:
        np.savez(tmp_path / "in.npz", **arrays)
        with pytest.raises(DataError) as caught:
            ask(request(small, inputs=str(tmp_path / "in.npz")))
        return str(caught.value).replace(str(tmp_path) + "/", "")

    float32 = np.float32
    assert found(a=np.zeros(1), b=np.zeros(1)) == "in.npz: no array for input x; it holds a, b"
    assert (
        found(x=np.zeros((1, 8, 8, 3), float32))
        == "in.npz: x is float32 [1, 8, 8, 3], the input is float32 [1, 3, 8, 8]"
    )
    assert found(x=np.zeros((1, 3, 8, 8))) == "in.npz: x is float64 [1, 3, 8, 8], the input is float32 [1, 3, 8, 8]"
    (tmp_path / "in.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match=r"in\.npz: not a readable \.npz"):
        ask(request(small, inputs=str(tmp_path / "in.npz")))


@pytest.mark.parametrize(
    "kind", [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16]
)
@pytest.mark.parametrize("inputs", ["random", "zeros"])
def test_every_dtype_can_be_fed(tmp_path: Path, kind: int, inputs: str) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(model(nodes, [tensor("x", ["N", 4], kind)], [tensor("y", ["N", 4], kind)]))
    (artifact,) = ask(request(tmp_path / "m.onnx", inputs=inputs))["artifacts"]
    assert artifact["inputs"][0]["shape"] == [1, 4] and sum(map(len, artifact["blocks_ns"])) >= 3


def test_artifacts_take_turns(small: Path, tmp_path: Path) -> None:
    (tmp_path / "q.onnx").write_bytes(qdq_conv_relu())
    both = [{"path": str(path), "runtime": "onnxruntime"} for path in (small, tmp_path / "q.onnx")]
    answer = ask({**request(small, runs=20, seconds=0.1), "artifacts": both})
    first, second = answer["artifacts"]
    assert (first["loaded_first"], second["loaded_first"]) == (True, False)
    assert len(first["blocks_ns"]) == len(second["blocks_ns"]) > 1


@pytest.mark.parametrize(("path", "needs"), [(timing.AGENT, {"numpy", "onnxruntime"}), (FAR_END, set())])
def test_what_runs_on_a_device_stands_alone(path: Path, needs: set[str]) -> None:
    source = path.read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    names = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "edgekit" not in names
    assert names - set(sys.stdlib_module_names) == needs
    assert len(source.splitlines()) < 500


def test_what_a_machine_says_of_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Raspberry Pi's files, as they are there."""
    (tmp_path / "governor").write_text("ondemand\n")
    (tmp_path / "clock").write_text("1500000\n")
    (tmp_path / "heat").write_text("48312\n")
    (tmp_path / "flags").write_text("50005\n")
    files = {"scaling_governor": "governor", "scaling_cur_freq": "clock", "temp": "heat", "get_throttled": "flags"}
    content = agent.content
    monkeypatch.setattr(agent, "content", lambda path: content(str(tmp_path / files.get(path.split("/")[-1], "none"))))
    found = agent.state()
    assert (found["governor"], found["mhz"], found["temperature_c"]) == ("ondemand", 1500.0, 48.312)
    assert (found["throttled"], found["throttle_count"]) == (0x50005, None)


def test_the_agents_neighbours_are_not_imported(small: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(timing.AGENT.read_text())
    for name in ("numpy", "onnxruntime", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    command = [sys.executable, str(tmp_path / "agent.py")]
    done = subprocess.run(command, input=json.dumps(request(small)), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["agent"] == 2
