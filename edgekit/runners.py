"""What maps a sample to outputs: the float source, and an artifact in its own runtime on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import onnx_ir as ir

from edgekit.artifact import STORED, ArtifactFile, read_artifact
from edgekit.contract import Contract, rejoined
from edgekit.graph import Array, activations
from edgekit.layout import Layouts, decide, identity
from edgekit.quant import numerics
from edgekit.reference import Reference
from edgekit.runtimes import open_session, runtime_for

Outputs = dict[str, Array]


class Runner(Protocol):
    """Something that maps a sample to outputs: real values by name, in source layout."""

    def outputs(self, sample: Mapping[str, Array]) -> Outputs:
        """The outputs for one sample."""


class FloatModel:
    """The source as a Runner; ``tensors`` are the activations of the last sample."""

    def __init__(self, prepared: ir.Model, inner: bool = False) -> None:
        names = [str(v.name) for v in activations(prepared.graph)] if inner else []
        self._reference = Reference(prepared, names)
        self.tensors: Outputs = {}

    def outputs(self, sample: Mapping[str, Array]) -> Outputs:
        """The outputs for one sample."""
        self.tensors = self._reference.run(sample)
        return {name: self.tensors[name] for name in self._reference.outputs}


class ArtifactModel:
    """An artifact as a Runner, in its own runtime on this machine.

    ``prepared`` (the source graph) is needed for ``tensors``: it tells in which order the file stores each.
    """

    def __init__(self, data: bytes, prepared: ir.Model | None = None, name: str = "artifact", threads: int = 1) -> None:
        self.file: ArtifactFile = read_artifact(data, name)
        self.contract: Contract = self.file.contract
        self._session = open_session(data, runtime_for(data), threads, keep_intermediates=prepared is not None)
        self._layouts = self._decided(prepared) if prepared is not None and self.file.format == "tflite" else Layouts()

    def _decided(self, prepared: ir.Model) -> Layouts:
        moved = any(port.perm != identity(len(port.perm)) for port in self.contract.inputs)
        return decide(prepared.graph, "NHWC" if moved else "NCHW")

    def outputs(self, sample: Mapping[str, Array]) -> Outputs:
        """The outputs for one sample."""
        return rejoined(self.ports(sample), self.contract.joins)

    def ports(self, sample: Mapping[str, Array]) -> Outputs:
        """What the file gives for one sample: real values, parts of an output apart."""
        stored = self.stored(self.contract.encode(sample))
        return {port.name: port.decode(stored[port.name]) for port in self.contract.outputs}

    def stored(self, inputs: Mapping[str, Array]) -> Outputs:
        """The outputs as the file stores them, for inputs as it stores them."""
        return self._session.run(inputs)

    def tensors(self) -> Outputs:
        """Inner tensors of the last sample under the source's names, as real values in source layout."""
        found: Outputs = {}
        for name, value in self._session.tensors().items():
            source = name.removesuffix(STORED)
            quant = self.file.quant.get(source)
            real = value if quant is None else numerics.dequantize(value, quant)
            perm, order = self._layouts.stored.get(source, identity(real.ndim)), self._layouts.features.get(source)
            real = real.transpose(np.argsort(perm)) if len(perm) == real.ndim else real
            found[source] = real if order is None else real[..., np.argsort(order)]
        return found
