"""A command on this machine: an interpreter, or any prefix for one (a container, qemu-user, taskset)."""

from __future__ import annotations

import signal
from pathlib import Path

from edgekit.device import Device
from edgekit.transports import last_line


class Exec:
    """Starts the command as it is, in the folder of edgekit.toml."""

    install = ""

    def command(self, device: Device, arguments: list[str]) -> list[str]:
        """The arguments themselves, a leading ``~`` expanded."""
        return [str(Path(word).expanduser()) if word.startswith("~") else word for word in arguments]

    def reason(self, device: Device, status: int, said: str) -> str:
        """The signal that ended it, or what it said last."""
        if status < 0:
            return f"the agent was ended by {signal.Signals(-status).name}"
        return last_line(said) or f"{device.command[0] if device.command else device.python} ended with status {status}"
