"""Strict reading of TOML: every key is asked for by name, and a key that nobody asked for is an error."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3}


def near_misses(word: str, accepted: Iterable[str]) -> str:
    """``; did you mean a or b?`` when ``accepted`` holds words like ``word``, else nothing."""
    close = difflib.get_close_matches(word, list(accepted), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def read_toml(path: Path) -> dict[str, Any]:
    """The file as a dictionary. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def parse_quantity(text: str, units: Mapping[str, float]) -> float | None:
    """``"320 KB"`` -> 320000.0; None when the text is not a number and one of the units."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]


class Table:
    """One TOML table that is read key by key. Every complaint is a ConfigError that starts with ``file:key``."""

    def __init__(self, data: Mapping[str, Any], file: str, prefix: str = "") -> None:
        self.data = data
        self.file = file
        self.prefix = prefix
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def error(self, key: str, said: str) -> ConfigError:
        """A ConfigError about ``key`` of this table."""
        name = ".".join(part for part in (self.prefix, key) if part)
        return ConfigError(f"{self.file}:{name}: {said}")

    def value(self, key: str) -> Any:
        """The raw value, or None when the key is absent."""
        self._asked.append(key)
        return self.data.get(key)

    def text(self, key: str) -> str | None:
        """A text that is not empty."""
        value = self.value(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self.error(key, f"{value!r} was given, a text that is not empty is needed")
        return value

    def choice(self, key: str, accepted: Sequence[str]) -> str | None:
        """One of the accepted words."""
        value = self.value(key)
        if value is not None and value not in accepted:
            hint = near_misses(str(value), accepted)
            raise self.error(key, f"{value!r} is not one of {', '.join(accepted)}{hint}")
        return None if value is None else str(value)

    def flag(self, key: str) -> bool | None:
        """true or false."""
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, f"{value!r} was given, true or false is needed")
        return value

    def integer(self, key: str, least: int = 0) -> int | None:
        """A whole number of at least ``least``."""
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(key, f"{value!r} was given, a whole number of at least {least} is needed")
        return value

    def number(self, key: str, least: float = 0.0, most: float = float("inf")) -> float | None:
        """A number in [least, most]."""
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            limits = f"of at least {least:g}" if most == float("inf") else f"from {least:g} to {most:g}"
            raise self.error(key, f"{value!r} was given, a number {limits} is needed")
        return float(value)

    def integers(self, key: str, least: int = 1) -> tuple[int, ...] | None:
        """A list of whole numbers, each of at least ``least``."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(item) is int and item >= least for item in value) or not value:
            raise self.error(key, f"{value!r} was given, a list of whole numbers of at least {least} is needed")
        return tuple(value)

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """A number, or a list of them."""
        value = self.value(key)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        if not items or not all(type(item) in (int, float) for item in items):
            raise self.error(key, f"{value!r} was given, a number or a list of numbers is needed")
        return tuple(float(item) for item in items)

    def texts(self, key: str, accepted: Sequence[str] = ()) -> tuple[str, ...] | None:
        """A list of texts, all of them accepted words when such are given."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"{value!r} was given, a list of texts is needed")
        for item in value:
            if accepted and item not in accepted:
                raise self.error(key, f"{item!r} is not one of {', '.join(accepted)}{near_misses(item, accepted)}")
        return tuple(value)

    def bytes(self, key: str) -> int | None:
        """A size such as ``"320 KB"`` (1000 bytes) or ``"512 KiB"`` (1024), or a whole number of bytes."""
        value = self.value(key)
        if value is None or (type(value) is int and value > 0):
            return value
        size = parse_quantity(value, BYTES) if isinstance(value, str) else None
        if not size:
            raise self.error(key, f'{value!r} was given, a size such as "320 KB" is needed ({", ".join(BYTES)})')
        return round(size)

    def milliseconds(self, key: str) -> float | None:
        """A time such as ``"4 ms"``, in milliseconds."""
        value = self.value(key)
        if value is None:
            return None
        time = parse_quantity(value, MILLISECONDS) if isinstance(value, str) else None
        if not time:
            raise self.error(key, f'{value!r} was given, a time such as "4 ms" is needed ({", ".join(MILLISECONDS)})')
        return time

    def table(self, key: str) -> Table | None:
        """A table below this one."""
        value = self.value(key)
        return None if value is None else self._below(key, value)

    def tables(self, key: str) -> dict[str, Table]:
        """Tables by name, as in ``[model.inputs.image]``; empty when there are none."""
        below = self.table(key)
        if below is None:
            return {}
        return {name: below._below(name, value) for name, value in below.data.items()}

    def close(self) -> None:
        """Raises ConfigError for the first key that nobody asked for, with near misses and what is accepted."""
        for key in self.data:
            if key not in self._asked:
                accepted = ", ".join(sorted(set(self._asked)))
                hint = near_misses(key, self._asked)
                raise self.error(key, f"unknown key{hint or ';'} accepted: {accepted}")

    def need(self, key: str) -> ConfigError:
        """The error for a key that must be there and is not."""
        return self.error(key, "missing")

    def _below(self, key: str, value: Any) -> Table:
        if not isinstance(value, dict):
            raise self.error(key, f"{value!r} was given, a table is needed")
        return Table(value, self.file, ".".join(part for part in (self.prefix, key) if part))
