"""The system's OpenSSH with the user's own configuration, keys and known hosts; it never asks for anything."""

from __future__ import annotations

from edgekit.device import Device
from edgekit.transports import last_line, quoted

OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "RequestTTY=no",
    "RemoteCommand=none",
)
FAILED = 255  # ssh's own exit status; all others are those of what it ran

REASONS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} is not the known one; if the device was set up anew: ssh-keygen -R {host}",
    ),
    ("Host key verification failed", "the host key of {host} is not known; connect once by hand: ssh {host}"),
    ("Permission denied", "{host} accepts none of your keys; give it one: ssh-copy-id {host}"),
)
"""What ssh says somewhere, and what that means."""

SPEAKS = (
    "ssh", "kex_exchange", "banner exchange", "client_loop:", "Connection ", "Disconnected ", "Received disconnect",
    "Timeout, server", "Unable to negotiate", "Bad ", "command-line", "Can't open",
)  # fmt: skip
"""How lines begin that come from ssh, and not from the device."""


class Ssh:
    """One connection, over which everything goes."""

    install = "apt install openssh-client"

    def command(self, device: Device, arguments: list[str]) -> list[str]:
        """``ssh OPTIONS HOST 'ARGUMENTS'``."""
        own = [word for option in OPTIONS for word in ("-o", option)]
        return ["ssh", *device.options, *own, device.host, quoted(arguments)]

    def reason(self, device: Device, status: int, said: str) -> str:
        """What ssh itself says, with what to do about it; else what the device said last."""
        if status != FAILED:
            return last_line(said) or f"the agent ended with status {status}"
        for sign, meaning in REASONS:
            if sign in said:
                return meaning.format(host=device.host)
        own = last_line("\n".join(line for line in said.splitlines() if line.startswith(SPEAKS)))
        return own or f"the connection to {device.host} was lost, or the agent there was killed"
