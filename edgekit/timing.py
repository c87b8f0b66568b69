"""How fast a network would be on the targets, for a search that asks of many: nothing is calibrated or verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from edgekit import emit
from edgekit.device import Device
from edgekit.graph import activations
from edgekit.passes import prepare
from edgekit.project import QuantizationConfig
from edgekit.quant.precision import plan_for
from edgekit.target import Target
from edgekit.transports.connection import bench_on

RANGE = (-1.0, 1.0)  # of every tensor: kernels take as long whatever the scale


@dataclass(frozen=True)
class Timer:
    """Times opened graphs as the artifacts of every target (with its precision); ``device`` None is this machine."""

    targets: Mapping[Target, str]
    config: QuantizationConfig = field(default_factory=QuantizationConfig)
    device: Device | None = None

    def __call__(self, graphs: Sequence[ir.Model]) -> list[float]:
        """The time of each graph over that of the first, measured in turns; of several targets the largest share.

        Raises UnsupportedError, ModelError or DeviceError.
        """
        prepared = [prepare(graph) for graph in graphs]
        found = [self._shares(prepared, target, precision) for target, precision in self.targets.items()]
        return [max(of_all) for of_all in zip(*found, strict=True)]

    def _shares(self, prepared: Sequence[ir.Model], target: Target, precision: str) -> list[float]:
        with TemporaryDirectory(prefix="edgekit-") as folder:
            paths = [Path(folder) / f"{number}.{target.format}" for number in range(len(prepared))]
            for path, graph in zip(paths, prepared, strict=True):
                path.write_bytes(self.artifact(graph, target, precision))
            with bench_on(self.device) as bench:
                return bench.shares(paths, self.device.threads if self.device else target.threads)

    def artifact(self, prepared: ir.Model, target: Target, precision: str) -> bytes:
        """A prepared graph in the target's format, with made-up scales."""
        form = emit.form(prepared, target, precision, self.config)
        names = [*(str(value.name) for value in activations(form.model.graph)), *form.shared]
        ranges = dict.fromkeys(names, RANGE)
        rules = emit.rules_of(target, form, self.config)
        return emit.emit(form.model, plan_for(form.model, precision, ranges, rules), target).data
