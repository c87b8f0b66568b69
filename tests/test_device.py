"""[devices.NAME]: what is read, what it becomes on the command line, and a clear line for each mistake."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.device import Device
from edgekit.errors import ConfigError
from edgekit.project import Project, parse_project
from edgekit.toml_table import tomllib
from edgekit.transports import transport_of
from edgekit.transports.ssh import OPTIONS

WHOLE = """
[devices.here]
transport = "local"
[devices.container]
transport = "exec"
command = ["docker", "exec", "-i", "box"]
python = "/usr/bin/python3.9"
[devices.pi]
transport = "ssh"
host = "pi@raspberrypi"
options = ["-p", "2222"]
command = ["nice", "-n", "-5"]
python = "~/my venv/bin/python"
folder = "/tmp/edgekit"
threads = 4
cpus = [2, 3]
[devices.phone]
transport = "adb"
serial = "R58"
"""


def project(text: str) -> Project:
    return parse_project(tomllib.loads(text), Path("there"), "edgekit.toml")


def test_every_transport_is_read() -> None:
    devices, home = project(WHOLE).devices, Path("there")
    folder = "~/.cache/edgekit/device"
    assert dict(devices) == {
        "here": Device("here", "local", python=sys.executable, folder=folder, home=home),
        "container": Device(
            "container", "exec", command=("docker", "exec", "-i", "box"), python="/usr/bin/python3.9", home=home
        ),
        "pi": Device(
            "pi",
            "ssh",
            host="pi@raspberrypi",
            options=("-p", "2222"),
            command=("nice", "-n", "-5"),
            python="~/my venv/bin/python",
            folder="/tmp/edgekit",
            threads=4,
            cpus=(2, 3),
            home=home,
        ),
        "phone": Device("phone", "adb", serial="R58", folder="/data/local/tmp/edgekit", home=home),
    }


def test_what_is_started_here() -> None:
    devices = project(WHOLE).devices

    def command(name: str) -> list[str]:
        device = devices[name]
        return transport_of(device).command(device, [*device.command, device.python, "-c", "it's"])

    assert command("here") == [sys.executable, "-c", "it's"]
    assert command("container") == ["docker", "exec", "-i", "box", "/usr/bin/python3.9", "-c", "it's"]
    quoted = "nice -n -5 ~/'my venv/bin/python' -c 'it'\"'\"'s'"
    options = [word for option in OPTIONS for word in ("-o", option)]
    assert command("pi") == ["ssh", "-p", "2222", *options, "pi@raspberrypi", quoted]
    assert command("phone") == ["adb", "-s", "R58", "shell", "-T", "python3 -c 'it'\"'\"'s'"]


SSH = '[devices.pi]\ntransport = "ssh"\n'
NONE = 'edgekit.toml:devices: none is described; add [devices.pi] with transport = "ssh", for one'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", NONE),
        ('[devices.pie]\ntransport = "local"', "edgekit.toml:devices: no device 'pi'; did you mean pie?"),
        ('[devices.board]\ntransport = "local"', "edgekit.toml:devices: no device 'pi'; there are board"),
        ("[devices]\npi = 3", "edgekit.toml:devices.pi: 3 was given, a table is needed"),
        ("[devices.pi]", "edgekit.toml:devices.pi.transport: missing"),
        (
            '[devices.pi]\ntransport = "sssh"',
            "edgekit.toml:devices.pi.transport: 'sssh' is not one of local, exec, ssh, adb; did you mean ssh?",
        ),
        (SSH, "edgekit.toml:devices.pi.host: missing"),
        (SSH + 'host = "-oProxyCommand=x"', "edgekit.toml:devices.pi.host: '-oProxyCommand=x' was given, a host as"),
        (SSH + 'host = "pi"\nhots = "pi"', "edgekit.toml:devices.pi.hots: unknown key; did you mean host"),
        (
            SSH + 'host = "pi"\nserial = "3"',
            "edgekit.toml:devices.pi.serial: has no meaning with transport = 'ssh'; accepted: transport, host, options",
        ),
        (
            SSH + 'host = "pi"\nbenchmark = "b"\npython = "p"',
            "edgekit.toml:devices.pi.python: has no meaning beside benchmark; describe two devices",
        ),
        (SSH + 'host = "pi"\nthreads = 0', "edgekit.toml:devices.pi.threads: 0 was given"),
        (SSH + 'host = "pi"\ncpus = [-1]', "edgekit.toml:devices.pi.cpus: [-1] was given"),
        ('[devices.pi]\ntransport = "exec"', "edgekit.toml:devices.pi.command: missing; give it"),
    ],
)
def test_a_mistake_gets_one_line_with_file_and_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(text).device("pi")
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
