"""``edgekit.toml`` as frozen dataclasses. An unknown key is an error that names the file and the key.

Paths stay as they were written and are relative to ``Project.folder``, so that reports name no machine's folders.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgekit.device import Device, find_device, read_devices
from edgekit.errors import ConfigError
from edgekit.growth import Growth, read_growth
from edgekit.inputs import InputConfig, read_input
from edgekit.recipe import RANGES, load_recipe
from edgekit.target import PRECISIONS, RECURRENT
from edgekit.toml_table import Table, near_misses, read_toml

AGREEMENT = "agreement"  # with the float model's choice, which stands for the label
METRICS = ("top1", "top5", AGREEMENT)
CALIBRATIONS = ("given", "auto")
WEIGHT_RANGES = ("minmax", "mse")
ROUNDINGS = ("reconstruct", "nearest", "adaround")
PATH_KEYS = ("model.source", "model.weights", "calibration.data", "evaluation.data")


@dataclass(frozen=True)
class ModelConfig:
    """The source model. ``default`` is the preprocessing of inputs that are not declared (a recipe's).

    ``outputs`` names the tensors at which it ends, where not at its own outputs.
    """

    source: str = ""
    weights: str | None = None
    outputs: tuple[str, ...] = ()
    inputs: Mapping[str, InputConfig] = field(default_factory=lambda: MappingProxyType({}))
    default: InputConfig = field(default_factory=InputConfig)

    def input(self, name: str) -> InputConfig:
        """What is declared for that input, over the default."""
        return self.inputs.get(name, InputConfig()).over(self.default)


@dataclass(frozen=True)
class CalibrationConfig:
    """Calibration data and how ranges are drawn from it. ``percentile`` is the share (in %) that is kept.

    ``rounding``: weights to the nearest integer, or with regard to what they multiply (``quant.reconstruct``).
    ``equalize``: channels are scaled so that all use their tensor's integers (``quant.equalize``).

    ``absorb``: constants pass from biases to those behind, where ranges get narrower (``quant.absorb``).
    ``weight_range``: how far the integers of a weight reach (``quant.weight_range``); ``per_channel``: a scale for each
    of its output channels, or one.

    ``method``: as these keys say, or ``auto``: the first rung of a ladder whose artifacts pass the accuracy gates;
    ``training`` is labelled data for its last rung, quantization-aware training.

    ``supply`` says how to come by a recipe's data that is not there yet.
    """

    recipe: str | None = None
    data: str | None = None
    supply: str = ""
    samples: int = 256
    range: str = "mse"
    percentile: float = 99.99
    rounding: str = "reconstruct"
    equalize: bool = True
    absorb: bool = False
    weight_range: str = "minmax"
    per_channel: bool = True
    method: str = "given"
    training: str | None = None


@dataclass(frozen=True)
class QuantizationConfig:
    """The precision (None: the target's own choice), and what may stay in float: any node, or those of a name or op.

    ``int16_nodes``, named alike, are those with activations of 16 bits in an artifact of 8; ``recurrent`` is the form
    of LSTM, GRU and RNN (None: the target's own choice). ``split_outputs``: an output that joins parts of very
    different ranges may be given in these parts.

    ``reasons`` say why a node is among them, where no project names it (``ladder``).
    """

    precision: str | None = None
    allow_float: bool = False
    float_nodes: tuple[str, ...] = ()
    int16_nodes: tuple[str, ...] = ()
    recurrent: str | None = None
    split_outputs: bool = False
    reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out data and the metric: ``top1``, ``top5``, ``agreement`` or ``module:function``.

    ``samples`` None takes all of them.
    """

    data: str | None = None
    metric: str = "top1"
    samples: int | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What an artifact must hold; None is no limit. Shares lie in [0, 1]."""

    size_bytes: int | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p99_ms: float | None = None
    memory_bytes: int | None = None
    float_ops: int | None = None
    agreement: float | None = None
    snr_db: float | None = None
    macs: int | None = None
    parameters: int | None = None
    moved_bytes: int | None = None
    arena_bytes: int | None = None
    instructions: int | None = None

    def over(self, base: Limits) -> Limits:
        """These, with what they leave open taken from ``base``."""
        return replace(base, **{f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None})


@dataclass(frozen=True)
class Project:
    """All that one build is told. ``gates[""]`` holds for every target, ``gates[NAME]`` for one."""

    folder: Path
    file: str = ""
    model: ModelConfig = ModelConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    quantization: QuantizationConfig = QuantizationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gates: Mapping[str, Limits] = field(default_factory=lambda: MappingProxyType({}))
    growth: Growth = field(default_factory=Growth)
    compress: tuple[Mapping[str, Any], ...] = ()
    devices: Mapping[str, Device] = field(default_factory=lambda: MappingProxyType({}))

    def device(self, name: str) -> Device:
        """The device of that name. Raises ConfigError with near misses."""
        return find_device(name, self.devices, self.file)

    def limits(self, target: str) -> Limits:
        """The limits for that target: its own over those for all."""
        return self.gates.get(target, Limits()).over(self.gates.get("", Limits()))

    def counts_instructions(self, target: str) -> bool:
        """Whether a gate of that target looks at them."""
        return self.limits(target).instructions is not None or self.growth.asked("instructions")

    @classmethod
    def from_flags(
        cls, model: str | None = None, config: Path | None = None, settings: Mapping[str, Any] | None = None
    ) -> Project:
        """A project from a command line: ``config`` when given, with ``model`` and ``settings`` laid over it.

        ``settings`` are values by dotted key, such as ``{"calibration.samples": 64}``; None values are left out. Paths
        among them are relative to the current folder, as a shell user writes them. Raises ConfigError.
        """
        folder = config.parent if config else Path()
        data = read_toml(config) if config else {}
        given = {"model.source": model, **(settings or {})}
        for key, value in given.items():
            if value is not None:
                _set(data, key, _seen_from(folder, value) if key in PATH_KEYS else value)
        return parse_project(data, folder, str(config) if config else "command line")


def load_project(path: Path) -> Project:
    """The project in that file. Raises ConfigError."""
    return parse_project(read_toml(path), path.parent, str(path))


def parse_project(data: Mapping[str, Any], folder: Path, file: str) -> Project:
    """The project in a TOML document; ``file`` is what errors call it. Raises ConfigError."""
    top = Table(data, file)
    model_table = top.table("model") or Table({}, file, "model")
    calibration_table = top.table("calibration") or Table({}, file, "calibration")
    quantization = _quantization(top.table("quantization") or Table({}, file, "quantization"))
    evaluation_table = top.table("evaluation") or Table({}, file, "evaluation")
    gates = _gates(top.table("gates"))
    growth = read_growth(top.table("baseline"))
    compress = _compress(top)
    devices = read_devices(top.tables("devices"), folder)
    top.close()
    calibration, preprocessing = _calibration(calibration_table, folder)
    return Project(
        folder=folder,
        file=file,
        model=_model(model_table, preprocessing),
        calibration=calibration,
        quantization=quantization,
        evaluation=_evaluation(evaluation_table, folder),
        gates=MappingProxyType(gates),
        growth=growth,
        compress=compress,
        devices=MappingProxyType(devices),
    )


def _model(table: Table, default: InputConfig) -> ModelConfig:
    source, weights = table.text("source"), table.text("weights")
    inputs = {name: read_input(below) for name, below in table.tables("inputs").items()}
    outputs = table.texts("outputs") or ()
    table.close()
    return ModelConfig(source or "", weights, outputs, MappingProxyType(inputs), default)


def _calibration(table: Table, folder: Path) -> tuple[CalibrationConfig, InputConfig]:
    """The section, and the preprocessing that its recipe brings. What the section says goes before the recipe."""
    name = table.text("recipe")
    given: dict[str, Any] = {
        "data": table.text("data"),
        "samples": table.integer("samples", least=1),
        "range": table.choice("range", RANGES),
        "percentile": table.number("percentile", least=50.0, most=100.0),
        "rounding": table.choice("rounding", ROUNDINGS),
        "equalize": table.flag("equalize"),
        "absorb": table.flag("absorb"),
        "weight_range": table.choice("weight_range", WEIGHT_RANGES),
        "per_channel": table.flag("per_channel"),
        "method": table.choice("method", CALIBRATIONS),
        "training": table.text("training"),
    }
    table.close()
    given = {key: value for key, value in given.items() if value is not None}
    if name is None:
        return CalibrationConfig(**given), InputConfig()
    try:
        recipe = load_recipe(name, folder)
    except ConfigError as error:
        raise table.error("recipe", str(error)) from None
    from_recipe = {
        "data": recipe.data,
        "samples": recipe.samples,
        "range": recipe.range,
        "percentile": recipe.percentile,
    }
    both = {key: value for key, value in from_recipe.items() if value is not None} | given
    supply = recipe.supply if recipe.missing and "data" not in given else ""
    return CalibrationConfig(recipe=name, supply=supply, **both), recipe.preprocessing


def _quantization(table: Table) -> QuantizationConfig:
    config = QuantizationConfig(
        precision=table.choice("precision", PRECISIONS),
        allow_float=table.flag("allow_float") or False,
        float_nodes=table.texts("float_nodes") or (),
        int16_nodes=table.texts("int16_nodes") or (),
        recurrent=table.choice("recurrent", RECURRENT),
        split_outputs=table.flag("split_outputs") or False,
    )
    table.close()
    return config


def _evaluation(table: Table, folder: Path) -> EvaluationConfig:
    metric = table.text("metric") or "top1"
    if metric not in METRICS and ":" not in metric:
        hint = near_misses(metric, METRICS)
        raise table.error("metric", f"{metric!r} is not one of {', '.join(METRICS)}, module:function{hint}")
    config = EvaluationConfig(
        data=table.text("data"),
        metric=metric,
        samples=table.integer("samples", least=1),
        labels=_labels(table, folder),
    )
    table.close()
    return config


def _labels(table: Table, folder: Path) -> tuple[str, ...]:
    """Class names: a list, or a text file with one a line."""
    value = table.data.get("labels")
    if not isinstance(value, str):
        return table.texts("labels") or ()
    path = folder / (table.text("labels") or "")
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise table.error("labels", f"{value} cannot be read: {error}") from None


def _gates(table: Table | None) -> dict[str, Limits]:
    """``[gates]`` under "", each ``[gates.NAME]`` under its name."""
    if table is None:
        return {}
    named = {key: value for key, value in table.data.items() if isinstance(value, dict)}
    common = Table({key: value for key, value in table.data.items() if key not in named}, table.file, table.prefix)
    gates = {"": _limits(common)}
    for name in named:
        below = table.table(name)
        if below is not None:
            gates[name] = _limits(below)
    return gates


def _limits(table: Table) -> Limits:
    limits = Limits(
        size_bytes=table.bytes("size"),
        accuracy=table.number("accuracy", most=1.0),
        accuracy_drop=table.number("accuracy_drop", most=1.0),
        latency_p50_ms=table.milliseconds("latency_p50"),
        latency_p90_ms=table.milliseconds("latency_p90"),
        latency_p99_ms=table.milliseconds("latency_p99"),
        memory_bytes=table.bytes("memory"),
        float_ops=table.integer("float_ops"),
        agreement=table.number("agreement", most=1.0),
        snr_db=table.number("snr"),
        macs=table.integer("macs"),
        parameters=table.integer("parameters"),
        moved_bytes=table.bytes("moved"),
        arena_bytes=table.bytes("arena"),
        instructions=table.integer("instructions"),
    )
    table.close()
    return limits


def _compress(top: Table) -> tuple[Mapping[str, Any], ...]:
    """The ``[[compress]]`` steps as written; each method reads its own keys."""
    steps = top.value("compress")
    if steps is None:
        return ()
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "method" in step for step in steps):
        raise top.error("compress", "a list of [[compress]] tables with a method each is needed")
    return tuple(MappingProxyType(step) for step in steps)


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    """``data["a"]["b"] = value`` for ``"a.b"``, with tables made on the way."""
    *path, last = dotted.split(".")
    for key in path:
        below = data.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"command line:{dotted}: {key} is not a table")
        data = below
    data[last] = value


def _seen_from(folder: Path, value: Any) -> Any:
    """A path of the current folder as ``folder`` sees it; anything else (``module:callable``) as it is."""
    return os.path.relpath(value, folder) if isinstance(value, str) and Path(value).exists() else value
