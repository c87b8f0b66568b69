"""The context in which ops write TFLite operators (see ``ops.context.Tfl``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.emitters.constants import Constants
from edgekit.emitters.tflite_graph import Graph, Op, Tensor
from edgekit.graph import MEMORY, Array, Unit, attributes, constant, dtype_of, shape_of
from edgekit.layout import Layouts, Perm, identity
from edgekit.ops import OPS, Layout, LoweringError, Quant
from edgekit.ops.context import Operand
from edgekit.quant import numerics
from edgekit.quant.kernels import computes_in_integers
from edgekit.quant.plan import QParams, QuantPlan

# Measured on ai-edge-litert 2.3: PRELU gives other values than it should, the others stop with an error.
WITHOUT_INT16 = frozenset({"ARG_MAX", "ARG_MIN", "DEPTH_TO_SPACE", "ELU", "LOG_SOFTMAX", "PRELU", "SPACE_TO_DEPTH"})

NARROW = 8  # elements: rows shorter than this are slow to transpose
ACTIVATIONS = {(-math.inf, math.inf): "NONE", (0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


class Lowering(Constants):
    """Lowers unit after unit into ``graph``; between calls it holds the tensors that exist so far."""

    def __init__(self, plan: QuantPlan, layouts: Layouts, delegated: bool = True) -> None:
        self.graph = Graph([], [], [])
        self.delegated = delegated
        super().__init__(plan)
        self.layouts = layouts
        self.tensors: dict[str, Tensor] = {}
        self._moved: dict[tuple[Tensor, Perm], Tensor] = {}
        self._other: dict[tuple[str, bool], Tensor] = {}
        self._producer: dict[Tensor, Op] = {}
        self._start = 0

    # -- the loop calls these ---------------------------------------------------------------------------------------

    def declare(self, value: ir.Value, integer: bool = True) -> Tensor:
        """The tensor of a computed or fed value, in its stored order; in integers when planned and asked for."""
        name = str(value.name)
        perm = self.layouts.stored[name]
        shape = shape_of(value)
        quant = self.plan.get(name) if integer else None
        dtype = dtype_of(value) if quant is None else quant.dtype
        self.tensors[name] = Tensor(name, tuple(shape[a] for a in perm), dtype, quant)
        return self.tensors[name]

    def unit(self, unit: Unit) -> None:
        """Lower one unit. Raises LoweringError when TFLite cannot express it; nothing of it is written then."""
        self._start, self._scratch = len(self.graph.ops), 0
        node, self._stem = unit.node, str(unit.outputs[0].name)
        integer = computes_in_integers(unit, self.plan)
        if self._alias(unit, integer):
            return
        self._bias = self._apart(unit)
        operands = [None if v is None else self.operand(node, i, v, integer) for i, v in enumerate(node.inputs)]
        self.outs = [self.declare(value, integer) for value in unit.outputs if value.name]
        self.out = self.outs[0]
        self.shape = shape_of(unit.outputs[0])
        self.out_perm = self.layouts.stored[str(unit.outputs[0].name)]
        self.computed_rank = max((len(o.shape) for o in operands if o is not None and o.array is None), default=0)
        self.quantized = self.out.quant is not None
        self.exact = self.quantized and self.plan.exact
        known = ACTIVATIONS.get(unit.bounds)
        self.activation = known or "NONE"
        final = self.out
        if known is None and self._clips(final, *unit.bounds) != (-math.inf, math.inf):
            self.out = self.temp(final.shape, final)
        try:
            self._check_types(node, operands)
            OPS[node.op_type].lower(self, *operands, **attributes(node))
        except LoweringError:
            del self.graph.ops[self._start :]
            raise
        if self.out is not final:
            self.clamp(self.out, *unit.bounds, final)

    @staticmethod
    def _apart(unit: Unit) -> Operand | None:
        """The bias of a unit whose op has no input for one."""
        value = unit.bias_value if unit.bias is not None else None
        array = constant(value)
        return (
            None
            if value is None or array is None
            else Operand(str(value.name), array.shape, str(array.dtype), (0,), array)
        )

    @staticmethod
    def _check_types(node: ir.Node, operands: Sequence[Operand | None]) -> None:
        """Refuse what the operator does not take: LiteRT computes nonsense or stops the process on some types."""
        types = OPS[node.op_type].types
        for operand in operands:
            tensor = operand.tensor if operand is not None else None
            if operand is not None and tensor is not None and tensor.quant is None and tensor.dtype not in types:
                raise LoweringError(f"input {operand.name} is {tensor.dtype}; {', '.join(types)} can be lowered")

    def _alias(self, unit: Unit, integer: bool) -> bool:
        """A node that only renames axes, or copies in one scale, writes nothing: its result is its input's tensor."""
        node, value = unit.node, unit.outputs[0]
        if OPS[node.op_type].layout not in (Layout.RESHAPE, Layout.TRANSPOSE) and node.op_type != "Identity":
            return False
        source = node.inputs[0]
        if source is None or constant(source) is not None or value.is_graph_output():
            return False
        tensor = self.operand(node, 0, source, integer).tensor
        assert isinstance(tensor, Tensor)
        out = self.declare(value, integer)
        same = tensor.shape == out.shape and tensor.quant == out.quant and tensor.dtype == out.dtype
        if same:
            self.tensors[str(value.name)] = tensor
        return same

    def operand(self, node: ir.Node, position: int, value: ir.Value, integer: bool) -> Operand:
        """An input of a node, as integers or real numbers, moved into the order in which the node wants it."""
        name, array = str(value.name), constant(value)
        if array is not None:
            return Operand(name, array.shape, str(array.dtype), identity(array.ndim), array)
        perm = self.layouts.wanted.get((node, position), identity(len(shape_of(value))))
        tensor = self.moved(name, perm, integer)
        return Operand(name, shape_of(value), tensor.dtype, perm, None, tensor, self.layouts.features.get(name))

    def read(self, name: str, integer: bool) -> Tensor:
        """A value as integers or as real numbers; QUANTIZE or DEQUANTIZE, once, where it is stored as the other."""
        tensor, planned = self.tensors[name], self.plan.get(name)
        if planned is None or integer == (tensor.quant is not None):
            return tensor
        if (name, integer) not in self._other:
            out = Tensor(f"{name}/{planned.dtype}", tensor.shape, planned.dtype, planned)
            if not integer:
                out = Tensor(f"{name}/float32", tensor.shape, "float32")
            self._other[name, integer] = self.add("QUANTIZE" if integer else "DEQUANTIZE", [tensor], out)
        return self._other[name, integer]

    def moved(self, name: str, perm: Perm, integer: bool = True) -> Tensor:
        """A value in another order: TRANSPOSE, or RESHAPE when only axes of length 1 move."""
        tensor, stored = self.read(name, integer), self.layouts.stored[name]
        if perm == stored:
            return tensor
        key = (tensor, perm)
        if key not in self._moved:
            order = [stored.index(axis) for axis in perm]
            shape = tuple(tensor.shape[i] for i in order)
            out = Tensor(
                f"{name}/{'NHWC' if perm != identity(len(perm)) else 'source'}", shape, tensor.dtype, tensor.quant
            )
            if [i for i in order if tensor.shape[i] != 1] == sorted(i for i in order if tensor.shape[i] != 1):
                self.reshape(tensor, shape, out)
            elif order == [len(order) - 1, *range(len(order) - 1)] and tensor.shape[-1] <= NARROW:
                self._deinterleave(tensor, out)
            else:
                self.add("TRANSPOSE", [tensor, np.asarray(order)], out)
            self._moved[key] = out
        return self._moved[key]

    def _deinterleave(self, tensor: Tensor, out: Tensor) -> None:
        """(space, part, n) -> (n, space, part) for a small n, by (part, n, space): XNNPACK is slow on narrow rows."""
        *space, part, n = tensor.shape
        size = math.prod(space)
        turned = self.temp((part * n, size), tensor)
        self.add("TRANSPOSE", [self.reshape(tensor, (size, part * n)), np.asarray([1, 0])], turned)
        result = self.temp((n, size, part), tensor)
        self.add("TRANSPOSE", [self.reshape(turned, (part, n, size)), np.asarray([1, 2, 0])], result)
        self.reshape(result, out.shape, out)

    # -- the ops call these -----------------------------------------------------------------------------------------

    def add(self, code: str, inputs: Sequence[Any], output: Any = None, **options: Any) -> Tensor:
        out: Tensor = self.out if output is None else output
        read = tuple(self._input(item) for item in inputs)
        if code in WITHOUT_INT16 and any(t is not None and t.dtype == "int16" and t.quant for t in (out, *read)):
            raise LoweringError(
                f"{code} has no sound int16 kernel in LiteRT; name the node in quantization.float_nodes"
            )
        op = Op(code, read, (out,), options)
        self.graph.ops.append(op)
        self._producer[out] = op
        return out

    def add_many(
        self, code: str, inputs: Sequence[Any], outputs: Sequence[Any], inner: Sequence[Any] = (), **options: Any
    ) -> None:
        self.graph.ops.append(Op(code, tuple(map(self._input, inputs)), tuple(outputs), options, tuple(inner)))

    def _input(self, item: Any) -> Tensor | None:
        if item is None or isinstance(item, Tensor):
            return item
        if isinstance(item, Operand):
            if item.array is None:
                assert isinstance(item.tensor, Tensor)
                return item.tensor
            return self.constant(item.name, item.array)
        return self._int32(np.asarray(item, np.int32))

    def tensor(self, item: Any) -> Tensor:
        """The TFLite tensor behind an operand."""
        found = self._input(item)
        assert found is not None
        return found

    def in_scale(self, quant: Quant) -> Tensor:
        if self.out.quant is None or quant.fixed is None:
            return self.out
        wanted = numerics.fixed(*quant.fixed, self.out.dtype)
        return self.out if self.out.quant == wanted else self.temp(self.out.shape, self.out, quant=wanted)

    def requantize(self, source: Any, output: Any = None) -> Tensor:
        tensor, out = self.tensor(source), self.out if output is None else output
        if tensor is out:
            return tensor
        if not (self.exact and tensor.dtype == out.dtype == "int8"):
            return self.add("QUANTIZE", [tensor], out)
        one = Tensor("one", (1,), "int8", QParams("int8", (1.0,), (0,)), np.ones(1, np.int8))
        return self.add("MUL", [tensor, one], out, fused_activation_function="NONE")

    def scaled(self, quant: QParams | None, factor: float) -> QParams | None:
        """The same integers for values ``factor`` times as large."""
        return None if quant is None else numerics.times(quant, factor)

    def temp(self, shape: Sequence[int], like: Any = None, *, dtype: str = "", quant: QParams | None = None) -> Tensor:
        self._scratch += 1
        source = self._input(like) if like is not None else None
        if source is not None and not dtype:
            dtype, quant = source.dtype, quant or source.quant
        return Tensor(f"{self._stem}/{self._scratch}", tuple(map(int, shape)), dtype, quant)

    def reshape(self, source: Any, shape: Sequence[int], output: Any = None) -> Tensor:
        tensor, shape = self._input(source), tuple(map(int, shape))
        assert tensor is not None
        if output is None and tensor.shape == shape:
            return tensor
        out = self.temp(shape, tensor) if output is None else output
        return self.add("RESHAPE", [tensor, np.asarray(shape)], out, new_shape=shape)

    def state(self, shape: Sequence[int], like: Tensor | None) -> Tensor:
        state = self.temp(shape, self.out if like is None else like)
        state.variable = True
        if like is None and self.quantized:
            state.quant = self.plan[f"{self.out.name}{MEMORY}"]
            state.dtype = state.quant.dtype
        return state

    def loop(self, body: ir.Graph, operands: Sequence[Operand], scanned: int) -> None:
        from edgekit.emitters.loop import write

        write(self, body, operands, scanned)

    def lookup(self, source: Operand, function: Callable[[Array], Array]) -> None:
        tensor = self._input(source)
        assert tensor is not None and tensor.quant is not None
        if tensor.quant.dtype != "int8":
            raise LoweringError(f"no table holds all {tensor.quant.dtype} values; name it in quantization.float_nodes")
        every = numerics.dequantize(np.arange(-128, 128, dtype=np.int64).astype(np.int8), tensor.quant)
        with np.errstate(all="ignore"):
            real = np.nan_to_num(function(every))
        table = real.astype(self.out.dtype) if self.out.quant is None else numerics.quantize(real, self.out.quant)
        values = Tensor(f"{self.out.name}/table", (256,), self.out.dtype, self.out.quant, table)
        wide = self.add(
            "CAST", [tensor], self.temp(tensor.shape, dtype="int32"), in_data_type="INT8", out_data_type="INT32"
        )
        index = self.add(
            "ADD", [wide, np.asarray([128])], self.temp(tensor.shape, dtype="int32"), fused_activation_function="NONE"
        )
        self.add("GATHER", [values, index], axis=0)

    @staticmethod
    def _clips(tensor: Tensor, low: float, high: float) -> tuple[float, float]:
        """The limits that the scale of ``tensor`` does not keep by itself; the others as infinite."""
        if tensor.quant is None:
            return low, high
        first, last = tensor.quant.range
        half = tensor.quant.scale[0] / 2
        return low if low > first + half else -math.inf, high if high < last - half else math.inf

    def clamp(self, source: Any, low: float, high: float, output: Tensor) -> None:
        known = ACTIVATIONS.get((low, high))
        low, high = self._clips(output, low, high)
        free = (low, high) == (-math.inf, math.inf)
        tensor = self.tensor(source)
        if tensor.quant != output.quant:
            tensor = self.requantize(tensor, output if free else self.temp(output.shape, output))
        elif free:
            self.reshape(tensor, output.shape, output)
        if not free and known and self.delegated and output.dtype == "int8":
            nothing = self._filled(0.0, output)
            self.add("ADD", [tensor, nothing], output, fused_activation_function=known)
            return
        for code, bound, last in (("MAXIMUM", low, high == math.inf), ("MINIMUM", high, True)):
            if abs(bound) != math.inf:
                tensor = self.add(
                    code, [tensor, self._filled(bound, output)], output if last else self.temp(output.shape, output)
                )

    def nonnegative(self, source: Operand) -> bool:
        tensor = self._input(source)
        if tensor is None:
            return False
        if tensor.quant is not None:
            return tensor.quant.zero_point[0] == tensor.quant.limits[0]
        producer = self._producer.get(tensor)
        fused = producer.options.get("fused_activation_function") if producer is not None else None
        return producer is not None and (fused in ("RELU", "RELU6") or producer.code in ("RELU", "RELU6", "LOGISTIC"))
