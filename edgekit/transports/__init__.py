"""How to reach a device: a transport turns a command there into one here, and says why it failed.

All else is the same for all: ``connection`` starts ``far_end`` through it, which takes files and runs the agent.
"""

from __future__ import annotations

from typing import Protocol

from edgekit.device import Device


class Transport(Protocol):
    """One way to reach a device."""

    install: str
    """How to get the program that it needs here."""

    def command(self, device: Device, arguments: list[str]) -> list[str]:
        """What to start here, so that ``arguments`` are run on the device with its standard streams."""

    def reason(self, device: Device, status: int, said: str) -> str:
        """One line on why the command ended with that status (negative: a signal) and ``said`` on standard error."""


def transport_of(device: Device) -> Transport:
    """The transport of a device."""
    if device.transport == "ssh":
        from edgekit.transports.ssh import Ssh

        return Ssh()
    if device.transport == "adb":
        from edgekit.transports.adb import Adb

        return Adb()
    from edgekit.transports.exec import Exec

    return Exec()


def quoted(arguments: list[str]) -> str:
    """Arguments for a shell on the device, which expands a ``~/`` that one begins with."""
    from shlex import quote

    return " ".join(f"~/{quote(word[2:])}" if word.startswith("~/") else quote(word) for word in arguments)


def last_line(said: str) -> str:
    """The last line that is not empty; nothing when there is none."""
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
