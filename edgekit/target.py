"""One target profile: the facts of a device and the runtime on it, read from ``targets/NAME.toml``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import TargetError
from edgekit.resources import listing
from edgekit.toml_table import Table, near_misses, read_toml

FORMATS = {"litert": "tflite", "tflm": "tflite", "onnxruntime": "onnx"}
ARCHITECTURES = ("arm64", "x86_64", "cortex-m")
RECURRENT = ("fused", "unrolled", "loop", "whole")  # the forms of LSTM, GRU and RNN (``passes.steps``)
PRECISIONS = ("int8", "float32", "float16", "dynamic-int8", "mixed", "int16x8")  # the first is the default


@dataclass(frozen=True)
class Target:
    """What a device and its runtime can do. ``ops`` are TFLite builtin names or ONNX op types; empty means all."""

    name: str
    description: str
    architecture: str
    cores: int
    ram_bytes: int
    runtime: str
    threads: int = 1
    activations: str = "int8"
    precisions: tuple[str, ...] = PRECISIONS
    io_dtype: str = "int8"
    input_layout: str = "NHWC"
    ops: tuple[str, ...] = ()
    flash_bytes: int | None = None
    arena_bytes: int | None = None
    per_channel_fully_connected: bool = True
    recurrent: tuple[str, ...] = ()
    sparse: bool = False

    @property
    def format(self) -> str:
        """The artifact's format: ``tflite`` or ``onnx``."""
        return FORMATS[self.runtime]

    @property
    def artifact_name(self) -> str:
        """The artifact's file name: ``model.tflite`` or ``model.onnx``."""
        return f"model.{self.format}"

    def to_json(self) -> dict[str, Any]:
        """The facts as a JSON object."""
        return {**asdict(self), "precisions": list(self.precisions), "ops": list(self.ops), "format": self.format}


def list_targets(project_dir: Path | None = None) -> tuple[str, ...]:
    """The names of every profile: those of the project and those shipped."""
    return tuple(listing("targets", project_dir))


def load_target(name: str, project_dir: Path | None = None) -> Target:
    """The profile of that name. Raises TargetError with near misses when there is none, ConfigError on a bad one."""
    profiles = listing("targets", project_dir)
    if name not in profiles:
        hint = near_misses(name, profiles) or f"; `edgekit targets` lists the {len(profiles)} that are known"
        raise TargetError(f"unknown target {name!r}{hint}")
    return read_target(profiles[name])


def read_target(path: Path) -> Target:
    """The profile in that file. Raises ConfigError naming the file and the key."""
    table = Table(read_toml(path), f"{path.parent.name}/{path.name}")
    runtime = table.choice("runtime", tuple(FORMATS))
    given = {
        "description": table.text("description"),
        "architecture": table.choice("architecture", ARCHITECTURES),
        "cores": table.integer("cores", least=1),
        "ram_bytes": table.bytes("ram"),
        "runtime": runtime,
        "threads": table.integer("threads", least=1),
        "activations": table.choice("activations", ("int8", "uint8")),
        "precisions": table.texts("precisions", PRECISIONS),
        "io_dtype": table.choice("io_dtype", ("int8", "uint8", "float32")),
        "input_layout": table.choice("input_layout", ("NHWC", "NCHW")),
        "ops": table.texts("ops"),
        "flash_bytes": table.bytes("flash"),
        "arena_bytes": table.bytes("arena"),
        "per_channel_fully_connected": table.flag("per_channel_fully_connected"),
        "recurrent": table.texts("recurrent", RECURRENT),
        "sparse": table.flag("sparse"),
    }
    table.close()
    for field, key in (("description", "description"), ("architecture", "architecture"), ("cores", "cores"),
                       ("ram_bytes", "ram"), ("runtime", "runtime")):  # fmt: skip
        if given[field] is None:
            raise table.need(key)
    _check(table, given)
    facts: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return Target(name=path.stem, **facts)


def _check(table: Table, given: dict[str, Any]) -> None:
    """Facts that contradict each other. Raises ConfigError."""
    if given["precisions"] == ():
        raise table.error("precisions", f"an empty list was given, at least one of {', '.join(PRECISIONS)} is needed")
    if FORMATS[given["runtime"]] == "tflite" and "uint8" in (given["activations"], given["io_dtype"]):
        raise table.error("activations", "uint8 was given; the LiteRT 8-bit specification knows int8 only")
    if given["sparse"] and given["ops"] and "DENSIFY" not in given["ops"]:
        raise table.error("sparse", "true was given, but ops have no DENSIFY, which makes such tensors dense")
    if given["threads"] is not None and given["threads"] > given["cores"]:
        raise table.error("threads", f"{given['threads']} was given, the device has {given['cores']} cores")
