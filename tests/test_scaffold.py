"""The first edgekit.toml is valid as it stands, with every comment taken away, and never written over another."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgekit.errors import InputError, OutputError
from edgekit.project import load_project
from edgekit.scaffold import FILE, scaffold
from edgekit.target import load_target


def test_it_is_valid(tmp_path: Path) -> None:
    project = load_project(scaffold(tmp_path))
    assert (project.model.source, project.calibration.data) == ("net.onnx", "calib.npz")
    assert project.calibration.range == "mse"
    assert project.limits("any").float_ops == 0


@pytest.mark.parametrize("value", ['a"b', "a\\b", "é\n\t", "\x7f\x00", "🙂"])
def test_names_are_kept_as_they_are(value: str, tmp_path: Path) -> None:
    project = load_project(scaffold(tmp_path, value, value))
    assert (project.model.source, project.calibration.data) == (value, value)


def test_every_key_in_a_comment_is_valid_too(tmp_path: Path) -> None:
    path = scaffold(tmp_path)
    path.write_text(re.sub(r"(?m)^# (?=\[|\w+ = )", "", path.read_text()))
    project = load_project(path)
    assert project.model.inputs["image"].shape == (1, 3, 224, 224)
    assert project.evaluation.data == "test.npz"
    assert project.limits("raspberry-pi-4-litert").size_bytes == 300_000
    assert project.limits("another").latency_p50_ms == 4.0


def test_the_target_that_it_names_exists(tmp_path: Path) -> None:
    (name,) = set(re.findall(r"raspberry-pi-[\w-]+", scaffold(tmp_path).read_text()))
    load_target(name)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("mine")
    with pytest.raises(InputError, match="exists already; nothing was written"):
        scaffold(tmp_path)
    assert (tmp_path / FILE).read_text() == "mine"


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken: exists already; nothing was written"):
        scaffold(tmp_path / "taken")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        scaffold(tmp_path / "taken" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        scaffold(tmp_path)
