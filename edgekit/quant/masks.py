"""Ranges in which what a mask hides from a Softmax takes no room.

Scores that are hidden lie thousands below the others, and a scale for all of that would leave the others a step or two.
A Softmax tells nothing apart that lies so far below the largest of its row that it rounds to zero, all together: there
the range may end. With scores in [low, high] and a mask that shows something in every row, a hidden score need only lie
``high - low`` below what is shown, and ``depth`` below that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from edgekit.graph import attributes, constant, shape_of
from edgekit.quant.plan import LIMITS
from edgekit.quant.ranges import Range

SURE = -1e3  # a computed addend that goes below is a mask; of a constant one, its rows tell


def without_masks(graph: ir.Graph, ranges: Mapping[str, Range], dtype: str) -> dict[str, Range]:
    """The ranges, those of masks and masked scores cut where a Softmax sees no difference; of constant masks too."""
    found, cut = dict(ranges), dict[str, Range]()
    levels = LIMITS[dtype][1] - LIMITS[dtype][0] + 1
    for node, add in _sums(graph):
        out = add.outputs[0]
        rank = len(shape_of(out))
        axis = int(attributes(node).get("axis", -1)) % rank - rank
        depth = math.log(2 * levels * shape_of(out)[axis])
        for scores, mask in (add.inputs, tuple(reversed(add.inputs))):
            if scores is None or mask is None or str(scores.name) not in ranges:
                continue
            low, high = ranges[str(scores.name)]
            room = high - low + depth
            shown = _shown(mask, ranges, room, axis)
            if shown is None:
                continue
            found[str(out.name)] = (low + shown[0] - depth, high + shown[1])
            if constant(mask) is not None or _only_for(mask, "Add"):
                before = cut.get(str(mask.name), (0.0, 0.0))
                cut[str(mask.name)] = (min(before[0], shown[0] - room), max(before[1], shown[1]))
    return found | cut


def masked(graph: ir.Graph) -> set[str]:
    """The names of sums that only a Softmax reads, and of what they add: below ``SURE`` is hidden, however far."""
    return {str(value.name) for _, add in _sums(graph) for value in (*add.inputs, *add.outputs) if value is not None}


def _sums(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Each Softmax that reads a sum which is for nothing else, and the Add."""
    for node in graph:
        out = node.inputs[0] if node.op_type == "Softmax" else None
        add = out.producer() if out is not None else None
        if out is not None and add is not None and add.op_type == "Add" and _only_for(out, "Softmax"):
            yield node, add


def _only_for(value: ir.Value, op_type: str) -> bool:
    return not value.is_graph_output() and all(use.node.op_type == op_type for use in value.uses())


def _shown(mask: ir.Value, ranges: Mapping[str, Range], room: float, axis: int) -> Range | None:
    """The smallest and the largest maximum of a mask's rows; None where it hides nothing so far as ``room`` below."""
    array = constant(mask)
    if array is None:
        low, high = ranges.get(str(mask.name), (0.0, 0.0))
        return (high, high) if low <= SURE else None
    if array.ndim < -axis or array.shape[axis] == 1:
        return None
    rows = array.max(axis=axis)
    least = float(rows[rows > SURE].min(initial=float(rows.max())))
    return (least, float(rows.max())) if array.min() < least - room else None
