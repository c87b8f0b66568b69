"""A real sshd on loopback with keys, port, known hosts and configuration of its own, as a device."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.device import Device


class NoSshd(Exception):  # noqa: N818 - nothing has gone wrong
    """There is none here that starts."""


@dataclass(frozen=True)
class LoopbackSshd:
    """The running server; ``device`` reaches it."""

    folder: Path
    process: subprocess.Popen[bytes]
    device: Device

    def kept(self) -> list[str]:
        """The names of the files that are kept on the device."""
        folder = Path(self.device.folder)
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def sessions(self) -> list[int]:
        """Every process that serves a connection: sshd's children, and what they run."""
        return descendants(self.process.pid)

    def changed(self, old: str, new: str) -> Device:
        """The device, reached with something else in the ssh configuration."""
        text, path = (self.folder / "config").read_text(), self.folder / "config_changed"
        assert old in text
        path.write_text(text.replace(old, new))
        return replace(self.device, options=("-F", str(path)))


@contextlib.contextmanager
def loopback_sshd(folder: Path) -> Iterator[LoopbackSshd]:
    """Start one below ``folder``. Raises NoSshd."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh") is None:
        raise NoSshd("no sshd here (apt install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in before a user is known
    for name in ("host_key", "user_key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    (folder / "authorized").write_text((folder / "user_key.pub").read_text())
    known = f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}"
    (folder / "known_hosts").write_text(known)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    (folder / "config").write_text(
        f"Host pi\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/user_key\n IdentitiesOnly yes\n"
        f" IdentityAgent none\n UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile /dev/null\n"
        " StrictHostKeyChecking yes\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
        try:
            await_port(port, process, folder / "log")
            device = Device(
                "pi",
                "ssh",
                host="pi",
                options=("-F", str(folder / "config")),
                python=sys.executable,
                folder=str(folder / "kept"),
            )
            yield LoopbackSshd(folder, process, device)
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise NoSshd(f"sshd does not start here: {log.read_text().strip()}")


def descendants(process: int) -> list[int]:
    """The processes below one, parents first."""
    found = []
    with contextlib.suppress(OSError):  # one that has just ended
        for thread in os.listdir(f"/proc/{process}/task"):
            for child in map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def argument_of(process: int) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def await_gone(processes: list[int], seconds: float = 10.0) -> None:
    """Fails when one of them is still there after some seconds; one that is dead and not waited for is gone."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = [process for process in processes if argument_of(process)]
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"still running: {[argument_of(process) for process in left]}")
