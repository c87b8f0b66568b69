"""The report as JSON, the form that all others can be made from: ``docs/report-schema.md`` documents it."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.errors import InputError
from edgekit.report.model import Report


def render(report: Report) -> str:
    """One JSON object, indented, with a newline at its end."""
    return json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> Report:
    """The report in a ``report.json``. Raises InputError on a missing, broken or foreign file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a report: {error}") from error
    return Report.from_json(value, str(path))
