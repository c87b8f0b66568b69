"""Random inputs, for a build that was given no data and needs none for its scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from edgekit.inputs import InputConfig
from edgekit.preprocess import Preprocess
from edgekit.records import Record
from edgekit.samples import Ports, Samples

COUNT = 8
NAME = "random inputs"


class _Noise:
    """Standard normal values of each input's shape; sample ``i`` is the same on every machine."""

    count = COUNT
    labels: tuple[str, ...] = ()

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def take(self, picks: Iterable[int]) -> Iterator[Record]:
        """The samples of these numbers."""
        for pick in picks:
            draw = np.random.default_rng(pick)
            values = {
                name: draw.standard_normal(tuple(shape)).astype(np.float32) for name, shape in self._ports.items()
            }
            yield Record(values, None, f"{NAME}, sample {pick}")


def random_samples(ports: Ports) -> Samples:
    """Eight samples of standard normal values for inputs of these shapes."""
    return Samples(NAME, _Noise(ports), [Preprocess.of(name, shape, InputConfig()) for name, shape in ports.items()])
