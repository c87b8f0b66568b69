"""``package.module:attribute`` -> the object, found from the project's folder and the current one too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from edgekit.errors import InputError


def load_named(name: str, folder: Path, what: str, error: type[InputError] = InputError) -> Any:
    """The attribute of a module. ``what`` names its role in messages, such as ``"calibration data"``.

    Raises ``error`` when there is no such module or attribute, or the module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    with _importable(folder):
        _forget_namesake(module_name)
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as missing:
            raise error(f"{what} {name}: no module {missing.name!r} (looked in {folder.resolve()} too)") from None
        except (ImportError, SyntaxError) as broken:
            raise error(f"{what} {name}: {module_name} cannot be imported: {broken}") from None
    if not attribute or not hasattr(module, attribute):
        public = ", ".join(key for key in vars(module) if not key.startswith("_"))
        raise error(
            f"{what} {name}: {module_name} has no {attribute or 'attribute named'!r}; it has {public or 'nothing'}"
        )
    return getattr(module, attribute)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Puts the project's folder and the current one first on the import path for a while."""
    added = [str(folder.resolve()), str(Path.cwd())]
    sys.path[:0] = added
    try:
        yield
    finally:
        for entry in added:
            sys.path.remove(entry)


def _forget_namesake(module_name: str) -> None:
    """Two projects may each have a ``data.py``: forget one that was imported from elsewhere."""
    top = module_name.partition(".")[0]
    loaded = getattr(sys.modules.get(top), "__file__", None)
    spec = PathFinder.find_spec(top, sys.path[:2])
    if loaded and spec and spec.origin and Path(spec.origin) != Path(loaded):
        for key in [key for key in sys.modules if key == top or key.startswith(top + ".")]:
            del sys.modules[key]
