"""The compile stage of a build: every ``[[compress]]`` step in the order written, and whether it pays on the target."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from edgekit import emit
from edgekit.audit import audit
from edgekit.compress import coded
from edgekit.errors import ConfigError, InputError
from edgekit.graph import constant, is_float, shape_of
from edgekit.output import CACHE, prepare_folder, write
from edgekit.passes import opened, prepare
from edgekit.project import Project
from edgekit.quant import codebook
from edgekit.quant.from_qdq import Lifted
from edgekit.quant.plan import QuantPlan
from edgekit.quant.solve import Rules
from edgekit.reference import serialize
from edgekit.report.model import Compression
from edgekit.runners import FloatModel
from edgekit.samples import open_training
from edgekit.timing import Timer
from edgekit.transports.connection import bench_on

if TYPE_CHECKING:
    from edgekit.stages import Work


def read(project: Project) -> list[Any]:
    """Every step with its settings (``compress.steps.Step``). Raises ConfigError, also where torch is not there."""
    if not project.compress:
        return []
    try:
        from edgekit.compress.methods import read_step
    except ImportError as error:
        raise ConfigError(f"{project.file}:compress: needs torch ({error}); pip install 'edgekit[torch]'") from None
    steps = [read_step(step, project.file, number) for number, step in enumerate(project.compress)]
    for number, step in enumerate(steps[:-1]):
        if step.method.plans:
            raise ConfigError(f"{project.file}:compress[{number}].method: no step can follow {step.method.name}")
    return steps


def compress(work: Work, source: ir.Model, lifted: Lifted) -> tuple[ir.Model, Lifted]:
    """The graph after every step, as it can be trained on and prepared; what was finished before comes from the cache.

    A step with ``keep_if = "latency"`` is taken back where the artifact is not really faster after it.
    """
    if not work.compress_steps:
        return source, lifted
    if lifted.scales:
        raise ConfigError("the model is quantized to int8 already; [[compress]] needs the float model")
    for step in work.compress_steps:
        if step.method.plans and set(work.precisions.values()) != {"int8"}:
            others = ", ".join(f"{target.name} {found}" for target, found in work.precisions.items() if found != "int8")
            raise ConfigError(f"{step.method.name} trains int8 weights and activations; other precisions: {others}")
    graph = opened(source)
    if work.compress_steps[-1].method.plans:
        from edgekit.compress.qat import refuse_recurrent

        refuse_recurrent(graph)
    return _Compiler(work, graph).run(lifted)


def trained(work: Work, graph: ir.Model, step: Any) -> Lifted:
    """The graph after one step more."""
    compiler = _Compiler(work, opened(graph))
    ready = compiler._ready(step, f"{work.project.file}:calibration.training")
    with work.stage(f"compress: {step.method.name}"):
        found, _, plan = compiler._applied(opened(graph), ready)
    return _lifted(found, plan)


@dataclass(frozen=True)
class _Ready:
    """A step that can begin: what it may use, what its outcome depends on besides graphs, and where it is written."""

    step: Any
    context: Any
    depends_on: Any
    place: str


class _Compiler:
    """One compile stage under way."""

    def __init__(self, work: Work, source: ir.Model) -> None:
        self._work, self._source = work, source

    def run(self, prepared: Lifted) -> tuple[ir.Model, Lifted]:
        """Step after step."""
        graph = self._source
        file, steps = self._work.project.file, self._work.compress_steps
        for ready in [self._ready(step, f"{file}:compress[{number}]") for number, step in enumerate(steps)]:
            step = ready.step
            with self._work.stage(f"compress: {step.method.name}"):
                found, facts, plan = self._applied(graph, ready)
            after = _lifted(found, plan)
            if step.keep_if == "latency":
                with self._work.stage(f"time: {step.method.name}"):
                    facts |= self._paid(prepared, after)
            if facts.get("kept", True):
                graph, prepared = found, after
            self._work.compression.append(self._said(step.method.name, prepared.graph, facts))
        return graph, prepared

    def _ready(self, step: Any, place: str) -> _Ready:
        """A step with its data and what it names. Raises DataError or ModelError where these are not there."""
        from edgekit.compress.methods import Context

        work = self._work
        ports = {str(value.name): shape_of(value) for value in self._source.graph.inputs}
        with _written(place):
            training = open_training(work.project, step.data, ports) if step.data else work.calibration
            context = Context(
                training,
                work.calibration,
                work.progress,
                source=self._source,
                folder=work.project.folder,
                latency=Timer(work.precisions, work.config, work.device),
            )
            depends_on = [training.sha256, work.calibration.sha256, step.depends_on(context)]
        return _Ready(step, context, depends_on, place)

    def _applied(self, graph: ir.Model, ready: _Ready) -> tuple[ir.Model, dict[str, Any], QuantPlan | None]:
        work, step = self._work, ready.step
        context = replace(ready.context, rules=self._rules(graph))
        asked = context.rules
        rules = [asked.per_channel_fully_connected, asked.per_channel, asked.weight_range, *sorted(asked.float_nodes)]
        depends_on = [work.sha256(graph), work.sha256(self._source), rules, ready.depends_on]
        checkpoint = work.out / CACHE / f"training-{work.sha256(repr(depends_on).encode())[:32]}.pt"

        def found() -> list[Any]:
            prepare_folder(checkpoint.parent)
            with _written(ready.place):
                outcome = step.run(graph, replace(context, checkpoint=checkpoint))
            plan = outcome.plan and outcome.plan.to_json()
            return [b64encode(serialize(outcome.graph)).decode(), dict(outcome.facts), plan]

        stored, facts, plan = work.remembered("compress", depends_on, found)
        for left in checkpoint.parent.glob(f"{checkpoint.stem}.*"):
            left.unlink()
        compressed = ir.from_proto(onnx.ModelProto.FromString(b64decode(stored)))
        return compressed, facts, plan and QuantPlan.from_json(plan)

    def _rules(self, graph: ir.Model) -> Rules:
        """What a plan must be like for every target."""
        given, prepared = self._work.project.calibration, prepare(graph)
        rules = Rules(weight_range=given.weight_range, per_channel=given.per_channel)
        for target, precision in self._work.precisions.items():
            form = emit.form(prepared, target, precision, self._work.config)
            asked = emit.rules_of(target, form, self._work.config)
            rules = replace(
                rules,
                per_channel_fully_connected=rules.per_channel_fully_connected and asked.per_channel_fully_connected,
                float_nodes=rules.float_nodes | asked.float_nodes,
            )
        return rules

    def _paid(self, before: Lifted, after: Lifted) -> dict[str, Any]:
        """What was found out when these two were timed first: the same build takes the same step back."""
        work, targets = self._work, {target.name: found for target, found in self._work.precisions.items()}
        depends_on = [work.sha256(before.graph), work.sha256(after.graph), targets, repr(work.config), *_where(work)]
        found: dict[str, Any] = work.remembered("timed", depends_on, lambda: self._timed(before, after))
        return found

    def _timed(self, before: Lifted, after: Lifted) -> dict[str, Any]:
        """How long artifacts take after a step in terms of before, in turns; kept where all really take less."""
        work, facts = self._work, {}
        kept = True
        for target in work.precisions:
            with TemporaryDirectory(prefix="edgekit-") as folder:
                paths = []
                for name, lifted in (("after", after), ("before", before)):
                    form, plan = work.planned(target, work.basis(lifted))
                    data = emit.emit(form.model, plan, target).data
                    paths.append(write(Path(folder) / f"{name}.{target.format}", data))
                with bench_on(work.device) as bench:
                    found = bench.compare(paths[0], paths[1], work.threads(target))
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
            metric = work.judged(FloatModel(graph), work.evaluation, f"evaluate after {method}").value
        return Compression(
            method,
            checked.parameters,
            min(nonzero, checked.parameters),
            checked.macs,
            coded.packed(coded.constants(graph)),
            metric,
            facts,
        )


def _where(work: Work) -> list[str]:
    """What times depend on besides the artifacts: the device, where one is named."""
    return [work.device.name] if work.device else []


@contextmanager
def _written(place: str) -> Iterator[None]:
    """What a step complains of begins with where the step is written."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{place}: {error}") from None


def _lifted(graph: ir.Model, plan: QuantPlan | None) -> Lifted:
    """A compressed graph as the rest of the road takes it."""
    if plan is not None:
        return Lifted(graph, plan=plan)
    prepared = prepare(graph)
    return Lifted(prepared, bounds=codebook.bounds(graph, prepared))
