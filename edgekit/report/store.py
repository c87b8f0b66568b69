"""Writing the forms of a report that were asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.output import prepare_folder, write
from edgekit.report import github, junit, markdown
from edgekit.report.model import Report


def save(reports: Sequence[Report], junit_path: Path | None = None, markdown_path: Path | None = None) -> None:
    """Write JUnit XML and Markdown where paths are given, making their folders, and tell a CI that shows gates.

    Raises OutputError.
    """
    github.announce(reports, os.environ, sys.stderr)
    for path, form in ((junit_path, junit), (markdown_path, markdown)):
        if path is not None:
            prepare_folder(path.parent)
            write(path, form.render(reports))
