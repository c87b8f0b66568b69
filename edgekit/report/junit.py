"""The report as JUnit XML, which every CI shows: a suite a report, a case a gate. An inconclusive gate is an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from edgekit.report import view
from edgekit.report.model import Report, Verdict

_ELEMENTS = {"fail": "failure", "inconclusive": "error"}
_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(reports: Sequence[Report]) -> str:
    """One ``testsuites`` document."""
    root = ElementTree.Element("testsuites", _counts([gate for report in reports for gate in report.gates]))
    for report in reports:
        root.append(_suite(report))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(report: Report) -> ElementTree.Element:
    seconds = sum(stage.seconds for stage in report.stages)
    facts = {"name": _legal(view.name(report)), **_counts(report.gates), "time": f"{seconds:.3f}"}
    suite = ElementTree.Element("testsuite", facts)
    for verdict in report.gates:
        suite.append(_case(verdict, view.target_name(report)))
    if report.warnings:
        ElementTree.SubElement(suite, "system-out").text = _legal("\n".join(report.warnings))
    return suite


def _case(verdict: Verdict, target: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": _legal(f"edgekit.{target}"), "name": _legal(verdict.gate)})
    if verdict.status in _ELEMENTS:
        ElementTree.SubElement(case, _ELEMENTS[verdict.status], {"message": _legal(verdict.text)})
    else:
        ElementTree.SubElement(case, "system-out").text = _legal(verdict.text)
    return case


def _counts(gates: Sequence[Verdict]) -> dict[str, str]:
    statuses = [gate.status for gate in gates]
    failures, errors = statuses.count("fail"), statuses.count("inconclusive")
    return {"tests": str(len(statuses)), "failures": str(failures), "errors": str(errors)}


def _legal(value: str) -> str:
    """Without the characters that XML cannot hold."""
    return _ILLEGAL.sub("\ufffd", value)
