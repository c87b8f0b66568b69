"""Images cut into blocks and put together again, in moves that every runtime knows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph import attributes, constant, shape_of
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place


def join_blocks(model: ir.Model) -> bool:
    """Col2Im of blocks that tile an image -> Reshape, Transpose, Reshape; others, which add up, are left as they are.

    Column r * n + c of (N, C * h * w, rows * n) is the block at row r and column c.
    """
    graph, changed = model.graph, False
    for node in [n for n in graph if n.op_type == "Col2Im"]:
        image, block = constant(node.inputs[1]), constant(node.inputs[2])
        attrs, source, out = attributes(node), node.inputs[0], node.outputs[0]
        plain = not any(attrs.get("pads", ())) and all(d == 1 for d in attrs.get("dilations", ()))
        if source is None or image is None or block is None or len(image) != 2 or not plain:
            continue
        if tuple(attrs.get("strides", (1, 1))) != tuple(block) or any(image % block):
            continue
        (h, w), (rows, columns) = block.tolist(), (image // block).tolist()
        batch, depth, _ = shape_of(source)
        channels = depth // (h * w)
        cut, joined = (batch, channels, h, w, rows, columns), (batch, channels, rows, h, columns, w)
        steps: list[ir.Node] = []
        value = source
        for op_type, shape in (
            ("Reshape", cut),
            ("Transpose", joined),
            ("Reshape", (batch, channels, *image.tolist())),
        ):
            name = f"{out.name}/block.{len(steps)}"
            if op_type == "Transpose":
                step = make(op_type, [value], out, name, perm=[0, 1, 4, 2, 5, 3])
            else:
                step = make(op_type, [value, add_constant(graph, f"{name}/shape", np.asarray(shape))], out, name)
            step.outputs[0].shape = ir.Shape(shape)
            steps.append(step)
            value = step.outputs[0]
        graph.insert_after(node, steps)
        put_in_place(graph, out, value)
        drop(graph, node)
        changed = True
    return changed


def flat_indices(model: ir.Model) -> bool:
    """Gather by a constant table -> Gather by its entries in a row, and Reshape. Ensures: constant indices are flat."""
    graph, changed = model.graph, False
    for node in [n for n in graph if n.op_type == "Gather"]:
        indices, source, out = constant(node.inputs[1]), node.inputs[0], node.outputs[0]
        if indices is None or indices.ndim < 2 or source is None or constant(source) is not None:
            continue
        shape, axis = list(shape_of(source)), int(attributes(node).get("axis", 0))
        row = add_constant(graph, f"{out.name}/row", indices.reshape(-1))
        picked = make("Gather", [source, row], out, f"{out.name}/picked", axis=axis % len(shape))
        shape[axis % len(shape)] = indices.size
        picked.outputs[0].shape = ir.Shape(shape)
        form = add_constant(graph, f"{out.name}/form", np.asarray(shape_of(out)))
        reshaped = make("Reshape", [picked.outputs[0], form], out, f"{out.name}/table")
        graph.insert_after(node, [picked, reshaped])
        put_in_place(graph, out, reshaped.outputs[0])
        drop(graph, node)
        changed = True
    return changed
