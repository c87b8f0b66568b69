"""How much disk the install takes: clean environments without and with torch, measured by ``du -sm``.

    python benchmarks/install_size.py

Exits with 1 when a floor does not hold. pip itself is not counted: it is not ours. Needs a package index.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import shared

ROOT = Path(__file__).resolve().parent.parent
FLOORS_MB = {"default": (".", 320), "torch": (".[torch]", 1300)}


def installed_mb(folder: Path) -> int:
    """What ``du -sm`` says of a folder."""
    return int(subprocess.run(["du", "-sm", folder], check=True, capture_output=True, text=True).stdout.split()[0])


def install(requirement: str, folder: Path) -> Path:
    """A clean environment with the requirement at the pinned versions; its site-packages."""
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    command = [*pip, "--disable-pip-version-check", "-c", "constraints.txt", requirement]
    subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    return next((folder / "lib").glob("python3*/site-packages"))


def measure(requirement: str, floor: int) -> dict[str, Any]:
    """The size of one install against its floor, and what takes most of it."""
    with tempfile.TemporaryDirectory() as folder:
        site = install(requirement, Path(folder) / "venv")
        parts = {path.name: installed_mb(path) for path in site.iterdir() if path.is_dir()}
        largest = dict(sorted(parts.items(), key=lambda item: -item[1])[:12])
        size = installed_mb(site)
    return {"requirement": requirement, "mb": size, "floor_mb": floor, "holds": size < floor, "largest_mb": largest}


def main() -> None:
    """Measure both installs."""
    results = {}
    for name, (requirement, floor) in FLOORS_MB.items():
        results[name] = found = measure(requirement, floor)
        print(f"{name:8} {found['mb']:>5} MB, floor {floor} MB; largest: {found['largest_mb']}")
    shared.save("install_size", results)
    sys.exit(0 if all(result["holds"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
