"""An Android device that the system's ``adb`` reaches (Android 7 or newer), with a Python on it."""

from __future__ import annotations

from edgekit.device import Device
from edgekit.transports import last_line, quoted


class Adb:
    """``adb shell`` without a terminal: its standard streams are those of the command."""

    install = "apt install adb"

    def command(self, device: Device, arguments: list[str]) -> list[str]:
        """``adb [-s SERIAL] shell -T 'ARGUMENTS'``."""
        chosen = ["-s", device.serial] if device.serial else []
        return ["adb", *chosen, "shell", "-T", quoted(arguments)]

    def reason(self, device: Device, status: int, said: str) -> str:
        """What adb or the device said last."""
        return last_line(said) or f"the agent was killed, or the device went away (adb ended with status {status})"
