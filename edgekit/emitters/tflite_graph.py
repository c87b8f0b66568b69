"""A TFLite model as plain values, between the lowering and the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edgekit.quant.plan import QParams


@dataclass(eq=False)
class Tensor:
    """A tensor: ``dtype`` as numpy names it, ``data`` when it is constant. Compared by identity.

    A ``variable`` is the memory of an operator that writes into its own input.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: QParams | None = None
    data: NDArray[Any] | None = None
    variable: bool = False


@dataclass(eq=False)
class Op:
    """An operator: ``code`` as in the schema's BuiltinOperator, ``options`` with the schema's field names.

    ``intermediates`` are tensors that only tell a kernel the scales of its inner values; ``bodies`` are the subgraphs
    that it runs, by the option that names them.
    """

    code: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    intermediates: tuple[Tensor, ...] = ()
    bodies: Mapping[str, Graph] = field(default_factory=dict)


@dataclass(eq=False)
class Graph:
    """One subgraph in execution order, with the model's metadata by name."""

    ops: list[Op]
    inputs: list[Tensor]
    outputs: list[Tensor]
    metadata: dict[str, bytes] = field(default_factory=dict)
    description: str = "edgekit"

    def tensors(self) -> list[Tensor]:
        """Every tensor once, in order of first use."""
        seen: dict[int, Tensor] = {}
        for tensor in self.inputs:
            seen.setdefault(id(tensor), tensor)
        for op in self.ops:
            for item in (*op.inputs, *op.outputs, *op.intermediates):
                if item is not None:
                    seen.setdefault(id(item), item)
        for tensor in self.outputs:
            seen.setdefault(id(tensor), tensor)
        return list(seen.values())
