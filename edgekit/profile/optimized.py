"""What the nodes of ONNX Runtime's optimized graph make, so that those with a made-up name can be known by it.

A node without a name (the parts of an op that is written out have none) is called by its op and a number in the trace
(``Mul_319``). Numbers ascend in the order of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import onnx


def made_by(path: str, kernels: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The tensors that each kernel (name, op) makes, and after those of a nameless one what is made of them at once."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    made = {node.name: list(node.output) for node in nodes if node.name}
    readers = {name: node for node in nodes for name in node.input}
    numbered = [
        (op, int(name[len(op) + 1 :]), name) for name, op in kernels if name not in made and _numbered(name, op)
    ]
    for op, found in groupby(sorted(numbered), key=lambda item: item[0]):
        names = [name for _, _, name in found]
        nameless = [node for node in nodes if node.op_type == op and not node.name]
        if len(names) == len(nameless):
            made |= {name: _chain(node, readers) for name, node in zip(names, nameless, strict=True)}
    return made


def _numbered(name: str, op: str) -> bool:
    return name.startswith(f"{op}_") and name[len(op) + 1 :].isdigit()


def _chain(node: onnx.NodeProto, readers: dict[str, onnx.NodeProto]) -> list[str]:
    """The outputs of a nameless node and of the nameless nodes that read them, and what quantizes the last."""
    names = list(node.output)
    after = readers.get(names[0])
    if after is None:
        return names
    if after.name:
        return [*names, after.name] if after.op_type == "QuantizeLinear" else names
    return names + _chain(after, readers)
