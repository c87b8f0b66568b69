"""``package.module:attribute`` -> the object, found from the project's folder and the current one too."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path
from types import TracebackType
from typing import Any

from edgekit.errors import EdgekitError, InputError

SHOWN = 10


def load_named(name: str, folder: Path, what: str, error: type[InputError] = InputError) -> Any:
    """The attribute of a module. ``what`` names its role in messages, such as ``"calibration data"``.

    Raises ``error`` when there is no such module or attribute, or the module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    with _importable(folder):
        _forget_namesake(module_name)
        try:
            with ForeignCode(f"{what} {name}", error, (ImportError, SyntaxError)):
                module = importlib.import_module(module_name)
        except ModuleNotFoundError as missing:
            raise error(f"{what} {name}: no module {missing.name!r} (looked in {folder.resolve()} too)") from None
        except (ImportError, SyntaxError) as broken:
            raise error(f"{what} {name}: {module_name} cannot be imported: {broken}") from None
    if not attribute or not hasattr(module, attribute):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        public = ", ".join(get_close_matches(attribute, own) or [key for key in own if not key.startswith("_")][:SHOWN])
        missing_name = f"has no {attribute!r}" if attribute else "is named without an attribute"
        raise error(f"{what} {name}: {module_name} {missing_name}; it has {public or 'nothing'}")
    return getattr(module, attribute)


@dataclass(frozen=True)
class ForeignCode:
    """Runs what is not edgekit's: what it raises, but ``passed``, becomes an ``error`` that names the first cause."""

    what: str
    error: type[InputError]
    passed: tuple[type[Exception], ...] = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, raised: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(raised, (Exception, SystemExit)) and not isinstance(raised, (EdgekitError, *self.passed)):
            root: BaseException = raised
            while root.__cause__ is not None:
                root = root.__cause__
            said = next((line.strip() for line in str(root).splitlines() if line.strip()), "")[:300]
            where = _where(root.__traceback__) or _where(trace)
            raise self.error(f"{self.what}: {type(root).__name__}{': ' * bool(said)}{said}{where}") from raised


def _where(trace: TracebackType | None) -> str:
    """The innermost line of code that is neither edgekit's nor a library's."""
    own = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith((own, "<"))]
    frames = [frame for frame in frames if not _library(frame.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _library(filename: str) -> bool:
    return "site-packages" in filename or Path(filename).is_relative_to(Path(traceback.__file__).parent)


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
