"""Ranges of what a mask before a Softmax makes: a number so low that it has no weight needs no exact form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.graph import Unit, constant
from edgekit.passes.masks import THROUGH, feeds_softmax
from edgekit.quant.ranges import Range

MASKED = -1e4  # what lies below is a mask, not a score
FAR = 10.0  # so far below the lowest score: a weight of at most exp(-10)


def modest(graph_units: Sequence[Unit], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Narrower ranges for the scores that a mask is added to or put into, and for the mask where it is added.

    The lowest integer then stands for all that is masked, at ``FAR`` below the lowest score that is not.
    """
    found: dict[str, Range] = {}
    for unit in graph_units:
        name, read = str(unit.outputs[0].name), [value for value in unit.node.inputs if value is not None]
        scores = [{**ranges, **found}[str(v.name)] for v in read if str(v.name) in ranges]
        if unit.node.op_type not in THROUGH or len(scores) != 1 or ranges.get(name, (0.0, 0.0))[0] > MASKED:
            continue
        if not feeds_softmax(unit.outputs[0]):
            continue
        ((least, most),) = scores
        if unit.node.op_type == "Where":
            least -= FAR
        for value in read if unit.node.op_type == "Add" else ():
            mask = constant(value)
            if mask is not None:
                kept = mask[mask > MASKED]
                least += float(kept.min(initial=0.0)) - FAR
                low = min(least - most, found.get(str(value.name), (0.0, 0.0))[0])
                found[str(value.name)] = (low, float(kept.max(initial=0.0)))
        found[name] = (least, ranges[name][1])
    return found
