"""ONNX files -> the graph at edgekit's one opset, with fixed shapes and sound weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as common
from google.protobuf.message import DecodeError

from edgekit.errors import ModelError
from edgekit.frontends import Loaded
from edgekit.graph import OPSET
from edgekit.runtimes import open_session

Shapes = Mapping[str, Sequence[int]]
OLDEST = 11


def load(path: Path, shapes: Shapes | None = None) -> Loaded:
    """Read an ONNX file (opset 11 to the newest that onnx knows). Raises ModelError when it is not one."""
    if not path.is_file():
        raise ModelError(f"model {path}: no such file")
    try:
        proto = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"model {path}: not an ONNX file, truncated or corrupt ({_line(error)})") from error
    if not proto.graph.node:
        raise ModelError(f"model {path}: not an ONNX file, or one without a single node")
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"model {path}: not valid ONNX: {_line(error)}") from error
    original = proto.SerializeToString()
    model = finish(ir.from_proto(_at_opset(proto, str(path))), str(path), shapes)

    def run(inputs: Mapping[str, Any]) -> list[Any]:
        return list(open_session(original, "onnxruntime").run(inputs).values())

    return Loaded(model, run)


def _at_opset(proto: onnx.ModelProto, source: str) -> onnx.ModelProto:
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < OLDEST:
        raise ModelError(f"model {source}: opset {version}; {OLDEST} and later are supported; export it again with a newer opset")
    if version < OPSET:
        try:
            return onnx.version_converter.convert_version(proto, OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            raise ModelError(f"model {source}: opset {version} cannot be converted to {OPSET}: {_line(error)}") from error
    if version > OPSET:
        _lower_opset(proto, version, source)
    return proto


def _lower_opset(proto: onnx.ModelProto, version: int, source: str) -> None:
    """Name the opset lower where that changes nothing: every node keeps to inputs and attributes that OPSET has too."""
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(f"model {source}: opset {version} is newer than this onnx knows ({newest}); update onnx")
    changed = set()
    for node in proto.graph.node:
        if node.domain in ("", "ai.onnx") and not _known_form(node, version):
            changed.add(node.op_type)
    if changed:
        raise ModelError(f"model {source}: opset {version} has {', '.join(sorted(changed))} in a form that opset {OPSET} lacks")
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = OPSET


def _known_form(node: onnx.NodeProto, version: int) -> bool:
    """Whether OPSET has the op, and all that the node says of it."""
    if not (onnx.defs.has(node.op_type) and onnx.defs.get_schema(node.op_type).since_version <= version):
        return True
    try:
        here, there = onnx.defs.get_schema(node.op_type, OPSET), onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        return False
    same_names = all(a.name == b.name for a, b in zip(here.inputs, there.inputs, strict=False))
    said = {a.name for a in node.attribute}
    return same_names and len(node.input) <= here.max_input and said <= set(here.attributes)


def finish(model: ir.Model, source: str, shapes: Shapes | None) -> ir.Model:
    """What every frontend ends with: plain initializers, fixed shapes, names, and a look at the weights."""
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in graph.initializers:
            graph.inputs.remove(value)
    if not graph.inputs:
        raise ModelError(f"model {source}: has no inputs")
    _pin(model, source, shapes)
    common.NameFixPass()(model)
    _refuse_unsound_weights(graph, source)
    model.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
    return infer_shapes(model, source)


def _pin(model: ir.Model, source: str, shapes: Shapes | None) -> None:
    """Fix the inputs' shapes: as told, else the batch to 1; refuse what stays open."""
    known = {value.name for value in model.graph.inputs}
    unknown = [name for name in shapes or () if name not in known]
    if unknown:
        raise ModelError(f"model {source}: has no input {', '.join(unknown)}; its inputs are {', '.join(map(str, sorted(known, key=str)))}")
    changed = False
    for value in model.graph.inputs:
        before = list(value.shape) if value.shape is not None else None
        told = list((shapes or {}).get(str(value.name), ()))
        if before is None or (told and len(told) != len(before)):
            if before is not None or not told:
                raise ModelError(f"model {source}: input {value.name} has shape {before or 'unknown'}; [model.inputs.{value.name}] says {told or 'nothing'}")
            before = list(told)
        fits = all(not isinstance(have, int) or not told or have == want for have, want in zip(before, told or before, strict=True))
        if not fits:
            raise ModelError(f"model {source}: input {value.name} has shape {before}; [model.inputs.{value.name}] shape says {told}")
        pinned = told or [dim if isinstance(dim, int) else 1 if i == 0 else dim for i, dim in enumerate(before)]
        if not all(isinstance(dim, int) and dim > 0 for dim in pinned):
            raise ModelError(f"model {source}: input {value.name} has open axes {before}; pin them with [model.inputs.{value.name}] shape")
        changed |= pinned != before
        value.shape = ir.Shape(pinned)
    if changed:
        for node in model.graph:
            for out in node.outputs:
                out.shape = None


def infer_shapes(model: ir.Model, source: str = "model") -> ir.Model:
    """Fill in shapes and element types. Raises ModelError when they contradict each other."""
    try:
        return common.ShapeInferencePass(check_type=True, strict_mode=False, data_prop=True)(model).model
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ModelError(f"model {source}: shapes do not fit: {_line(error)}") from error


def _refuse_unsound_weights(graph: ir.Graph, source: str) -> None:
    for name, value in graph.initializers.items():
        if value.dtype is None or not value.dtype.is_floating_point() or value.const_value is None:
            continue
        array = value.const_value.numpy()
        bad = int(np.size(array) - np.count_nonzero(np.isfinite(array.astype(np.float32))))
        if bad and np.isnan(array.astype(np.float32)).any():
            raise ModelError(f"model {source}: weight {name} has {bad} values that are not finite, of {array.size}")


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
