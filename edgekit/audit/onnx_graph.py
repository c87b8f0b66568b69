"""An ONNX file as the audit reads it: checked, with inferred shapes, and what makes and what reads each tensor."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, inliner, numpy_helper, shape_inference

from edgekit.audit.facts import NARROW
from edgekit.errors import ModelError
from edgekit.runtimes import one_line

FLOATS = ("float", "bfloat")
SHAPE_ONLY = frozenset({"Shape", "Size"})
RANDOM = frozenset({"RandomNormal", "RandomUniform"})  # of no input, and yet not constant
BITS = {"int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2}


def load(data: bytes) -> onnx.ModelProto:
    """The checked model, its local functions written out. Raises ModelError."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"not an ONNX file, or truncated or corrupt: {one_line(error)}") from error
    if not model.graph.node and not model.graph.output:
        raise ModelError("not an ONNX file: it holds no graph")
    try:
        onnx.checker.check_model(model)
        return inliner.inline_local_functions(model) if model.functions else model
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"not a sound ONNX file: {one_line(error)}") from error


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The declared shape, -1 where a dimension is open."""
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)


def _pin(graph: onnx.GraphProto) -> list[str]:
    """Set open input dimensions to 1, forget those elsewhere, and name them."""
    given = {item.name for item in graph.initializer}
    names = []
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if value.name not in given and not dim.HasField("dim_value"):
                names.append(f"{value.name}[{axis}]")
                dim.dim_value = 1
    for value in (*graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
    return names


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the shapes that can be inferred. Raises ModelError when they contradict each other."""
    try:
        return shape_inference.infer_shapes(model, data_prop=True).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(f"not a sound ONNX file: {one_line(error)}") from error


class OnnxGraph:
    """The nodes, those of sub-graphs too, and for every tensor its dtype, shape, maker and readers.

    ``declared`` holds the shapes of inputs and outputs with -1 where they are open, ``pinned`` names those dimensions.
    ``ends`` are the outputs of the graph and of its sub-graphs, ``fixed`` the tensors that depend on no input. Raises
    ModelError when shapes contradict each other.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.declared = {value.name: _shape(value) for value in (*model.graph.input, *model.graph.output)}
        self.pinned = _pin(model.graph)
        graph = _inferred(model)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.dtypes: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.makers: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = {}
        self.ends: set[str] = set()
        self._add(graph)
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self.fixed = set(self.constants)
        for node in self.nodes:
            self._complete(node)
            if all(name in self.fixed for name in node.input if name) and node.op_type not in RANDOM:
                self.fixed.update(node.output)

    def _complete(self, node: NodeProto) -> None:
        """The dtype of a result that shape inference does not know, which stops at ops of other domains."""
        if node.op_type.startswith("QLinear"):
            found = next((self.dtype(name) for name in node.input if self.dtype(name) in NARROW), "")
        else:
            schema = (
                onnx.defs.get_schema(node.op_type, node.domain) if onnx.defs.has(node.op_type, node.domain) else None
            )
            same = schema is not None and schema.inputs and schema.inputs[0].type_str == schema.outputs[0].type_str
            found = self.dtype(node.input[0]) if same and node.input else ""
        for name in node.output[:1]:
            self.dtypes[name] = self.dtype(name) or found

    def _add(self, graph: onnx.GraphProto) -> None:
        self.ends.update(value.name for value in graph.output)
        for tensor in graph.initializer:
            self._constant(tensor.name, tensor)
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            self.dtypes[value.name] = dtype_name(kind.elem_type)
            if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
                self.shapes[value.name] = _shape(value)
        for node in graph.node:
            bodies = [item for attr in node.attribute for item in (attr.g, *attr.graphs) if item.node]
            for body in bodies:
                self._add(body)
            if node.op_type == "Constant":
                self._constant_node(node)
            elif not bodies:
                self.nodes.append(node)
            for name in node.output:
                self.makers[name] = node
            for name in dict.fromkeys(node.input) if node.op_type not in SHAPE_ONLY else ():
                self.readers.setdefault(name, []).append(node)

    def _constant(self, name: str, tensor: TensorProto) -> None:
        self.constants[name] = tensor
        self.dtypes[name] = dtype_name(tensor.data_type)
        self.shapes[name] = tuple(tensor.dims)

    def _constant_node(self, node: NodeProto) -> None:
        for attr in node.attribute:
            if attr.name == "value":
                self._constant(node.output[0], attr.t)
            elif attr.name in ("value_float", "value_floats", "value_int", "value_ints"):
                value = np.array(onnx.helper.get_attribute_value(attr))
                kind = np.float32 if "float" in attr.name else np.int64
                self._constant(node.output[0], numpy_helper.from_array(value.astype(kind)))

    def dtype(self, name: str) -> str:
        """The element type as numpy names it; "" when it is not known."""
        return self.dtypes.get(name, "")

    def is_float(self, name: str) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype(name).startswith(FLOATS)

    def may_be_float(self, name: str) -> bool:
        """Whether it holds floating-point numbers, or an unknown op's unknown result."""
        return self.is_float(name) or not self.dtype(name)

    def op(self, name: str) -> str:
        """The op type that makes a tensor, "" for an input or initializer."""
        return str(self.makers[name].op_type) if name in self.makers else ""


def dtype_name(number: int) -> str:
    """A TensorProto data type as numpy names it; "" when it is undefined."""
    if number == TensorProto.UNDEFINED or number not in TensorProto.DataType.values():
        return ""
    name = str(TensorProto.DataType.Name(number)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of a constant, at the width of its dtype."""
    return int(prod(tensor.dims) * bits_of(dtype_name(tensor.data_type)) + 7) // 8


def bits_of(dtype: str) -> int:
    """The bits of one number of a dtype."""
    digits = "".join(char if char.isdigit() else " " for char in dtype).split()
    return BITS.get(dtype) or (8 if not digits else int(digits[0]))
