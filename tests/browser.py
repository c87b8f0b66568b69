"""A real headless Chromium, for tests of the HTML pages; ``CHROMIUM`` is None where there is none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
)


def answers(page: Path, script: str, width: int = 1100) -> tuple[Any, list[str]]:
    """What the expression ``script`` is on a page that is ``width`` wide, as JSON, and the lines of the console.

    The page lies in a frame, since a window cannot be as narrow as a phone.
    """
    assert CHROMIUM is not None
    asking = f"<script>parent.postMessage(JSON.stringify({script}), '*');</script>"
    asked, around = page.with_name(f"asked-{page.name}"), page.with_name(f"around-{page.name}")
    asked.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{asking}</body>"), encoding="utf-8")
    frame = f'<iframe src="{asked.as_uri()}" style="border:0;width:{width}px;height:900px"></iframe>'
    listening = "<script>onmessage = (event) => { document.body.dataset.answer = event.data; };</script>"
    around.write_text(f"<!doctype html><body>{listening}{frame}</body>", encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={page.with_name('profile')}", "--dump-dom", around.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'data-answer="([^"]*)"', done.stdout)
    assert found, f"the page did not answer:\n{done.stderr}"
    return json.loads(unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
