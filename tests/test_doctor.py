"""The check-up: what is there is found, what is missing is named with the way to get it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from edgekit import doctor

ROOT = Path(__file__).resolve().parent.parent
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimddp\nCPU part\t: 0xd0b\n\nprocessor\t: 1\nFeatures\t: fp\n"


def distribution(requirement: str) -> str:
    """The name in a requirement: ``onnx-ir>=0.1; extra == 'x'`` -> ``onnx-ir``."""
    return re.split(r"[\s<>=!~;\[(@]", requirement, maxsplit=1)[0].lower()


def checks(folder: Path, *without: str, script: str = "pass") -> dict[str, doctor.Check]:
    """The check-up, by name, of an installation like this one that lacks some distributions."""
    site = folder / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(without):
            (site / entry.name).symlink_to(entry)
    code = (
        "import json; from pathlib import Path; from edgekit import doctor; "
        f"{script}; print(json.dumps([c.to_json() for c in doctor.diagnose(Path('.'))]))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    return {check["name"]: doctor.Check(**check) for check in json.loads(done.stdout)}


def test_all_is_well_here(tmp_path: Path) -> None:
    found = doctor.diagnose(tmp_path)
    assert doctor.exit_code(found) == 0
    assert {check.group for check in found} == {"python", "packages", "runtimes", "cpu", "room"}
    assert [check.found for check in found if check.group == "runtimes" and "ran a model" not in check.found] == []


def test_missing_packages_and_runtimes_are_named(tmp_path: Path) -> None:
    found = checks(tmp_path, "onnxruntime", "ai_edge_litert", "torch", "onnxscript")
    assert doctor.exit_code(tuple(found.values())) == 4
    assert (found["onnxruntime"].status, found["onnxruntime"].fix) == ("missing", "pip install onnxruntime")
    assert (found["litert"].status, found["litert"].fix) == ("missing", "pip install ai-edge-litert")
    assert (found["onnxscript"].status, found["onnxscript"].fix) == ("missing", "pip install onnxscript")
    assert (found["torch"].status, found["torch"].fix) == ("warning", "pip install torch")
    assert "not for .onnx" in found["torch"].found
    assert found["numpy"].status == "ok"


def test_a_runtime_that_is_installed_and_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "onnxruntime.py").write_text("raise ImportError('libonnxruntime.so is not there')")
    found = checks(tmp_path, script="import sys; sys.path.insert(0, 'broken')")
    check = found["onnxruntime"]
    assert (check.status, check.fix) == ("missing", "pip install onnxruntime --force-reinstall")
    assert "libonnxruntime.so is not there" in check.found


def test_cpu_flags(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(ARM)
    assert doctor.cpu_flags(path) == {"fp", "asimd", "evtstrm", "aes", "asimddp"}
    path.write_text("vendor_id : x\nflags : fpu avx2 avx512_vnni\n")
    assert doctor.cpu_flags(path) == {"fpu", "avx2", "avx512_vnni"}
    assert doctor.cpu_flags(tmp_path / "none") == set()


@pytest.mark.parametrize(
    ("machine", "flags", "statuses"),
    [
        ("aarch64", {"asimd", "asimddp"}, ["ok", "ok"]),
        ("aarch64", {"asimd"}, ["ok", "warning"]),
        ("x86_64", {"avx2", "avx_vnni"}, ["ok", "ok"]),
        ("AMD64", {"avx2"}, ["ok", "warning"]),
        ("riscv64", {"v"}, ["warning"]),
        ("x86_64", set(), ["warning"]),
    ],
)
def test_cpu(machine: str, flags: set[str], statuses: list[str]) -> None:
    assert [check.status for check in doctor.cpu_checks(machine, flags)] == statuses


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = {check.name: check for check in doctor.room(tmp_path / "not" / "yet")}
    assert found["disk"].status in ("ok", "warning") and found["folder"].status == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    found = {check.name: check for check in doctor.room(tmp_path)}
    assert (found["folder"].status, found["folder"].fix) == ("missing", "build with --out FOLDER elsewhere")


def test_every_dependency_is_looked_at() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for group in project.get("optional-dependencies", {}).values() for name in group]
    looked_at = {package.name for package in doctor.PACKAGES} | {"onnxruntime", "ai-edge-litert", "tflite-runtime"}
    named = {distribution(requirement) for requirement in project["dependencies"]}
    assert named <= looked_at | {"tomli"}
    assert {package.name for package in doctor.PACKAGES} <= named | {distribution(name) for name in extras}
