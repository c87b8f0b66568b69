"""One artifact on a device and on this machine, on the same inputs: are the integers the same, and is the accuracy?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.device import Device
from edgekit.progress import Progress
from edgekit.runners import ArtifactModel, Outputs
from edgekit.runtimes import Array, read, runtime_for
from edgekit.samples import Sample, Samples
from edgekit.transports.connection import Connection, DeviceModel
from edgekit.verify import Metric, evaluate

BATCH_BYTES = 2_000_000


@dataclass(frozen=True)
class DeviceCheck:
    """``equal`` of ``values`` outputs are stored the same on both; the others differ by ``max_steps`` at most.

    A step is 1 of the stored integers, or of floats. ``value`` is the metric on the device, None without labels.
    """

    device: str
    machine: Mapping[str, Any]
    runtime_version: str
    samples: int
    values: int
    equal: int
    max_steps: float
    value: float | None


class _Both:
    """The device as a ``Runner``: runs samples in batches, ahead of being asked for their outputs, on both sides."""

    def __init__(self, there: DeviceModel, here: ArtifactModel) -> None:
        self._there, self._here = there, here
        self._ready: deque[Outputs] = deque()
        self.samples = self.values = self.equal = 0
        self.max_steps = 0.0

    def outputs(self, sample: Mapping[str, Array]) -> Outputs:
        """The device's outputs for the sample that ``ahead`` gave last."""
        return self._ready.popleft()

    def ahead(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples themselves, each when the device has its outputs."""
        for batch in _batches(samples, self._here):
            inputs = [stored for _, stored in batch]
            found = self._there.run({name: np.stack([each[name] for each in inputs]) for name in inputs[0]})
            for index, (sample, stored) in enumerate(batch):
                mine = {name: values[index] for name, values in found.items()}
                self._compare(mine, self._here.stored(stored))
                self._ready.append(self._here.contract.decode(mine))
                yield sample

    def _compare(self, there: Outputs, here: Outputs) -> None:
        self.samples += 1
        for name, value in here.items():
            self.values += value.size
            self.equal += int(np.count_nonzero(value == there[name]))
            apart = np.abs(value.astype(np.float64) - there[name].astype(np.float64))
            self.max_steps = max(self.max_steps, float(apart.max(initial=0.0)))


def _batches(samples: Iterable[Sample], here: ArtifactModel) -> Iterator[list[tuple[Sample, dict[str, Array]]]]:
    """The samples, each with its inputs as the artifact stores them, in batches of about BATCH_BYTES."""
    batch: list[tuple[Sample, dict[str, Array]]] = []
    size = 0
    for sample in samples:
        stored = here.contract.encode(sample.inputs)
        batch.append((sample, stored))
        size += sum(value.nbytes for value in stored.values())
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def check_device(
    device: Device, artifact: Path, samples: Samples, progress: Progress, metric: Metric | None = None
) -> DeviceCheck:
    """Run every sample through the artifact there and here. Raises DeviceError, ModelError, DataError."""
    here = ArtifactModel(read(artifact), name=str(artifact))
    title = f"on {device.name}"
    with Connection(device) as there, there.model(artifact, runtime_for(artifact), device.threads) as model:
        both = _Both(model, here)
        value = None
        if metric is not None:
            value = evaluate(both, both.ahead(samples), metric, progress, title, len(samples)).value
        else:
            with progress.task(title, len(samples)) as step:
                for _ in both.ahead(samples):
                    step()
    return DeviceCheck(
        device.name, model.machine, model.runtime_version, both.samples, both.values, both.equal, both.max_steps, value
    )
