"""The site that mkdocs makes of docs/: built strictly, with every link leading to something that is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

pytest.importorskip("mkdocs", reason="no mkdocs here (it comes with the dev extra)")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr
    return folder


def test_every_page_is_there_and_the_readme_is_the_first(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20 and all((site / page / "index.html").is_file() for page in pages)
    assert "edgekit" in (site / "index.html").read_text(encoding="utf-8")


def test_every_link_leads_somewhere(site: Path) -> None:
    dead, followed = [], 0
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":
            continue
        for link in re.findall(r'(?:href|src|srcset)="([^"]+)"', page.read_text(encoding="utf-8")):
            target = unquote(urldefrag(link).url)
            if target and "://" not in target and not target.startswith(("mailto:", "data:")):
                there = page.parent / target
                followed += 1
                if not (there / "index.html" if there.is_dir() else there).is_file():
                    dead.append(f"{page.relative_to(site)}: {link}")
    assert followed > 500 and dead == []


def test_files_of_the_repository_come_along(site: Path) -> None:
    agent = (site / "source" / "edgekit" / "agent.py").read_bytes()
    assert agent == (ROOT / "edgekit" / "agent.py").read_bytes()
    assert 'href="../source/edgekit/agent.py"' in (site / "devices" / "index.html").read_text(encoding="utf-8")
