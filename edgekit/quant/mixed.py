"""Outputs that join parts of very different ranges in one scale: equalizing cannot reach them, only the user can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from edgekit.quant.plan import QuantPlan
from edgekit.quant.ranges import Range

FEWEST = 32  # levels of 256 that a part should keep


def crushed(graph: ir.Graph, plan: QuantPlan, ranges: Mapping[str, Range]) -> Iterator[str]:
    """One line for each int8 output that is a Concat and leaves a part fewer than ``FEWEST`` levels."""
    for value in graph.outputs:
        node, q = value.producer(), plan.get(str(value.name))
        if node is None or node.op_type != "Concat" or q is None or q.dtype != "int8":
            continue
        parts = {_source(part): ranges[str(part.name)] for part in node.inputs if part and str(part.name) in ranges}
        levels = {name: (max(high, 0.0) - min(low, 0.0)) / q.scale[0] for name, (low, high) in parts.items()}
        few = [f"{name} keeps {round(count) + 1}" for name, count in levels.items() if count + 1 < FEWEST]
        if few:
            yield (
                f"output {value.name} joins parts of very different ranges in one scale: of 256 levels "
                f"{', '.join(few)}; [model] outputs = [{', '.join(map(repr, parts))}] gives each a scale of its own"
            )


def _source(value: ir.Value) -> str:
    """The name of what an input of a Concat copies (``canonical.lone_shared_inputs``)."""
    node = value.producer()
    copied = node.inputs[0] if node is not None and node.op_type == "Identity" else None
    return str((copied or value).name)
