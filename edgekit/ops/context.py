"""What a lowering may use: the tensors it reads, and the context that writes TFLite operators for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from edgekit.ops.declare import Quant
from edgekit.quant.plan import QParams

Array = NDArray[Any]
PLAIN = {"fused_activation_function": "NONE"}  # options of an operator that could take an activation in


class Tensor(Protocol):
    """A TFLite tensor: its stored shape, element type and quantization."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: QParams | None


@dataclass(frozen=True, eq=False)
class Operand:
    """An input of the node being lowered, already in the storage order that the layout decision gave the node.

    ``shape`` and ``array`` (when it is constant) are in source order; ``perm[i]`` is the source axis stored at ``i``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    perm: tuple[int, ...]
    array: Array | None = None
    tensor: Tensor | None = None
    features: NDArray[Any] | None = None

    def at(self, axis: int) -> int:
        """Where a source axis (negative ones count from the end) is stored."""
        return self.perm.index(axis % len(self.perm))


class Tfl(Protocol):
    """The lowering context of one node.

    ``out`` is the tensor that the node must fill, ``shape`` its shape in source order, ``activation`` the fused
    activation to hand to the operator, ``quantized`` whether the result is an integer with a scale, ``exact`` whether
    it must be the one that rounding the real result gives, to the last step, and ``delegated`` whether the runtime
    hands what it can to XNNPACK, so that one operator that this does not take costs more than several that it does.
    """

    out: Tensor
    outs: Sequence[Tensor]
    out_perm: tuple[int, ...]
    shape: tuple[int, ...]
    activation: str
    quantized: bool
    exact: bool
    delegated: bool

    def add(self, code: str, inputs: Sequence[Any], output: Any = None, **options: Any) -> Tensor:
        """Write an operator; inputs are operands, tensors, integer arrays (as int32 constants) or None."""

    def add_many(
        self, code: str, inputs: Sequence[Any], outputs: Sequence[Any], inner: Sequence[Any] = (), **options: Any
    ) -> None:
        """Write an operator with several results; ``inner`` tensors tell it the scales of values that it keeps."""

    def tensor(self, item: Any) -> Tensor:
        """The TFLite tensor behind an operand."""

    def aligned(self, operand: Operand, trim: bool = True) -> Any:
        """An operand of an op whose tensors share one order; ``trim`` drops a constant's leading axes of length 1."""

    def in_scale(self, quant: Quant) -> Tensor:
        """Where an operator whose result has the scale ``quant.fixed`` may put it: ``out``, if that has this scale."""

    def requantize(self, source: Any, output: Any = None) -> Tensor:
        """Bring ``source`` into the scale of ``output`` (``out``), unless it is that tensor already."""

    def scaled(self, quant: QParams | None, factor: float) -> QParams | None:
        """The same integers for values ``factor`` times as large."""

    def lowest(self, like: Any) -> Tensor:
        """A constant with the smallest value of the type of ``like``, which a maximum ignores."""

    def ones(
        self, channels: int, like: Tensor, kernel: tuple[int, ...] = (1, 1), scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """The weights, all ``scale``, and the bias of a depthwise convolution; in integers 1 at that scale."""

    def temp(self, shape: Sequence[int], like: Any = None, *, dtype: str = "", quant: QParams | None = None) -> Tensor:
        """A tensor between two operators of one node, with the type and scale of ``like`` unless they are given."""

    def weight(self, operand: Operand, transform: Callable[[Array], Array], axis: int | None) -> Tensor:
        """A constant weight, quantized as planned, then in TFLite's order; ``axis`` is its channel axis there."""

    def bias(self, operand: Operand | None, channels: int, source: Operand, weight: Tensor) -> Tensor:
        """A bias as planned, or zeros of the type that the operator wants."""

    def rows(self, operand: Operand, rows: slice) -> Tensor:
        """One gate of a recurrent layer's weights (1, gates x hidden, inputs) in the one scale of its rows."""

    def sums(self, values: Array, source: Operand, weight: Tensor) -> Tensor:
        """A bias that is not a constant of the graph, in the scale of ``source`` times that of ``weight``."""

    def state(self, shape: Sequence[int], like: Tensor | None) -> Tensor:
        """What a fused recurrent operator keeps between its steps; without ``like`` its cell state."""

    def zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """A constant of zeros of the type of ``like``, at scale 1."""

    def loop(self, body: Any, operands: Sequence[Operand], scanned: int) -> None:
        """WHILE: fill the results with those of ``body``, run for each element of the last ``scanned`` operands."""

    def number(self, values: Any, like: Any, name: str = "") -> Tensor:
        """A constant of real numbers of the type of ``like``; quantized by its own range when ``like`` is."""

    def reshape(self, source: Any, shape: Sequence[int], output: Any = None) -> Tensor:
        """RESHAPE, or ``source`` itself when nothing would change."""

    def lookup(self, source: Operand, function: Callable[[Array], Array]) -> None:
        """Fill ``out`` with ``function(source)`` from a table of all 256 values (int8 only)."""

    def integers(self, source: Any, values: Array) -> Tensor:
        """A constant that holds real ``values`` in the scale of ``source``."""

    def clamp(self, source: Any, low: float, high: float, output: Tensor) -> None:
        """Fill ``output`` with ``source`` clipped to [low, high]; limits that its scale keeps cost nothing."""

    def whole(self) -> QParams:
        """The scale of plain integers: 1."""

    def nonnegative(self, source: Operand) -> bool:
        """Whether the stored type or the operator before says that ``source`` is never below zero."""


def full(operand: Operand | None, default: Array) -> Array:
    """The constant behind an optional input, or its default; refuses one that is computed at run time."""
    from edgekit.ops.declare import unsupported

    if operand is None:
        return default
    if operand.array is None:
        unsupported(f"input {operand.name} is computed at run time; only a constant can be lowered")
    array: Array = operand.array
    return array
