"""Calibration and evaluation data as a stream of preprocessed samples, in memory one at a time.

A ``Samples`` can be read as often as one likes. Of more samples than are wanted an evenly spaced subset is taken, so
that data sorted by class still shows every class. Where a ``module:callable`` has no length, the first ones are taken.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.errors import ConfigError, DataError
from edgekit.inputs import InputConfig
from edgekit.preprocess import Preprocess, image_layout
from edgekit.project import Project
from edgekit.records import ACCEPTED, Record, Records, open_records
from edgekit.survey import Survey

Array = NDArray[Any]
Ports = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Sample:
    """One sample: float32 by input name, in the source model's shape and layout; ``name`` is what messages call it."""

    inputs: Mapping[str, Array]
    label: Any = None
    name: str = ""


Answer = Callable[[Sample], Any]


class Samples:
    """A re-iterable stream of ``Sample``. ``labels`` are class names, where the data has them."""

    def __init__(
        self,
        data: str,
        records: Records,
        inputs: Sequence[Preprocess],
        limit: int | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.data = data
        self.inputs = {preprocess.name: preprocess for preprocess in inputs}
        self.labels = records.labels
        self._records = records
        self._limit, self._answer = limit, answer
        self._count = records.count
        self._survey: Survey | None = None
        if self._count == 0:
            raise DataError(f"{data}: holds no samples")

    def __iter__(self) -> Iterator[Sample]:
        """Each sample in turn. Raises DataError, naming the sample, where one cannot be used."""
        survey = Survey(self.inputs)
        for record in self._records.take(self._picks()):
            sample = self._sample(record)
            survey.add(record, sample.inputs)
            yield sample if self._answer is None else replace(sample, label=self._answer(sample))
        if survey.count == 0:
            raise DataError(f"{self.data}: holds no samples")
        self._survey = survey

    def __len__(self) -> int:
        """How many samples one pass gives; needs a pass of its own where only reading tells."""
        if self._count is None:
            return self.survey().count
        return self._count if self._limit is None else min(self._count, self._limit)

    def some(self, most: int) -> Samples:
        """At most so many of the data's samples, spread evenly."""
        limit = most if self._limit is None else min(most, self._limit)
        return Samples(self.data, self._records, list(self.inputs.values()), limit, self._answer)

    def answered(self, answer: Answer) -> Samples:
        """The same samples, the label of each what ``answer`` says of it."""
        return Samples(self.data, self._records, list(self.inputs.values()), self._limit, answer)

    @property
    def sha256(self) -> str:
        """A digest of the raw samples that are used, in order, and of the preprocessing."""
        declared = {name: preprocess.to_json() for name, preprocess in self.inputs.items()}
        return hashlib.sha256(self.survey().digest + json.dumps(declared, sort_keys=True).encode()).hexdigest()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing by input name, as the artifact's metadata holds it."""
        return {name: preprocess.to_json() for name, preprocess in self.inputs.items()}

    def survey(self) -> Survey:
        """What one pass over the data saw; the last whole pass is reused."""
        if self._survey is None:
            for _ in self:
                pass
        if self._survey is None:
            raise DataError(f"{self.data}: holds no samples")
        return self._survey

    def _picks(self) -> Iterator[int]:
        if self._count is None:
            return itertools.islice(itertools.count(), self._limit)
        wanted = len(self)
        return (i * self._count // wanted for i in range(wanted))

    def _sample(self, record: Record) -> Sample:
        inputs = {name: preprocess(record.values[name], record.name) for name, preprocess in self.inputs.items()}
        return Sample(inputs, record.label, record.name)


def open_samples(
    data: str,
    ports: Ports,
    configs: Mapping[str, InputConfig] | None = None,
    *,
    limit: int | None = None,
    folder: Path | None = None,
) -> Samples:
    """Samples for a model whose inputs have these names and shapes. ``folder`` is what ``data`` is relative to.

    ``data`` is a ``.npz`` or ``.npy`` file (arrays named like the inputs, or ``images`` or ``x``, and ``labels`` or
    ``y``; ``FILE.npz:test`` takes ``test_images`` and ``test_labels``), a folder of images (sub-folders are classes),
    or ``module:callable``. Raises DataError.
    """
    inputs = [Preprocess.of(name, shape, (configs or {}).get(name, InputConfig())) for name, shape in ports.items()]
    records = open_records(data, list(ports), inputs[0].mode, folder or Path.cwd())
    return Samples(data, records, inputs, limit)


def look(samples: Samples, purpose: str = "calibration") -> list[str]:
    """What looks wrong about the data: one line each, saying what was seen. Empty when nothing does."""
    return samples.survey().warnings(purpose)


def open_calibration(project: Project, ports: Ports) -> Samples:
    """The project's calibration samples. Raises ConfigError when none are named, DataError when they cannot be used."""
    section = project.calibration
    if section.data is None:
        raise ConfigError(f"{project.file}:calibration.data: missing; int8 needs samples of real inputs: {ACCEPTED}")
    if section.supply:
        raise DataError(f"{project.file}:calibration.recipe: {section.recipe} has no data yet: {section.supply}")
    return _of_project(project, section.data, ports, section.samples)


def open_evaluation(project: Project, ports: Ports) -> Samples:
    """The project's held-out samples. Raises ConfigError when none are named, DataError when they cannot be used."""
    section = project.evaluation
    if section.data is None:
        raise ConfigError(f"{project.file}:evaluation.data: missing; accepted: {ACCEPTED}")
    return _of_project(project, section.data, ports, section.samples)


def open_training(project: Project, data: str, ports: Ports) -> Samples:
    """All samples of a data source that a compression step trains on. Raises DataError when they cannot be used."""
    return _of_project(project, data, ports, None)


def _of_project(project: Project, data: str, ports: Ports, limit: int | None) -> Samples:
    unknown = [name for name in project.model.inputs if name not in ports]
    if unknown:
        raise ConfigError(
            f"{project.file}:model.inputs.{unknown[0]}: the model has no such input; it has {', '.join(ports)}"
        )
    model = project.model
    configs = {  # a recipe's preprocessing is for images
        name: model.input(name) if image_layout(shape) else model.inputs.get(name, InputConfig())
        for name, shape in ports.items()
    }
    return open_samples(data, ports, configs, limit=limit, folder=project.folder)
