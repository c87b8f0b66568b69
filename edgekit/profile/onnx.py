"""From the nodes of ONNX Runtime's optimized graph back to the layers of the file, by their names.

ONNX Runtime keeps a node's name when it replaces or fuses it, at times with an ending (``_token_5``, ``_nchwc``,
``_quant``, ``/duplicated``), or names it after its output; where it makes up a name, the tensor that the node makes
tells. What quantizes or dequantizes a layer's result belongs to the layer, what dequantizes its weights too. The layout
moves that it adds have names of their own and belong to none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgekit.artifact import STORED
from edgekit.audit.onnx import DEQUANTIZE, FUSED, QUANTIZE
from edgekit.audit.onnx_graph import OnnxGraph, load
from edgekit.profile.facts import Kernel, LayerTime

ENDING = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant|_QuantizeLinear|_DequantizeLinear|/duplicated|_\d+)$")


def attribute(data: bytes, kernels: Sequence[Kernel]) -> tuple[tuple[LayerTime, ...], list[Kernel]]:
    """The layers that took time, in the order of the file, and the kernels that belong to none."""
    graph = OnnxGraph(load(data))
    names = _layers(graph)
    found: dict[str, list[Kernel]] = {}
    left: list[Kernel] = []
    for kernel in kernels:
        layer = next(filter(None, (_layer(name, names) for name in (kernel.name, *kernel.makes))), "")
        (found.setdefault(layer, []) if layer else left).append(kernel)
    layers = []
    for node in graph.nodes:
        ran = found.pop(node.name or node.output[0], ())
        if ran:
            name, tensor = node.name or node.output[0], _tensor(graph, next(filter(None, node.output)))
            times = sum(kernel.ms for kernel in ran)
            layers.append(LayerTime(name, node.op_type, tensor, times, tuple(kernel.op for kernel in ran)))
    return tuple(layers), left


def _layers(graph: OnnxGraph) -> dict[str, str]:
    """The layer of every node name and tensor name."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        name = node.name or node.output[0]
        found[name] = layer = _owner(graph, node.output[0])
        found |= {output: layer for output in node.output if output}
    return found


def _owner(graph: OnnxGraph, tensor: str) -> str:
    """The layer that a tensor is part of: what computes it, or reads it where it is an unpacked constant."""
    node = graph.makers[tensor]
    passes = node.op_type in (QUANTIZE, DEQUANTIZE, *FUSED)
    if passes and tensor in graph.fixed:
        readers = graph.readers.get(tensor, ())
        return _owner(graph, readers[0].output[0]) if readers else node.name or tensor
    if passes and node.input[0] in graph.makers:
        return _owner(graph, node.input[0])
    return str(node.name or tensor)


def _tensor(graph: OnnxGraph, tensor: str) -> str:
    """What the result of a layer is called in the source model."""
    if tensor.endswith(STORED):
        return tensor.removesuffix(STORED)
    for reader in graph.readers.get(tensor, ()):
        if reader.op_type == QUANTIZE and reader.output[0].endswith(STORED):
            return str(reader.output[0]).removesuffix(STORED)
        if reader.op_type in FUSED:
            return _tensor(graph, reader.output[0])
    return tensor


def _layer(kernel: str, names: Mapping[str, str]) -> str:
    """The layer of a kernel's name, ending after ending taken off; "" when none has it."""
    while kernel not in names:
        shorter = ENDING.sub("", kernel)
        if shorter == kernel:
            return ""
        kernel = shorter
    return names[kernel]
