"""What goes into an artifact and what comes out: the locked I/O contract.

The source model speaks float32 in its own axis order. An artifact may store an input channels-last and as int8; a
``Port`` says how, and ``Contract.encode`` / ``decode`` translate, so that nothing else needs to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One input or output of an artifact.

    ``shape`` is the artifact's. ``perm[i]`` is the source axis that lies at artifact axis ``i``. ``scale`` and
    ``zero_point`` are set when ``dtype`` is quantized: real = scale * (stored - zero_point).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    perm: tuple[int, ...]
    layout: str = ""
    scale: float | None = None
    zero_point: int | None = None

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape in the source model's axis order."""
        shape = [0] * len(self.shape)
        for stored, source in enumerate(self.perm):
            shape[source] = self.shape[stored]
        return tuple(shape)

    def encode(self, value: Array) -> Array:
        """A real value in source layout as the artifact wants it. Raises DataError on a wrong shape."""
        if tuple(value.shape) != self.source_shape:
            raise DataError(
                f"input {self.name}: shape {list(value.shape)} was given, {list(self.source_shape)} is needed"
            )
        stored = value.transpose(self.perm)
        if self.scale is None or self.zero_point is None:
            return np.asarray(stored, dtype=self.dtype, order="C")
        return self._quantized(stored)

    def _quantized(self, real: Array) -> Array:
        from edgekit.quant.numerics import quantize
        from edgekit.quant.plan import QParams

        assert self.scale is not None and self.zero_point is not None
        qparams = QParams(self.dtype, (self.scale,), (self.zero_point,))
        return np.asarray(quantize(real, qparams), order="C")

    def decode(self, stored: Array) -> Array:
        """What the artifact gave, as real values in source layout (integers stay integers when not quantized)."""
        inverse = np.argsort(self.perm)
        value = stored.transpose(inverse) if stored.ndim == len(self.perm) else stored
        if self.scale is None or self.zero_point is None:
            return value
        return ((value.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class Join:
    """An output of the source model that the artifact gives in ``parts``, to be joined along the source's ``axis``."""

    name: str
    axis: int
    parts: tuple[str, ...]


def rejoined(outputs: Mapping[str, Array], joins: Sequence[Join]) -> dict[str, Array]:
    """Outputs by name, in source layout, those that are given in parts joined where the source model has them."""
    part_of = {part: join for join in joins for part in join.parts}
    found: dict[str, Array] = {}
    for name, value in outputs.items():
        join = part_of.get(name)
        if join is None:
            found[name] = value
        elif join.name not in found:
            found[join.name] = np.concatenate([outputs[part] for part in join.parts], join.axis)
    return found


@dataclass(frozen=True)
class Contract:
    """Names, order, shapes, layouts, dtypes and scales of an artifact's inputs and outputs, and its preprocessing.

    ``joins`` say which of the source model's outputs are given in parts.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    joins: tuple[Join, ...] = ()

    @property
    def source_outputs(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the source model's outputs, by name."""
        shapes = {port.name: np.empty(port.source_shape, np.bool_) for port in self.outputs}
        return {name: value.shape for name, value in rejoined(shapes, self.joins).items()}

    def encode(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Source-layout float values by input name -> what the artifact wants. Raises DataError on a missing input."""
        missing = [port.name for port in self.inputs if port.name not in sample]
        if missing:
            raise DataError(f"no value for input {', '.join(missing)}; given: {', '.join(sample) or 'nothing'}")
        return {port.name: port.encode(sample[port.name]) for port in self.inputs}

    def decode(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The artifact's outputs by name -> the source model's, real values in source layout."""
        return rejoined({port.name: port.decode(outputs[port.name]) for port in self.outputs}, self.joins)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal contract; ``joins`` only where there are any."""
        return {key: value for key, value in asdict(self).items() if value or key != "joins"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Contract:
        """The contract that ``to_json`` wrote."""

        def port(item: Mapping[str, Any]) -> Port:
            return Port(**{**item, "shape": tuple(item["shape"]), "perm": tuple(item["perm"])})

        return cls(
            tuple(map(port, value["inputs"])),
            tuple(map(port, value["outputs"])),
            dict(value.get("preprocessing", {})),
            tuple(value.get("labels", ())),
            tuple(Join(item["name"], item["axis"], tuple(item["parts"])) for item in value.get("joins", ())),
        )

    def differences(self, other: Contract) -> list[str]:
        """What changed from ``self`` to ``other``, one line each; empty when a user of the artifact sees no change."""
        found = []
        for side in ("inputs", "outputs"):
            mine, theirs = getattr(self, side), getattr(other, side)
            if [p.name for p in mine] != [p.name for p in theirs]:
                found.append(f"{side}: {[p.name for p in mine]} became {[p.name for p in theirs]}")
                continue
            for before, after in zip(mine, theirs, strict=True):
                found += [
                    f"{before.name}.{key}: {getattr(before, key)} became {getattr(after, key)}"
                    for key in ("shape", "dtype", "perm", "scale", "zero_point")
                    if getattr(before, key) != getattr(after, key)
                ]
        if dict(self.preprocessing) != dict(other.preprocessing):
            found.append("preprocessing changed")
        if self.labels != other.labels:
            found.append("labels changed")
        return found
