"""Copies between what computes with activations of 8 bits and what computes with 16: each becomes a requantization.

An integer kernel reads and gives one width. So a node that is lifted to 16 bits reads copies of what others store in
8, and the others read copies of what it gives; the quantizer gives each copy the width of who reads it. Inputs and
outputs of the model keep 8 bits: an artifact is fed and read as before.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgekit.graph import Unit, constant, is_float, units
from edgekit.passes.rewrite import add_constant, make
from edgekit.passes.steps import Shaped
from edgekit.quant.kernels import inputs_of

WIDE, NARROW = "int16", "int8"


def with_copies(form: Shaped, wide: Container[str], real: Container[str]) -> Shaped:
    """A form in which no tensor is stored in two widths: units named ``wide`` have 16 bits, ``real`` ones read any.

    Ensures: what a wide unit reads or gives, none but wide and real units reads or gives, and it is no output.
    """
    copy = form.model.clone()
    graph, copies = copy.graph, dict[str, str]()
    whole = units(graph)
    for unit in whole:
        if unit.node.name in wide:
            _own_constants(graph, unit)
    makers = {value: str(unit.node.name) for unit in whole for value in unit.outputs}
    for value in (*graph.inputs, *makers):
        uses = [use for use in value.uses() if use.node.name not in real]
        end, maker = value.is_graph_output(), makers.get(value, "")
        asked = any(use.node.name in wide for use in uses)
        given = maker in wide or (maker in real and asked and not end)
        others = [use for use in uses if (use.node.name in wide) is not given]
        if is_float(value) and (others or (given and end)):
            copied = _copied(graph, value, NARROW if given else WIDE, copies)
            for use in others:
                use.node.replace_input_with(use.idx, copied)
    shared = {new: form.shared[old] for new, old in copies.items() if old in form.shared}
    return replace(form, model=copy, copies=copies, shared={**form.shared, **shared})


def _own_constants(graph: ir.Graph, unit: Unit) -> None:
    """Constants that are read as activations are stored in the width of their reader, so each has its own."""
    read = {value for value in inputs_of(unit) if constant(value) is not None and len(value.uses()) > 1}
    for position, value in enumerate(unit.node.inputs):
        if value in read and value is not None:
            own = add_constant(graph, f"{value.name}.{unit.node.name}", np.asarray(constant(value)))
            unit.node.replace_input_with(position, own)


def _copied(graph: ir.Graph, value: ir.Value, width: str, copies: dict[str, str]) -> ir.Value:
    """A copy right behind what gives the value. Of an output of the model it is the copy that goes by its name."""
    name = str(value.name)
    other = f"{name}/{width}"
    node = make("Identity", [value], value, other)
    copied, producer = node.outputs[0], value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    if value.is_graph_output() and width == NARROW:
        value.name, copied.name = f"{name}/{WIDE}", name
        other = f"{name}/{WIDE}"
        for i, out in enumerate(graph.outputs):
            if out is value:
                graph.outputs[i] = copied
    copies[other] = name
    return copied
