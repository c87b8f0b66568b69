"""Progress on a terminal, in a pipe, and silent."""

from __future__ import annotations

import io
import re

import pytest

from edgekit.progress import PlainProgress, Progress, RichProgress, SilentProgress, duration, open_progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def work(progress: Progress) -> None:
    """A small build."""
    with progress.task("build pi"):
        with progress.task("calibrate", total=3) as step:
            for _ in range(3):
                step()
        progress.note("warning: [x] constant")
        with progress.task("emit"):
            pass


def test_plain_lines() -> None:
    stream = io.StringIO()
    work(PlainProgress(stream))
    assert re.sub(r"\d+\.\d s", "0 s", stream.getvalue()).splitlines() == [
        "build pi:",
        "  calibrate: 3 of 3, done in 0 s",
        "  warning: [x] constant",
        "  emit: done in 0 s",
        "build pi: done in 0 s",
    ]


def test_plain_says_how_far_it_is() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, interval=0.0).task("read", total=2000) as step:
        step(1500)
        step(500)
    assert stream.getvalue().splitlines()[:2] == ["  read: 1,500 of 2,000, 0 s left", "  read: 2,000 of 2,000"]


def test_plain_says_how_the_work_stands() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, interval=0.0).task("train", total=2) as step:
        step(1, "loss 0.5, rate 0.01")
    assert stream.getvalue().splitlines()[0] == "  train: 1 of 2, 0 s left, loss 0.5, rate 0.01"


def test_bars_say_how_the_work_stands_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    progress = RichProgress(stream)
    with progress.task("train", total=3) as step:
        step(1, "loss 0.5")
        step(1, "loss 0.25")
        assert progress._bars is not None
        progress._bars.refresh()
    assert "loss 0.25" in stream.getvalue() and "s left" in stream.getvalue()


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (65.4, "1 min 5 s"), (7500, "2 h 5 min")])
def test_a_span_is_said_in_its_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_plain_without_a_total() -> None:
    stream = io.StringIO()
    with PlainProgress(stream).task("read") as step:
        step(7)
    assert stream.getvalue().startswith("read: 7, done in")


@pytest.mark.parametrize("progress", [PlainProgress, RichProgress])
def test_an_error_passes_through(progress: type[PlainProgress] | type[RichProgress]) -> None:
    stream = Terminal()
    with pytest.raises(KeyError), progress(stream).task("read", total=4) as step:
        step()
        raise KeyError
    if progress is PlainProgress:
        assert stream.getvalue().startswith("read: 1 of 4, stopped after")


def test_bars_on_a_terminal() -> None:
    stream = Terminal()
    progress = open_progress(stream)
    work(progress)
    work(progress)
    assert "3/3" in stream.getvalue() and "warning: [x] constant" in stream.getvalue()


def test_note_without_a_task() -> None:
    stream = Terminal()
    RichProgress(stream).note("[x] hello")
    assert stream.getvalue() == "[x] hello\n"


def test_the_stream_decides() -> None:
    assert isinstance(open_progress(Terminal()), RichProgress)
    assert isinstance(open_progress(io.StringIO()), PlainProgress)
    assert isinstance(open_progress(Terminal(), quiet=True), SilentProgress)


def test_silent(capfd: pytest.CaptureFixture[str]) -> None:
    work(SilentProgress())
    assert capfd.readouterr() == ("", "")
