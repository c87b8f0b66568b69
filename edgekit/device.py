"""A device as ``[devices.NAME]`` of edgekit.toml describes it: how it is reached, and what runs models there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ConfigError
from edgekit.toml_table import Table, near_misses

KEYS = {
    "local": ("python",),
    "exec": ("command", "python", "benchmark"),
    "ssh": ("host", "options", "command", "python", "benchmark"),
    "adb": ("serial", "command", "python", "benchmark"),
}
"""The transports, and what each reads besides ``COMMON``."""

COMMON = ("folder", "threads", "cpus")
FOLDERS = {"adb": "/data/local/tmp/edgekit"}


@dataclass(frozen=True)
class Device:
    """``host`` and ``options`` are given to ssh, ``serial`` to adb; ``command`` goes before ``python`` on the device.

    ``benchmark`` is a runtime's own benchmark binary on the device, which times models there in place of ``python``.
    ``folder``, on the device, keeps what is sent there. ``threads`` and ``cpus`` are what models run with (``cpus``
    empty: any). Relative paths in ``command`` and ``python`` are those of ``home``, where edgekit.toml lies.
    """

    name: str
    transport: str
    host: str = ""
    options: tuple[str, ...] = ()
    serial: str = ""
    command: tuple[str, ...] = ()
    python: str = "python3"
    benchmark: str = ""
    folder: str = "~/.cache/edgekit/device"
    threads: int = 1
    cpus: tuple[int, ...] = ()
    home: Path = Path()


def read_devices(tables: Mapping[str, Table], home: Path) -> dict[str, Device]:
    """Every ``[devices.NAME]``. Raises ConfigError naming the file and the key."""
    return {name: _device(name, table, home) for name, table in tables.items()}


def find_device(name: str, devices: Mapping[str, Device], file: str) -> Device:
    """The device of that name. Raises ConfigError with near misses, or with how to describe one."""
    if name in devices:
        return devices[name]
    if not devices:
        raise ConfigError(f'{file}:devices: none is described; add [devices.{name}] with transport = "ssh", for one')
    hint = near_misses(name, devices) or f"; there are {', '.join(devices)}"
    raise ConfigError(f"{file}:devices: no device {name!r}{hint}")


def _device(name: str, table: Table, home: Path) -> Device:
    transport = table.choice("transport", tuple(KEYS))
    given = {
        "host": table.text("host"),
        "options": table.texts("options"),
        "serial": table.text("serial"),
        "command": table.texts("command"),
        "python": table.text("python"),
        "benchmark": table.text("benchmark"),
        "folder": table.text("folder"),
        "threads": table.integer("threads", least=1),
        "cpus": table.integers("cpus", least=0),
    }
    table.close()
    if transport is None:
        raise table.need("transport")
    _check(table, transport, given)
    defaults = {"folder": FOLDERS.get(transport), "python": sys.executable if transport == "local" else None}
    facts: dict[str, Any] = {key: value for key in given if (value := given[key] or defaults.get(key)) is not None}
    return Device(name, transport, home=home, **facts)


def _check(table: Table, transport: str, given: Mapping[str, object]) -> None:
    """What a transport cannot do without, what it has no use for, and what ssh would take for an option."""
    accepted = ("transport", *KEYS[transport], *COMMON)
    for key in table.data:
        if key not in accepted:
            raise table.error(key, f"has no meaning with transport = {transport!r}; accepted: {', '.join(accepted)}")
    host = given["host"]
    if transport == "ssh" and not host:
        raise table.need("host")
    if isinstance(host, str) and host.startswith("-"):
        raise table.error("host", f"{host!r} was given, a host as ssh knows it is needed")
    if given["benchmark"] and given["python"]:
        raise table.error("python", "has no meaning beside benchmark; describe two devices")
    if transport == "exec" and not (given["command"] or given["python"] or given["benchmark"]):
        raise table.error("command", 'missing; give it (such as ["taskset", "-c", "3"]), or python, or both')
