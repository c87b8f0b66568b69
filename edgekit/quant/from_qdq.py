"""A model quantized elsewhere -> the prepared float graph behind it, and the scales that it was given.

Reads QuantizeLinear and DequantizeLinear as ONNX Runtime's ``quantize_static``, NNCF and torch's export write them (the
QDQ form). A DequantizeLinear of constant integers is a weight, and so is a pair of the two behind a constant; any other
pair says that a tensor is stored in integers. uint8 becomes int8 with the zero point moved by 128, which changes no
value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgekit.errors import UnsupportedError
from edgekit.graph import Array, attributes, clip_bounds, constant, shape_of
from edgekit.ops import OPS, Scale
from edgekit.passes import known, prepare
from edgekit.passes.constants import fold_constants
from edgekit.passes.convolution import CHANNELS
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place
from edgekit.quant import numerics
from edgekit.quant.plan import QParams, QuantPlan

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
UNSIGNED = {"uint8": 128}  # what a zero point moves by when its tensor becomes int8
LINEAR = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul"})  # results that go below zero unless something clips
RELU6 = 6.0
MOVES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Pad"})


@dataclass(frozen=True)
class Lifted:
    """A prepared graph, and how its tensors came quantized, by name: none of them where a float model came.

    ``copies`` are the scales of tensors that only stand for others where those are read in another scale. ``bounds``
    are those of weights with few values (``codebook``); ``plan`` is what the graph was trained with, its weights
    rounded.
    """

    graph: ir.Model
    scales: Mapping[str, QParams] = field(default_factory=dict)
    copies: Mapping[str, QParams] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    plan: QuantPlan | None = None

    @property
    def settled(self) -> bool:
        """Whether its numbers are to stay as they are: equalizing, or rounding by what they multiply, moves them."""
        return bool(self.scales or self.bounds) or self.plan is not None

    @property
    def given(self) -> dict[str, QParams]:
        """All scales that the plan is to keep."""
        return {**self.scales, **self.copies}


def lift(model: ir.Model) -> Lifted:
    """Prepare a model; if it is quantized, take its scales out.

    The passes run with the pairs in place, so that none merges tensors which were stored apart. Then a pair leaves
    nothing behind, or an Identity where its reader needs another scale or would be taken in by the op before. The scale
    of a bias follows from its op's and is not among those returned.

    Raises UnsupportedError, which names every tensor in a form that has no plan: integers at the model's edge, weights
    with a zero point, a tensor in two scales.
    """
    if not any(n.op_type == DEQUANTIZE and constant(_origin(n)) is None for n in model.graph):
        return Lifted(prepare(model))
    opened = model.clone()
    fold_constants(opened, known.PAIR)  # scales may be computed
    weights = _weights(opened.graph)
    _refuse_loose(opened.graph)
    _norms_as_convolutions(opened.graph, weights)
    _means_as_convolutions(opened.graph, weights)
    _drop_pairs_of_moves(opened.graph)
    graph = prepare(opened, quantized=True)
    activations, copies = _close(graph.graph)
    return Lifted(graph, weights | activations, copies)


def _origin(node: ir.Node) -> ir.Value | None:
    """What a DequantizeLinear, or the pair that it ends, makes real again."""
    source = node.inputs[0]
    writer = source.producer() if source is not None else None
    return writer.inputs[0] if writer is not None and writer.op_type == QUANTIZE else source


def _weights(graph: ir.Graph) -> dict[str, QParams]:
    """Make constants real, under the name that their op reads, and return how they were stored."""
    given: dict[str, QParams] = {}
    problems: list[str] = []
    for node in [n for n in graph if n.op_type == DEQUANTIZE and constant(_origin(n)) is not None]:
        try:
            q, stored = _parameters(node), constant(node.inputs[0])
            if stored is None:
                stored = numerics.quantize(np.asarray(constant(_origin(node))), q)
            real, result = numerics.dequantize(stored, q), node.outputs[0]
            readers = [use.node for use in result.uses()]
            done = [node]
            while len(readers) == 1 and readers[0].op_type == "Transpose" and not result.is_graph_output():
                done.insert(0, readers[0])
                perm = attributes(readers[0]).get("perm") or range(real.ndim)[::-1]
                real, result = real.transpose(perm), readers[0].outputs[0]
                q = QParams(q.dtype, q.scale, q.zero_point, None if q.axis is None else list(perm).index(q.axis))
                readers = [use.node for use in result.uses()]
            weighs = any(_is_weight(use.node, use.idx) for use in result.uses())
            q = _signed(str(node.inputs[0].name if node.inputs[0] is not None else ""), q, weighs)
        except UnsupportedError as error:
            problems += error.problems
            continue
        weight = add_constant(graph, str(result.name), real)
        put_in_place(graph, result, weight)
        writer = node.inputs[0].producer() if node.inputs[0] is not None else None
        drop(graph, *done)
        if writer is not None and not writer.outputs[0].uses():
            drop(graph, writer)
        if q.dtype == "int8":
            given[str(weight.name)] = q
    if problems:
        raise UnsupportedError(list(dict.fromkeys(problems)))
    return given


def _is_weight(node: ir.Node, position: int) -> bool:
    return node.op_type in OPS and OPS[node.op_type].quant.weight == position


def _signed(name: str, q: QParams, weighs: bool) -> QParams:
    """How a constant is stored, with int8 for uint8. Raises UnsupportedError where no integer kernel reads it so."""
    zeros = tuple(z - UNSIGNED.get(q.dtype, 0) for z in q.zero_point)
    if q.dtype not in ("int8", "uint8", "int32"):
        raise UnsupportedError([f"weight {name}: {q.dtype}; integer kernels take int8, and int32 as a bias"])
    if any(zeros) and (weighs or q.dtype == "int32" or q.axis is not None):
        raise UnsupportedError([f"weight {name}: {q.dtype} with a zero point; integer kernels take symmetric int8"])
    return QParams("int32" if q.dtype == "int32" else "int8", q.scale, zeros, q.axis)


def _parameters(node: ir.Node) -> QParams:
    """What a QuantizeLinear or DequantizeLinear says. Raises UnsupportedError where that is not constant."""
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    attrs = attributes(node)
    if scale is None or (len(node.inputs) > 2 and zero is None) or attrs.get("block_size"):
        raise UnsupportedError([f"node {node.name}: its scale is not constant, or given for blocks"])
    stored = node.inputs[0] if node.op_type == DEQUANTIZE else node.outputs[0]
    dtype = str(zero.dtype) if zero is not None else str(stored.dtype.numpy()) if stored and stored.dtype else "uint8"
    zeros = np.zeros(scale.size, np.int64) if zero is None else np.broadcast_to(zero.reshape(-1), (scale.size,))
    axis = int(attrs.get("axis", 1)) if scale.size > 1 else None
    if axis is not None and axis < 0 and stored is not None:
        axis += len(shape_of(stored))
    return QParams(dtype, tuple(scale.reshape(-1).astype(float).tolist()), tuple(int(z) for z in zeros), axis)


def _refuse_loose(graph: ir.Graph) -> None:
    """Ensures: each QuantizeLinear is read by DequantizeLinear in its own scale, and by nothing else."""
    problems = []
    for node in [node for node in graph if node.op_type in (QUANTIZE, DEQUANTIZE)]:
        try:
            q, source = _parameters(node), node.inputs[0]
            writer = source.producer() if source is not None else None
            if node.op_type == QUANTIZE:
                readers = {use.node.op_type for use in node.outputs[0].uses()}
                loose = node.outputs[0].is_graph_output() or not readers <= {DEQUANTIZE}
                if q.axis is not None or q.dtype not in ("int8", "uint8"):
                    found = f"{q.dtype}, scales: {len(q.scale)}"
                    problems.append(f"tensor {source and source.name}: {found}; expected int8 or uint8, and one")
            else:
                loose = writer is None or writer.op_type != QUANTIZE
                if writer is not None and not loose and _parameters(writer) != q:
                    problems.append(f"tensor {source and source.name}: is written in one scale and read in another")
            if loose:
                stored = node.outputs[0] if node.op_type == QUANTIZE else source
                problems.append(
                    f"tensor {stored and stored.name}: integers at the model's edge; give a model with float edges"
                )
        except UnsupportedError as error:
            problems += error.problems
    if problems:
        raise UnsupportedError(list(dict.fromkeys(problems)))
    drop(graph, *(node for node in list(graph) if node.op_type == QUANTIZE and not node.outputs[0].uses()))


def _norms_as_convolutions(graph: ir.Graph, given: dict[str, QParams]) -> None:
    """BatchNormalization of a stored tensor -> a depthwise convolution with one factor, and so one scale, a channel.

    One behind a convolution whose result was not stored is for the passes to fold: the scales of those weights take its
    factors in.
    """
    for node in [node for node in graph if node.op_type == "BatchNormalization"]:
        parameters = [constant(value) for value in node.inputs[1:5]]
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if any(p is None for p in parameters) or source is None:
            continue
        gamma, beta, mean, var = (np.asarray(p, np.float64) for p in parameters)
        factor = gamma / np.sqrt(var + float(attributes(node).get("epsilon", 1e-5)))
        for value in node.inputs[1:5]:
            given.pop(str(value and value.name), None)
        if source.op_type == DEQUANTIZE:
            scale = numerics.symmetric(np.abs(factor), 0)
            kernel = factor.reshape(-1, 1, *[1] * (len(shape_of(node.outputs[0])) - 2))
            _depthwise(graph, node, (kernel, beta - mean * factor), scale, given)
        elif source.op_type in CHANNELS:
            _take_in(source, factor, given)


def _means_as_convolutions(graph: ir.Graph, given: dict[str, QParams]) -> None:
    """AveragePool of a stored tensor -> a depthwise convolution of equal weights.

    Every fourth mean of four integers is a tie: the integer kernels of pooling round it up, those of convolutions to
    even, as the source does. A pool that leaves padding out of the mean stays.
    """
    for node in [node for node in graph if node.op_type == "AveragePool"]:
        attrs, source = attributes(node), node.inputs[0].producer() if node.inputs[0] is not None else None
        plain = attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not attrs.get("ceil_mode", 0)
        whole = attrs.get("count_include_pad", 0) or not any(attrs.get("pads") or ())
        if source is None or source.op_type != DEQUANTIZE or not (plain and whole):
            continue
        size, channels = attrs["kernel_shape"], shape_of(node.outputs[0])[1]
        weight = 1 / math.prod(size)
        kernel = np.full((channels, 1, *size), weight)
        _depthwise(graph, node, (kernel, np.zeros(channels)), numerics.fixed(weight, 0), given)


def _depthwise(
    graph: ir.Graph, node: ir.Node, weights: tuple[Array, Array], scale: QParams, given: dict[str, QParams]
) -> None:
    """Put a convolution in place of a node, with the same windows; ``weights`` are its kernel and its bias."""
    out, name = node.outputs[0], str(node.outputs[0].name)
    kernel = add_constant(graph, f"{name}/kernel", weights[0].astype(np.float32))
    bias = add_constant(graph, f"{name}/bias", weights[1].astype(np.float32))
    given[str(kernel.name)] = scale
    windows = {k: v for k, v in attributes(node).items() if k in ("auto_pad", "dilations", "pads", "strides")}
    inputs = [node.inputs[0], kernel, bias]
    made = make("Conv", inputs, out, f"{name}/depthwise", group=len(weights[1]), **windows)
    graph.insert_after(node, made)
    put_in_place(graph, out, made.outputs[0])
    drop(graph, node)
    made.outputs[0].name = name


def _take_in(node: ir.Node, factor: Array, given: dict[str, QParams]) -> None:
    name, count = str(node.inputs[1] and node.inputs[1].name), len(factor)
    if name in given and len(given[name].scale) in (1, count):
        scales = (np.asarray(given[name].scale) * np.abs(factor)).astype(np.float32)
        given[name] = QParams("int8", tuple(scales.tolist()), (0,) * count, CHANNELS[node.op_type])


def _drop_pairs_of_moves(graph: ir.Graph) -> None:
    """Drop a pair behind an op that only moves the integers of a tensor in the same scale: nothing is stored anew."""
    for writer in [node for node in graph if node.op_type == QUANTIZE]:
        moved = writer.inputs[0]
        move = moved.producer() if moved is not None else None
        source = move.inputs[0].producer() if move is not None and move.inputs and move.inputs[0] is not None else None
        if moved is None or move is None or move.op_type not in MOVES or source is None or source.op_type != DEQUANTIZE:
            continue
        if _parameters(source) == _parameters(writer):
            _unpair(graph, writer)


def _unpair(graph: ir.Graph, writer: ir.Node) -> None:
    """Let the readers of a pair read what it stored."""
    source = writer.inputs[0]
    assert source is not None
    for reader in [use.node for use in writer.outputs[0].uses()]:
        result, kept = reader.outputs[0], source
        if result.is_graph_output() and (source.is_graph_input() or source.is_graph_output()):
            kept = _copy(graph, reader, source, f"{source.name}/out")
        put_in_place(graph, result, kept)
        drop(graph, reader)
    drop(graph, writer)


def _close(graph: ir.Graph) -> tuple[dict[str, QParams], dict[str, QParams]]:
    """Take the pairs out of a prepared graph: how each tensor was stored, and each copy that is put in, by name."""
    writers = [node for node in graph if node.op_type == QUANTIZE]
    stored, copies, made = _stored(writers), dict[str, QParams](), dict[str, ir.Value]()
    one_with_reader: set[ir.Value] = set()
    for tensor in stored:
        for use in [use for use in tensor.uses() if use.node.op_type != QUANTIZE]:  # it reads what was not rounded
            use.node.replace_input_with(use.idx, _copy(graph, use.node, tensor, f"{tensor.name}/real"))
    for writer in writers:
        value = writer.inputs[0]
        assert value is not None
        for real in [use.node.outputs[0] for use in writer.outputs[0].uses()]:
            again = stored.pop(real, None)  # what is quantized once more
            for use in list(real.uses()):
                wanted = _scale_for(use.node, stored[value], stored)
                if wanted == stored[value] and not _would_merge(value, use.node, stored):
                    one_with_reader |= {value} if clip_bounds(use.node) is not None else set()
                    continue
                name = f"{value.name}/for/{use.node.outputs[0].name}"
                copy = made[name] = made.get(name) or _copy(graph, use.node, value, name)
                use.node.replace_input_with(use.idx, copy)
                if use.node.op_type == QUANTIZE and again is not None:
                    stored[copy] = again
                elif wanted is not None:
                    copies[str(copy.name)] = wanted
        _unpair(graph, writer)
    scales = {str(value.name): q for value, q in stored.items() if value not in one_with_reader}
    for value, q in stored.items():
        _put_activation(graph, value, q)
    return scales, copies


def _stored(writers: list[ir.Node]) -> dict[ir.Value, QParams]:
    """How each tensor that a QuantizeLinear reads is stored. Raises UnsupportedError where that is in two scales."""
    found: dict[ir.Value, QParams] = {}
    twice = []
    for writer in writers:
        value, q = writer.inputs[0], _activation(writer)
        if value is not None and found.setdefault(value, q) != q:
            twice.append(f"tensor {value.name}: is quantized twice, in two scales")
    if twice:
        raise UnsupportedError(list(dict.fromkeys(twice)))
    return found


def _activation(node: ir.Node) -> QParams:
    q = _parameters(node)
    return numerics.fixed(q.scale[0], q.zero_point[0] - UNSIGNED.get(q.dtype, 0))


def _scale_for(node: ir.Node, own: QParams, stored: Mapping[ir.Value, QParams]) -> QParams | None:
    """The scale in which a node reads a tensor stored in ``own``: another where its kernel has one for all it touches.

    None where nothing says which: the node reads several scales, and its result was not stored.
    """
    if node.op_type == QUANTIZE:
        return _activation(node)
    if node.op_type not in OPS or OPS[node.op_type].quant.scale is not Scale.SHARED:
        return own
    result = node.outputs[0]
    if result in stored:
        return stored[result]
    readers = [use.node for use in result.uses()]
    if len(readers) == 1 and OPS[node.op_type].quant.inputs is not None:
        return _scale_for(readers[0], own, stored)
    sources = [value.producer() for value in node.inputs if value is not None and constant(value) is None]
    read = {_activation(source) for source in sources if source is not None and source.op_type == DEQUANTIZE}
    return own if read <= {own} else None


def _would_merge(value: ir.Value, reader: ir.Node, stored: Mapping[ir.Value, QParams]) -> bool:
    """Whether the op before would take its reader in, and so not store what lies between (see ``graph.units``)."""
    if reader.op_type == "Add":
        writer = value.producer()
        return writer is not None and writer.op_type == "MatMul" and any(constant(v) is not None for v in reader.inputs)
    return clip_bounds(reader) is not None and stored.get(reader.outputs[0]) != stored[value]


def _copy(graph: ir.Graph, reader: ir.Node, value: ir.Value, name: str) -> ir.Value:
    copy = make("Identity", [value], value, name)
    graph.insert_before(reader, copy)
    return copy.outputs[0]


def _put_activation(graph: ir.Graph, value: ir.Value, q: QParams) -> None:
    """The Relu or Relu6 that a quantizer left out because the integers end where it clips.

    The result keeps the tensor's name, so that the scale holds for it.
    """
    node, (low, high) = value.producer(), q.range
    if node is None or node.op_type not in LINEAR or low != 0.0:
        return
    name = str(value.name)
    bounds: list[ir.Value | None] = []
    if abs(high - RELU6) < q.scale[0] / 2:
        bounds = [add_constant(graph, f"{name}/{x:g}", np.asarray(x, np.float32)) for x in (0.0, RELU6)]
    clip = make("Clip" if bounds else "Relu", [value, *bounds], value, f"{name}/clipped")
    graph.insert_after(node, clip)
    put_in_place(graph, value, clip.outputs[0])
    clip.replace_input_with(0, value)
    value.name, clip.outputs[0].name = f"{name}/linear", name
