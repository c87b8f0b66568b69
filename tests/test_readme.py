"""README and docs are true: tables are the measured ones, links lead somewhere, commands, keys and names exist."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import click
import pytest

from edgekit import compression
from edgekit.cli import EXIT_CODES, cli
from edgekit.errors import ConfigError
from edgekit.inputs import InputConfig
from edgekit.ops import Layout
from edgekit.project import ROUNDINGS, parse_project
from edgekit.recipe import RANGES, list_recipes, load_recipe
from edgekit.target import PRECISIONS, load_target, read_target
from edgekit.toml_table import read_toml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [
    (name, language, block)
    for name, text in TEXTS.items()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
]
PROSE = {name: re.sub(r"^```.*?^```", "", text, flags=re.M | re.S) for name, text in TEXTS.items()}
SPANS = sorted({(name, span) for name, text in PROSE.items() for span in re.findall(r"`([^`\n]+)`", text)})


def between(mark: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition(f"<!-- {mark} -->\n")[2].partition(f"<!-- /{mark} -->")[0]


def section(page: str, heading: str) -> str:
    """What stands below a heading of the second level, up to the next one."""
    found = PROSE[page].partition(f"\n## {heading}\n")[2]
    assert found, f"{page} has no heading {heading!r}"
    return found.partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """The names in backquotes in the first column of the tables of a text, in order."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


# -- figures ----------------------------------------------------------------------------------------------------------


def test_tables_are_those_of_the_results() -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "table.py")]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert between("benchmarks").strip() == printed.strip(), "README tables are stale: run benchmarks/table.py"


def test_installed_sizes_are_the_measured_ones() -> None:
    sizes = json.loads((ROOT / "benchmarks" / "results" / "install_size.json").read_text())
    said = f"{sizes['default']['mb']:,} MB installed, {sizes['torch']['mb']:,} MB with torch"
    assert said in TEXTS["README.md"]


def test_agreement_with_quantized_models_is_the_measured_one() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "from_qdq.json").read_text())
    said = " ".join(section("docs/quantization.md", "Models that come quantized").split())
    assert {result["onnx"]["equal"] for result in found.values()} == {1.0}, "said to give the source's integers"
    assert max(result["layers"]["worst_steps"] for result in found.values()) == 1, "said to be one step off at most"
    deep = {name: found.pop(network) for network, name in (("cifar10_resnet56", "ResNet56"), ("unet", "U-Net"))}
    for name, result in deep.items():
        assert re.search(rf"{name} \({100 * result['within_one']:.1f} %", said), name
    itself = [f"{100 * result['itself']['within_one']:.1f} %" for result in deep.values()]
    assert f"for {' and '.join(itself)} of the same values" in said
    assert {round(result["within_one"], 3) for result in found.values()} == {1.0}, "said to agree for all values"


# -- links and paths --------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_pages_and_headings(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", PROSE[name])
    for link in links:
        file, _, anchor = link.partition("#")
        page = (ROOT / name).parent / file if file else ROOT / name
        assert "://" in link or page.exists(), f"{name}: {link}"
        assert not anchor or "://" in link or anchor in anchors(page), f"{name}: {link}: no such heading"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/\w[\w/-]*\.md)\)", TEXTS["README.md"]))
    assert linked == set(TEXTS) - {"README.md"}


def test_source_files_that_are_named_exist() -> None:
    named = [(page, span) for page, span in SPANS if re.fullmatch(r"[\w/.-]*/[\w-]+\.py|[\w]+/", span)]
    roots = (ROOT, ROOT / "edgekit")
    missing = [(page, span) for page, span in named if not any((root / span).exists() for root in roots)]
    assert len(named) > 20
    own = [("docs/calibration-data.md", "photos/"), ("docs/guides/android.md", "assets/")]
    assert sorted(set(missing)) == own  # the reader's own


def test_make_has_what_is_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = {name for text in TEXTS.values() for name in re.findall(r"(?:^ {4}|`)make ([\w-]+)", text, re.M)}
    assert wanted >= {"demo", "test"}
    assert [name for name in wanted if not re.search(rf"^{name}:", makefile, re.M)] == []


@pytest.mark.parametrize("name", TEXTS)
def test_pages_name_no_machine(name: str) -> None:
    assert re.findall(r"(?<![\w.])/(?:tmp|home|root|work|usr)/\S*", TEXTS[name]) == []


# -- commands ---------------------------------------------------------------------------------------------------------


def commands() -> list[tuple[str, list[str]]]:
    shown = [
        (name, line.partition(" #")[0])
        for name, lang, block in BLOCKS
        if lang in ("", "sh")
        for line in block.splitlines()
    ]
    shown += SPANS
    found = [(name, line) for name, line in shown if line.startswith("edgekit ") and "[" not in line]
    return [(name, words) for name, line in found if len(words := shlex.split(line)) > 1]


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_commands_exist(page: str, words: list[str]) -> None:
    command = cli.commands[words[1]]
    options = {name for param in command.params if isinstance(param, click.Option) for name in param.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= options
    for flag, value in pairwise(words):
        if flag in ("--target", "-t") and value.islower():
            load_target(value)


def test_options_that_prose_names_exist() -> None:
    every = {name for command in cli.commands.values() for param in command.params for name in param.opts}
    named = {span.split()[0] for _, span in SPANS if span.startswith("--")}
    assert named
    assert named - every == set()


def test_exit_codes_are_those_of_the_command_line() -> None:
    known = {code: meaning.partition(":")[0] for code, meaning in re.findall(r"^ +(\d)  (.+)$", EXIT_CODES, re.M)}
    assert dict(re.findall(r"^\| (\d) \| (.+) \|$", TEXTS["README.md"], re.M)) == known


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [block for _, language, block in BLOCKS if language == "toml"])
def test_configuration_is_accepted(block: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.toml"
    file.write_text(block)
    if "architecture" in block:
        (tmp_path / "targets").mkdir()
        file.rename(tmp_path / "targets" / "my-board-litert.toml")
        assert load_target("my-board-litert", tmp_path).runtime == "litert"
    else:
        project = parse_project(read_toml(file), tmp_path, "shown.toml")
        assert compression.read(project) or project.model.source or project.devices


SECTIONS = {
    "[model]": ("model", {"inputs"}),
    "[model.inputs.NAME]": ("model.inputs.x", set()),
    "[calibration]": ("calibration", set()),
    "[quantization]": ("quantization", set()),
    "[evaluation]": ("evaluation", set()),
    "[gates] and [gates.TARGET]": ("gates", set()),
    "[baseline]": ("baseline", set()),
    "[devices.NAME]": ("devices.pi", set()),
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_documented_and_no_other(heading: str) -> None:
    """What the loader accepts is what it says when it meets a key that it does not know."""
    dotted, apart = SECTIONS[heading]
    document: dict[str, object] = {"nosuchkey": 1}
    for part in reversed(dotted.split(".")):
        document = {part: document}
    with pytest.raises(ConfigError, match=r"nosuchkey: unknown key") as caught:
        parse_project(document, ROOT, "shown.toml")
    accepted = set(str(caught.value).partition("accepted: ")[2].split(", "))
    assert set(first_cells(section("docs/configuration.md", heading))) == accepted - apart


def test_every_key_of_a_profile_is_documented(tmp_path: Path) -> None:
    profile = tmp_path / "shown.toml"
    profile.write_text('runtime = "litert"\nnosuchkey = 1\n')
    with pytest.raises(ConfigError) as caught:
        read_target(profile)
    accepted = set(str(caught.value).partition("accepted: ")[2].split(", "))
    assert set(first_cells(PROSE["docs/add-a-target.md"])) == accepted


def test_recipes_are_those_that_are_shipped() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| `(\w+)` \| (yours|shipped)", PROSE["docs/calibration-data.md"], re.M)
    found = [(name, load_recipe(name, ROOT)) for name in list_recipes(ROOT)]
    assert rows == [(name, recipe.range, "yours" if recipe.supply else "shipped") for name, recipe in found]


def test_methods_precisions_and_layouts_are_all_told() -> None:
    page = "docs/quantization.md"
    assert set(first_cells(section(page, "Ranges"))) == set(RANGES)
    assert set(first_cells(section(page, "Precisions"))) == set(PRECISIONS)
    assert set(re.findall(r'^- `"(\w+)"`', section(page, "Rounding"), re.M)) == set(ROUNDINGS)
    assert set(first_cells(section("docs/layout.md", "What an op says"))) == set(Layout.__members__)


def test_preprocessing_is_told_in_full() -> None:
    told = set(re.findall(r"`(\w+)`", section("docs/calibration-data.md", "Preprocessing")))
    assert {field.name for field in fields(InputConfig)} - {"shape", "layout", "artifact_layout"} - told == {
        "interpolation"
    }


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [block for _, language, block in BLOCKS if language == "python"])
def test_python_imports_what_there_is(block: str) -> None:
    imports = [node for node in ast.walk(ast.parse(block.replace(", ...)", ")"))) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
