"""What GitHub Actions shows of gates: an annotation for each that does not pass, and the report on the run's page.

The commands are those of "Workflow commands for GitHub Actions"; the runner reads them from both streams of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from edgekit.gate import FAIL, PASS
from edgekit.report import markdown, view
from edgekit.report.model import Report


def announce(reports: Sequence[Report], environment: Mapping[str, str], stream: TextIO) -> None:
    """Say it on ``stream`` and append to ``$GITHUB_STEP_SUMMARY``; nothing outside of a workflow."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return
    for report in reports:
        for verdict in report.gates:
            if verdict.status != PASS:
                level = "error" if verdict.status == FAIL else "warning"
                title = _escaped(f"{view.target_name(report)}: {verdict.gate}", ",:")
                print(f"::{level} title={title}::{_escaped(verdict.text)}", file=stream)
    summary = environment.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as page:
            page.write(markdown.render(reports))


def _escaped(text: str, more: str = "") -> str:
    """A value as a workflow command holds it."""
    return "".join(f"%{ord(char):02X}" if char in f"%\r\n{more}" else char for char in text)
