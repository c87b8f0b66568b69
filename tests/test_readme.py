"""The README is true: its tables are the measured ones, its links lead somewhere, its commands and keys exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgekit.cli import cli
from edgekit.project import parse_project
from edgekit.toml_table import read_toml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (page, language, block)
    for page in PAGES
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
]


def between(mark: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition(f"<!-- {mark} -->\n")[2].partition(f"<!-- /{mark} -->")[0]


def test_tables_are_those_of_the_results() -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "table.py")]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert between("benchmarks").strip() == printed.strip(), "README tables are stale: run benchmarks/table.py"


def test_installed_sizes_are_the_measured_ones() -> None:
    sizes = json.loads((ROOT / "benchmarks" / "results" / "install_size.json").read_text())
    said = f"{sizes['default']['mb']:,} MB installed, {sizes['torch']['mb']:,} MB with torch"
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links and [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def commands() -> list[tuple[str, list[str]]]:
    lines = [(page.name, line) for page, language, block in BLOCKS if not language for line in block.splitlines()]
    shown = [(name, line.partition("#")[0]) for name, line in lines if line.startswith("edgekit ")]
    return [(name, shlex.split(line)) for name, line in shown if "[" not in line]


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_commands_exist(page: str, words: list[str]) -> None:
    command = cli.commands[words[1]]
    options = {name for param in command.params if isinstance(param, click.Option) for name in param.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= options


@pytest.mark.parametrize("block", [block for _, language, block in BLOCKS if language == "toml"])
def test_configuration_is_accepted(block: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.toml"
    file.write_text(block)
    if "architecture" in block:
        from edgekit.target import load_target

        (tmp_path / "targets").mkdir()
        file.rename(tmp_path / "targets" / "my-board-litert.toml")
        assert load_target("my-board-litert", tmp_path).runtime == "litert"
    else:
        assert parse_project(read_toml(file), tmp_path, "shown.toml").model.source
