"""An artifact that is there already against the model that it came from: what ``edgekit verify`` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgekit.artifact import read_artifact
from edgekit.contract import Contract
from edgekit.device import Device
from edgekit.device_check import DeviceCheck, check_device
from edgekit.errors import ConfigError, ModelError
from edgekit.frontends import load_graph
from edgekit.graph import shape_of
from edgekit.inputs import InputConfig
from edgekit.preprocess import config_from_json
from edgekit.progress import Progress
from edgekit.project import AGREEMENT, METRICS, Project
from edgekit.quant.from_qdq import lift
from edgekit.report.model import Evaluation, Fidelity
from edgekit.runners import FloatModel
from edgekit.runtimes import read
from edgekit.samples import Samples, open_samples
from edgekit.verify import choices_of, metric_of, verify_artifact


@dataclass(frozen=True)
class Recheck:
    """What was found. ``evaluation`` is None where the data has no labels and the metric needs them."""

    artifact: str
    source: str
    data: str
    fidelity: Fidelity
    evaluation: Evaluation | None
    device: DeviceCheck | None = None


def recheck(artifact: Path, project: Project, progress: Progress, device: Device | None = None) -> Recheck:
    """Run the project's evaluation data through its model and through ``artifact``, here and on the device.

    Inputs that the project does not declare are preprocessed as the artifact's metadata says. Raises ConfigError when
    no model or no data is named, ModelError when the artifact is not of that model, DataError on unusable data,
    DeviceError when the device cannot be reached.
    """
    source, data = project.model.source, project.evaluation.data
    if not source:
        raise ConfigError(f"{project.file}:model.source: missing; give --model")
    if data is None:
        raise ConfigError(f"{project.file}:evaluation.data: missing; give --data")
    contract = read_artifact(read(artifact), str(artifact)).contract
    model = load(project, contract)
    refuse_stranger(str(artifact), contract, source, model)
    ports = {str(value.name): shape_of(value) for value in model.graph.inputs}
    configs = {name: preprocessing(name, project, contract.preprocessing) for name in ports}
    samples = open_samples(data, ports, configs, limit=project.evaluation.samples, folder=project.folder)
    name = project.evaluation.metric
    if name == AGREEMENT:
        samples = samples.answered(choices_of(FloatModel(lift(model).graph)))
    metric = (name, metric_of(name, project.folder)) if labelled(samples) or name not in METRICS else None
    fidelity, evaluation = verify_artifact(artifact, model, samples, progress, metric)
    there = check_device(device, artifact, samples, progress, metric and metric[1]) if device else None
    return Recheck(str(artifact), source, data, fidelity, evaluation, there)


def load(project: Project, contract: Contract) -> ir.Model:
    """The project's model as a graph, with the artifact's shapes where neither project nor model says them."""
    model = project.model
    weights = project.folder / model.weights if model.weights else None
    declared = {name: config.shape for name, config in model.inputs.items() if config.shape}
    carried = {port.name: port.source_shape for port in contract.inputs}
    try:
        return load_graph(model.source, weights, carried | declared, project.folder, model.outputs)
    except ModelError:  # perhaps the artifact is another model's: then its shapes are to blame
        return load_graph(model.source, weights, declared, project.folder, model.outputs)


def refuse_stranger(artifact: str, contract: Contract, source: str, model: ir.Model) -> None:
    """Raise ModelError when inputs or outputs of the artifact are not those of the model."""
    fed = {port.name: port.source_shape for port in contract.inputs}
    inputs = ("inputs", fed, model.graph.inputs)
    for side, found, values in (inputs, ("outputs", contract.source_outputs, model.graph.outputs)):
        wanted = {str(value.name): tuple(shape_of(value)) for value in values}
        if _sizes(found) != _sizes(wanted):
            raise ModelError(f"{artifact}: its {side} are {_words(found)}; those of {source} are {_words(wanted)}")


def _sizes(ports: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in ports.items()}


def _words(ports: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in ports.items())


def preprocessing(name: str, project: Project, carried: Mapping[str, Mapping[str, object]]) -> InputConfig:
    """What the project declares of an input, over what the artifact carries of it."""
    own = config_from_json(carried[name]) if name in carried else InputConfig()
    return project.model.input(name).over(own)


def labelled(samples: Samples) -> bool:
    """Whether the data has labels."""
    return next(iter(samples)).label is not None
