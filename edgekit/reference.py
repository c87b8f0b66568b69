"""Run the float graph in ONNX Runtime and see every tensor of interest: the reference for calibration and verifying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, dtype_of
from edgekit.runtimes import open_session


class Reference:
    """A float model whose ``names`` (besides its outputs) can be read. One sample at a time; nothing is kept."""

    def __init__(self, model: ir.Model, names: Sequence[str] = (), threads: int = 1) -> None:
        self.outputs = [str(value.name) for value in model.graph.outputs]
        self.inputs = [str(value.name) for value in model.graph.inputs]
        self._dtypes = {str(value.name): dtype_of(value) for value in model.graph.inputs}
        fed = set(self.inputs)
        self.names = list(dict.fromkeys([*names, *self.outputs]))
        self._session = open_session(
            serialize(_exposing(model, [n for n in self.names if n not in fed])), "onnxruntime", threads
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The values of ``names`` for one sample, float32, in source order."""
        values: dict[str, Array] = dict(
            self._session.run({name: np.asarray(inputs[name], self._dtypes[name]) for name in self.inputs})
        )
        return {
            name: inputs[name] if name in self.inputs and name not in values else values[name] for name in self.names
        }


def _exposing(model: ir.Model, names: Sequence[str]) -> ir.Model:
    exposed = model.clone()
    graph = exposed.graph
    known = {out.name: out for node in graph for out in node.outputs}
    present = {value.name for value in graph.outputs}
    graph.outputs.extend(known[name] for name in names if name in known and name not in present)
    return exposed


def serialize(model: ir.Model) -> Any:
    """The model's ONNX bytes."""
    return ir.to_proto(model).SerializeToString(deterministic=True)
