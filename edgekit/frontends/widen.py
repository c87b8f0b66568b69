"""float16, bfloat16 and float64 models -> float32, the one floating-point type after a frontend."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

OTHER = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
TYPES = ("to", "dtype")  # attributes that name an element type


def widen(model: ir.Model) -> bool:
    """Make every floating-point value float32, whatever a Cast says. Values beyond its range become infinite."""
    graphs = [model.graph, *model.graph.subgraphs()]
    values = [value for graph in graphs for value in (*graph.inputs, *graph.initializers.values())]
    nodes = list(model.graph.all_nodes())
    values += [value for node in nodes for value in node.outputs]
    changed = [_value(value) for value in values]
    changed += [_attribute(node, attribute) for node in nodes for attribute in list(node.attributes.values())]
    return any(changed)


def _value(value: ir.Value) -> bool:
    if value.dtype not in OTHER:
        return False
    if value.const_value is not None:
        value.const_value = _tensor(value.const_value)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    return True


def _tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    with np.errstate(over="ignore"):
        return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _attribute(node: ir.Node, attribute: ir.Attr) -> bool:
    name, value = attribute.name, attribute.value
    if attribute.type == ir.AttributeType.TENSOR and value.dtype in OTHER:
        node.attributes[name] = ir.AttrTensor(name, _tensor(value))
    elif attribute.type == ir.AttributeType.INT and name in TYPES and value in OTHER:
        node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    else:
        return False
    return True
