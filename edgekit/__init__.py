"""edgekit: trained network in, smallest and fastest artifact that passes its gates out, with proof.

The public names are imported when first used, so that ``import edgekit`` costs nothing. A stage whose function has the
name of its module (build, verify, measure, audit) is imported from there: ``from edgekit.build import build``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Contract": "edgekit.contract",
    "EdgekitError": "edgekit.errors",
    "Project": "edgekit.project",
    "Samples": "edgekit.samples",
    "Target": "edgekit.target",
    "from_torch": "edgekit.compress.module",
    "list_targets": "edgekit.target",
    "load_graph": "edgekit.frontends",
    "load_project": "edgekit.project",
    "load_target": "edgekit.target",
    "open_samples": "edgekit.samples",
    "to_torch": "edgekit.compress.module",
}

__all__ = ["__version__"]
__all__ += list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
