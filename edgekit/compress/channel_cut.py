"""Take channels out of a graph: out of its weights, and out of what ops say of shapes, places and groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgekit.audit.macs import ONNX, count
from edgekit.compress.channels import Channels, pads_of, slices_of
from edgekit.frontends.onnx import infer_shapes
from edgekit.graph import GATES, Array, attributes, constant, shape_of
from edgekit.passes.rewrite import add_constant, make_private


class Cut:
    """What is left when some classes go."""

    def __init__(self, channels: Channels, removed: Iterable[int]) -> None:
        self.channels = channels
        self._gone = np.zeros(len(channels.classes), bool)
        self._gone[list(removed)] = True

    def kept(self, value: ir.Value | None) -> tuple[int, Array] | None:
        """The axis of a tensor that is cut, and which of its indices stay; None where nothing goes."""
        found = self.channels.axis_of(value)
        if found is None or not self._gone[found[1]].any():
            return None
        return found[0], ~self._gone[found[1]]

    def constants(self) -> dict[str, Array]:
        """The constants that change."""
        found = {}
        for name, axes in self.channels.constants.items():
            array = constant(self.channels.graph.initializers[name])
            assert array is not None
            cut = array
            for axis, classes in axes.items():
                cut = np.compress(~self._gone[classes], cut, axis)
            if cut.shape != array.shape:
                found[name] = cut
        return found

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """The shape of a tensor or constant; (0,) of an input that is left out."""
        if value is None:
            return (0,)
        shape = list(shape_of(value))
        if (found := self.kept(value)) is not None:
            shape[found[0]] = int(np.count_nonzero(found[1]))
        for axis, classes in self.channels.constants.get(str(value.name), {}).items():
            shape[axis] = int(np.count_nonzero(~self._gone[classes]))
        return tuple(shape)

    def cost(self, kind: str) -> int:
        """Multiply-adds, ``parameters``, or ``bytes`` in int8: weights one each, biases four; statistics are folded."""
        if kind == "macs":
            return sum(self._macs(node) for node in self.channels.graph if node.op_type in ONNX)
        total = 0
        for value in self.channels.graph.initializers.values():
            if value.dtype is None or not value.dtype.is_floating_point():
                continue
            each = 1
            if kind == "bytes":
                folded = all(use.node.op_type == "BatchNormalization" for use in value.uses())
                each = 0 if folded else 1 if len(shape_of(value)) > 1 else 4
            total += each * int(np.prod(self.shape(value)))
        return total

    def _macs(self, node: ir.Node) -> int:
        shapes = [self.shape(v) for v in node.inputs], [self.shape(v) for v in node.outputs]
        return count(ONNX, node.op_type, shapes, attributes(node)) or 0


def without(channels: Channels, removed: Iterable[int]) -> ir.Model:
    """A copy of the model in which the classes are gone."""
    cut = Cut(channels, removed)
    model = channels.model.clone()
    graph = model.graph
    for name, array in cut.constants().items():
        value = graph.initializers[name]
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        value.shape = ir.Shape(array.shape)
    for node, old in zip(graph, channels.graph, strict=True):
        if node.op_type in MENDED and any(cut.kept(v) is not None for v in (*old.inputs, *old.outputs)):
            MENDED[node.op_type](graph, node, old, cut)
    for node in graph:
        for out in node.outputs:
            out.shape = None
    return infer_shapes(model)


Mend = Callable[[ir.Graph, ir.Node, ir.Node, Cut], None]


def _set(node: ir.Node, values: Mapping[str, int]) -> None:
    for attr in convenience.convert_attributes(values):
        node.attributes[attr.name] = attr


def _conv(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    """As many groups as the weights' second axis leaves."""
    if int(attributes(old).get("group", 1)) > 1:
        whole = old.outputs[0] if old.op_type == "ConvTranspose" else old.inputs[0]
        _set(node, {"group": cut.shape(whole)[1] // cut.shape(old.inputs[1])[1]})


def _group_norm(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    groups, source = int(attributes(old)["num_groups"]), old.inputs[0]
    _set(node, {"num_groups": groups * cut.shape(source)[1] // shape_of(source)[1]})  # type: ignore[arg-type]


def _recurrent(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    _set(node, {"hidden_size": cut.shape(old.inputs[2])[2]})


def _shape(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    """The new length, where the shape says it (not -1, 0 or 1)."""
    found, told = cut.kept(old.outputs[0]), constant(old.inputs[1])
    if found is None or told is None:
        return
    at = found[0] - len(shape_of(old.outputs[0])) + told.size
    if at >= 0 and told[at] > 1:
        told = told.copy()
        told[at] = np.count_nonzero(found[1])
        make_private(graph, node, 1, told)


def _split(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    axis = int(attributes(old).get("axis", 0))
    sizes = np.asarray([cut.shape(value)[axis] for value in old.outputs], np.int64)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        make_private(graph, node, 1, sizes)
        return
    node.attributes.pop("num_outputs", None)
    node.resize_inputs(2)
    node.replace_input_with(1, add_constant(graph, f"{node.name}.split", sizes))


def _slice(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    """From and to what is left of the range."""
    found, parts, axes = (
        cut.kept(old.inputs[0]),
        slices_of(old),
        constant(old.inputs[3] if len(old.inputs) > 3 else None),
    )
    if found is None or parts is None or found[0] not in parts:
        return
    rank = len(shape_of(old.inputs[0]))  # type: ignore[arg-type]
    which = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    part, at = parts[found[0]], which.index(found[0])
    for position, end in ((1, part.start), (2, part.stop)):
        limits = constant(old.inputs[position]).copy()  # type: ignore[union-attr]
        limits[at] = np.count_nonzero(found[1][:end])
        make_private(graph, node, position, limits)


def _pad(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    """As much as is left of what was added."""
    found, pads = cut.kept(old.outputs[0]), pads_of(old)
    if found is None or pads is None or found[0] not in pads:
        return
    axis, stays = found
    before, after = pads[axis]
    amounts = constant(old.inputs[1]).copy()  # type: ignore[union-attr]
    at = list(pads).index(axis)
    amounts[at] = np.count_nonzero(stays[:before])
    amounts[len(pads) + at] = np.count_nonzero(stays[len(stays) - after :])
    make_private(graph, node, 1, amounts)


def _resize(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    sizes = constant(old.inputs[3]) if len(old.inputs) > 3 else None
    if sizes is not None and sizes.size == len(shape_of(old.outputs[0])):
        make_private(graph, node, 3, np.asarray(cut.shape(old.outputs[0]), np.int64))


def _gather(graph: ir.Graph, node: ir.Node, old: ir.Node, cut: Cut) -> None:
    """The new places of what is left."""
    found, index = cut.kept(old.inputs[0]), constant(old.inputs[1])
    if found is None or index is None or int(attributes(old).get("axis", 0)) % len(shape_of(old.inputs[0])) != found[0]:  # type: ignore[arg-type]
        return
    picks = index % len(found[1])
    places = (np.cumsum(found[1]) - 1)[picks[found[1][picks]] if index.ndim else picks]
    make_private(graph, node, 1, places.astype(index.dtype))


MENDED: dict[str, Mend] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "GroupNormalization": _group_norm,
    **dict.fromkeys(GATES, _recurrent),
    "Reshape": _shape,
    "Expand": _shape,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "Gather": _gather,
}
