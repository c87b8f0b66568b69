"""The quantization plan: a value that says how every tensor is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

LIMITS = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
HALF = "float16"  # a plan may also store a weight in half precision: a dtype without scales


@dataclass(frozen=True)
class QParams:
    """Affine quantization: real = scale * (stored - zero_point).

    ``dtype`` is a key of ``LIMITS``. One scale and zero point quantize per tensor (``axis`` is None); as many as the
    tensor has elements along ``axis`` quantize per channel. ``narrow`` leaves out the most negative integer, as the
    LiteRT 8-bit specification demands of weights.
    """

    dtype: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    narrow: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest integer in use."""
        low, high = LIMITS[self.dtype]
        return low + self.narrow, high

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and largest real value that can be stored (per tensor)."""
        low, high = self.limits
        return self.scale[0] * (low - self.zero_point[0]), self.scale[0] * (high - self.zero_point[0])

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal value."""
        return {
            "dtype": self.dtype,
            "scale": list(self.scale),
            "zero_point": list(self.zero_point),
            "axis": self.axis,
            "narrow": self.narrow,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> QParams:
        """The value that ``to_json`` wrote."""
        return cls(value["dtype"], tuple(value["scale"]), tuple(value["zero_point"]), value["axis"], value["narrow"])


@dataclass(frozen=True)
class Lift:
    """A layer of the prepared model that left int8: ``to`` "int16" (its activations) or "float", and why."""

    node: str
    to: str
    why: str


@dataclass(frozen=True)
class QuantPlan(Mapping[str, QParams]):
    """Tensor name -> ``QParams``. A tensor that is not in the plan stays as it is.

    ``float_nodes`` names the nodes that compute on real numbers though the tensors around them are planned. ``exact``
    asks of every op the integers that rounding its real result gives, where the fastest kernel may be a step off.
    ``lifts`` are the layers that were taken out of int8.
    """

    tensors: Mapping[str, QParams]
    float_nodes: frozenset[str] = frozenset()
    exact: bool = False
    lifts: tuple[Lift, ...] = ()

    def __getitem__(self, name: str) -> QParams:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal plan."""
        tensors = {name: self.tensors[name].to_json() for name in sorted(self.tensors)}
        more: dict[str, Any] = {"exact": True} if self.exact else {}
        more |= {"lifts": [asdict(lift) for lift in self.lifts]} if self.lifts else {}
        return {"schema": 1, "float_nodes": sorted(self.float_nodes), "tensors": tensors, **more}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> QuantPlan:
        """The plan that ``to_json`` wrote."""
        tensors = {name: QParams.from_json(item) for name, item in value["tensors"].items()}
        lifts = tuple(Lift(**lift) for lift in value.get("lifts", ()))
        return cls(tensors, frozenset(value["float_nodes"]), value.get("exact", False), lifts)

    @property
    def sha256(self) -> str:
        """A hash of the whole plan: equal plans have equal hashes on any machine."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()
