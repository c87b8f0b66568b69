"""The HTML pages in a real headless Chromium: the console, a phone's width, sorting, both colour schemes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, answers
from sample_reports import BARE, FAILED, FULL, HOSTILE

from edgekit.compare import Change, Difference, Total
from edgekit.report import compare_html, html
from edgekit.report.model import Fidelity, TensorFidelity

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

LONG = "models.MobileNetV2/torch.nn.modules.container.Sequential_features/" * 3
MANY = tuple(TensorFidelity(f"{LONG}{n}", "Conv", float(n), "int8", 0.01, 3, 0.0) for n in range(40))
DIFFERENCE = Difference(
    "released/model.tflite",
    f"build/{LONG}model.tflite",
    (Total("size", "304.9 KB", "412.0 KB", 1.351), Total("float ops", "0", "1"), Total("top1", "91.00 %", "91.00 %")),
    ("image.scale: 0.01 became 0.02",),
    (
        Change("scale", "conv1", "0.031, zero point -128 became 0.062, zero point -128", 2.0),
        Change("slower", f"{LONG}conv2", "0.092 ms became 0.210 ms", 2.28),
        Change("float", "<b>softmax</b>", "integer became float"),
    ),
    (f"no times of layers in {LONG.replace('/', '_')}model.tflite",),
    timed=False,
)
PAGES = {
    "full": html.render(FULL),
    "bare": html.render(BARE),
    "failed": html.render(FAILED),
    "hostile": html.render(HOSTILE),
    "several": html.render(FULL, [FULL, FAILED]),
    "many": html.render(replace(FULL, fidelity=Fidelity(64, {"logits": 20.0}, MANY))),
    "compare": compare_html.render(DIFFERENCE, "edgekit compare a b"),
    "same": compare_html.render(Difference("a", "b", (), (), ()), "edgekit compare a b"),
}
TOO_WIDE = """[...document.querySelectorAll("body, body *")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 || e.clientWidth && e.scrollWidth > e.clientWidth + 1)
  .filter((e) => !e.closest(".scroll")).map((e) => e.outerHTML)"""


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.html"
    path.write_text(PAGES[request.param], encoding="utf-8")
    return path


def test_a_phone_shows_the_page_without_scrolling_sideways(page: Path) -> None:
    too_wide, console = answers(page, TOO_WIDE, width=360)
    assert console == [] and too_wide == []


def test_what_goes_wrong_is_seen(tmp_path: Path) -> None:
    (tmp_path / "wide.html").write_text("<body><p style='width:400px'>x</p><script>nonsense()</script></body>")
    too_wide, console = answers(tmp_path / "wide.html", TOO_WIDE, width=360)
    assert too_wide and "nonsense is not defined" in console[0]


def asked(name: str, script: str, folder: Path) -> object:
    path = folder / f"{name}.html"
    path.write_text(PAGES[name], encoding="utf-8")
    found, console = answers(path, script)
    assert console == []
    return found


def test_columns_sort_by_what_they_mean(tmp_path: Path) -> None:
    """A click sorts up, a second one down; what was not measured is the least."""
    script = """(() => {
      const section = [...document.querySelectorAll("section")].find((s) => s.textContent.startsWith("Layers"));
      const column = [...section.querySelectorAll("th button")].find((b) => b.textContent === "time");
      const names = () => [...section.querySelectorAll("tbody tr")].map((r) => r.cells[0].textContent);
      column.click(); const up = names(); column.click(); return [up, names()];
    })()"""
    up, down = asked("full", script, tmp_path)  # type: ignore[misc]
    assert up[0] == "image" and up[-1] == "layer1.0.conv1"
    assert down == up[::-1] or down[0] == "layer1.0.conv1"


def test_the_search_field_hides_rows(tmp_path: Path) -> None:
    script = """(() => {
      const field = document.querySelector("input[type=search]");
      field.value = "sequential_features/39"; field.dispatchEvent(new Event("input"));
      const rows = [...field.closest("section").querySelectorAll("tbody tr")];
      return rows.filter((row) => !row.hidden).length;
    })()"""
    assert asked("many", script, tmp_path) == 1


def test_a_comparison_sorts_its_changes(tmp_path: Path) -> None:
    script = """(() => {
      const rows = () => [...document.querySelectorAll(".sortable tbody tr")].map((r) => r.cells[0].textContent);
      const first = rows(); document.querySelectorAll(".sortable th button")[3].click(); return [first, rows()];
    })()"""
    worst_first, by_ratio = asked("compare", script, tmp_path)  # type: ignore[misc]
    assert worst_first == ["fell back to float", "slowed", "changed scale"]
    assert by_ratio == ["fell back to float", "changed scale", "slowed"]


def test_what_was_not_compared_counts_as_nothing(tmp_path: Path) -> None:
    script = 'document.querySelectorAll(".tile")[1].innerText.split("\\n")'
    assert asked("compare", script, tmp_path) == ["slowed", "-", "not compared"]
    assert asked("same", script, tmp_path) == ["slowed", "0", "layers"]


def test_dark_has_colours_of_its_own(tmp_path: Path) -> None:
    script = """(() => {
      const rules = [...document.styleSheets[0].cssRules];
      const dark = rules.find((rule) => rule.conditionText === "(prefers-color-scheme: dark)");
      const own = rules.find((rule) => rule.selectorText === ":root").style;
      const others = dark.cssRules[0].style;
      return [...own].filter((name) => name.startsWith("--") && !others.getPropertyValue(name));
    })()"""
    assert asked("full", script, tmp_path) == []
