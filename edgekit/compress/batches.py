"""Training data as batches: samples held in memory, or a torch DataLoader that is read anew in every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from edgekit.errors import DataError
from edgekit.samples import Sample

Batch = tuple[list[Tensor], Tensor | None]
Data = Iterable[Sample] | DataLoader[Any]
LABELS = "labels"  # in a DataLoader that gives mappings


class Batches(Protocol):
    """What trains and what judges. ``per_epoch`` steps are taken in an epoch."""

    per_epoch: int

    def epoch(self, draw: np.random.Generator) -> Iterator[Batch]:
        """The batches of one epoch, in an order that depends on ``draw``."""

    def judged(self) -> Iterator[Batch]:
        """The batches that are held out, always the same."""


def batches(data: Data, names: Sequence[str], size: int, validation: float, seed: int) -> Batches:
    """Batches of inputs in the order of ``names``. Raises DataError where data is missing or cannot be used."""
    if isinstance(data, DataLoader):
        if validation:
            raise DataError("training data: a DataLoader has nothing to hold out; give samples, or validation = 0")
        return Loaded(data, names)
    return Held(data, names, size, validation, seed)


class Held:
    """Samples in memory, of which a seeded share is held out; what is left of an epoch's last batch is left out."""

    def __init__(
        self, samples: Iterable[Sample], names: Sequence[str], size: int, validation: float, seed: int
    ) -> None:
        self._inputs, self._labels = stacked(samples, names)
        count = len(self._inputs[0])
        order = np.random.default_rng(seed).permutation(count)
        held_out = int(validation * count)
        self._judged, self._learned = order[:held_out], order[held_out:]
        self._size = min(size, len(self._learned))
        self.per_epoch = len(self._learned) // self._size

    def epoch(self, draw: np.random.Generator) -> Iterator[Batch]:
        """The batches of one epoch, shuffled."""
        order = draw.permutation(self._learned)
        for i in range(self.per_epoch):
            yield self._batch(order[i * self._size : (i + 1) * self._size])

    def judged(self) -> Iterator[Batch]:
        """The batches that are held out."""
        for start in range(0, len(self._judged), self._size):
            yield self._batch(self._judged[start : start + self._size])

    def _batch(self, picks: np.ndarray[Any, Any]) -> Batch:
        index = torch.from_numpy(np.ascontiguousarray(picks))
        return [value[index] for value in self._inputs], None if self._labels is None else self._labels[index]


class Loaded:
    """A torch DataLoader: it shuffles, augments and sizes its batches itself.

    A batch is a tensor, a sequence of one tensor an input and perhaps the labels, or a mapping by name (``labels``).
    """

    def __init__(self, loader: DataLoader[Any], names: Sequence[str]) -> None:
        self._loader, self._names = loader, names
        try:
            self.per_epoch = len(loader)
        except TypeError as error:
            raise DataError(f"training data: the DataLoader has no length ({error})") from None
        if not self.per_epoch:
            raise DataError("training data: holds no samples")

    def epoch(self, draw: np.random.Generator) -> Iterator[Batch]:
        """One pass; torch's random state, which the loader shuffles with, is seeded by ``draw``."""
        torch.manual_seed(int(draw.integers(2**31)))
        yield from map(self._batch, self._loader)

    def judged(self) -> Iterator[Batch]:
        """None."""
        return iter(())

    def _batch(self, given: Any) -> Batch:
        count = len(self._names)
        if isinstance(given, Mapping):
            found: list[Any] = [given.get(name) for name in (*self._names, LABELS)]
        else:
            found = [given] if isinstance(given, Tensor) else list(given)
        if len(found) not in (count, count + 1) or not all(isinstance(t, Tensor) for t in found[:count]):
            wanted = ", ".join((*self._names, LABELS))
            raise DataError(f"training data: a batch of the DataLoader is not made of the tensors {wanted}")
        return found[:count], found[count] if len(found) > count else None


def parts(batch: Batch, count: int) -> Iterator[tuple[Batch, float]]:
    """A batch cut into so many parts, each with its share of the samples."""
    inputs, labels = batch
    whole = len(inputs[0])
    for index in np.array_split(np.arange(whole), min(count, whole)):
        piece = slice(int(index[0]), int(index[-1]) + 1)
        yield ([value[piece] for value in inputs], None if labels is None else labels[piece]), len(index) / whole


def stacked(samples: Iterable[Sample], names: Sequence[str]) -> tuple[list[Tensor], Tensor | None]:
    """All samples in memory: inputs by the order of ``names``, and labels where every sample has one."""
    found: list[list[Any]] = [[] for _ in names]
    labels: list[Any] = []
    for sample in samples:
        for values, name in zip(found, names, strict=True):
            values.append(sample.inputs[name])
        labels.append(sample.label)
    if not labels:
        raise DataError("training data: holds no samples")
    whole = [torch.from_numpy(np.concatenate(values)) for values in found]
    if any(label is None for label in labels):
        return whole, None
    shapes = {np.shape(label) for label in labels}
    if len(shapes) > 1:
        raise DataError(f"training data: labels are of different shapes: {', '.join(map(str, sorted(shapes)))}")
    known = np.asarray(labels)
    if known.dtype.kind not in "biu":
        raise DataError(f"training data: label {known[0].tolist()!r} is no class; whole numbers from 0 are needed")
    return whole, torch.from_numpy(known.astype(np.int64))
