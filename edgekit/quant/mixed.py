"""Outputs that join parts of very different ranges in one scale: equalizing cannot reach them, only the user can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from edgekit.passes.split import part_of, splits
from edgekit.quant import numerics
from edgekit.quant.plan import QuantPlan
from edgekit.quant.ranges import Range

FEWEST = 32  # levels of 256 that a part should keep


def crushes(value: ir.Value, ranges: Mapping[str, Range], scale: float) -> dict[str, int]:
    """How many levels each part of an output that is a Concat keeps in a scale, where that is too few of a part."""
    node = value.producer()
    if node is None or node.op_type != "Concat":
        return {}
    parts = {
        str(part_of(part).name): ranges[str(part.name)] for part in node.inputs if part and str(part.name) in ranges
    }
    levels = {name: round((max(high, 0.0) - min(low, 0.0)) / scale) + 1 for name, (low, high) in parts.items()}
    return levels if any(count < FEWEST for count in levels.values()) else {}


def to_split(graph: ir.Graph, ranges: Mapping[str, Range]) -> list[str]:
    """The outputs that int8 would crush a part of, and that can be given in parts."""
    found = []
    for value in graph.outputs:
        low, high = ranges.get(str(value.name), (0.0, 0.0))
        if splits(value) and crushes(value, ranges, numerics.affine(low, high).scale[0]):
            found.append(str(value.name))
    return found


def crushed(graph: ir.Graph, plan: QuantPlan, ranges: Mapping[str, Range]) -> Iterator[str]:
    """One line for each int8 output that is a Concat and leaves a part fewer than ``FEWEST`` levels."""
    for value in graph.outputs:
        q = plan.get(str(value.name))
        levels = crushes(value, ranges, q.scale[0]) if q is not None and q.dtype == "int8" else {}
        few = [f"{name} keeps {count}" for name, count in levels.items() if count < FEWEST]
        if few:
            yield (
                f"output {value.name} joins parts of very different ranges in one scale: of 256 levels "
                f"{', '.join(few)}; [quantization] split_outputs, or [model] outputs = "
                f"[{', '.join(map(repr, levels))}], gives each a scale of its own"
            )
