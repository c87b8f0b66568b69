"""The compile stage of a build: every ``[[compress]]`` step in the order written, and whether it pays on the target."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from edgekit import emit, verify
from edgekit.audit import audit
from edgekit.errors import ConfigError
from edgekit.graph import constant, is_float, shape_of
from edgekit.measure import compare
from edgekit.output import CACHE, prepare_folder, write
from edgekit.passes import opened, prepare
from edgekit.project import Project, QuantizationConfig
from edgekit.quant.from_qdq import Lifted
from edgekit.quant.precision import needs_calibration
from edgekit.reference import serialize
from edgekit.report.model import Compression
from edgekit.samples import Samples, open_training
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.stages import Work

Precisions = Mapping[Target, str]


def read(project: Project) -> list[Any]:
    """Every step with its settings (``compress.steps.Step``). Raises ConfigError, also where torch is not there."""
    if not project.compress:
        return []
    try:
        from edgekit.compress.methods import read_step
    except ImportError as error:
        raise ConfigError(f"{project.file}:compress: needs torch ({error}); pip install 'edgekit[torch]'") from None
    return [read_step(step, project.file, number) for number, step in enumerate(project.compress)]


def compress(
    work: Work, source: ir.Model, lifted: Lifted, precisions: Precisions, config: QuantizationConfig
) -> Lifted:
    """The graph after every step, prepared; what was finished before comes from the cache.

    A step with ``keep_if = "latency"`` is taken back where the artifact is not really faster after it.
    """
    if not work.compress_steps:
        return lifted
    if lifted.scales:
        raise ConfigError("the model is quantized to int8 already; [[compress]] needs the float model")
    return _Compiler(work, precisions, config).run(opened(source), lifted)


class _Compiler:
    """One compile stage under way."""

    def __init__(self, work: Work, precisions: Precisions, config: QuantizationConfig) -> None:
        self._work, self._precisions, self._config = work, precisions, config

    def run(self, graph: ir.Model, prepared: Lifted) -> Lifted:
        """Step after step."""
        ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
        for step in self._work.compress_steps:
            training = open_training(self._work.project, step.data, ports) if step.data else self._work.calibration
            with self._work.stage(f"compress: {step.method.name}"):
                found, facts = self._applied(graph, step, training)
            after = Lifted(prepare(found))
            if step.keep_if == "latency":
                with self._work.stage(f"time: {step.method.name}"):
                    facts |= self._timed(prepared, after)
            if facts.get("kept", True):
                graph, prepared = found, after
            self._work.compression.append(self._said(step.method.name, prepared.graph, facts))
        return prepared

    def _applied(self, graph: ir.Model, step: Any, training: Samples) -> tuple[ir.Model, dict[str, Any]]:
        from edgekit.compress.methods import Context

        work = self._work
        depends_on = [
            work.sha256(graph),
            step.method.name,
            repr(step.settings),
            training.sha256,
            work.calibration.sha256,
        ]
        checkpoint = work.out / CACHE / f"training-{work.sha256(repr(depends_on).encode())[:32]}.pt"

        def found() -> list[Any]:
            prepare_folder(checkpoint.parent)
            outcome = step.run(graph, Context(training, work.calibration, work.progress, checkpoint))
            return [b64encode(serialize(outcome.graph)).decode(), dict(outcome.facts)]

        stored, facts = work.remembered("compress", depends_on, found)
        for left in checkpoint.parent.glob(f"{checkpoint.stem}.*"):
            left.unlink()
        return ir.from_proto(onnx.ModelProto.FromString(b64decode(stored))), facts

    def _timed(self, before: Lifted, after: Lifted) -> dict[str, Any]:
        """How long artifacts take after a step in terms of before, in turns; kept where all really take less."""
        work, facts = self._work, {}
        kept = True
        for target, precision in self._precisions.items():
            with TemporaryDirectory(prefix="edgekit-") as folder:
                paths = []
                for name, lifted in (("after", after), ("before", before)):
                    basis = work.basis(lifted, needs_calibration(precision))
                    form, plan = work.planned(target, precision, basis, self._config)
                    data = emit.emit(form.model, plan, target).data
                    paths.append(write(Path(folder) / f"{name}.{target.format}", data))
                found = compare(paths[0], paths[1], target.threads)
            facts[f"latency {target.name}"] = round(found.ratio, 4)
            kept = kept and found.high < 1.0
        return facts | {"kept": kept}

    def _said(self, method: str, graph: ir.Model, facts: dict[str, Any]) -> Compression:
        """What the network is like after a step."""
        checked, work = audit(serialize(graph)), self._work
        weights = [constant(value) for value in graph.graph.initializers.values() if is_float(value)]
        nonzero = sum(int(np.count_nonzero(array)) for array in weights if array is not None)
        metric = None
        if work.evaluation is not None:
            metric = work.judged(verify.FloatModel(graph), work.evaluation, f"evaluate after {method}").value
        return Compression(method, checked.parameters, min(nonzero, checked.parameters), checked.macs, metric, facts)
