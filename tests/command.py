"""Runs the command line for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from edgekit.cli import cli

ROOT = Path(__file__).resolve().parent.parent


def edgekit(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="edgekit")


def program(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)


def answer(*arguments: str | Path) -> Any:
    """What a command with --json prints on stdout."""
    result = edgekit(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
