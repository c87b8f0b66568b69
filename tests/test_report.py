"""The report's forms. Texts are compared with tests/golden/; ``pytest --update`` writes them anew."""

from __future__ import annotations

import json as plain_json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sample_reports import BARE, FAILED, FULL, HOSTILE, HOSTILE_NAME, MACHINE, measurement

from edgekit.errors import InputError
from edgekit.report import answers, console, html, json, junit, layers, markdown, terminal, text, view
from edgekit.report.model import Fidelity, Finding, Report, TensorFidelity, Verdict
from edgekit.report.page import POLICY

Golden = Callable[[str, str], None]
ALL = [FULL, BARE, FAILED, HOSTILE]


def test_terminal(golden: Golden) -> None:
    golden("report.txt", terminal.render([FULL]))
    golden("report_bare.txt", terminal.render([BARE]))
    golden("report_failed.txt", terminal.render([FULL, FAILED]))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("report", ALL)
def test_terminal_keeps_its_width_and_has_no_colour(report: Report, width: int) -> None:
    lines = terminal.render([report], width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


def test_terminal_takes_names_literally() -> None:
    assert "[red]x[/red]" in terminal.render([HOSTILE], 200)


def test_markdown(golden: Golden) -> None:
    golden("report.md", markdown.render([FULL]))
    golden("report_failed.md", markdown.render([FULL, FAILED]))


def test_markdown_escapes() -> None:
    page = markdown.render([HOSTILE])
    assert not re.search(r"(?<!\\)<", re.sub(r"``[^\n]*``", "", page))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {4, 5}
    assert markdown.escape("a\nb @team") == "a b @\u200bteam"


@pytest.mark.parametrize(
    ("value", "span"), [("a b", "`a b`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a``b", "```a``b```")]
)
def test_markdown_code(value: str, span: str) -> None:
    assert markdown.code(value) == span


def test_junit() -> None:
    root = ElementTree.fromstring(junit.render([FULL, FAILED, BARE]))
    assert root.attrib == {"tests": "6", "failures": "2", "errors": "1"}
    assert [suite.get("tests") for suite in root] == ["2", "4", "0"]
    failure = root.find(".//testcase[@name='size']/failure")
    assert failure is not None and failure.get("message") == "304.9 KB, at most 300.0 KB"
    assert root.find(".//testcase[@name='latency_p50']/error") is not None


def test_junit_survives_control_characters() -> None:
    odd = replace(FULL, gates=(Verdict("si\x00ze", 1, 2, "fail", "a\x1b[31mb"),))
    case = ElementTree.fromstring(junit.render([odd])).find(".//testcase")
    assert case is not None and case.get("name") == "si\ufffdze"


class Page(HTMLParser):
    """The tags, attributes and text of a page; complains of a tag that is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta" and tag != "input":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "input":
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("report", ALL)
def test_html_is_whole_and_needs_no_network(report: Report) -> None:
    page = Page(html.render(report))
    assert page.tags.count("script") == 1 and page.tags.count("style") == 1
    assert not {"link", "img", "iframe", "object", "a"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert ("content", POLICY) in page.attributes


def test_html_shows_the_build_around_an_artifact() -> None:
    words = Page(html.render(FULL, [FULL, FAILED])).words
    assert "All artifacts of this build" in words and "mixed for raspberry-pi-zero-2w-litert" in words
    assert "p50 0.717 ms, p90 0.767 ms, p99 0.939 ms" in words  # in float
    alone = Page(html.render(FULL, [FULL])).words
    assert "All artifacts of this build" not in alone and "Latency" in alone
    assert "Latency" not in Page(html.render(BARE)).words


def test_html_times_are_in_the_table_of_layers() -> None:
    page = html.render(FULL)
    assert '<td class="n" data-v="0.455445545"><span>0.0920 ms</span>' in page
    assert "<span>&lt; 0.001 ms</span>" in page  # of an addition
    words = " ".join(Page(page).words)
    assert "0.00600 ms of that belongs to no layer: Transpose 0.00500 ms, Copy 0.00100 ms" in words
    assert "softmax" in words  # makes no tensor that was verified
    assert "share" not in html.render(replace(FULL, layer_times=None))


def test_the_trust_in_times_is_said() -> None:
    assert FULL.layer_times is not None
    said = layers.trust(replace(FULL.layer_times, p50_ms=0.05))
    assert "the profiler adds its own time to every kernel, so small layers read too long" in said
    quiet = replace(FULL.layer_times, elsewhere={"Copy": 0.0})
    assert not any("belongs to no layer" in line for line in layers.trust(quiet))
    assert any("or is other work" in line for line in layers.trust(replace(FULL.layer_times, p50_ms=0.5)))
    pi = measurement(3.1, machine={**MACHINE, "board": "Raspberry Pi 4"})
    assert "the latency above is of Raspberry Pi 4" in layers.trust(FULL.layer_times, pi)
    assert "1 of 7 layers below the microsecond that the profiler counts" in layers.trust(FULL.layer_times)


def test_html_says_why_accuracy_fell_and_what_it_ran_on() -> None:
    why = Finding("outlier", ("layer2.0.conv1",), {"alone_db": 9.1}, "", "take percentile ranges", "accuracy.md")
    pi = measurement(3.1, machine={**MACHINE, "memory_bytes": 4_000_000_000}, before={"mhz": 1500.0, "throttled": None})
    words = Page(html.render(replace(FULL, findings=(why,), latency=pi))).words
    assert words.index("Why accuracy fell") < words.index("Against float")
    assert "at layer2.0.conv1 (alone_db 9.1): take percentile ranges; more in accuracy.md" in words
    assert "mhz 1500" in words and any(word.endswith("system Linux 6.1, memory 4.00 GB") for word in words)
    assert "Why accuracy fell" not in Page(html.render(FULL)).words


def test_html_escapes() -> None:
    page = html.render(HOSTILE)
    assert HOSTILE_NAME not in page and "<script>alert" not in page
    assert HOSTILE_NAME in Page(page).words


def test_html_numbers_sort() -> None:
    tensors = tuple(TensorFidelity(f"t{n}", "Conv", snr) for n, snr in enumerate((3.5, math.inf, math.nan, -math.inf)))
    page = html.render(replace(FULL, fidelity=Fidelity(1, {}, tensors)))
    found = re.findall(r'data-v="([^"]+)"><span>([^<]+ dB|exact|no signal|not a number)<', page)
    assert found == [
        ("3.5", "3.5 dB"), ("Infinity", "exact"), ("-Infinity", "not a number"), ("-Infinity", "no signal")
    ]  # fmt: skip


def test_html_has_no_empty_column() -> None:
    assert "saturated" in html.render(FULL)
    assert FULL.fidelity is not None
    tensors = tuple(replace(tensor, saturated=None) for tensor in FULL.fidelity.tensors)
    assert "saturated" not in html.render(replace(FULL, fidelity=Fidelity(1, {}, tensors)))


def test_settings_in_words() -> None:
    scale = {"uint8": 1 / 255, "float32": 1.0}
    found = {"layout": "NCHW", "mean": [0.5, 0.25], "scale": scale, "crop": None, "on": True}
    assert view.settings(found) == "layout NCHW, mean 0.5 0.25, scale (uint8 0.00392157, float32 1), on yes"


def test_html_filter_only_for_long_tables() -> None:
    assert "input" not in Page(html.render(FULL)).tags
    many = Fidelity(1, {}, tuple(TensorFidelity(f"t{n}", "Conv", 20.0) for n in range(12)))
    assert Page(html.render(replace(FULL, fidelity=many))).tags.count("input") == 1


@pytest.mark.parametrize("report", ALL)
def test_json_reads_back_equal(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.render(report), encoding="utf-8")
    assert json.read(path) == report


def test_json_writes_infinity_as_text(tmp_path: Path) -> None:
    odd = replace(FULL, fidelity=Fidelity(1, {"a": math.inf, "b": -math.inf}))
    path = tmp_path / "report.json"
    path.write_text(json.render(odd), encoding="utf-8")
    assert plain_json.loads(path.read_text())["fidelity"]["outputs"] == {"a": "inf", "b": "-inf"}
    assert json.read(path) == odd


def test_json_passes_over_keys_of_later_versions() -> None:
    assert Report.from_json({**FULL.to_json(), "later": 1}) == FULL


EVALUATION = FULL.to_json()["evaluation"]


def changed(**changes: Any) -> str:
    """The full report's JSON with some keys changed."""
    return plain_json.dumps({**FULL.to_json(), **changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a report: Expecting property name"),
        ("[1]", "schema: found no schema, this edgekit reads schema 1"),
        ("{}", "schema: found no schema, this edgekit reads schema 1"),
        (changed(schema=2), "schema: found schema 2, this edgekit reads schema 1"),
        ('{"schema": 1}', "edgekit: missing"),
        (changed(edgekit=3), "edgekit: found int 3, str is needed"),
        (changed(model=None), "model: found NoneType None, an object is needed"),
        (changed(evaluation=EVALUATION | {"drop": "x"}), "evaluation.drop: found str 'x', float is needed"),
        (changed(gates=[{"gate": "size"}]), "gates[0].limit: missing"),
        (changed(gates={}), "gates: found dict {}, an array is needed"),
        (changed(stages=[{"name": "a", "seconds": True}]), "stages[0].seconds: found bool True, float is needed"),
        (changed(audit=[]), "audit: found list [], an object is needed"),
        (changed(contract={}), "contract.inputs: missing"),
        (changed(contract={"inputs": [{"name": 1}]}), "contract.inputs[0].name: found int 1, str is needed"),
        (changed(audit={"ops": [{"name": "a", "op": "b"}]}), "audit.ops[0].kind: missing"),
        (changed(audit={"macs": "many"}), "audit.macs: found str 'many', int is needed"),
        (changed(audit={"float_ops": 3}), "audit.float_ops: found int 3, an array is needed"),
        (changed(audit={"ops": [3]}), "audit.ops[0]: found int 3, an object is needed"),
        (changed(warnings=["x" * 80, 5]), "warnings[1]: found int 5, str is needed"),
    ],
)
def test_a_broken_report_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        json.read(path)
    assert str(error.value).startswith(f"{path}:") and message in str(error.value)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing.json: cannot be read: No such file"):
        json.read(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ("", "no gates are set"),
        ("p", "its gate holds"),
        ("pp", "both gates hold"),
        ("ppp", "all 3 gates hold"),
        ("f", "its gate failed"),
        ("i", "its gate is inconclusive"),
        ("pfi", "1 of 3 gates failed"),
        ("pii", "2 of 3 gates inconclusive"),
    ],
)
def test_verdict_in_words(statuses: str, words: str) -> None:
    names = {"p": "pass", "f": "fail", "i": "inconclusive"}
    gates = tuple(Verdict("size", 1, 1, names[letter], "") for letter in statuses)
    assert view.verdict(replace(FULL, gates=gates)) == words


@pytest.mark.parametrize(
    ("source", "name"), [("a.b:make", "make"), ("nets/net.onnx", "net.onnx"), ("net.pt2", "net.pt2"), ("x", "x")]
)
def test_model_name(source: str, name: str) -> None:
    assert view.model_name(replace(FULL, model=replace(FULL.model, source=source))) == name


def test_slower_and_larger_are_said() -> None:
    assert view.smaller(100, 300) == "3.00x larger"
    assert view.faster(1.0, 2.0) == "2.00x slower"
    assert view.faster(1.0, 1.001) == "no change"
    assert view.faster(0, 1) == ""


def test_every_output_has_its_row() -> None:
    rows = view.comparison(replace(FULL, fidelity=Fidelity(4, {"boxes": 30.0, "scores": math.inf})))
    assert [(row.name, row.artifact) for row in rows if row.name.startswith("snr")] == [
        ("snr boxes", "30.0 dB"),
        ("snr scores", "exact"),
    ]


def test_worst_tensors_leave_out_exact_ones() -> None:
    tensors = tuple(TensorFidelity(name, "Conv", snr) for name, snr in (("a", 30.0), ("b", math.inf), ("c", 9.0)))
    assert [tensor.name for tensor in view.worst_tensors(Fidelity(1, {}, tensors), 5)] == ["c", "a"]
    assert view.worst_tensors(None, 5) == []


def test_a_board_is_named_before_its_cpu() -> None:
    pi = measurement(3.1, machine={**MACHINE, "board": "Raspberry Pi 4 Model B", "architecture": "aarch64"})
    said = dict(view.lines(replace(FULL, latency=pi)))["timing"]
    assert said.endswith("on Raspberry Pi 4 Model B; float with onnxruntime 1.32.0")


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (text.size(0), "0 B"),
        (text.size(999), "999 B"),
        (text.size(304_944), "304.9 KB"),
        (text.size(1_102_832), "1.10 MB"),
        (text.size(2.5e9), "2.50 GB"),
        (text.milliseconds(0.0431), "0.0431 ms"),
        (text.milliseconds(14.123), "14.1 ms"),
        (text.milliseconds(12_345), "12.3 s"),
        (text.seconds(0.04), "40 ms"),
        (text.seconds(0.096), "0.1 s"),
        (text.drop(0.0012), "0.12 points"),
        (text.drop(-0.0012), "a gain of 0.12 points"),
        (text.seconds(75), "75 s"),
        (text.seconds(750), "12 min"),
        (text.percent(0.8068), "80.68 %"),
        (text.percent(0), "0 %"),
        (text.percent(1), "100 %"),
        (text.points(-1e-9), "0.00 points"),
        (text.change(0.0012), "+0.12 points"),
        (text.change(-1e-9), "no change"),
        (text.decibels(math.nan), "not a number"),
        (text.decibels(-math.inf), "no signal"),
        (text.count(9_999), "9,999"),
        (text.count(269_722), "270 k"),
        (text.count(40_550_000), "40.5 M"),
        (text.count(3.97e9), "3.97 G"),
        (text.plural(1, "op"), "1 op"),
        (text.plural(0, "op"), "0 ops"),
        (text.plural(2, "entry", "entries"), "2 entries"),
    ],
)
def test_numbers_in_words(shown: str, wanted: str) -> None:
    assert shown == wanted


def test_the_state_of_the_machine_is_told_from_before_and_after() -> None:
    before = {"governor": "ondemand", "mhz": 1500.0, "temperature_c": 48.3, "load_average": 0.2, "throttled": 0}
    after = {"governor": "ondemand", "mhz": 1400.0, "temperature_c": 61.0, "load_average": 1.0, "throttled": 0x50005}
    found = measurement(0.2, before=before | {"throttle_count": None}, after=after | {"throttle_count": None})
    said = "governor ondemand, ondemand; clock 1500 MHz, 1400 MHz; temperature 48 C, 61 C; load 0.2, 1.0; "
    said += "throttling flags 0x0, 0x50005"
    assert view.states(found) == said and view.states(FULL.latency) == view.states(None) == ""
    timed = replace(FULL, latency=found)
    assert said in " ".join(terminal.render([timed], 400).split())
    assert "0x50005" in markdown.render([timed]) and "0x50005" in html.render(timed)
    assert "0x50005" in console.plain(answers.bench([("a", found)]), 400)
