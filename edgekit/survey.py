"""What a pass over the data saw, and what looks wrong about it. Sums only: memory does not grow with the data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.preprocess import Preprocess
from edgekit.records import Record

Array = NDArray[Any]
FEW = 32
INTERLEAVED = 1.3  # how much rougher neighbours are than pixels one channel count apart, when channels alternate
OFF_CENTRE = 4.0  # in units of std: where no sensibly normalised input has its mean


@dataclass
class Seen:
    """What was seen of one input: raw values, values after preprocessing, and roughness along the last axis."""

    dtype: str = ""
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    squares: float = 0.0
    size: int = 0
    constant: int = 0
    constant_name: str = ""
    rough_next: float = 0.0
    rough_apart: float = 0.0

    @property
    def mean(self) -> float:
        """The mean after preprocessing."""
        return self.total / max(self.size, 1)

    @property
    def std(self) -> float:
        """The standard deviation after preprocessing."""
        return float(max(self.squares / max(self.size, 1) - self.mean**2, 0.0) ** 0.5)


class Survey:
    """Collects, sample by sample, a digest of the raw data and the figures that ``warnings`` judges."""

    def __init__(self, inputs: Mapping[str, Preprocess]) -> None:
        self.count = 0
        self.seen = {name: Seen() for name in inputs}
        self._inputs = inputs
        self._hash = hashlib.sha256()
        self._first = b""
        self._same = 0
        self._labels: set[int] = set()
        self._labelled = 0

    @property
    def digest(self) -> bytes:
        """The digest of every raw value so far, with names, types and shapes."""
        return self._hash.digest()

    def add(self, record: Record, inputs: Mapping[str, Array]) -> None:
        """Take one sample: the raw record and what preprocessing made of it."""
        one = hashlib.sha256()
        for name, seen in self.seen.items():
            raw = record.values[name]
            one.update(f"{name} {raw.dtype.str} {raw.shape};".encode())
            one.update(np.ascontiguousarray(raw).data if raw.size else b"")
            _add(seen, raw, inputs[name], record.name)
            self._add_roughness(seen, name, inputs[name])
        self._hash.update(one.digest())
        self._first = self._first or one.digest()
        self._same += one.digest() == self._first
        self.count += 1
        if record.label is not None and np.ndim(record.label) == 0 and len(self._labels) < 2:
            self._labels.add(int(record.label))
        self._labelled += record.label is not None

    def warnings(self, purpose: str) -> list[str]:
        """What looks wrong, each with what was seen; ``purpose`` is ``calibration`` or ``evaluation``."""
        found = []
        if purpose == "calibration" and self.count < FEW:
            found.append(f"{purpose}: only {self.count} samples; ranges want {FEW} or more, a few hundred are usual")
        if self._same == self.count > 1:
            found.append(f"{purpose}: all {self.count} samples are the same")
        if purpose == "evaluation" and len(self._labels) == 1 and self._labelled > 1:
            found.append(f"{purpose}: all {self._labelled} labels are {next(iter(self._labels))}")
        odd = self.odd_inputs()
        for name, seen in self.seen.items():
            said = (self._constant(seen), *odd.get(name, ()))
            found += [f"{purpose}: input {name}: {text}" for text in said if text]
        return found

    def odd_inputs(self) -> dict[str, list[str]]:
        """The inputs whose values do not fit their declared preprocessing, and why not."""
        found = {name: [self._range(name, seen), self._layout(name, seen)] for name, seen in self.seen.items()}
        return {name: said for name, lines in found.items() if (said := [line for line in lines if line])}

    def _constant(self, seen: Seen) -> str:
        if not seen.constant:
            return ""
        return f"{seen.constant} of {self.count} samples have one value only (the first: {seen.constant_name})"

    def _range(self, name: str, seen: Seen) -> str:
        """A range that does not fit the declared preprocessing."""
        preprocess = self._inputs[name]
        config = preprocess.config
        scale = preprocess.scale(np.dtype(seen.dtype))
        low, high = seen.low * scale, seen.high * scale
        values = f"{seen.dtype} values from {seen.low:.6g} to {seen.high:.6g}"
        if config.mean or config.std:
            if high > 1.5:
                what = (
                    "; raw values up to 255 want scale = 0.00392157" if high > 100 else "; are they normalised already?"
                )
                return f"{values} were seen; mean and std are of values in [0, 1]{what}"
            if low < -0.05:
                return f"{values} were seen; mean and std are of values in [0, 1]; are they normalised already?"
            if abs(seen.mean) > OFF_CENTRE and abs(seen.mean) > OFF_CENTRE * seen.std:
                return (
                    f"a mean of {seen.mean:.3g} and a std of {seen.std:.3g} after preprocessing; do mean and std fit?"
                )
        elif config.layout and config.scale is None and high > 100:
            return f"{values} were seen and no scale, mean or std is declared; does the model want raw values?"
        if seen.dtype == "uint8" and config.layout and 0 < seen.high <= 1:
            return f"{values} were seen; are they scaled already?"
        return ""

    def _add_roughness(self, seen: Seen, name: str, value: Array) -> None:
        """Neighbours along the last axis of a channels-first image against pixels one channel count apart."""
        preprocess = self._inputs[name]
        count = preprocess.channel_count
        if preprocess.config.layout != "NCHW" or count < 3 or value.shape[-1] <= 2 * count:
            return
        seen.rough_next += float(np.abs(np.diff(value[..., count - 1 :], axis=-1)).mean())
        seen.rough_apart += float(np.abs(value[..., count:] - value[..., :-count]).mean())

    def _layout(self, name: str, seen: Seen) -> str:
        """Channels-last data that was reshaped, not transposed: colours alternate along a row."""
        if seen.rough_next <= INTERLEAVED * seen.rough_apart:
            return ""
        count, shape = self._inputs[name].channel_count, list(self._inputs[name].shape)
        near, apart = seen.rough_next / self.count, seen.rough_apart / self.count
        return (
            f"neighbours in a row differ by {near:.3g}, pixels {count} apart by only {apart:.3g}; "
            f"is this channels-last data that was reshaped to {shape}?"
        )


def _add(seen: Seen, raw: Array, value: Array, where: str) -> None:
    seen.dtype = raw.dtype.name
    low, high = float(raw.min()), float(raw.max())
    seen.low, seen.high = min(seen.low, low), max(seen.high, high)
    seen.total += float(value.sum(dtype=np.float64))
    seen.squares += float(np.square(value, dtype=np.float64).sum())
    seen.size += value.size
    if low == high and raw.size > 1:
        seen.constant_name = seen.constant_name or where
        seen.constant += 1
