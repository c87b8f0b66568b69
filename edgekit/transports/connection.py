"""A connection to a device: files are sent there unless they are there already, and the agent answers requests.

Nothing is written on the device but the files sent, under their SHA-256: inputs and outputs of models pass through.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.device import Device
from edgekit.errors import DeviceError
from edgekit.measure import AGENT, HERE, Bench, checked, patience
from edgekit.runtimes import read
from edgekit.transports import last_line, transport_of

FAR_END = Path(__file__).with_name("far_end.py")
START = (
    "import sys; sys.version_info < (3, 8) and sys.exit('Python 3.8 or newer is needed, this is ' + "
    "sys.version.split()[0]); exec(eval(open(0, 'rb', 0, closefd=False).readline()))"
)
START_SECONDS = 60.0
END_SECONDS = 5.0
BYTES_PER_SECOND = 50_000  # what a slow connection can do, for how long to wait

Arrays = Mapping[str, NDArray[Any]]
Message = dict[str, Any]


class Connection:
    """A context manager; ``hello`` is what the device said first: its folder, free bytes and version of Python.

    Every method raises DeviceError, with one line, when the device cannot be reached or the connection ends.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.hello: Message = {}
        self._transport = transport_of(device)
        if device.benchmark:
            said = f"{device.benchmark} only times models; whatever needs their outputs takes a Python there"
            raise self._error(said)
        self._sent: dict[str, str] = {}
        self._lost = False
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``__exit__``
        command = self._transport.command(device, [*device.command, device.python, "-c", START])
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                cwd=device.home,
                start_new_session=True,
            )
        except OSError as error:
            self._said.close()
            fix = f"; install it: {self._transport.install}" if self._transport.install else ""
            raise self._error(f"{command[0]} cannot be started: {error.strerror or error}{fix}") from error

    def __enter__(self) -> Connection:
        source = f"{FAR_END.read_text(encoding='utf-8')}\nserve({self.device.folder!r})\n"
        try:
            with self._within(START_SECONDS):
                self._write(ascii(source).encode() + b"\n")
                self.hello = self._receive()
        except (DeviceError, KeyboardInterrupt):
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if self._lost and self.hello:  # what died there could not clean up; the next one does
            with suppress(DeviceError), Connection(self.device):
                pass

    def put(self, path: Path) -> str:
        """Send a file unless it is there already; its path on the device. Raises ModelError when it cannot be read."""
        data = read(path)
        digest = hashlib.sha256(data).hexdigest()
        name = digest[:32] + (path.suffix if path.suffix[1:].isalnum() else "")
        if name not in self._sent:
            request = {"do": "put", "name": name, "sha256": digest, "bytes": len(data)}
            with self._within(START_SECONDS + len(data) / BYTES_PER_SECOND):
                if not self._exchange(request)["have"]:
                    self._write(data)
                    self._receive()
            self._sent[name] = f"{self.hello['folder']}/{name}"
        return self._sent[name]

    def ask(self, request: Mapping[str, Any], prefix: Sequence[str] = ()) -> Message:
        """The agent's answer, as ``edgekit.measure.ask`` gives it on this machine; raises what that raises.

        ``prefix`` is a command that starts the interpreter there.
        """
        names = {artifact["path"]: self.put(Path(artifact["path"])) for artifact in request.get("artifacts", ())}
        artifacts = [dict(item, path=names[item["path"]]) for item in request.get("artifacts", ())]
        there = {**request, "artifacts": artifacts, "cpus": list(self.device.cpus)}
        inputs = request.get("inputs", "random")
        if inputs not in ("random", "zeros"):
            names[inputs] = there["inputs"] = self.put(Path(inputs))
        with self._within(patience(request)):
            self._send(self._agent(there, prefix))
            return self._receive(names)

    def leave(self) -> str:
        """End the connection, once the last agent has ended; what was said on standard error, by the agents too."""
        self.files()
        self._status()
        return self._all_said()

    @contextmanager
    def model(self, path: Path, runtime: str, threads: int = 1) -> Iterator[DeviceModel]:
        """A model that is loaded on the device. Raises ModelError when it cannot be."""
        there = self.put(path)
        artifact = {"path": there, "runtime": runtime}
        request = {"do": "run", "artifacts": [artifact], "threads": threads, "cpus": list(self.device.cpus)}
        with self._within(patience(request)):
            self._send(self._agent(request))
            about = self._receive({str(path): there})
        done = False
        try:
            yield DeviceModel(self, str(path), there, about)
            self._exchange({"bytes": 0})
            done = True
        finally:
            if not done:  # it may be in the middle of a message
                self._hang_up()

    def batch(self, inputs: Arrays, names: Mapping[str, str], seconds: float) -> Arrays:
        """The outputs that the loaded model gives for inputs, both with a sample a row."""
        file = io.BytesIO()
        np.savez(file, *inputs.values())
        size = len(file.getbuffer())
        with self._within(seconds + size / BYTES_PER_SECOND):
            self._send({"names": list(inputs), "bytes": size})
            self._write(file.getbuffer())
            head = self._receive(names)
            with np.load(io.BytesIO(self._read(head["bytes"]))) as found:
                return dict(zip(head["names"], (found[key] for key in found.files), strict=True))

    def files(self) -> dict[str, int]:
        """The sizes of the files that are kept on the device, by name."""
        found: dict[str, int] = self._exchange({"do": "list"})["files"]
        return found

    def clean(self) -> None:
        """Remove all of them, and the folder where nothing else is in it."""
        self._exchange({"do": "clean"})
        self._sent.clear()

    def _agent(self, request: Mapping[str, Any], prefix: Sequence[str] = ()) -> Message:
        return {"do": "agent", "name": Path(self.put(AGENT)).name, "request": request, "prefix": list(prefix)}

    def _exchange(self, request: Message) -> Message:
        with self._within(START_SECONDS):
            self._send(request)
            return self._receive()

    def _send(self, message: Message) -> None:
        self._write(json.dumps(message).encode() + b"\n")

    def _write(self, data: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._ended() from error

    def _read(self, count: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(count)
        if len(data) < count:
            raise self._ended()
        return data

    def _receive(self, names: Mapping[str, str] | None = None) -> Message:
        """The next message; ``names`` says what files here are called there. Raises the error that it reports."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        while line and not line.startswith(b"{"):  # what a shell there says before it starts a command
            line = self._process.stdout.readline()
        try:
            message: Message = json.loads(line)
        except ValueError as error:
            raise self._ended() from error
        said = message.get("error")
        for here, there in (names or {}).items():
            if said:
                said["text"] = said["text"].replace(there, here)
        if said and said["kind"] == "died" and int(said["text"]) > 0:
            last = last_line(self._all_said()) or "no message"
            raise self._error(f"the agent failed with exit status {said['text']}: {last}")
        try:
            return checked(message, ", ".join(names or ()))
        except DeviceError as error:
            raise self._error(str(error)) from error

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Kill the process when the block takes longer, so that whatever waits for it goes on with a DeviceError."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        except DeviceError as error:
            if late.is_set():
                raise self._error(f"no answer within {seconds:.0f} s") from error
            raise
        finally:
            timer.cancel()

    def _ended(self) -> DeviceError:
        """The error for a connection that is over, with the reason."""
        self._lost = True
        status = self._status()
        return self._error(self._transport.reason(self.device, status, self._all_said()))

    def _all_said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    def _error(self, text: str) -> DeviceError:
        return DeviceError(f"device {self.device.name}: {text}")

    def _end(self) -> None:
        """Close everything. The far end leaves when its standard input ends."""
        self._status()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._said.close()

    def _status(self) -> int:
        """The exit status of the process, which is given a moment after its standard input has been closed."""
        self._hang_up()
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            return self._process.wait()

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _kill(self) -> None:
        """End the process and whatever it has started here."""
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def bench_on(device: Device | None) -> Iterator[Bench]:
    """What times artifacts on a device (None: on this machine)."""
    if device is None:
        yield HERE
        return
    if device.benchmark:
        from edgekit.transports.benchmark import BinaryBench

        yield BinaryBench(device=device)
        return
    with Connection(device) as connection:
        yield Bench(connection.ask)


class DeviceModel:
    """A model that is loaded on a device; it speaks the artifact's own dtypes and layout."""

    def __init__(self, connection: Connection, path: str, there: str, about: Message) -> None:
        self._connection, self._names = connection, {path: there}
        self.runtime_version: str = about["runtime_version"]
        self.machine: Mapping[str, Any] = about["machine"]

    def run(self, inputs: Arrays) -> Arrays:
        """Inputs by name -> outputs by name, both with a sample a row. Raises ModelError when the model fails."""
        return self._connection.batch(inputs, self._names, patience({}))
