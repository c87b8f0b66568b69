"""Finds ``targets/`` and ``calibration/``: the user's project first, then what edgekit ships.

In a checkout the shipped folders stand beside the package; in a wheel they lie under ``edgekit/_data/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent
Kind = Literal["targets", "calibration"]


def shipped_root() -> Path:
    """The folder that holds the shipped ``targets/`` and ``calibration/``."""
    inside = PACKAGE / "_data"
    return inside if inside.is_dir() else PACKAGE.parent


def roots(kind: Kind, project_dir: Path | None = None) -> tuple[Path, ...]:
    """The folders of that kind in the order in which they are searched; ``project_dir`` defaults to the current one."""
    candidates = ((project_dir or Path.cwd()) / kind, shipped_root() / kind)
    return tuple(dict.fromkeys(folder.resolve() for folder in candidates if folder.is_dir()))


def listing(kind: Kind, project_dir: Path | None = None) -> dict[str, Path]:
    """Every profile or recipe by name, in alphabetical order; a user's own hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in roots(kind, project_dir):
        for path in folder.glob("*.toml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))
