"""Calibration recipes: ``calibration/NAME.toml`` says which data, which preprocessing and which ranges go together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ConfigError
from edgekit.inputs import InputConfig, read_input
from edgekit.resources import listing, roots
from edgekit.toml_table import Table, near_misses, read_toml

RANGES = ("minmax", "moving-average", "percentile", "entropy", "mse", "auto")


@dataclass(frozen=True)
class Recipe:
    """One recipe. ``data`` is a file or folder in a ``calibration/`` folder; ``supply`` says how to make one that is
    not shipped, ``missing`` that it is not there yet.
    """

    name: str
    description: str
    data: str
    samples: int | None
    range: str | None
    percentile: float | None
    supply: str
    missing: bool
    preprocessing: InputConfig


def list_recipes(project_dir: Path | None = None) -> tuple[str, ...]:
    """The names of every recipe: those of the project and those shipped."""
    return tuple(listing("calibration", project_dir))


def load_recipe(name: str, project_dir: Path | None = None) -> Recipe:
    """The recipe of that name. Raises ConfigError with near misses when there is none or it cannot be used."""
    recipes = listing("calibration", project_dir)
    if name not in recipes:
        hint = near_misses(name, recipes) or f"; known: {', '.join(recipes)}"
        raise ConfigError(f"unknown calibration recipe {name!r}{hint}")
    path = recipes[name]
    table = Table(read_toml(path), f"{path.parent.name}/{path.name}")
    description, data = table.text("description"), table.text("data")
    if description is None or data is None:
        raise table.need("description" if description is None else "data")
    found = [str(folder / data) for folder in roots("calibration", project_dir) if (folder / data).exists()]
    preprocessing = table.table("preprocessing")
    recipe = Recipe(
        name=name,
        description=description,
        data=found[0] if found else str((project_dir or Path()) / "calibration" / data),
        samples=table.integer("samples", least=1),
        range=table.choice("range", RANGES),
        percentile=table.number("percentile", least=50.0, most=100.0),
        supply=table.text("supply") or "",
        missing=not found,
        preprocessing=read_input(preprocessing, shape=False) if preprocessing else InputConfig(),
    )
    table.close()
    return recipe
