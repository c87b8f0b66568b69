"""The error tree. Each class carries the exit code with which the command line ends.

    EdgekitError                 2
    ├── InputError               2   bad usage or bad input; the base of the four below
    │   ├── ConfigError          2   edgekit.toml, a target profile or a recipe: names the file and the key
    │   ├── ModelError           2   a model file or callable that cannot be read, or is not sound (NaN weights)
    │   ├── DataError            2   calibration or evaluation data that cannot be used
    │   └── TargetError          2   an unknown target; near misses are suggested
    ├── OutputError              2   the output folder cannot be written
    ├── GateError                1   a gate failed
    ├── InconclusiveError        3   a gate cannot be decided: the device was too noisy
    ├── DeviceError              4   a device or a runtime cannot be reached
    └── UnsupportedError         5   the model needs something that the target cannot express; all of it at once

A message is one line that names the node, tensor or ``file:key``, what was found and what is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence


class EdgekitError(Exception):
    """Base of every error that edgekit raises on purpose."""

    exit_code = 2


class InputError(EdgekitError):
    """Bad usage or bad input."""


class ConfigError(InputError):
    """A configuration file that cannot be used; the message starts with ``file:key``."""


class ModelError(InputError):
    """A model that cannot be read or is not sound."""


class DataError(InputError):
    """Calibration or evaluation data that cannot be used."""


class TargetError(InputError):
    """A target that is not known."""


class OutputError(EdgekitError):
    """An output that cannot be written."""


class GateError(EdgekitError):
    """At least one gate failed."""

    exit_code = 1


class InconclusiveError(EdgekitError):
    """A gate cannot be decided from what was measured."""

    exit_code = 3


class DeviceError(EdgekitError):
    """A device or a runtime cannot be reached."""

    exit_code = 4


class UnsupportedError(EdgekitError):
    """The model needs something that the target cannot express.

    ``problems`` holds every one of them, so that a user sees all before any work starts.
    """

    exit_code = 5

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))
