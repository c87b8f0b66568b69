"""What a user installs: sdist -> wheel from it -> a clean environment that loads every profile and recipe.

The environment sees this one's third-party packages through a ``.pth`` file, so that nothing is downloaded twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from edgekit import __version__
from edgekit.recipe import list_recipes
from edgekit.target import list_targets

ROOT = Path(__file__).resolve().parent.parent
CHECK = """
import json, pathlib, edgekit
from edgekit.project import Project
from edgekit.recipe import list_recipes, load_recipe
from edgekit.samples import open_calibration
from edgekit.target import list_targets, load_target
project = Project.from_flags("net.onnx", None, {"calibration.recipe": "digits"})
print(json.dumps({
    "file": edgekit.__file__,
    "version": edgekit.__version__,
    "targets": [load_target(name).name for name in list_targets()],
    "recipes": [load_recipe(name).name for name in list_recipes()],
    "samples": len(list(open_calibration(project, {"x": (1, 1, 8, 8)}))),
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / f"edgekit-{__version__}"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, away from any checkout."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    site = next((folder / "lib").glob("python3*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_sdist_carries_what_the_wheel_is_made_of(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "edgekit/__init__.py",
        "edgekit/py.typed",
        "calibration/digits.npz",
    }
    assert names >= wanted | {f"targets/{name}.toml" for name in list_targets(ROOT)}
    assert not [name for name in names if name.startswith(("tests", ".venv", "build/"))]


def test_the_wheel_holds_profiles_and_recipes(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {f"edgekit/_data/targets/{path.name}" for path in (ROOT / "targets").glob("*.toml")}
    assert names >= {f"edgekit/_data/calibration/{path.name}" for path in (ROOT / "calibration").iterdir()}
    data = {name for name in names if not name.endswith(".py")}
    assert data >= {f"edgekit/{path.relative_to(ROOT / 'edgekit').as_posix()}" for path in data_files()}
    assert not [name for name in names if name.startswith(("targets", "calibration", "tests"))]


def data_files() -> list[Path]:
    """Files of the package that are not code, as far as git knows them."""
    listed = run("git", "ls-files", "edgekit", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    return [ROOT / name for name in listed if not name.endswith(".py")]


def test_a_clean_install_loads_every_profile_and_recipe(installed: Path, tmp_path: Path) -> None:
    found = json.loads(run(installed / "python", "-c", CHECK, cwd=tmp_path))
    assert found["file"].startswith(str(installed.parent))
    assert found["version"] == __version__
    assert found["targets"] == list(list_targets(ROOT))
    assert found["recipes"] == list(list_recipes(ROOT))
    assert found["samples"] == 100


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    assert __version__ in run(installed / "edgekit", "--version", cwd=tmp_path)
    listed = json.loads(run(installed / "edgekit", "targets", "--json", cwd=tmp_path))
    assert "raspberry-pi-4-litert" in json.dumps(listed)


def test_torch_is_pinned_without_a_local_version() -> None:
    """A local version such as +cpu would bind the project to one index; none at all would let pip take CUDA builds."""
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    assert "torch" in pins
    assert not [pin for pin in pins.values() if "+" in pin]
    assert not [name for name in pins if name.startswith(("nvidia", "triton"))]
