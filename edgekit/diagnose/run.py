"""What ``edgekit diagnose`` does: build one target's artifact as ``edgekit build`` would, and find out what it lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.build import prepared
from edgekit.diagnose.built import of_built
from edgekit.diagnose.diagnosis import Diagnosis
from edgekit.progress import Progress
from edgekit.project import Project


@dataclass(frozen=True)
class Diagnosed:
    """What was found of one artifact."""

    source: str
    target: str
    artifact: str
    diagnosis: Diagnosis


def run(project: Project, target: str, out: Path, progress: Progress) -> Diagnosed:
    """Build (what is in the cache of ``out`` is reused), verify and diagnose.

    Raises EdgekitError as ``build`` does.
    """
    made = prepared(project, [target], out, progress)
    (built,) = made.work.built(made.lifted)
    built.keep()
    found = of_built(made.work, built, made.source)
    return Diagnosed(project.model.source, built.target.name, str(built.path), found)
