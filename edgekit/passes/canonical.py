"""One form for what can be written in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, attributes, constant, is_float, shape_of
from edgekit.passes.rewrite import add_constant, drop, make, make_private, put_in_place, single_reader


def divide_by_multiplying(model: ir.Model) -> bool:
    """Div -> Mul by the reciprocal, as integer runtimes have no Div. Ensures: no floating-point Div."""
    graph, changed = model.graph, False
    for node in list(graph):
        if node.op_type != "Div" or not is_float(node.outputs[0]):
            continue
        divisor = node.inputs[1]
        array, name = constant(divisor), str(node.outputs[0].name)
        if divisor is None:
            continue
        if array is not None and np.all(array != 0):
            factor = add_constant(
                graph, f"{divisor.name}.reciprocal", (1 / array.astype(np.float64)).astype(array.dtype)
            )
        elif array is None:
            inverse = make("Reciprocal", [divisor], divisor, f"{name}/reciprocal")
            graph.insert_before(node, inverse)
            factor = inverse.outputs[0]
        else:
            continue
        product = make("Mul", [node.inputs[0], factor], node.outputs[0], f"{name}/product")
        graph.insert_after(node, product)
        put_in_place(graph, node.outputs[0], product.outputs[0])
        drop(graph, node)
        changed = True
    return changed


def simplify_powers(model: ir.Model) -> bool:
    """x ** 2 -> x * x, x ** 0.5 -> Sqrt, x ** 1 -> x, x ** -1 -> Reciprocal."""
    graph, changed = model.graph, False
    for node in list(graph):
        exponent = constant(node.inputs[1]) if node.op_type == "Pow" else None
        if exponent is None or exponent.size != 1 or not is_float(node.outputs[0]):
            continue
        base, out = node.inputs[0], node.outputs[0]
        form = {2.0: ("Mul", [base, base]), 0.5: ("Sqrt", [base]), -1.0: ("Reciprocal", [base])}.get(
            float(exponent.reshape(-1)[0])
        )
        if form is not None:
            new = make(form[0], form[1], out, f"{out.name}/{form[0].lower()}")
            graph.insert_after(node, new)
            put_in_place(graph, out, new.outputs[0])
            drop(graph, node)
            changed = True
    return changed


def inverse_powers(model: ir.Model) -> bool:
    """1 / sqrt(x) -> x ** -0.5 and 1 / x ** p -> x ** -p: one table in int8, and for the root one operator."""
    graph, changed = model.graph, False
    for node in list(graph):
        power = node.inputs[0].producer() if node.op_type == "Reciprocal" and node.inputs[0] is not None else None
        if power is None or power.op_type not in ("Sqrt", "Pow") or single_reader(power.outputs[0]) is not node:
            continue
        exponent = np.asarray(0.5, np.float32) if power.op_type == "Sqrt" else constant(power.inputs[1])
        if exponent is None or exponent.size != 1:
            continue
        out = node.outputs[0]
        new = make(
            "Pow", [power.inputs[0], add_constant(graph, f"{out.name}/power", -exponent)], out, f"{out.name}/inverse"
        )
        graph.insert_after(node, new)
        put_in_place(graph, out, new.outputs[0])
        drop(graph, node, power)
        changed = True
    return changed


def plain_gemm(model: ir.Model) -> bool:
    """Gemm with constant weights -> alpha = beta = 1, transB = 1 and a bias per output, as torch's Linear has it.

    Ensures: any other Gemm is spelled out as Transpose, MatMul, Mul and Add.
    """
    graph, changed = model.graph, False
    for node in list(graph):
        if node.op_type != "Gemm":
            continue
        attrs = attributes(node)
        weights = constant(node.inputs[1])
        given = bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        absent = len(node.inputs) < 3 or node.inputs[2] is None
        columns = shape_of(node.outputs[0])[-1]
        per_output = absent or (bias is not None and (bias.size == 1 or bias.shape in ((columns,), (1, columns))))
        changed = True
        if weights is None or attrs.get("transA", 0) or not per_output:
            _spell_out_gemm(graph, node, attrs)
            continue
        weights, bias = _plain(weights, bias, attrs)
        if not attrs.get("transB", 0) or attrs.get("alpha", 1.0) != 1.0:
            make_private(graph, node, 1, weights)
        if bias is not None and given is not None and (attrs.get("beta", 1.0) != 1.0 or bias.shape != given.shape):
            make_private(graph, node, 2, bias)
        for name, value in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 1)):
            node.attributes[name] = (
                ir.AttrFloat32(name, value) if isinstance(value, float) else ir.AttrInt64(name, value)
            )
    return changed


def _spell_out_gemm(graph: ir.Graph, node: ir.Node, attrs: dict[str, Any]) -> None:
    """alpha A' B' + beta C, each step a node."""
    out, stem = node.outputs[0], node.outputs[0].name
    dtype = out.dtype.numpy() if out.dtype is not None else np.float32
    new: list[ir.Node] = []

    def step(op_type: str, inputs: list[ir.Value | None], shape: Sequence[int], **more: Any) -> ir.Value:
        made = make(op_type, inputs, out, f"{stem}/{op_type.lower()}.{len(new)}", **more)
        made.outputs[0].shape = ir.Shape(shape)
        new.append(made)
        return made.outputs[0]

    def turned(value: ir.Value | None, wanted: bool) -> ir.Value | None:
        if value is None or not wanted:
            return value
        array = constant(value)
        if array is not None:
            return add_constant(graph, f"{value.name}.T", array.T)
        return step("Transpose", [value], shape_of(value)[::-1], perm=[1, 0])

    def times(value: ir.Value | None, factor: float) -> ir.Value | None:
        if value is None or factor == 1.0:
            return value
        array = constant(value)
        if array is not None:
            return add_constant(graph, f"{value.name}.scaled", array * np.asarray(factor, dtype))
        return step("Mul", [value, add_constant(graph, f"{stem}/factor", np.asarray(factor, dtype))], shape_of(value))

    left, right = (
        turned(node.inputs[0], bool(attrs.get("transA", 0))),
        turned(node.inputs[1], bool(attrs.get("transB", 0))),
    )
    result = times(step("MatMul", [left, right], shape_of(out)), float(attrs.get("alpha", 1.0)))
    addend = times(node.inputs[2] if len(node.inputs) > 2 else None, float(attrs.get("beta", 1.0)))
    if addend is not None:
        result = step("Add", [result, addend], shape_of(out))
    graph.insert_after(node, new)
    put_in_place(graph, out, new[-1].outputs[0])
    drop(graph, node)


def _plain(weights: Array, bias: Array | None, attrs: dict[str, object]) -> tuple[Array, Array | None]:
    weights = weights if attrs.get("transB", 0) else weights.T
    weights = weights * np.asarray(attrs.get("alpha", 1.0), weights.dtype)
    if bias is not None:
        bias = bias * np.asarray(attrs.get("beta", 1.0), bias.dtype)
        if bias.size in (1, weights.shape[0]):
            bias = np.broadcast_to(bias.reshape(-1), (weights.shape[0],))
    return weights, bias


def own_constants(model: ir.Model) -> bool:
    """Ensures: no two nodes share a bias, nor a constant that takes the scale of what is read with it.

    Such a constant is stored as integers that depend on the node.
    """
    from edgekit.ops import OPS, Scale

    graph, changed = model.graph, False
    for node in graph:
        quant = OPS[node.op_type].quant if node.op_type in OPS else None
        positions = set() if quant is None or quant.bias is None else {quant.bias}
        if quant is not None and quant.scale is Scale.SHARED:
            positions.update(range(len(node.inputs)) if quant.inputs is None else quant.inputs)
        for at in sorted(positions):
            value = node.inputs[at] if at < len(node.inputs) else None
            array = constant(value)
            if value is not None and array is not None and is_float(value) and len(value.uses()) > 1:
                node.replace_input_with(at, add_constant(graph, f"{value.name}.{node.name}", array))
                changed = True
    return changed


def global_pooling(model: ir.Model) -> bool:
    """Means over all of space -> GlobalAveragePool, whose result has a scale of its own."""
    graph, changed = model.graph, False
    for node in list(graph):
        out, source = node.outputs[0], node.inputs[0] if node.inputs else None
        if source is None or source.shape is None or not is_float(source) or not _covers_space(node):
            continue
        pooled = make("GlobalAveragePool", [source], out, f"{out.name}/pooled")
        graph.insert_after(node, pooled)
        last = pooled
        if len(shape_of(out)) == 2:
            n, c, *space = shape_of(source)
            pooled.outputs[0].shape = ir.Shape([n, c, *[1] * len(space)])
            shape = add_constant(graph, f"{out.name}/shape", np.asarray([n, c]))
            last = make("Reshape", [pooled.outputs[0], shape], out, f"{out.name}/flat")
            graph.insert_after(pooled, last)
        put_in_place(graph, out, last.outputs[0])
        drop(graph, node)
        changed = True
    return changed


def _covers_space(node: ir.Node) -> bool:
    shape = (
        shape_of(node.inputs[0]) if node.op_type in ("ReduceMean", "AveragePool") and node.inputs[0] is not None else ()
    )
    if len(shape) not in (3, 4):
        return False
    attrs = attributes(node)
    if node.op_type == "AveragePool":
        whole = all(size >= side for size, side in zip(attrs["kernel_shape"], shape[2:], strict=True))
        return whole and not any(attrs.get("pads", ())) and len(shape) == 4
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return (
        axes is not None and sorted(int(a) % len(shape) for a in axes) == list(range(2, len(shape))) and len(shape) == 4
    )


def lone_shared_inputs(model: ir.Model) -> bool:
    """Put an Identity before each input of a Concat, Max, Where or their kin whose scale is tied to others already.

    Such an op has one scale for all that it reads. The Identity lets the quantizer give an input another scale than its
    other readers see, or than its producer's is fixed to. Where the scales turn out equal, the emitters leave it out.
    """
    from edgekit.ops import OPS, Scale

    graph, changed = model.graph, False
    for node in list(graph):
        quant = OPS[node.op_type].quant if node.op_type in OPS else None
        if quant is None or quant.scale is not Scale.SHARED:
            continue
        positions = range(len(node.inputs)) if quant.inputs is None else quant.inputs
        for i in positions if len(positions) > 1 else ():
            value = node.inputs[i]
            if value is None or constant(value) is not None or not is_float(value) or not _shared_or_fixed(value):
                continue
            copy = make("Identity", [value], value, f"{value.name}/to/{node.outputs[0].name}")
            graph.insert_before(node, copy)
            for j in range(i, len(node.inputs)):  # it may be read twice
                if node.inputs[j] is value:
                    node.replace_input_with(j, copy.outputs[0])
            changed = True
    return changed


def _shared_or_fixed(value: ir.Value) -> bool:
    from edgekit.ops import OPS, Scale

    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":  # ``quant.from_qdq`` copies it where it must
        return False
    if producer is None or value.is_graph_output() or len(value.uses()) > 1:
        return True
    declared = OPS.get(producer.op_type)
    if producer.op_type in ("Relu", "Clip"):  # in a wider scale the limits of the integers would no longer clip
        return True
    return declared is not None and declared.quant.scale in (Scale.FIXED, Scale.SHARED)
