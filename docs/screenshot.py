"""Takes the pictures of a report in ``docs/``: ``python docs/screenshot.py [REPORT.html]``, by default of the example.

Needs Chromium. The example is built for x86-64, so that its figures are of what it is for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from edgekit.build import build
from edgekit.project import load_project

DOCS = Path(__file__).resolve().parent
PROJECT = DOCS.parent / "examples" / "digits" / "edgekit.toml"
TARGETS = ("linux-x86_64-onnxruntime", "linux-x86_64-litert")
SCHEMES = {"dark": 0, "light": 1}  # as Chromium numbers them
WIDTH, HEIGHT, COLOURS = 1100, 2330, 64


def main(arguments: list[str]) -> int:
    """Take a picture of a report in each colour scheme."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("Chromium is not installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = Path(arguments[0]).resolve() if arguments else demo(Path(folder))
        for scheme, number in SCHEMES.items():
            take(chromium, report, DOCS / f"report-{scheme}.png", number)
    return 0


def demo(folder: Path) -> Path:
    """The report of the example."""
    os.chdir(folder)
    command = f"edgekit build --config edgekit.toml --target {' --target '.join(TARGETS)}"
    build(load_project(PROJECT), TARGETS, Path("build"), command=command)
    return folder / "build" / TARGETS[0] / "report.html"


def take(chromium: str, page: Path, picture: Path, scheme: int) -> None:
    """A picture of the top of a page, in few colours: a tenth of the bytes, and no difference to be seen."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={WIDTH},{HEIGHT}"]
    subprocess.run([chromium, *flags, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)
    with Image.open(picture) as taken:
        taken.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
