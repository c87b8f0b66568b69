"""Writing the forms of a report that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.output import prepare_folder, write
from edgekit.report import junit, markdown
from edgekit.report.model import Report


def save(reports: Sequence[Report], junit_path: Path | None = None, markdown_path: Path | None = None) -> None:
    """Write JUnit XML and Markdown where paths are given, making their folders. Raises OutputError."""
    for path, form in ((junit_path, junit), (markdown_path, markdown)):
        if path is not None:
            prepare_folder(path.parent)
            write(path, form.render(reports))
