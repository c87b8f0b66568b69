"""What commands share: their group, the flags that several have, and how they answer."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.errors import EdgekitError, UnsupportedError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgekit.device import Device
    from edgekit.progress import Progress

CONFIG = Path("edgekit.toml")
INTERRUPTED = 130
NO_MODEL = "no model: give MODEL, or write an edgekit.toml (edgekit init does)"
EXIT_CODES = """\b
Exit codes:
  0  all gates hold
  1  a gate failed
  2  bad usage or bad input
  3  a gate is inconclusive: the device was too noisy, or it is not the target's
  4  a device or a runtime cannot be reached
  5  the model needs something that the target cannot express
"""


Resolved = tuple[str | None, click.Command | None, list[str]]


class Commands(click.Group):
    """Turns edgekit's errors into one line on stderr and their exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are needed."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Resolved:
        """Names near misses of an unknown command, which not every click does."""
        close = difflib.get_close_matches(args[0], self.commands, n=1)
        if args[0] in self.commands or not close or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except EdgekitError as error:
            click.echo(said(error), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


def said(error: EdgekitError) -> str:
    """An error as it is printed; what a target cannot express has a line each."""
    if isinstance(error, UnsupportedError) and len(error.problems) > 1:
        return "\n  ".join((f"error: {len(error.problems)} things cannot be expressed:", *error.problems))
    return f"error: {error}"


def answer(as_json: bool, value: Any, parts: Callable[[], Iterable[RenderableType]]) -> None:
    """Print ``value`` as one JSON object, or ``parts`` for a person."""
    if as_json:
        import json

        from edgekit.report.codec import encode

        click.echo(json.dumps(encode(value), indent=2, ensure_ascii=False))
    else:
        from edgekit.report import console

        console.show(parts(), sys.stdout)


def progress(quiet: bool) -> Progress:
    """Where a command says how far it is."""
    from edgekit.progress import open_progress

    return open_progress(quiet=quiet)


def described(device: str | None, config: Path | None) -> Device | None:
    """The device of that name in edgekit.toml; None without a name."""
    from edgekit.project import Project

    return Project.from_flags(config=existing_config(config)).device(device) if device else None


def existing_config(given: Path | None) -> Path | None:
    """The --config that was given, else edgekit.toml where there is one."""
    return given or (CONFIG if CONFIG.is_file() else None)


json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, all else on stderr.")
quiet_flag = click.option("--quiet", "-q", is_flag=True, help="No progress.")
config_option = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="The project; edgekit.toml when there is one."
)
device_option = click.option("--device", metavar="NAME", help="A device that edgekit.toml describes, [devices.NAME].")
junit_option = click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML too.")
markdown_option = click.option(
    "--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write a Markdown report too."
)


html_option = click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page too.")


def settings_of(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that name a key of edgekit.toml (``model__weights``), by that key (``model.weights``)."""
    return {name.replace("__", "."): value for name, value in flags.items() if "__" in name}
