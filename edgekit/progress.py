"""How far long work has come: bars on a terminal, plain lines elsewhere, or nothing. Always on stderr.

with progress.task("calibrate", total=256) as step:
    for sample in samples:
        step()
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

INTERVAL = 5.0
"""Seconds between two plain lines of one task."""


class Step(Protocol):
    """Call it when ``count`` more units are done; ``said`` is how the work stands, such as a loss."""

    def __call__(self, count: int = 1, said: str = "") -> None: ...


class Progress(Protocol):
    """Where stages say what they are doing."""

    def task(self, name: str, total: int | None = None) -> AbstractContextManager[Step]:
        """A piece of work of ``total`` units (None: not known). Tasks may be nested."""
        ...

    def note(self, message: str) -> None:
        """One line that stays."""
        ...


class SilentProgress:
    """Says nothing."""

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Step]:
        yield _ignore

    def note(self, message: str) -> None:
        pass


def _ignore(count: int = 1, said: str = "") -> None:
    pass


class PlainProgress:
    """A line when a task ends, and one every ``interval`` seconds before that; nested tasks stand below it."""

    def __init__(self, stream: TextIO | None = None, interval: float = INTERVAL) -> None:
        self._stream = stream or sys.stderr
        self._interval = interval
        self._depth = 0
        self._unnamed: str | None = None

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Step]:
        if self._unnamed is not None:
            self._depth -= 1
            self._say(f"{self._unnamed}:")
            self._depth += 1
        self._unnamed = name
        clock = _Clock(total)
        spoken = clock.start

        def step(count: int = 1, said: str = "") -> None:
            nonlocal spoken
            clock.done += count
            now = time.perf_counter()
            if now - spoken >= self._interval:
                spoken = now
                self._say(", ".join(filter(None, (f"{name}: {clock.count}", clock.left, said))))

        self._depth += 1
        ending = "stopped after"
        try:
            yield step
            ending = "done in"
        finally:
            self._depth -= 1
            self._unnamed = None
            counted = f"{clock.count}, " if clock.done else ""
            self._say(f"{name}: {counted}{ending} {clock.seconds:.1f} s")

    def note(self, message: str) -> None:
        self._say(message)

    def _say(self, line: str) -> None:
        print("  " * self._depth + line, file=self._stream, flush=True)


class _Clock:
    """What one task has done since when."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.start = time.perf_counter()

    @property
    def count(self) -> str:
        return f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"

    @property
    def left(self) -> str:
        """The time that the rest takes at the pace so far; empty where that is not known."""
        if not self.done or not self.total or self.done >= self.total:
            return ""
        return f"{duration(self.seconds / self.done * (self.total - self.done))} left"

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start


class RichProgress:
    """A bar a task; nested tasks share one display, which stays on the screen when the outermost task ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bars: Bars | None = None
        self._depth = 0

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Step]:
        bars = self._enter()
        row = bars.add_task("  " * (self._depth - 1) + name, total=total, said="")

        def step(count: int = 1, said: str = "") -> None:
            bars.update(row, advance=count, said=said)

        try:
            yield step
            bars.update(row, total=total or 1, completed=total or 1)
        finally:
            bars.stop_task(row)
            self._leave(bars)

    def note(self, message: str) -> None:
        if self._bars is not None:
            self._bars.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=self._stream, flush=True)

    def _enter(self) -> Bars:
        self._depth += 1
        if self._bars is None:
            self._bars = _bars(self._stream)
            self._bars.start()
        return self._bars

    def _leave(self, bars: Bars) -> None:
        self._depth -= 1
        if self._depth == 0:
            bars.stop()
            self._bars = None


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            counted = task.total is not None and task.total > 1
            count = f"{int(task.completed):,}/{int(task.total or 0):,}" if counted else ""
            left = task.time_remaining if counted and not task.finished else None
            more = (f"{duration(left)} left" if left else "", str(task.fields.get("said", "")))
            return Text(", ".join(filter(None, (f"{count:>13}{task.elapsed or 0:7.1f} s", *more))), style="cyan")

    name = TextColumn("{task.description}", markup=False)
    bar = BarColumn(bar_width=24, complete_style="cyan", finished_style="green")
    return Progress(name, bar, Count(), console=Console(file=stream))


def open_progress(stream: TextIO | None = None, quiet: bool = False) -> Progress:
    """Bars when ``stream`` (stderr by default) is a terminal, lines when it is not, nothing when ``quiet``."""
    stream = stream or sys.stderr
    if quiet:
        return SilentProgress()
    return RichProgress(stream) if stream.isatty() else PlainProgress(stream)
