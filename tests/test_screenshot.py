"""The pictures of a report in the docs, and the script that takes them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from browser import CHROMIUM
from PIL import Image
from sample_reports import FULL

from edgekit.report import html

DOCS = Path(__file__).resolve().parent.parent / "docs"
sys.path.insert(0, str(DOCS))

import screenshot  # noqa: E402


@pytest.mark.parametrize("scheme", screenshot.SCHEMES)
def test_the_pictures_are_there_and_small(scheme: str) -> None:
    path = DOCS / f"report-{scheme}.png"
    with Image.open(path) as picture:
        assert picture.size == (screenshot.WIDTH, screenshot.HEIGHT)
        corner = picture.convert("L").getpixel((2, 2))
    assert (corner < 64) == (scheme == "dark")
    assert path.stat().st_size < 150_000


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_the_script_takes_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screenshot, "DOCS", tmp_path)
    (tmp_path / "report.html").write_text(html.render(FULL), encoding="utf-8")
    assert screenshot.main([str(tmp_path / "report.html")]) == 0
    light, dark = (Image.open(tmp_path / f"report-{scheme}.png").convert("L") for scheme in ("light", "dark"))
    assert light.getpixel((2, 2)) > 200 and dark.getpixel((2, 2)) < 64


def test_without_chromium_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(screenshot.shutil, "which", lambda name: None)
    assert screenshot.main([]) == 2 and capsys.readouterr().err == "Chromium is not installed\n"
