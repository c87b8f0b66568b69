"""Devices over real transports: an interpreter, a real sshd on loopback, and adb against a stand-in.

What goes wrong is real too: killed processes, a full disk, absent runtimes, wrong host keys. Each gives one line.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from command import answer, edgekit
from loopback_sshd import LoopbackSshd, NoSshd, argument_of, await_gone, descendants, kill, loopback_sshd
from onnx import TensorProto, helper
from small_onnx import conv_relu, model, qdq_conv_relu, tensor, weights

from edgekit.device import Device
from edgekit.device_check import DeviceCheck
from edgekit.errors import DeviceError, ModelError
from edgekit.measure import effort, request_for
from edgekit.report import answers
from edgekit.runtimes import open_session
from edgekit.transports.connection import FAR_END, START, Connection, bench_on

ORT = "onnxruntime"
STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(loopback_sshd(tmp_path_factory.mktemp("sshd")))
        except NoSshd as reason:
            pytest.skip(str(reason))
        yield server


@pytest.fixture
def here(tmp_path: Path) -> Device:
    return Device("here", "exec", python=sys.executable, folder=str(tmp_path / "kept"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(qdq_conv_relu())
    return path


def request(path: Path, runtime: str | None = None, **more: Any) -> dict[str, Any]:
    return request_for([path], runtime, 1, "random") | effort(3, 0.0, 1) | {"warmup_seconds": 0} | more


def kept(device: Device) -> list[str]:
    return sorted(path.name for path in Path(device.folder).iterdir()) if Path(device.folder).exists() else []


def failure(device: Device, work: Callable[[Connection], object]) -> str:
    """The one line of the DeviceError that ``work`` on a device ends with."""
    with pytest.raises(DeviceError) as caught, Connection(device) as connection:
        work(connection)
    said = str(caught.value)
    assert caught.value.exit_code == 4 and "\n" not in said and said.startswith(f"device {device.name}: ")
    return said.removeprefix(f"device {device.name}: ")


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do some work beside the block."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


# What every transport does.


@pytest.fixture(params=["local", "exec", "ssh", "adb"])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    kept, python = str(tmp_path / "kept"), sys.executable
    if request.param == "ssh":
        found: LoopbackSshd = request.getfixturevalue("sshd")
        return replace(found.device, folder=kept)
    if request.param == "adb":
        monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
        return Device("phone", "adb", serial="emulator-5554", python=python, folder=kept)
    command = ("env", "EDGEKIT_TEST=it's quoted") if request.param == "exec" else ()
    return Device(request.param, request.param, command=command, python=python, folder=kept)


def test_a_model_gives_the_same_bits_there_as_here(device: Device, small: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 1, 3, 8, 8)).astype(np.float32)
    session = open_session(small, "onnxruntime")
    with Connection(device) as connection, connection.model(small, ORT) as loaded:
        found = [loaded.run({"x": part}) for part in (values[:2], values[2:])]
    there = np.concatenate([outputs["y"] for outputs in found])
    np.testing.assert_array_equal(there, np.stack([session.run({"x": value})["y"] for value in values]))
    assert loaded.runtime_version.startswith("onnxruntime 1.") and loaded.machine["python"]


def test_its_files_are_sent_once(device: Device, small: Path, relu: Path) -> None:
    with Connection(device) as connection:
        answer = connection.ask(request(small))
        connection.put(relu)
    assert set(answer["before"]) == set(answer["after"]) > {"governor", "temperature_c"}
    stats = {path: path.stat() for path in Path(device.folder).iterdir()}
    assert sorted(path.suffix for path in stats) == [".onnx", ".py", ".tflite"]
    with Connection(device) as connection:
        connection.ask(request(relu))
        assert connection.files() == {path.name: stat.st_size for path, stat in sorted(stats.items())}
        assert {path: path.stat().st_ino for path in stats} == {path: stat.st_ino for path, stat in stats.items()}
        connection.clean()
    assert not Path(device.folder).exists()


def test_artifacts_are_compared(here: Device, small: Path, relu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.measure.COMPARED_PROCESSES", 3)
    with bench_on(here) as timer:
        both = timer.compare(relu, small, runs=9, seconds=0.01)
    assert (both.a.runtime, both.b.runtime, both.a.processes) == ("litert", ORT, 3)
    assert both.low <= both.ratio <= both.high and both.b.p50_ms > 0


def test_what_is_damaged_there_is_sent_again(here: Device, small: Path) -> None:
    with Connection(here) as connection:
        connection.ask(request(small))
    for path in Path(here.folder).iterdir():
        path.write_bytes(b"damaged")
    with Connection(here) as connection:
        assert connection.ask(request(small))["artifacts"]


def test_only_the_last_used_files_are_kept(here: Device, small: Path) -> None:
    with Connection(here) as connection:
        connection.ask(request(small))
    mine = kept(here)
    for number in range(20):
        path = Path(here.folder) / f"{number:032x}.onnx"
        path.touch()
        os.utime(path, (number, number))
    with Connection(here):
        assert len(kept(here)) == 16 and set(mine) < set(kept(here)) and f"{19:032x}.onnx" in kept(here)


def test_what_others_keep_in_the_folder_stays(here: Device, small: Path) -> None:
    others = [*(f"photo{number:02}.jpg" for number in range(20)), "film.mp4.part", "notes"]
    for name in others:
        (small.parent / name).touch()
    device = replace(here, folder=str(small.parent))
    with Connection(device) as connection:
        connection.ask(request(small))
        assert len(connection.files()) == 2
        connection.clean()
    assert kept(device) == sorted([*others, small.name])


def test_inputs_come_from_a_file_here(here: Device, small: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 3, 8, 8), np.float32))
    with Connection(here) as connection:
        answer = connection.ask(request(small, inputs=str(tmp_path / "in.npz")))
    assert answer["artifacts"][0]["inputs"] == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}]


def test_a_device_runs_on_its_cpus(here: Device, small: Path) -> None:
    last = max(os.sched_getaffinity(0))
    with Connection(replace(here, cpus=(last,))) as connection:
        assert connection.ask(request(small))["machine"]["cores_allowed"] == 1
    said = failure(replace(here, cpus=(4095,)), lambda connection: connection.ask(request(small)))
    assert said == "cpus [4095] cannot be used here: [Errno 22] Invalid argument"


# A model that cannot be run.


def test_a_bad_model_keeps_its_name(here: Device, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with Connection(here) as connection:
        for work in (
            lambda: connection.ask(request(tmp_path / "bad.onnx")),
            lambda: connection.model(tmp_path / "bad.onnx", "onnxruntime").__enter__(),
        ):
            with pytest.raises(ModelError, match="cannot run it") as caught:
                work()
            assert str(caught.value).startswith(f"{tmp_path / 'bad.onnx'}: onnxruntime 1.")
        assert connection.files()  # it goes on


def test_inputs_that_do_not_fit_are_a_model_error(here: Device, small: Path) -> None:
    wrong = {"x": np.zeros((1, 1, 8, 8, 3), np.float32)}
    refused = pytest.raises(ModelError, match=r"small\.onnx: .* cannot run it")
    with Connection(here) as connection, refused, connection.model(small, ORT) as loaded:
        loaded.run(wrong)


def test_outputs_that_change_their_shape_are_a_model_error(here: Device, tmp_path: Path) -> None:
    path = tmp_path / "nonzero.onnx"
    nodes, found = [helper.make_node("NonZero", ["x"], ["y"])], tensor("y", [1, "N"], TensorProto.INT64)
    path.write_bytes(model(nodes, [tensor("x", [4])], [found]))
    refused = pytest.raises(ModelError, match=r"nonzero\.onnx: its outputs change their shape from sample to sample")
    with Connection(here) as connection, refused, connection.model(path, ORT) as loaded:
        loaded.run({"x": np.array([[1, 0, 0, 0], [1, 1, 0, 0]], np.float32)})


# A device that cannot be used.


def test_a_command_that_is_not_there(here: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(here, command=("no-such-emulator", "-L", "/"))
    assert failure(missing, Connection.files) == "no-such-emulator cannot be started: No such file or directory"
    monkeypatch.setenv("PATH", str(tmp_path))
    for transport, package in (("ssh", "openssh-client"), ("adb", "adb")):
        said = failure(Device("pi", transport, host="pi"), Connection.files)
        assert said == f"{transport} cannot be started: No such file or directory; install it: apt install {package}"


def test_a_command_that_fails_says_why(here: Device) -> None:
    assert failure(replace(here, command=("sh", "-c", "echo no licence >&2; exit 3")), Connection.files) == "no licence"
    assert failure(replace(here, command=("sh", "-c", "exit 3")), Connection.files) == "sh ended with status 3"
    ended = replace(here, command=("sh", "-c", "kill -TERM $$"))
    assert failure(ended, Connection.files) == "the agent was ended by SIGTERM"


def test_a_shell_that_greets_is_not_listened_to(here: Device) -> None:
    with Connection(replace(here, command=("sh", "-c", 'echo "Welcome home!"; exec "$0" "$@"'))) as connection:
        assert connection.files() == {}


def test_a_python_that_is_too_old() -> None:
    old = f"import sys; sys.version_info, sys.version = (2, 7), '2.7.18 (default)'\n{START}"
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Python 3.8 or newer is needed, this is 2.7.18\n")


def test_a_device_that_hangs(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.transports.connection.START_SECONDS", 0.3)
    assert failure(replace(here, command=("sh", "-c", "sleep 30")), Connection.files) == "no answer within 0 s"


def test_a_folder_that_cannot_be_made(here: Device, small: Path) -> None:
    said = failure(replace(here, folder=str(small)), Connection.files)
    assert said == f"{small}: cannot be used: File exists"


def test_an_adb_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    gone = Device("phone", "adb", serial="R58")
    assert failure(gone, Connection.files) == "adb: device 'R58' not found"
    monkeypatch.setenv("PATH", os.environ["PATH"])
    lacking = Device("phone", "adb", python="/no/python3")
    assert "/no/python3" in failure(lacking, Connection.files)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with nothing in it."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def test_a_device_without_numpy_or_runtime(sshd: LoopbackSshd, bare: Path, small: Path, relu: Path) -> None:
    device = replace(sshd.device, python=str(bare), folder=str(small.parent / "kept"))
    said = failure(device, lambda connection: connection.ask(request(small)))
    assert said == "numpy cannot be imported (No module named 'numpy'); install it: pip install numpy"
    site = small.parent / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).glob("numpy*"):
        (site / entry.name).symlink_to(entry)
    device = replace(device, command=("env", f"PYTHONPATH={site}"))
    for path, package in ((small, "onnxruntime"), (relu, "ai-edge-litert")):
        said = failure(device, lambda connection, path=path: connection.ask(request(path)))
        assert said.endswith(f"install it: pip install {package}") and "cannot be imported" in said
    again = replace(device, python=sys.executable, command=())
    with Connection(again) as connection:
        assert connection.ask(request(relu))["artifacts"]


# ssh: who is let in.


def test_a_wrong_host_key(sshd: LoopbackSshd) -> None:
    other = sshd.folder / "other_hosts"
    known, key = (sshd.folder / "known_hosts").read_text().split()[0], (sshd.folder / "other_key.pub").read_text()
    other.write_text(f"{known} {key}")
    said = failure(sshd.changed(f"{sshd.folder}/known_hosts", str(other)), Connection.files)
    assert said == ("the host key of pi is not the known one; if the device was set up anew: ssh-keygen -R pi")
    said = failure(sshd.changed(f"{sshd.folder}/known_hosts", "/dev/null"), Connection.files)
    assert said == "the host key of pi is not known; connect once by hand: ssh pi"
    with Connection(sshd.device) as connection:
        assert connection.hello["python"] == list(sys.version_info[:3])


def test_a_key_that_is_not_accepted(sshd: LoopbackSshd) -> None:
    said = failure(sshd.changed("user_key", "other_key"), Connection.files)
    assert said == "pi accepts none of your keys; give it one: ssh-copy-id pi"


def test_a_host_that_does_not_listen(sshd: LoopbackSshd) -> None:
    assert "Connection refused" in failure(sshd.changed("Port", "Port 1\n #"), Connection.files)
    missing = replace(sshd.device, options=("-F", "/no/config"))
    assert failure(missing, Connection.files) == "Can't open user config file /no/config: No such file or directory"
    assert failure(replace(sshd.device, python="/no/python3"), Connection.files).endswith("No such file or directory")
    assert failure(replace(sshd.device, python="~/no python3"), Connection.files).endswith("No such file or directory")


# What is cut off in the middle leaves nothing behind, and can be done again.


def endless(path: Path) -> dict[str, Any]:
    return request(path, runs=100_000, seconds=20.0, max_seconds=30.0)


def when_timing(sshd: LoopbackSshd) -> list[int]:
    """Wait until the agent is at work; the processes that serve the connection then."""
    return await_found(lambda: running if agents(running := sshd.sessions()) else [])


def when_sending(sshd: LoopbackSshd) -> list[int]:
    """Wait until a file is half sent; the processes that serve the connection then."""
    return await_found(lambda: sshd.sessions() if any(name.endswith(".part") for name in sshd.kept()) else [])


def await_found(find: Callable[[], list[int]]) -> list[int]:
    for _ in range(4000):
        found = find()
        if found:
            return found
        time.sleep(0.005)
    return []


def agents(processes: list[int]) -> list[int]:
    return [process for process in processes if ".py {" in argument_of(process)]


def servers(processes: list[int]) -> list[int]:
    """sshd's own."""
    return [process for process in processes if "sshd" in argument_of(process)]


def far_ends(processes: list[int]) -> list[int]:
    return [process for process in processes if "exec(eval(" in argument_of(process)]


@dataclass
class Killer:
    """Waits for the moment, notes all processes and kills some of them."""

    sshd: LoopbackSshd
    moment: Callable[[LoopbackSshd], list[int]]
    some: Callable[[list[int]], list[int]]
    running: list[int] = field(default_factory=list)

    def __call__(self) -> None:
        self.running = self.moment(self.sshd)
        for process in self.some(self.running):
            kill(process)


def again(sshd: LoopbackSshd, path: Path) -> None:
    """All is well once more, and only whole files are there."""
    assert [name for name in sshd.kept() if name.endswith(".part")] == []
    with Connection(sshd.device) as connection:
        assert connection.ask(request(path))["artifacts"]


def test_a_dropped_connection(sshd: LoopbackSshd, small: Path) -> None:
    drop = Killer(sshd, when_timing, servers)
    with meanwhile(drop):
        said = failure(sshd.device, lambda connection: connection.ask(endless(small)))
    assert said.startswith("Connection to 127.0.0.1 closed") or "lost" in said
    assert len(servers(drop.running)) == 0 < len(drop.running) - 2
    await_gone(drop.running)
    again(sshd, small)


def test_a_connection_that_is_dropped_while_a_file_is_sent(sshd: LoopbackSshd, small: Path, tmp_path: Path) -> None:
    drop = Killer(sshd, when_sending, servers)
    with meanwhile(drop):
        failure(sshd.device, lambda connection: connection.put(large(tmp_path)))
    await_gone(drop.running)
    again(sshd, small)


def test_an_interrupted_command_ends_what_runs_there(sshd: LoopbackSshd, small: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Connection(sshd.device) as connection:
        artifact = {"path": connection.put(small), "runtime": ORT}
        connection._send(connection._agent(endless(small) | {"artifacts": [artifact]}))
        running = when_timing(sshd)
        raise KeyboardInterrupt
    assert agents(running) == [] and len(running) >= 3
    await_gone(running)
    again(sshd, small)


def test_an_interrupted_command_ends_what_runs_here(here: Device, small: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Connection(here) as connection:
        artifact = {"path": connection.put(small), "runtime": ORT}
        connection._send(connection._agent(endless(small) | {"artifacts": [artifact]}))
        await_found(lambda: agents(descendants(os.getpid())))
        found = descendants(os.getpid())
        running = [*far_ends(found), *agents(found)]
        raise KeyboardInterrupt
    assert len(running) == 2
    await_gone(running)
    assert not any(name.endswith(".part") for name in kept(here))


def test_a_far_end_that_hears_nothing_leaves(tmp_path: Path) -> None:
    source = FAR_END.read_text().replace("PATIENCE_SECONDS = 1800", "PATIENCE_SECONDS = 1")
    first = ascii(f"{source}\nserve({str(tmp_path)!r})").encode() + b"\n"
    command = [sys.executable, "-c", START]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(first)
        assert b"folder" in process.stdout.readline()
        assert process.wait(10) == -signal.SIGALRM


def test_a_killed_agent(sshd: LoopbackSshd, small: Path) -> None:
    with meanwhile(Killer(sshd, when_timing, agents)):
        said = failure(sshd.device, lambda connection: connection.ask(endless(small)))
    assert said == f"{small}: the process was ended by SIGKILL, as it is when memory runs out"
    again(sshd, small)


def test_a_killed_far_end(sshd: LoopbackSshd, small: Path, tmp_path: Path) -> None:
    end = Killer(sshd, when_timing, far_ends)
    with meanwhile(end):
        said = failure(sshd.device, lambda connection: connection.ask(endless(small)))
    assert said == "the connection to pi was lost, or the agent there was killed"
    await_gone(end.running)
    with meanwhile(Killer(sshd, when_sending, far_ends)):
        failure(sshd.device, lambda connection: connection.put(large(tmp_path)))
    again(sshd, small)


def test_a_killed_command_leaves_nothing(sshd: LoopbackSshd, project: Path, small: Path) -> None:
    """SIGKILL leaves edgekit no chance to clean up; what it started ends all the same."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgekit", "bench", small, "--device", "pi", "--config", project, "--seconds", "60"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as command:
        running = [*when_timing(sshd), *descendants(command.pid)]
        command.kill()
    assert len(running) >= 4
    await_gone(running)
    again(sshd, small)


def test_two_commands_use_one_device_at_once(sshd: LoopbackSshd, relu: Path, tmp_path: Path) -> None:
    device = replace(sshd.device, folder=str(tmp_path / "shared"))
    path = tmp_path / "wide.onnx"
    path.write_bytes(wide())
    with ThreadPoolExecutor(4) as pool:

        def use(_: int) -> int:
            with Connection(device) as connection:
                return len(connection.ask(request(path))["artifacts"]) + len(connection.ask(request(relu))["artifacts"])

        assert list(pool.map(use, range(4))) == [2, 2, 2, 2]
    assert sorted(Path(name).suffix for name in kept(device)) == [".onnx", ".py", ".tflite"]


def test_a_folder_that_cannot_be_written(sshd: LoopbackSshd, small: Path, tmp_path: Path) -> None:
    """A read-only file system, as a device's may be; root may write into any other folder."""
    folder = tmp_path / "read only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here, so none can be read-only")
    try:
        below = replace(sshd.device, folder=str(folder / "kept"))
        said = f"{folder}/kept: cannot be used: Read-only file system"
        assert failure(below, lambda connection: connection.ask(request(small))) == said
        itself = replace(sshd.device, folder=str(folder))
        said = failure(itself, lambda connection: connection.ask(request(small)))
        assert said.startswith(f"{folder}/") and said.endswith("cannot be written: Read-only file system")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_paths_may_hold_spaces_quotes_and_any_letter(device: Device, tmp_path: Path) -> None:
    folder = tmp_path / 'Gerät n° 1\'s "own" $HOME'
    folder.mkdir()
    path = folder / "größe 模型.onnx"
    path.write_bytes(qdq_conv_relu())
    there = replace(device, folder=str(folder / "kept here"))
    with Connection(there) as connection:
        assert connection.ask(request(path))["artifacts"]
        assert len(connection.files()) == 2
    bad = folder / "schlecht é.onnx"
    bad.write_bytes(b"not a model")
    with Connection(there) as connection, pytest.raises(ModelError) as caught:
        connection.ask(request(bad))
    assert str(caught.value).startswith(f"{bad}: ")


def test_a_clock_that_is_wrong_does_not_matter(here: Device, small: Path) -> None:
    """A board without a battery starts in 1970; files are told apart by what they hold."""
    with Connection(here) as connection:
        connection.ask(request(small))
    for path in Path(here.folder).iterdir():
        os.utime(path, (0, 0))
    names = kept(here)
    with Connection(here) as connection:
        assert connection.ask(request(small))["artifacts"]
    assert kept(here) == names


def test_outputs_of_many_megabytes_come_back(sshd: LoopbackSshd, tmp_path: Path) -> None:
    path = tmp_path / "expand.onnx"
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [4096, 1024])
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"])]
    path.write_bytes(model(nodes, [tensor("x", [1, 1024])], [tensor("y", [4096, 1024])], [shape]))
    value = np.arange(4096, dtype=np.float32).reshape(4, 1, 1024)
    with Connection(sshd.device) as connection, connection.model(path, ORT) as loaded:
        found = loaded.run({"x": value})["y"]
    assert found.shape == (4, 4096, 1024) and np.array_equal(found, np.broadcast_to(value, found.shape))


def large(folder: Path) -> Path:
    path = folder / "large.onnx"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    return path


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for the agent and no more."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here, so none can be filled")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(sshd: LoopbackSshd, full: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    path.write_bytes(wide())
    device = replace(sshd.device, folder=str(full / "kept"))
    said = failure(device, lambda connection: connection.ask(request(path, "onnxruntime")))
    assert said.startswith(device.folder) and said.endswith(".onnx: cannot be written: No space left on device")
    assert [name for name in kept(device) if not name.endswith(".py")] == []
    subprocess.run(["mount", "-o", "remount,size=8m", str(full)], check=True)
    with Connection(device) as connection:
        assert connection.ask(request(path))["artifacts"]


def wide() -> bytes:
    """A model of 256 KB."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, [tensor("x", [1, 256])], [tensor("y", [1, 256])], [weights("w", 256, 256)])


# The commands.


@pytest.fixture
def project(sshd: LoopbackSshd, tmp_path: Path) -> Path:
    path = tmp_path / "edgekit.toml"
    options = ", ".join(f'"{word}"' for word in sshd.device.options)
    path.write_text(
        f'[devices.pi]\ntransport = "ssh"\nhost = "pi"\noptions = [{options}]\n'
        f'python = "{sys.executable}"\nfolder = "{tmp_path}/kept"\n'
        f'[devices.gone]\ntransport = "exec"\ncommand = ["no-such-emulator"]\n'
    )
    return path


def test_bench_on_a_device(project: Path, small: Path) -> None:
    quick = ("--config", project, "--runs", "5", "--seconds", "0.01")
    result = edgekit("bench", small, "--device", "pi", *quick)
    assert result.exit_code == 0 and "p50" in result.output, result.output
    result = edgekit("bench", small, "--device", "gone", *quick)
    assert result.exit_code == 4
    assert result.output == "error: device gone: no-such-emulator cannot be started: No such file or directory\n"
    result = edgekit("bench", small, "--device", "pie", *quick)
    assert result.exit_code == 2 and "did you mean pi?" in result.output


def flat(result: Result) -> str:
    """What was printed, however it was wrapped."""
    return " ".join(result.output.split())


def test_doctor_on_a_device(project: Path, bare: Path, tmp_path: Path) -> None:
    result = edgekit("doctor", "--device", "pi", "--config", project)
    assert result.exit_code == 0 and result.output.count("ran a model") == 2, result.output
    assert "pi can run and time artifacts" in result.output
    assert (tmp_path / "kept").exists()
    result = edgekit("doctor", "--device", "pi", "--config", project, "--clean")
    assert result.exit_code == 0 and "removed" in result.output and not (tmp_path / "kept").exists()
    result = edgekit("doctor", "--device", "gone", "--config", project)
    assert result.exit_code == 4 and "cannot be started" in result.output
    project.write_text(project.read_text().replace(sys.executable, str(bare)))
    result = edgekit("doctor", "--device", "pi", "--config", project)
    assert result.exit_code == 4 and f"on pi: {bare} -m pip install numpy" in flat(result)
    assert f"on pi: {bare} -m pip install ai-edge-litert" in flat(result)
    assert edgekit("doctor", "--clean").exit_code == 2


def test_verify_on_a_device(project: Path, tmp_path: Path) -> None:
    source, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    source.write_bytes(conv_relu())
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.normal(size=(9, 3, 8, 8)).astype(np.float32), labels=rng.integers(0, 256, 9))
    built = edgekit("build", source, "-t", "linux-x86_64-litert", "--calibration", data, "--out", tmp_path / "b", "-q")
    assert built.exit_code == 0, built.output
    artifact = tmp_path / "b" / "linux-x86_64-litert" / "model.tflite"
    flags = ("--model", source, "--data", data, "--config", project, "--device", "pi", "-q")
    result = edgekit("verify", artifact, *flags)
    assert result.exit_code == 0 and "the same bits in all 2,304 outputs of 9 samples" in flat(result), result.output
    found = answer("verify", artifact, *flags, "--metric", f"{metric(tmp_path)}:best")
    assert found["device"]["equal"] == found["device"]["values"] == 9 * 4 * 8 * 8
    assert found["device"]["value"] == found["evaluation"]["artifact_value"] > 0


def test_what_differs_on_a_device_is_counted() -> None:
    found = DeviceCheck("pi", {"architecture": "armv7l"}, "tflite-runtime 2.14.0", 10, 100, 97, 2.0, 0.875)
    where, differs = "on pi (armv7l, tflite-runtime 2.14.0)", "3 of 100 outputs of 10 samples differ, by 2 at most"
    assert answers.on_device(found) == f"{where}: {differs}; the metric is 0.8750 there"


def metric(folder: Path) -> str:
    """A module with a metric that is not the same for any two sets of outputs."""
    said = "import numpy as np\ndef best(found): return float(np.mean([o['y'].max() for o, _ in found]))\n"
    (folder / "own_metric.py").write_text(said)
    return "own_metric"
