"""Writing the forms of a report that were asked for."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.output import prepare_folder, write
from edgekit.report import compare_html, github, junit, markdown
from edgekit.report.model import Report

if TYPE_CHECKING:
    from edgekit.compare import Difference


def save(reports: Sequence[Report], junit_path: Path | None = None, markdown_path: Path | None = None) -> None:
    """Write JUnit XML and Markdown where paths are given, making their folders, and tell a CI that shows gates.

    Raises OutputError.
    """
    github.announce(reports, os.environ, sys.stderr)
    for path, form in ((junit_path, junit), (markdown_path, markdown)):
        if path is not None:
            prepare_folder(path.parent)
            write(path, form.render(reports))


def save_comparison(found: Difference, path: Path) -> None:
    """Write a comparison as an HTML page, making its folder. Raises OutputError."""
    prepare_folder(path.parent)
    write(path, compare_html.render(found, shlex.join(["edgekit", "compare", found.a, found.b, "--html", str(path)])))
