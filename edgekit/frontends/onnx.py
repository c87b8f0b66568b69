"""ONNX files -> the graph at edgekit's one opset, with fixed shapes and sound weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as common
from google.protobuf.message import DecodeError

from edgekit.errors import ModelError, UnsupportedError
from edgekit.frontends import Loaded
from edgekit.frontends.widen import widen
from edgekit.graph import OPSET, constant, selects, shape_of
from edgekit.passes.known import refuse_unsound
from edgekit.runtimes import Session, open_session
from edgekit.toml_table import near_misses

Shapes = Mapping[str, Sequence[int]]
OLDEST = 10
ONNX = ("", "ai.onnx")
# Ops of which onnx infers no shape (or stops), and one that gives the same shape and type.
SAME_SHAPE = {"GroupNormalization": "InstanceNormalization", "MeanVarianceNormalization": "Identity"}


def load(path: Path, shapes: Shapes | None = None, outputs: Sequence[str] = ()) -> Loaded:
    """Read an ONNX file (opset 10 to the newest that onnx knows), up to the tensors ``outputs`` where some are named.

    Raises ModelError when it is not one, and UnsupportedError when it has ops that ONNX does not know.
    """
    source = str(path)
    proto = _checked(_shaped(_ending_at(_read(path), outputs, source), source, shapes or {}), source)
    _trim(proto.graph)
    model = ir.from_proto(proto)
    if widen(model):
        proto = ir.to_proto(model)
    original = _Original(_runnable(proto), source)
    return Loaded(finish(ir.from_proto(_at_opset(proto, source)), source, shapes), original.run)


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"model {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        proto = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"model {path}: not an ONNX file, truncated or corrupt ({_line(error)})") from error
    if not proto.graph.node:
        raise ModelError(f"model {path}: not an ONNX file, or one without a single node")
    graph = proto.graph
    texts = [text for n in graph.node for text in (n.op_type, n.domain, n.name, *n.input, *n.output)]
    texts += [item.name for items in (graph.input, graph.output, graph.initializer) for item in items]
    if not all(isinstance(text, str) for text in texts):  # protobuf hands out bytes where it is not UTF-8
        raise ModelError(f"model {path}: not an ONNX file, truncated or corrupt (a name is not UTF-8)")
    return proto


def _ending_at(proto: onnx.ModelProto, outputs: Sequence[str], source: str) -> onnx.ModelProto:
    """The model with these tensors for outputs and only the nodes that they need. Raises ModelError on unknown ones."""
    if not outputs:
        return proto
    graph = proto.graph
    made = [name for node in graph.node for name in node.output if name]
    for name in outputs:
        if name not in made:
            raise ModelError(f"model {source}: computes no tensor {name} for [model] outputs{near_misses(name, made)}")
    wanted, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.insert(0, node)
            wanted.update(_reads(node))
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    ends = [known.get(name) or onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    inner = [value for value in graph.value_info if value.name not in outputs]
    for field, values in ((graph.node, kept), (graph.output, ends), (graph.value_info, inner)):
        del field[:]
        field.extend(values)
    return proto


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, those inside its branches and loops too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (value.name for value in attribute.g.output)


def _shaped(proto: onnx.ModelProto, source: str, shapes: Shapes) -> onnx.ModelProto:
    """The model with a shape for every input and output, as ONNX demands. Raises ModelError when one is not known."""
    held = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") or not value.type.HasField("tensor_type") or value.name in held:
            continue
        if value.name not in shapes:
            raise ModelError(_unknown_shape(f"model {source}: input {value.name}", value.name))
        for size in shapes[value.name]:
            tensor.shape.dim.add().dim_value = size
    if all(value.type.tensor_type.HasField("shape") for value in proto.graph.output):
        return proto
    return onnx.shape_inference.infer_shapes(proto)


def _unknown_shape(where: str, name: str | None) -> str:
    return f"{where} has an unknown shape; pin it with [model.inputs.{name}] shape"


def _checked(proto: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """The model with its own functions written out, after ONNX's checker has passed it."""
    functions = {(function.domain, function.name) for function in proto.functions}
    unknown = [
        f"node {node.name or node.output[0]}: op {node.op_type} is not known to ONNX"
        for node in proto.graph.node
        if node.domain in ONNX and (node.domain, node.op_type) not in functions and not onnx.defs.has(node.op_type)
    ]
    if unknown:
        raise UnsupportedError(unknown)
    try:
        onnx.checker.check_model(proto)
        return onnx.inliner.inline_local_functions(proto) if functions else proto
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"model {source}: not valid ONNX: {_line(error)}") from error


def _trim(graph: onnx.GraphProto) -> None:
    """Drop inputs left empty at the end of a node, which say nothing; ONNX Runtime crashes on some."""
    for node in graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _trim(body)


def _runnable(proto: onnx.ModelProto) -> bytes:
    """What ONNX Runtime takes: it refuses two nodes of one name, and crashes on an unnamed part of a Split."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for i, node in enumerate(copy.graph.node):
        node.name = f"{i}"
        for j, name in enumerate(node.output):
            if node.op_type == "Split" and not name:
                node.output[j] = f"unused.{i}.{j}"
    data: bytes = copy.SerializeToString()
    return data


class _Original:
    """The model as it was given (in float32), in ONNX Runtime."""

    def __init__(self, data: bytes, source: str) -> None:
        self._data, self._source = data, source
        self._session: Session | None = None

    def run(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Inputs by name -> outputs in order."""
        if self._session is None:
            try:
                self._session = open_session(self._data, "onnxruntime")
            except ModelError as error:
                raise ModelError(f"model {self._source}: {str(error).removeprefix('model: ')}") from error
        feeds = {i.name: np.asarray(inputs[i.name], i.dtype) for i in self._session.inputs}
        found = self._session.run(feeds)
        return [found[info.name] for info in self._session.outputs]


def _at_opset(proto: onnx.ModelProto, source: str) -> onnx.ModelProto:
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < OLDEST:
        raise ModelError(f"model {source}: opset {version}; {OLDEST} and later are supported; export it anew")
    if version < OPSET:
        try:
            return onnx.version_converter.convert_version(proto, OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            said = f"model {source}: opset {version} cannot be converted to {OPSET}"
            raise ModelError(f"{said}: {_line(error)}") from error
    if version > OPSET:
        proto = _spelled_out(proto, version)
        _lower_opset(proto, version, source)
    return proto


def _spelled_out(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Ops that OPSET lacks and ONNX defines by others (Attention, RMSNormalization, ...) written as those."""
    newer = {node.op_type for node in proto.graph.node if node.domain in ONNX and not _known_form(node, version)}
    schemas: dict[str, Any] = {name: onnx.defs.get_schema(name, version) for name in sorted(newer)}
    defined = [("", n) for n, s in schemas.items() if s.has_function or s.has_context_dependent_function]
    if not defined:
        return proto
    for node in proto.graph.node:
        said = {a.name for a in node.attribute}
        rest = schemas[node.op_type].attributes.items() if ("", node.op_type) in defined else ()
        node.attribute.extend(a.default_value for name, a in rest if a.default_value.name and name not in said)
    held = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer]
    proto = onnx.shape_inference.infer_shapes(proto)
    absent = onnx.helper.make_tensor_value_info("", onnx.TensorProto.UNDEFINED, None)
    proto.graph.value_info.extend([*held, absent])  # the inliner wants the type of everything
    return onnx.inliner.inline_selected_functions(proto, defined, inline_schema_functions=True)


def _lower_opset(proto: onnx.ModelProto, version: int, source: str) -> None:
    """Name the opset lower where that changes nothing: every node keeps to inputs and attributes that OPSET has too."""
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(f"model {source}: opset {version} is newer than this onnx knows ({newest}); update onnx")
    changed = {node.op_type for node in proto.graph.node if node.domain in ONNX and not _known_form(node, version)}
    if changed:
        names = ", ".join(sorted(changed))
        raise ModelError(f"model {source}: opset {version} has {names} in a form that opset {OPSET} lacks")
    for entry in proto.opset_import:
        if entry.domain in ONNX:
            entry.version = OPSET


def _known_form(node: onnx.NodeProto, version: int) -> bool:
    """Whether OPSET has the op, and all that the node says of it."""
    try:
        there = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        return True
    try:
        here = onnx.defs.get_schema(node.op_type, OPSET)
    except onnx.defs.SchemaError:
        return False
    same_names = all(a.name == b.name for a, b in zip(here.inputs, there.inputs, strict=False))
    said = {a.name for a in node.attribute}
    return same_names and len(node.input) <= here.max_input and said <= set(here.attributes)


def finish(model: ir.Model, source: str, shapes: Shapes | None) -> ir.Model:
    """What every frontend ends with: float32, plain initializers, fixed shapes, names, and a look at the weights."""
    common.InlinePass()(model)
    widen(model)
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in graph.initializers:
            graph.inputs.remove(value)
    if not graph.inputs or not graph.outputs:
        raise ModelError(f"model {source}: has no {'inputs' if not graph.inputs else 'outputs'}")
    _own_outputs(graph)
    _pin(model, source, shapes)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.NameFixPass()(model)
    try:
        refuse_unsound(model, masks=True)
    except ModelError as error:
        raise ModelError(f"model {source}: {error}") from None
    model.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
    return infer_shapes(model, source)


def _own_outputs(graph: ir.Graph) -> None:
    """Give an output that is listed again a tensor and a name of its own."""
    seen: set[ir.Value] = set()
    for i, value in enumerate(list(graph.outputs)):
        if value in seen:
            copy = ir.Node("", "Identity", [value])
            out = copy.outputs[0]
            out.name, out.shape, out.type = f"{value.name}.{i}", value.shape, value.type
            graph.append(copy)
            graph.outputs[i] = out
        seen.add(value)


def _pin(model: ir.Model, source: str, shapes: Shapes | None) -> None:
    """Fix the inputs' shapes: as told, else the batch to 1; refuse what stays open."""
    shapes = shapes or {}
    known = [str(value.name) for value in model.graph.inputs]
    unknown = [name for name in shapes if name not in known]
    if unknown:
        raise ModelError(f"model {source}: has no input {', '.join(unknown)}; its inputs are {', '.join(known)}")
    changed = False
    for value in model.graph.inputs:
        pinned = _pinned(value, shapes.get(str(value.name)), f"model {source}: input {value.name}")
        changed |= value.shape is None or pinned != list(value.shape)
        value.shape = ir.Shape(pinned)
    if changed:
        for node in model.graph:
            for out in node.outputs:
                out.shape = None


def _pinned(value: ir.Value, told: Sequence[int] | None, where: str) -> list[int]:
    """The shape of one input. Raises ModelError, which starts with ``where``, when it stays open or is contradicted."""
    key = f"[model.inputs.{value.name}] shape"
    if value.shape is None:
        raise ModelError(_unknown_shape(where, value.name))
    have, said = list(value.shape), shape_text(value.shape)
    wanted = have if told is None else list(told)
    if len(wanted) != len(have) or any(isinstance(d, int) and d != w for d, w in zip(have, wanted, strict=True)):
        raise ModelError(f"{where} has shape {said}; {key} says {wanted}")
    pinned = [1 if i == 0 and not isinstance(dim, int) else dim for i, dim in enumerate(wanted)]
    sizes = [dim for dim in pinned if isinstance(dim, int)]
    if len(sizes) != len(pinned):
        raise ModelError(f"{where} has open axes {said}; pin them with {key}")
    if any(size < 1 for size in sizes):
        raise ModelError(f"{where} has shape {sizes}; every axis must be 1 or more")
    return sizes


def shape_text(shape: ir.Shape) -> str:
    """A shape as a person writes it: [N, 3, ?, 32]."""
    return f"[{', '.join(str(dim) if isinstance(dim, int) else str(dim.value or '?') for dim in shape)}]"


def infer_shapes(model: ir.Model, source: str = "model") -> ir.Model:
    """Fill in shapes and element types. Raises ModelError when they contradict each other."""
    replaced = [(node, node.op_type) for node in model.graph if node.op_type in SAME_SHAPE]
    for node, op_type in replaced:
        node.op_type = SAME_SHAPE[op_type]
    try:
        inferred: ir.Model = common.ShapeInferencePass(check_type=True, strict_mode=False, data_prop=True)(model).model
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(f"model {source}: shapes do not fit: {_line(error)}") from error
    finally:
        for node, op_type in replaced:
            node.op_type = op_type
    for node in filter(selects, inferred.graph):
        most = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if most is not None and node.inputs[1] is not None:
            batch, classes, boxes = shape_of(node.inputs[1])
            node.outputs[0].shape = ir.Shape([batch * classes * min(int(most.reshape(-1)[0]), boxes), 3])
    return inferred


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
