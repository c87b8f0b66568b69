"""A runtime's own benchmark binary on a device, through adb: stand-ins for adb and the binaries, named as such."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import answer, edgekit
from nets import cnn
from small_onnx import qdq_conv_relu

from edgekit.build import build
from edgekit.device import Device
from edgekit.device_doctor import diagnose
from edgekit.errors import DeviceError, EdgekitError, InputError
from edgekit.frontends import load_graph
from edgekit.project import load_project
from edgekit.target import load_target
from edgekit.timing import Timer
from edgekit.transports.benchmark import BinaryBench
from edgekit.transports.connection import Connection, bench_on

STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    binary = tmp_path / "binaries of mine" / "benchmark_model"
    binary.parent.mkdir()
    shutil.copy(STAND_IN / "benchmark_model", binary)
    shutil.copy(STAND_IN / "onnxruntime_perf_test", binary.parent)
    return Device("phone", "adb", benchmark=str(binary), folder=str(tmp_path / "kept here"))


def perf_test(phone: Device) -> Device:
    return replace(phone, benchmark=str(Path(phone.benchmark).with_name("onnxruntime_perf_test")))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(qdq_conv_relu())
    return path


def failure(work: Callable[[], object], kind: type[EdgekitError] = DeviceError) -> str:
    with pytest.raises(kind) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("device phone: ")


def test_what_litert_prints_is_read(phone: Device, relu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # nproc would heed it
    with bench_on(phone) as timer:
        found = timer.measure(relu, runs=50, seconds=0.5)
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == (42.419, None, None)
    assert [found.mean_ms, found.min_ms, found.stdev_ms] == pytest.approx([42.3948, 41.938, 0.188])
    assert (found.load_ms, found.first_run_ms) == (207.799, 90.71) and found.cold_start_ms == pytest.approx(298.509)
    assert (found.runs, found.warmup_runs, found.processes) == (50, 55, 5)
    assert (found.peak_memory_bytes, found.model_memory_bytes) == (None, round(26.5 * 2**20))
    assert (found.runtime, found.runtime_version) == ("litert", "benchmark_model")
    assert found.machine["architecture"] == os.uname().machine and found.machine["cores"] == os.cpu_count()
    assert found.before["load_average"] is not None and set(found.before) == set(found.after)


def test_what_onnxruntime_prints_is_read(phone: Device, small: Path) -> None:
    with bench_on(perf_test(phone)) as timer:
        found = timer.measure(small, runs=50)
        assert timer.shares([small, small]) == [1.0, 1.0]
    assert [found.p50_ms, found.p90_ms, found.p99_ms] == pytest.approx([99.5086, 101.019, 101.519])
    assert found.mean_ms == pytest.approx(98.961997) and found.stdev_ms is None
    assert (found.load_ms, found.first_run_ms) == (217.932, 196.0) and found.peak_memory_bytes == 271122432


def test_two_are_compared_in_turns(phone: Device, relu: Path) -> None:
    with bench_on(phone) as timer:
        both = timer.compare(relu, relu, runs=9)
    assert (both.ratio, both.low, both.high, both.a.processes) == (1.0, 1.0, 1.0, 9)


def test_everything_goes_through_the_command_of_the_device(phone: Device, relu: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f'echo "$1" >> {said}; "$@"'
    box = replace(phone, transport="exec", command=("sh", "-c", script, "-"), cpus=(0,))
    assert BinaryBench(device=box).glance(relu).machine["cores_allowed"] == 1
    assert set(said.read_text().split()) == {"sh", "taskset"}


def test_a_file_is_sent_once_and_removed(phone: Device, relu: Path) -> None:
    bench = BinaryBench(device=phone)
    bench.glance(relu)
    (kept,) = Path(phone.folder).iterdir()
    before = kept.stat()
    bench.glance(relu)
    assert kept.stat().st_ino == before.st_ino and kept.read_bytes() == relu.read_bytes()
    kept.write_bytes(b"damaged")
    bench.glance(relu)
    assert kept.read_bytes() == relu.read_bytes()
    (kept.parent / "mine.tflite").touch()
    bench.clean()
    assert [path.name for path in kept.parent.iterdir()] == ["mine.tflite"]


def test_what_goes_wrong_is_one_line(phone: Device, relu: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = phone.benchmark
    assert failure(lambda: BinaryBench(device=phone).measure(small), InputError) == (
        f"{small}: {binary} is of litert, the file is for onnxruntime"
    )
    assert failure(lambda: BinaryBench(device=phone).measure(relu, inputs="zeros"), InputError) == (
        f"zeros: {binary} takes random inputs only"
    )
    said = failure(lambda: BinaryBench(device=phone).compare(relu, relu, inputs="zeros"), InputError)
    assert said == f"zeros: {binary} takes random inputs only"
    assert failure(lambda: Connection(phone)) == (
        f"{binary} only times models; whatever needs their outputs takes a Python there"
    )
    bad = relu.with_name("bad.tflite")
    bad.write_bytes(b"....TFL3, and cannot be loaded")
    assert "ERROR: Failed to load model" in failure(lambda: BinaryBench(device=phone).measure(bad))
    gone = replace(phone, benchmark="/no/benchmark_model")
    assert "/no/benchmark_model" in failure(lambda: BinaryBench(device=gone).measure(relu))
    other = replace(phone, serial="R58")
    assert failure(lambda: BinaryBench(device=other).measure(relu)) == "adb: device 'R58' not found"
    mute = replace(phone, benchmark="true")
    said = "what it prints has no 'count=': nothing"
    assert failure(lambda: BinaryBench(device=mute).measure(relu)) == f"true: {said}"
    monkeypatch.setenv("OLD_RELEASE", "1")
    said = "it prints no median; take the benchmark_model of a newer release"
    assert failure(lambda: BinaryBench(device=phone).measure(relu)) == f"{binary}: {said}"
    monkeypatch.setattr("edgekit.transports.benchmark.SECONDS", 0.1)
    slow = replace(phone, transport="exec", benchmark="x")
    monkeypatch.setattr("edgekit.transports.benchmark.FOLDER", "sleep 9")
    assert failure(lambda: BinaryBench(device=slow).measure(relu)) == "no answer within 0 s"
    monkeypatch.setenv("PATH", "/nowhere")
    said = "adb cannot be started: No such file or directory; install it: apt install adb"
    assert failure(lambda: BinaryBench(device=phone).measure(relu)) == said


TELLS = """#!/bin/sh
cat <<END
count=3 avg=5 {0}
count=3 median={1} avg={1} std=1 min={1}
Inference timings in us: Init: {1}, First inference: {1}
END
"""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (TELLS.format("", 0), "it tells a median of 0"),
        (TELLS.format("", "."), "it prints no median; take the benchmark_model of a newer release"),
        (TELLS.format("", 5).replace("min=", "least="), "what it prints has no 'min'"),
        ("#!/bin/sh\necho Runs:3\necho P50 Latency: fast", "what it prints has no 'count=': P50 Latency: fast"),
    ],
)
def test_what_cannot_be_read_is_one_line(phone: Device, relu: Path, script: str, said: str) -> None:
    Path(phone.benchmark).write_text(script)
    assert failure(lambda: BinaryBench(device=phone).glance(relu)) == f"{phone.benchmark}: {said}"


def test_short_times_have_an_exponent(phone: Device, small: Path) -> None:
    binary = Path(perf_test(phone).benchmark)
    binary.write_text(binary.read_text().replace("P50 Latency: 0.0995086", "P50 Latency: 2.75e-05"))
    assert BinaryBench(device=perf_test(phone)).glance(small).p50_ms == pytest.approx(0.0275)


def test_the_commands(phone: Device, tmp_path: Path, relu: Path) -> None:
    cnn(tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(0, 1, (8, 3, 8, 8)).astype(np.float32))
    config = tmp_path / "edgekit.toml"
    config.write_text(
        '[model]\nsource = "net.onnx"\n[calibration]\ndata = "data.npy"\nrounding = "nearest"\n'
        f'[devices.phone]\ntransport = "adb"\nbenchmark = "{phone.benchmark}"\nfolder = "{phone.folder}"\n'
    )
    named = ("--config", config, "--device", "phone")
    bench = edgekit("bench", relu, *named)
    assert bench.exit_code == 0 and "42.4 ms" in bench.output and "benchmark_model" in bench.output, bench.output
    build = ("build", "-t", "android-arm64-litert", "--out", tmp_path / "b", *named)
    (report,) = answer(*build)["reports"]
    assert (report["latency"]["p50_ms"], report["latency"]["p90_ms"], report["device"]) == (42.419, None, "phone")
    assert (tmp_path / "b" / "android-arm64-litert" / "report.html").is_file()
    with config.open("a") as file:
        file.write('[gates]\nlatency_p90 = "50 ms"\n')
    refused = edgekit(*build)
    assert refused.exit_code == 2 and "edgekit.toml:gates.latency_p90: " in refused.output, refused.output
    assert "prints a median only; take latency_p50, or a device with a Python" in " ".join(refused.output.split())
    artifact, data = tmp_path / "b" / "android-arm64-litert" / "model.tflite", tmp_path / "data.npy"
    verify = edgekit("verify", artifact, "--model", tmp_path / "net.onnx", "--data", data, *named)
    assert verify.exit_code == 4 and "only times models" in verify.output, verify.output
    doctor = edgekit("doctor", *named, "--clean")
    assert doctor.exit_code == 0 and "timed a model" in doctor.output, doctor.output
    assert not Path(phone.folder).exists()
    config.write_text(config.read_text().replace("/benchmark_model", "/no_such_model"))
    assert edgekit("doctor", *named).exit_code == 4


@pytest.mark.parametrize("benchmark", ["", "/data/local/tmp/benchmark_model"])
def test_doctor_says_how_to_get_what_reaches_a_device(benchmark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (check,) = diagnose(Device("phone", "adb", benchmark=benchmark))
    assert (check.found, check.fix) == ("adb cannot be started: No such file or directory", "apt install adb")


def test_whatever_a_build_times_it_times_on_the_device(phone: Device, tmp_path: Path) -> None:
    """The stand-in always says 42.419 ms, which no short look at this machine would."""
    cnn(tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=rng.integers(0, 2, 8))
    config = tmp_path / "edgekit.toml"
    config.write_text(
        '[model]\nsource = "net.onnx"\n[calibration]\ndata = "data.npz"\nmethod = "auto"\n[gates]\nsnr = 1\n'
        '[[compress]]\nmethod = "cluster"\nclusters = 16\nkeep_if = "latency"\n'
    )
    project, target = load_project(config), load_target("android-arm64-litert")
    (report,) = build(project, [target.name], tmp_path / "b", device=phone)
    assert {rung.p50_ms for rung in report.rungs} == {42.419} and report.device == "phone"
    assert report.compression[0].facts == {**report.compression[0].facts, f"latency {target.name}": 1.0, "kept": False}
    graph = load_graph(str(tmp_path / "net.onnx"), None, {}, tmp_path, ())
    assert Timer({target: "int8"}, device=phone)([graph, graph]) == [1.0, 1.0]
