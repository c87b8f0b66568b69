"""Files are whole or not there, also when the process is killed, and a stage's cache never gives what is damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import ROOT

from edgekit.errors import OutputError
from edgekit.output import Cache, prepare_folder, write

SIZE = 1 << 23
WRITES = f"""
import sys
from pathlib import Path
from edgekit.output import write
while True:
    for letter in (b"a", b"b"):
        write(Path(sys.argv[1]), letter * {SIZE})
"""
DIES = """
import os, signal, sys
from pathlib import Path
from edgekit import output
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
output.write(Path(sys.argv[1]), b"new")
"""


def start(code: str, *arguments: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment)


def test_write_and_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert write(path, "ü\n") == path and path.read_bytes() == "ü\n".encode()
    assert write(path, b"\0\1").read_bytes() == b"\0\1"
    assert os.listdir(tmp_path) == ["plan.json"]


@pytest.mark.parametrize("path", ["", "."])
def test_a_path_without_a_name_is_a_folder(path: str) -> None:
    with pytest.raises(OutputError, match=r"^\.: cannot be written: Is a directory$"):
        write(Path(path), b"")


def test_a_kill_just_before_the_end_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", b"old")
    assert start(DIES, path).wait(30) == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert write(path, b"new").read_bytes() == b"new"


@pytest.mark.parametrize("wait", [0.0, 0.007, 0.019])
def test_a_kill_at_any_time_leaves_a_whole_file(tmp_path: Path, wait: float) -> None:
    path = tmp_path / "model.tflite"
    with start(WRITES, path) as child:
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(wait)
        child.kill()
    data = path.read_bytes()
    assert data in (b"a" * SIZE, b"b" * SIZE)


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(OutputError, match=r"model\.onnx: cannot be written: Is a directory"):
        write(tmp_path / "model.onnx", b"data")
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        write(tmp_path / "nowhere" / "plan.json", b"data")
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_folder_is_made_and_tried(tmp_path: Path) -> None:
    folder = prepare_folder(tmp_path / "a" / "b")
    assert folder.is_dir() and os.listdir(folder) == []
    write(tmp_path / "file", b"")
    with pytest.raises(OutputError, match=r"output folder .*file/build: cannot be written: Not a directory"):
        prepare_folder(tmp_path / "file" / "build")


class Stage:
    """Work that counts how often it is done."""

    def __init__(self, result: Any) -> None:
        self.result, self.done = result, 0

    def __call__(self) -> Any:
        self.done += 1
        return self.result


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    stage = Stage({"x": (-1.0, 0.1)})
    found = [Cache(tmp_path / "cache").get("ranges", ["model", {"b": 1, "a": 2}], stage) for _ in range(2)]
    assert found == [({"x": [-1.0, 0.1]}, False), ({"x": [-1.0, 0.1]}, True)] and stage.done == 1
    assert Cache(tmp_path / "cache").get("ranges", ["model", {"a": 2, "b": 1}], stage)[1]


@pytest.mark.parametrize(("stage", "depends_on"), [("ranges", ["m", 2]), ("ranges", ["m", "1"]), ("weights", ["m", 1])])
def test_another_stage_or_another_input_is_not_there(tmp_path: Path, stage: str, depends_on: list[Any]) -> None:
    cache = Cache(tmp_path)
    cache.get("ranges", ["m", 1], Stage("old"))
    assert cache.get(stage, depends_on, Stage("new")) == ("new", False)
    assert cache.get("ranges", ["m", 1], Stage("never")) == ("old", True)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"x": [1, 2', b"\xff\xfe\x00"], ids=["empty", "cut", "half", "binary"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    cache, stage = Cache(tmp_path), Stage({"x": [1, 2]})
    cache.get("ranges", 1, stage)
    entry = next(tmp_path.glob("ranges-*.json"))
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    assert cache.get("ranges", 1, stage) == ({"x": [1, 2]}, False)
    assert stage.done == 2 and entry.read_bytes() == whole
    assert cache.get("ranges", 1, stage)[1]


def test_work_that_fails_is_not_remembered(tmp_path: Path) -> None:
    def fails() -> Any:
        raise ValueError("no samples")

    with pytest.raises(ValueError, match="no samples"):
        Cache(tmp_path / "cache").get("ranges", 1, fails)
    assert not (tmp_path / "cache").exists()
    assert Cache(tmp_path / "cache").get("ranges", 1, Stage(5)) == (5, False)
