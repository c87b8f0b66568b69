"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.doctor import TRIALS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models, data and reference artifacts beside the checkout; skips where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no shared models")
    return folder


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    """A tiny TFLite file."""
    path = tmp_path / "relu.tflite"
    path.write_bytes(TRIALS["litert"]())
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update`` writes the golden texts anew; look at the difference before committing it."""
    parser.addoption("--update", action="store_true", help="write tests/golden/ anew instead of comparing with it")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` fails when ``text`` is not what tests/golden/NAME holds."""

    def check(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--update"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} differs: run pytest --update and look at it"

    return check
