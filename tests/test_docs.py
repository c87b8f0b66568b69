"""The generated pages are what the code says, and every page's links lead somewhere."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from sample_reports import FULL

from edgekit.contract import Contract, Join, Port
from edgekit.diagnose.diagnosis import Diagnosis, Loss
from edgekit.gate import GATES
from edgekit.measure import Measurement
from edgekit.profile import LayerTime, LayerTimes
from edgekit.report import model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import generate  # noqa: E402


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    written = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert written == generate.PAGES[name](), f"docs/{name}.md is stale: run python docs/generate.py {name}"


def test_an_unknown_page_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["clii"]) == 2
    assert capsys.readouterr().err == f"no such page: clii; there are {', '.join(generate.PAGES)}\n"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


SCHEMA = (ROOT / "docs" / "report-schema.md").read_text(encoding="utf-8")
VALUES = [model.Report, model.ModelFacts, model.ArtifactFacts, model.CalibrationFacts, model.Evaluation, model.Fidelity]
VALUES += [
    model.Compression,
    model.Rung,
    model.Lift,
    model.Finding,
    model.TensorFidelity,
    model.Parity,
    model.Instructions,
    model.Verdict,
    model.Stage,
    Measurement,
    LayerTimes,
    LayerTime,
    Contract,
    Join,
    Port,
    Diagnosis,
    Loss,
]


def documented(heading: str) -> set[str]:
    """The keys in the table below a heading of report-schema.md."""
    section = SCHEMA.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_every_field_of_the_report_is_documented(value: type) -> None:
    assert documented(value.__name__) == {field.name for field in fields(value)}


def test_every_key_of_the_audit_is_documented() -> None:
    report = FULL.to_json()
    assert documented("Audit") == set(report["audit"])
    assert documented("AuditedOp") == set(report["audit"]["ops"][0])


def test_every_gate_is_documented() -> None:
    row = next(line for line in SCHEMA.splitlines() if line.startswith("| `gate`"))
    assert {gate.name for gate in GATES} <= set(re.findall(r"`(\w+)`", row))
