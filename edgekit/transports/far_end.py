"""The far end of a connection: takes files and has the agent answer requests. It needs Python 3.8 alone.

Its source is the first thing that ``edgekit.transports.connection`` sends, and it is not stored on the device.
A message is a JSON object on a line; where it says ``"bytes": n``, n bytes follow. Requests are

    {"do": "put", "name": "0a1b.tflite", "sha256": "0a1b...", "bytes": n}   a file; sent if the answer is "have": false
    {"do": "agent", "name": "0c2d.py", "request": {...}, "prefix": [...]}   what agent.py takes, which answers
    {"do": "list"}    {"do": "clean"}                                       the files sent here; remove them

An answer may be ``{"error": {"kind": "device" | "died", "text": one line, or what the process ended with}}``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Message = dict[str, Any]

KEPT_FILES = 16  # of those that were sent here, the last used
PATIENCE_SECONDS = 1800  # for the next message: a connection may be lost without a sign
PIECE = 1 << 20
OWN = re.compile(r"[0-9a-f]{32}(\.\w+)?(\.[0-9]+\.part)?$")
SOURCE = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - standard input, of which nothing is read ahead


def serve(folder: str) -> None:
    """Answer requests until standard input ends; files that are sent lie in ``folder``."""
    folder = os.path.abspath(os.path.expanduser(folder))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        tidy(folder)
    except OSError as error:
        return say({"error": {"kind": "device", "text": f"{folder}: cannot be used: {error.strerror or error}"}})
    say({"folder": folder, "free_bytes": shutil.disk_usage(folder).free, "python": list(sys.version_info[:3])})
    while True:
        signal.alarm(PATIENCE_SECONDS)
        line = SOURCE.readline()
        signal.alarm(0)
        if not line.endswith(b"\n"):
            return None
        request = json.loads(line.decode())
        if request["do"] == "put":
            put(os.path.join(folder, request["name"]), request)
        elif request["do"] == "agent":
            path = os.path.join(folder, request["name"])
            ask_agent(request["prefix"], [path, json.dumps(request["request"])])
        elif request["do"] == "list":
            say({"files": {os.path.basename(path): os.path.getsize(path) for path in sorted(own(folder))}})
        else:
            clean(folder)
            say({})


def say(message: Message) -> None:
    """Send a message. Ends the process when nobody listens."""
    try:
        with open(1, "wb", closefd=False) as file:
            file.write(json.dumps(message).encode() + b"\n")
    except OSError:
        sys.exit(1)


def own(folder: str) -> list[str]:
    """The paths of the files that were sent here. Others may lie beside them, which are not ours to remove."""
    return [os.path.join(folder, name) for name in os.listdir(folder) if OWN.match(name)]


def clean(folder: str) -> None:
    """Remove all files that were sent here, and the folder when nothing else is in it."""
    for path in own(folder):
        os.remove(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def tidy(folder: str) -> None:
    """Remove what was half received by a process that has died, and all but the last used files. Raises OSError."""
    paths = own(folder)
    whole = [path for path in paths if not path.endswith(".part")]
    unused = sorted(whole, key=os.path.getmtime)[:-KEPT_FILES]
    for path in unused + [path for path in paths if path not in whole and not alive(int(path.split(".")[-2]))]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def alive(process: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def put(path: str, request: Message) -> None:
    """Receive a file, unless it is there already."""
    if digest(path) == request["sha256"]:
        os.utime(path)
        return say({"have": True})
    say({"have": False})
    part, pieces = f"{path}.{os.getpid()}.part", received(request["bytes"])
    answer: Message = {}
    try:
        with open(part, "wb") as file:
            file.writelines(pieces)
        os.replace(part, path)
    except OSError as error:
        answer = {"error": {"kind": "device", "text": f"{path}: cannot be written: {error.strerror or error}"}}
        for _ in pieces:  # what is still under way
            pass
    finally:
        with contextlib.suppress(OSError):
            os.remove(part)
    return say(answer)


def received(count: int) -> Iterator[bytes]:
    """That many bytes, in pieces. Ends the process when they end before."""
    while count:
        piece = SOURCE.read(min(count, PIECE))
        if not piece:
            sys.exit(1)
        count -= len(piece)
        yield piece


def digest(path: str) -> str:
    """The SHA-256 of a file, or nothing when there is none."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(PIECE), b""):
                found.update(piece)
    except OSError:
        return ""
    return found.hexdigest()


def ask_agent(prefix: list[str], arguments: list[str]) -> None:
    """Have a process of its own answer; it is ended when the connection ends before it."""
    over, held = os.pipe()  # closed by the end of the process
    os.set_inheritable(held, True)
    process = os.fork()
    if process == 0:
        os.close(over)
        die_with_parent()
        become(prefix, arguments)
    os.close(held)
    poll = select.poll()
    poll.register(0, getattr(select, "POLLRDHUP", 0))  # the other end may still be writing: only its hanging up counts
    poll.register(over, 0)
    if over not in dict(poll.poll()):
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    os.close(over)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if code not in (0, 2):  # those have answered
        say({"error": {"kind": "died", "text": str(code)}})


def die_with_parent() -> None:
    """Have Linux end this process when the one that started it is killed."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def become(prefix: list[str], arguments: list[str]) -> None:
    """Go on as a Python program in a process of its own, or in this one under qemu-user, which can start no other."""
    command = [*prefix, sys.executable, *arguments]
    try:
        os.execvp(command[0], command)
    except OSError:
        import runpy

        sys.argv = arguments
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
