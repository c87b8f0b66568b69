"""Constants of a TFLite file: weights, biases and numbers, stored as the plan says, each written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgekit.emitters.tflite_graph import Tensor
from edgekit.graph import Array
from edgekit.layout import Perm, identity
from edgekit.ops.context import Operand
from edgekit.quant import numerics
from edgekit.quant.plan import HALF, QParams, QuantPlan


class Constants(ABC):
    """The part of the lowering context that makes constants."""

    out_perm: Perm
    computed_rank: int  # the most axes of an operand that is no constant

    def __init__(self, plan: QuantPlan) -> None:
        self.plan = plan
        self._constants: dict[Any, Tensor] = {}
        self._scratch = 0
        self._stem = ""
        self._bias: Operand | None = None

    @abstractmethod
    def add(self, code: str, inputs: Any, output: Any = None, **options: Any) -> Tensor:
        """Write an operator."""

    @abstractmethod
    def tensor(self, item: Any) -> Tensor:
        """The TFLite tensor behind an operand."""

    def _int32(self, array: Array) -> Tensor:
        key = ("int32", array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = Tensor(f"const{len(self._constants)}", array.shape, "int32", None, array)
        return self._constants[key]

    def _stored(self, name: str, array: Array, move: Callable[[Array], Array], axis: int | None) -> Tensor:
        """A constant as the plan stores it, brought into TFLite's order; half precision is widened where it is read."""
        return self._kept(name, array, self.plan.get(name), move, axis)

    def _kept(
        self,
        name: str,
        array: Array,
        quant: QParams | None,
        move: Callable[[Array], Array] = np.asarray,
        axis: int | None = None,
    ) -> Tensor:
        if quant is None:
            data = move(array)
            return Tensor(name, data.shape, str(data.dtype), None, data)
        if quant.dtype == HALF:
            data = move(array.astype(HALF))
            half = Tensor(f"{name}/{HALF}", data.shape, HALF, None, data)
            return self.add("DEQUANTIZE", [half], Tensor(name, data.shape, "float32"))
        data = move(numerics.quantize(array, quant))
        if quant.axis is not None:
            quant = QParams(quant.dtype, quant.scale, quant.zero_point, axis, quant.narrow)
        return Tensor(name, data.shape, quant.dtype, quant, data)

    def constant(self, name: str, array: Array, perm: Perm | None = None) -> Tensor:
        """A constant of the source model, as integers when it is planned, in the order ``perm``."""
        perm = perm or identity(array.ndim)
        if (name, perm) not in self._constants:
            quant = self.plan.get(name)
            axis = perm.index(quant.axis) if quant is not None and quant.axis is not None else None
            self._constants[name, perm] = self._stored(name, array, lambda a: a.transpose(perm), axis)
        return self._constants[name, perm]

    def weight(self, operand: Operand, transform: Callable[[Array], Array], axis: int | None) -> Tensor:
        assert operand.array is not None
        stored = self._stored(operand.name, operand.array, transform, axis)
        if stored.data is None:
            return stored
        return self._constants.setdefault((operand.name, axis, stored.shape, stored.data.tobytes()), stored)

    def aligned(self, operand: Operand, trim: bool = True) -> Operand | Tensor:
        """An operand of an op whose tensors share one order; ``trim`` drops a constant's leading axes of length 1.

        They stay where no computed operand has all axes of the result, which would lose some.
        """
        if operand.array is None or operand.array.size == 1:
            return operand
        rank, trim = len(self.out_perm), trim and self.computed_rank == len(self.out_perm)
        array = operand.array.reshape((1,) * (rank - operand.array.ndim) + operand.array.shape)
        lead = next((i for i, a in enumerate(self.out_perm) if array.shape[a] != 1), rank - 1) if trim else 0
        key = (operand.name, "aligned", self.out_perm, trim)
        if key not in self._constants:
            shape = tuple(array.shape[a] for a in self.out_perm)[lead:]
            self._constants[key] = self._stored(
                operand.name, array, lambda a: a.transpose(self.out_perm).reshape(shape), None
            )
        return self._constants[key]

    def bias(self, operand: Operand | None, channels: int, source: Operand, weight: Tensor) -> Tensor:
        operand = operand or self._bias
        if operand is not None and operand.array is not None:
            return self.constant(operand.name, operand.array)
        if weight.quant is None or source.tensor is None or source.tensor.quant is None:
            return Tensor("zeros", (channels,), "float32", None, np.zeros(channels, np.float32))
        quant = numerics.bias(source.tensor.quant, weight.quant)
        return Tensor(f"{weight.name}/bias", (channels,), quant.dtype, quant, np.zeros(channels, quant.dtype))

    def rows(self, operand: Operand, rows: slice) -> Tensor:
        assert operand.array is not None
        name, quant = f"{operand.name}/{rows.start}", self.plan.get(operand.name)
        if quant is not None and quant.axis is not None:
            quant = QParams(quant.dtype, quant.scale[rows.start : rows.start + 1], (0,), None, quant.narrow)
        return self._kept(name, operand.array[0, rows], quant)

    def sums(self, values: Array, source: Operand, weight: Tensor) -> Tensor:
        read = self.tensor(source).quant
        quant = None if weight.quant is None or read is None else numerics.bias(read, weight.quant)
        return self._kept(f"{weight.name}/bias", values, quant)

    def zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        quant = None if like.quant is None else QParams("int8", (1.0,), (0,))
        data = np.zeros(tuple(shape), "float32" if quant is None else "int8")
        return Tensor(f"{self._stem}/zeros", data.shape, str(data.dtype), quant, data)

    def _named(self, name: str, shape: Any, dtype: str, quant: QParams | None, data: Array) -> Tensor:
        self._scratch += 1
        return Tensor(name or f"{self._stem}/const{self._scratch}", tuple(shape), dtype, quant, data)

    def number(self, values: Any, like: Any, name: str = "") -> Tensor:
        array, source = np.asarray(values, np.float32), self.tensor(like)
        if source.quant is None:
            return self._named(name, array.shape, source.dtype, None, array.astype(source.dtype))
        quant = numerics.affine(float(array.min()), float(array.max()), source.dtype)
        return self._named(name, array.shape, quant.dtype, quant, numerics.quantize(array, quant))

    def integers(self, source: Any, values: Array) -> Tensor:
        return self._like(self.tensor(source), values)

    def _like(self, tensor: Tensor, values: Array) -> Tensor:
        """Real values in the type and the scale of ``tensor``."""
        data = values.astype(tensor.dtype) if tensor.quant is None else numerics.quantize(values, tensor.quant)
        return self._named("", data.shape, tensor.dtype, tensor.quant, data)

    def _filled(self, value: float, like: Tensor) -> Tensor:
        """A scalar of the type and the scale of ``like``."""
        return self._like(like, np.asarray(value, np.float32))

    def lowest(self, like: Any) -> Tensor:
        """A constant with the smallest value of the type of ``like``, which a maximum ignores."""
        tensor = self.tensor(like)
        low = np.finfo(np.float32).min if tensor.quant is None else tensor.quant.limits[0]
        return Tensor("lowest", (1,), tensor.dtype, tensor.quant, np.asarray([low], tensor.dtype))

    def ones(
        self, channels: int, like: Tensor, kernel: tuple[int, ...] = (1, 1), scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """The weights (1, height, width, channels) and the bias of a depthwise convolution that adds up ``like``."""
        dtype, quant, bias, one = "float32", None, None, scale
        if like.quant is not None:
            weight = numerics.times(QParams("int8", (1.0,) * channels, (0,) * channels, 3), scale)
            dtype, quant, bias, one = "int8", weight, numerics.bias(like.quant, weight), 1
        kind = "float32" if bias is None else bias.dtype
        zeros = Tensor("zeros", (channels,), kind, bias, np.zeros(channels, kind))
        shape = (1, *kernel, channels)
        return Tensor("ones", shape, dtype, quant, np.full(shape, one, dtype)), zeros

    @staticmethod
    def whole() -> QParams:
        return QParams("int32", (1.0,), (0,))
