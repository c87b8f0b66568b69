"""A TFLite model as plain values, between the lowering and the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edgekit.quant.plan import QParams


@dataclass(frozen=True, eq=False)
class Sparsity:
    """How a sparse tensor lies in the file: see ``emitters.sparse``.

    Each of the ``levels`` is of the axis that ``order`` says: a size where it is dense, else segments and indices.
    Axes beyond the tensor's own are those inside a block, which the axis that ``blocks`` says is cut into.
    """

    order: tuple[int, ...]
    levels: tuple[int | tuple[NDArray[Any], NDArray[Any]], ...]
    values: NDArray[Any]
    blocks: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of what says where they are."""
        found = sum(part.nbytes for level in self.levels if not isinstance(level, int) for part in level)
        return int(self.values.nbytes) + found


@dataclass(eq=False)
class Tensor:
    """A tensor: ``dtype`` as numpy names it, ``data`` when it is constant. Compared by identity.

    A ``variable`` is the memory of an operator that writes into its own input. With ``sparsity`` the file holds that
    in the place of ``data``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: QParams | None = None
    data: NDArray[Any] | None = None
    variable: bool = False
    sparsity: Sparsity | None = None


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
