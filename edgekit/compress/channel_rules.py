"""How the classes of channels pass each op (``channels``): a rule numbers the outputs, or gives None to pin all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.classes import MOVES, PINNED, compact
from edgekit.compress.channels import Channels, pads_of, reduced_axes, slices_of
from edgekit.graph import GATES, Array, attributes, constant, shape_of

Found = Sequence[Array] | None
Rule = Callable[[Channels, ir.Node, list[ir.Value]], Found]


def _elementwise(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """What lies at one place goes together; a side that is broadcast along the other's channels stands apart.

    An axis of matrices that constants alone have is free, where nothing else is: a bias of each head, a mask for all.
    """
    out = node.outputs[0]
    rank = len(shape_of(out))
    sides = [
        (_lifted(channels.numbers[str(v.name)], rank), (1,) * (rank - len(shape_of(v))) + shape_of(v)) for v in read
    ]
    wide = [axis for axis, size in enumerate(shape_of(out)) if size > max(shape[axis] for _, shape in sides)]
    if len(wide) == 1 and wide[0] < rank - 2 and all(numbers.size == 1 for numbers, _ in sides):
        channels.link(node, out)
        return [_on_axis(channels.classes.new(shape_of(out)[wide[0]]), wide[0], rank)]
    base, apart = max((numbers for numbers, _ in sides), key=lambda numbers: numbers.size), []
    for numbers, shape in sides:
        if any(n > 1 == s for n, s in zip(base.shape, shape, strict=True)):
            apart.append((numbers, shape))
            continue
        channels.classes.join(base, numbers)
        base = np.broadcast_arrays(base, numbers)[0]
    if any(
        numbers.size > 1 or any(n > 1 < s for n, s in zip(base.shape, shape, strict=True)) for numbers, shape in apart
    ):
        return None
    channels.link(node, out)
    return [base]


def _lifted(numbers: Array, rank: int) -> Array:
    return numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape)


def _batch_norm(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    if any(constant(v) is None for v in node.inputs[1:]) or len(node.outputs) > 1:
        return None
    numbers = channels.along(read[0], 1)
    for value in node.inputs[1:]:
        channels.cut(value, 0, numbers)
    return [_on_axis(numbers, 1, len(shape_of(read[0])))]


def _on_axis(numbers: Array, axis: int, rank: int) -> Array:
    return numbers.reshape([-1 if i == axis else 1 for i in range(rank)])


def _layer_norm(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """What is normalised together goes together."""
    rank = len(shape_of(read[0]))
    first = int(attributes(node).get("axis", -1)) % rank
    if len(read) > 1 or len(node.outputs) > 1:
        return None
    channels.collapsed(read[0], range(first, rank))
    channels.link(node, node.outputs[0])
    return [channels.numbers[str(read[0].name)]]


def _group_norm(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """Whole groups; of InstanceNormalization single channels."""
    rank, count = len(shape_of(read[0])), shape_of(read[0])[1]
    groups = int(attributes(node).get("num_groups", count))
    if len(read) > 1:
        return None
    numbers = channels.along(read[0], 1)
    rows = numbers.reshape(groups, -1)
    channels.classes.join(rows[:, :1], rows)
    for value in node.inputs[1:]:
        channels.cut(value, 0, numbers)
    return [_on_axis(numbers, 1, rank)]


def _softmax(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    channels.collapsed(read[0], [int(attributes(node).get("axis", -1))])
    return [channels.numbers[str(read[0].name)]]


def _reduce(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    axes = reduced_axes(node)
    if axes is None:
        return None
    numbers = channels.collapsed(read[0], axes)
    return [numbers if int(attributes(node).get("keepdims", 1)) else numbers.squeeze(axes)]


def _spatial(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """Sums, copies and maxima within a channel."""
    source, out = shape_of(read[0]), shape_of(node.outputs[0])
    if len(node.outputs) > 1 or len(source) < 3 or out[:2] != source[:2]:
        return None
    return [channels.collapsed(read[0], range(2, len(source)))]


def _conv(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """Channels in and out by the weights' axes; of groups either whole ones or the same channels of each, the finer."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if len(read) > 1 or constant(weight) is None or (bias is not None and constant(bias) is None):
        return None
    swapped, group = node.op_type == "ConvTranspose", int(attributes(node).get("group", 1))
    out = shape_of(node.outputs[0])
    ins, outs = channels.along(read[0], 1), channels.classes.new(out[1])
    fed, made = ins.reshape(group, -1), outs.reshape(group, -1)
    if group > max(1, fed.shape[1], made.shape[1]) or (group > 1 and fed.shape[1] == 1):
        channels.classes.join(fed[:, :1], fed)
        channels.classes.join(fed[:, :1], made)
        channels.cut(weight, 0, ins if swapped else outs)
        channels.cut(weight, 1, np.asarray([PINNED]))
    else:
        channels.classes.join(fed[:1], fed)
        channels.classes.join(made[:1], made)
        channels.cut(weight, 0, ins if swapped else outs)
        channels.cut(weight, 1, made[0] if swapped else fed[0])
    channels.cut(bias, 0, outs)
    return [_on_axis(outs, 1, len(out))]


def _gemm(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    attrs, weight = attributes(node), node.inputs[1]
    if len(read) > 1 or read[0] is not node.inputs[0] or attrs.get("transA") or constant(weight) is None:
        return None
    ins, outs = channels.along(read[0], 1), channels.classes.new(shape_of(node.outputs[0])[1])
    turned = int(attrs.get("transB", 0))
    channels.cut(weight, turned, ins)
    channels.cut(weight, 1 - turned, outs)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        channels.cuts.links.append((node.inputs[2], node.outputs[0]))
    return [outs[None]]


def _matmul(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """A layer where the right side is constant, else a product of two tensors."""
    array, rank = constant(node.inputs[1]), len(shape_of(node.outputs[0]))
    if any(v is None or v.shape is None or len(v.shape) < 2 for v in node.inputs):
        return None
    if array is None or array.ndim != 2:
        return _product(channels, node, rank)
    weight, numbers = node.inputs[1], channels.numbers[str(read[0].name)]
    if numbers.size > 1 == numbers.shape[-1]:  # channels on another axis pass
        channels.whole([weight])
        return [numbers]
    ins, outs = channels.along(read[0], rank - 1), channels.classes.new(array.shape[1])
    channels.cut(weight, 0, ins)
    channels.cut(weight, 1, outs)
    return [_on_axis(outs, rank - 1, rank)]


def _product(channels: Channels, node: ir.Node, rank: int) -> Found:
    """Where matrices of a batch have different numbers (heads), each goes whole; else columns with rows."""
    sides = []
    for value in node.inputs:
        assert value is not None
        shape = shape_of(value)
        numbers = compact(channels.of(value)) if str(value.name) in channels.numbers else _matrices(channels, value)
        if min(numbers.shape[-2:]) > 1:
            numbers = compact(channels.classes.of(channels.squared(numbers)))
        sides.append((_lifted(numbers, rank), (1,) * (rank - len(shape)) + shape))
    if channels.inner:
        sides = [(_one_matrix(channels, numbers), shape) for numbers, shape in sides]
    (left, _), (right, _) = sides
    heads = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    if np.prod(heads) == 1:
        rows, columns = left[..., :, :1], right[..., :1, :]
        if rows.size > 1 and columns.size > 1:
            return None
        if left.shape[-1] > 1 or right.shape[-2] > 1:
            channels.classes.join(left[..., 0, :].reshape(-1), right[..., :, 0].reshape(-1))
        return [rows if rows.size > 1 else columns if columns.size > 1 else np.full((1,) * rank, PINNED)]
    whole = []
    for numbers, shape in sides:
        if any(n > 1 == s for n, s in zip(heads, shape[:-2], strict=True)):  # one for all heads
            channels.classes.join(numbers, np.asarray(PINNED))
            continue
        first = np.broadcast_to(numbers, (*heads, *numbers.shape[-2:]))
        channels.classes.join(first[..., :1, :1], first)
        whole.append(first[..., :1, :1])
    channels.classes.join(whole[0], whole[-1])
    return [whole[0]]


def _matrices(channels: Channels, value: ir.Value) -> Array:
    """A constant side of a product: each of its matrices goes or stays."""
    lead = shape_of(value)[:-2]
    if np.prod(lead) == 1 or channels.inner:
        channels.whole([value])
        return np.full((1,) * len(shape_of(value)), PINNED)
    channels.numbers[str(value.name)] = numbers = channels.classes.new(int(np.prod(lead))).reshape(*lead, 1, 1)
    return numbers


def _one_matrix(channels: Channels, numbers: Array) -> Array:
    """The numbers of one matrix, with which those of the others go."""
    first = numbers[tuple(slice(0, 1) for _ in numbers.shape[:-2])]
    channels.classes.join(first, numbers)
    return first


def _recurrent(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """A hidden unit: its rows of every gate, its column of R, its place in the states and results.

    The node is in the form that ``passes.recurrent`` leaves.
    """
    source, weight, again, bias = node.inputs[:4]
    gates, ends = GATES[node.op_type], [len(shape_of(value)) - 1 for value in node.outputs]
    assert source is not None and again is not None
    units = channels.classes.new(shape_of(again)[2])
    if source in read:
        channels.cut(weight, 2, channels.along(source, 2))
    for value, axis, count in ((weight, 1, gates), (again, 1, gates), (again, 2, 1), (bias, 1, 2 * gates)):
        channels.cut(value, axis, np.tile(units, count))
    for state in node.inputs[5:]:
        if state in read:
            channels.classes.join(units, channels.along(state, 2))
        else:
            channels.cut(state, 2, units)
    return [_on_axis(units, axis, axis + 1) for axis in ends]


def _concat(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """One behind another; a constant part goes with the channels of the others."""
    out = shape_of(node.outputs[0])
    axis = int(attributes(node)["axis"]) % len(out)
    like = max((channels.numbers[str(v.name)] for v in read), key=lambda numbers: numbers.size)
    parts = []
    for value in node.inputs:
        if value is None:
            return None
        if str(value.name) not in channels.numbers:
            free = [size if i != axis and n > 1 else 1 for i, (n, size) in enumerate(zip(like.shape, out, strict=True))]
            fresh = channels.classes.new(int(np.prod(free))) if np.prod(free) > 1 else np.asarray([PINNED])
            channels.numbers[str(value.name)] = fresh.reshape(free)
        parts.append((channels.numbers[str(value.name)], shape_of(value)[axis]))
    apart = np.broadcast_shapes(*((*n.shape[:axis], 1, *n.shape[axis + 1 :]) for n, _ in parts))
    full = [np.broadcast_to(n, (*apart[:axis], size, *apart[axis + 1 :])) for n, size in parts]
    return [np.concatenate(full, axis)]


def _slice(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    numbers, parts = channels.numbers[str(read[0].name)], slices_of(node)
    if parts is None:
        return None
    picks = [slice(None)] * numbers.ndim
    for axis, part in parts.items():
        if numbers.shape[axis] > 1:
            if part.step != 1:
                return None
            picks[axis] = part
    return [numbers[tuple(picks)]]


def _gather(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    table = constant(node.inputs[0])
    if table is not None:
        return _embedding(channels, node) if table.ndim == 2 and not attributes(node).get("axis") else None
    numbers, index = channels.numbers[str(read[0].name)], constant(node.inputs[1])
    axis = int(attributes(node).get("axis", 0)) % numbers.ndim
    if index is None or read[0] is not node.inputs[0] or (numbers.shape[axis] > 1 and index.ndim > 1):
        return None
    return [numbers.take(index if numbers.shape[axis] > 1 else np.zeros(index.shape, int), axis)]


def _gather_elements(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """Places along one axis, which channels of another pass; the constant that says them goes with those."""
    numbers, index = channels.numbers[str(read[0].name)], constant(node.inputs[1])
    if index is None or read[0] is not node.inputs[0] or numbers.shape[int(attributes(node).get("axis", 0))] > 1:
        return None
    channels.link(node, node.outputs[0])
    return [numbers[tuple(map(slice, index.shape))]]


def _scatter(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """Rows that take the place of others, with the same channels."""
    data, index, updates = node.inputs
    if constant(index) is None or data not in read or updates not in read:
        return None
    rows = shape_of(index)  # type: ignore[arg-type]
    ours, theirs = channels.numbers[str(data.name)], channels.numbers[str(updates.name)]
    lead, ahead = rows[-1], len(rows) - 1
    if max(ours.shape[:lead]) > 1 or max(theirs.shape[:ahead], default=1) > 1:
        return None
    theirs = theirs.reshape(ours.shape[:lead] + theirs.shape[ahead:])
    channels.classes.join(ours, theirs)
    return [np.broadcast_arrays(ours, theirs)[0]]


def _embedding(channels: Channels, node: ir.Node) -> Found:
    """Rows of a table, whose columns are channels."""
    rank = len(shape_of(node.outputs[0]))
    columns = channels.classes.new(shape_of(node.outputs[0])[-1])
    channels.cut(node.inputs[0], 1, columns)
    return [_on_axis(columns, rank - 1, rank)]


def _pad(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """What is added beside channels is channels too."""
    numbers, pads = channels.numbers[str(read[0].name)], pads_of(node)
    if pads is None:
        return None
    for axis, (before, after) in pads.items():
        if numbers.shape[axis] == 1 or not (before or after):
            continue
        if min(before, after) < 0 or attributes(node).get("mode", "constant") != "constant":
            return None
        sizes = [1 if i == axis else n for i, n in enumerate(numbers.shape)]
        ends = [np.repeat(channels.classes.new(n), np.prod(sizes)).reshape(-1, *sizes) for n in (before, after)]
        ends = [np.moveaxis(end, 0, axis).reshape(*sizes[:axis], -1, *sizes[axis + 1 :]) for end in ends]
        numbers = np.concatenate([ends[0], numbers, ends[1]], axis)
    return [numbers]


def _expand(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    numbers = _lifted(channels.numbers[str(read[0].name)], len(shape_of(node.outputs[0])))
    return None if constant(node.inputs[1]) is None else [numbers]


def _tile(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    numbers, repeats = channels.numbers[str(read[0].name)], constant(node.inputs[1])
    if repeats is None:
        return None
    return [np.tile(numbers, [int(r) if n > 1 else 1 for r, n in zip(repeats, numbers.shape, strict=True)])]


def _blocks(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """DepthToSpace and SpaceToDepth: all channels of one block go together."""
    size, rank = int(attributes(node)["blocksize"]) ** 2, len(shape_of(read[0]))
    numbers = channels.along(read[0], 1)
    if node.op_type == "SpaceToDepth":
        return [_on_axis(np.tile(numbers, size), 1, rank)]
    rows = numbers.reshape(size, -1) if attributes(node).get("mode", "DCR") == "DCR" else numbers.reshape(-1, size).T
    channels.classes.join(rows[:1], rows)
    return [_on_axis(rows[0], 1, rank)]


def _move(channels: Channels, node: ir.Node, read: list[ir.Value]) -> Found:
    """What only moves data, by constants."""
    if len(read) > 1 or any(constant(v) is None for v in node.inputs[1:] if v is not None):
        return None
    if node.op_type == "Squeeze" and len(node.inputs) < 2:  # would take an axis of which one channel is left
        return None
    return MOVES[node.op_type](channels, node, read)


ELEMENTWISE = (
    "Abs", "Add", "And", "Asinh", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf",
    "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
    "Sub", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(MOVES, _move),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), _group_norm),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"), _spatial),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(GATES, _recurrent),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "ScatterND": _scatter,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
}
