"""How an op is declared: its ONNX signature, its layout and quantization facts, and its lowering to TFLite.

The Python signature of a lowering is the ONNX schema: after the lowering context come the inputs, positional and named
as in the schema, then the attributes, keyword-only with ONNX's names and defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

Lower = Callable[..., None]
Types = tuple[str, ...]

FLOAT: Types = ("float32",)
NUMBERS: Types = ("float32", "int32", "int64")
ANYTHING: Types = (*NUMBERS, "int16", "int8", "uint8", "bool")


class Layout(Enum):
    """In which axis order an op's tensors may be stored."""

    NHWC = "channels last, as TFLite's spatial kernels demand"
    ANY = "any order, the same for all inputs and the output (element by element)"
    AXIS = "any order; axis attributes are translated to where the axis is stored"
    LAST = "any order in which the axis of the op is stored last"
    SOURCE = "the source model's own order"
    PRODUCT = "the source model's own order; the last two axes of a computed right side may be swapped"
    RESHAPE = "any order that keeps the axes that are merged or split together"
    TRANSPOSE = "any order: only the bookkeeping changes"


class Scale(Enum):
    """How an op's activations get their scales (terms of the LiteRT 8-bit quantization specification)."""

    OBSERVED = "each from its own calibrated range"
    SHARED = "one scale for the inputs and the outputs"
    FIXED = "the output's scale is fixed by the specification"
    NONE = "never quantized"


@dataclass(frozen=True)
class Quant:
    """Quantization facts of an op. ``inputs`` are the positions of its activations (None: all of floating point).

    A constant at position ``weight`` is quantized symmetrically per channel along ``channel_axis``, and the one at
    ``bias`` as int32 with scale input x weight; at ``recurrent`` stands the weight that a state is multiplied with.
    ``fixed`` is the output's (scale, zero point) in int8; ``finer`` lets an output that stays in a part of that range
    have a scale of its own.
    """

    scale: Scale = Scale.OBSERVED
    inputs: tuple[int, ...] | None = None
    weight: int | None = None
    channel_axis: int | None = None
    bias: int | None = None
    recurrent: int | None = None
    fixed: tuple[float, int] | None = None
    finer: bool = False


@dataclass(frozen=True)
class OpDef:
    """One declared op. ``types``: what its TFLite operator takes that has no scale."""

    name: str
    since: int
    layout: Layout
    quant: Quant
    fuses: bool
    types: Types
    lower: Lower


OPS: dict[str, OpDef] = {}


def op(
    name: str,
    *,
    since: int,
    layout: Layout,
    quant: Quant | None = None,
    fuses: bool = False,
    types: Types = FLOAT,
) -> Callable[[Lower], Lower]:
    """Declare an op.

    ``fuses`` says that its TFLite operator can apply an activation to its result by itself; ``types`` are the element
    types that the operator takes when they have no scale. LiteRT stops the process on some others.

    Raises KeyError when the op is declared already.
    """

    def register(lower: Lower) -> Lower:
        if name in OPS:
            raise KeyError(f"op {name} is declared twice")
        OPS[name] = OpDef(name, since, layout, quant or Quant(), fuses, types, lower)
        return lower

    return register


class LoweringError(Exception):
    """A node that its target cannot express; the text says what and why, without the node's name."""


def unsupported(reason: str) -> NoReturn:
    """Refuse the node at hand."""
    raise LoweringError(reason)
