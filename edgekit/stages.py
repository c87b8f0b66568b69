"""The stages of a build: what every target shares, and what is done for each. Finished ones come from the cache."""

from __future__ import annotations

import hashlib
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit import __version__, emit, verify
from edgekit.built import Basis, Built
from edgekit.compress import coded
from edgekit.device import Device
from edgekit.errors import DataError, DeviceError, EdgekitError, UnsupportedError
from edgekit.graph import Array, shape_of, with_constants
from edgekit.instructions import count_instructions
from edgekit.measure import Bench
from edgekit.noise import random_samples
from edgekit.output import CACHE, Cache, write
from edgekit.passes import steps
from edgekit.passes.split import split_outputs
from edgekit.profile import profile
from edgekit.progress import Progress
from edgekit.project import AGREEMENT, METRICS, Project, QuantizationConfig
from edgekit.quant import absorb, calibrate, choose, equalize, memory, reconstruct
from edgekit.quant.from_qdq import Lifted
from edgekit.quant.mixed import crushed, to_split
from edgekit.quant.plan import QuantPlan
from edgekit.quant.precision import needs_calibration, plan_for
from edgekit.quant.ranges import METHODS, Method, Range
from edgekit.reference import serialize
from edgekit.report.model import (
    Compression,
    Evaluation,
    Rung,
    Stage,
)
from edgekit.runners import ArtifactModel, FloatModel, Runner
from edgekit.samples import Samples, open_calibration, open_evaluation
from edgekit.target import Target
from edgekit.transports.connection import bench_on

BALANCING: tuple[
    tuple[str, str, Any, Any], ...
] = (  # what [calibration] asks for, what is found for it, and how it is done
    ("absorb", "offsets", absorb.offsets, absorb.absorbed),
    ("equalize", "factors", equalize.factors, equalize.scaled),
)
Rounding = Callable[[ir.Model, QuantPlan, Samples, Progress, int], Mapping[str, Array]]


@dataclass
class Work:
    """One build under way: its settings, its clock and its cache."""

    project: Project
    out: Path
    progress: Progress
    command: str
    device: Device | None = None
    precisions: dict[Target, str] = field(default_factory=dict)
    config: QuantizationConfig = field(default_factory=QuantizationConfig)
    calibration: Samples = field(init=False)
    evaluation: Samples | None = None
    warnings: list[str] = field(default_factory=list)
    stages: dict[str, list[Stage]] = field(default_factory=dict)
    compression: list[Compression] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    compress_steps: list[Any] = field(default_factory=list)
    _cached: bool = False
    _float_result: verify.Result | None = None

    @contextmanager
    def stage(self, name: str, target: str = "") -> Iterator[None]:
        """Time a stage of one target, or of all."""
        start, self._cached = time.perf_counter(), False
        yield
        self.stages.setdefault(target, []).append(Stage(name, time.perf_counter() - start, self._cached))

    def remembered(self, stage: str, depends_on: Any, make: Any) -> Any:
        """The JSON result of a stage, from the cache when all that it depends on is unchanged."""
        result, self._cached = Cache(self.out / CACHE).get(stage, [__version__, depends_on], make)
        return result

    def open(self, graph: ir.Model, calibrates: bool) -> None:
        """Open the calibration samples, and the evaluation samples where there are any.

        Without data, and where no scale is drawn from it, random inputs stand in for looking at the artifact.
        """
        ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
        self.calibration = open_calibration(self.project, ports) if calibrates else random_samples(ports)
        if not self.project.evaluation.data:
            return
        evaluation, metric = open_evaluation(self.project, ports), self.project.evaluation.metric
        if metric == AGREEMENT:
            evaluation = evaluation.answered(verify.choices_of(FloatModel(graph)))
        if metric in METRICS and next(iter(evaluation)).label is None:
            hint = f"{AGREEMENT} needs none"
            raise DataError(f"{evaluation.data}: has no labels, which metric {metric} needs; {hint}")
        self.evaluation = evaluation

    @property
    def judging(self) -> Samples:
        """The samples that artifacts are looked at with: held-out ones where there are any."""
        return self.calibration if self.evaluation is None else self.evaluation

    @staticmethod
    def sha256(content: ir.Model | bytes) -> str:
        """The hash of a graph or of bytes."""
        return hashlib.sha256(content if isinstance(content, bytes) else serialize(content)).hexdigest()

    @property
    def wants_ranges(self) -> bool:
        """Whether a precision is drawn from ranges."""
        return any(map(needs_calibration, self.precisions.values()))

    def basis(self, lifted: Lifted) -> Basis:
        """Absorb, equalize and calibrate, where a precision is drawn from ranges."""
        if not self.wants_ranges or lifted.plan is not None:
            return Basis(lifted, lifted.graph, {}, {})
        equal = lifted.graph if lifted.settled else self.equalized(lifted.graph)
        ranges, kept, methods = self.ranges(equal)
        if not self.config.split_outputs or lifted.given:
            return Basis(lifted, equal, ranges, kept, methods)
        split, joins = split_outputs(equal, to_split(equal.graph, ranges))
        return Basis(lifted, split, ranges, kept, methods, joins)

    def planned(self, target: Target, basis: Basis) -> tuple[steps.Shaped, QuantPlan]:
        """The graph in the form that a target runs, and its plan."""
        precision, config = self.precisions[target], self.config
        graph = basis.equal if needs_calibration(precision) else basis.lifted.graph
        form = emit.form(graph, target, precision, config)
        if basis.lifted.plan is not None:
            return form, basis.lifted.plan
        rules = emit.rules_of(target, form, config, basis.lifted.given)
        given = self.project.calibration
        rules = replace(rules, weight_range=given.weight_range, per_channel=given.per_channel)
        rules = replace(rules, bounds=basis.lifted.bounds)
        return form, plan_for(form.model, precision, steps.ranges_of(form, basis.ranges, basis.kept), rules)

    def built(self, lifted: Lifted) -> list[Built]:
        """Every target's artifact, not written yet."""
        basis = self.basis(lifted)
        return [self._built(target, basis) for target in self.precisions]

    def _built(self, target: Target, basis: Basis) -> Built:
        """Plan, round and emit one target's artifact."""
        precision = self.precisions[target]
        form, plan = self.planned(target, basis)
        joins = basis.joins if needs_calibration(precision) else ()
        said = (
            *_about(plan, precision, target, basis.lifted),
            *crushed(form.model.graph, plan, basis.ranges),
            *(f"output {j.name} is given in parts, {', '.join(j.parts)}: join them along axis {j.axis}" for j in joins),
        )
        self.warnings += [line for line in said if line not in self.warnings]
        rounded = form.model
        if self.rounds(basis.lifted, form.model, plan):
            with self.stage("round", target.name):
                rounded = self.rounded(form.model, plan)
        with self.stage("emit", target.name):
            artifact = emit.emit(rounded, plan, target, replace(self.description(precision), joins=joins))
        path = self.out / target.name / target.artifact_name
        return Built(
            target,
            basis.lifted,
            form.model,
            plan,
            artifact,
            path,
            coded.artifact_bytes(artifact.data, rounded, plan),
            {name: method for name, method in basis.methods.items() if name in plan},
        )

    def equalized(self, graph: ir.Model) -> ir.Model:
        """The graph with its biases absorbed and its channels scaled, where that is asked for: the same function."""
        for key, name, find, apply in BALANCING:
            if getattr(self.project.calibration, key):
                make = partial(find, graph, self.calibration, self.progress, len(self.calibration))
                with self.stage(key):
                    graph = apply(graph, self.remembered(name, [self.sha256(graph), self.calibration.sha256], make))
        return graph

    def ranges(self, graph: ir.Model) -> tuple[dict[str, Range], dict[str, Range], dict[str, str]]:
        """The range of each activation, those that hold in all steps of recurrent layers, and the methods chosen."""
        config = self.project.calibration
        method = Method(config.range, config.percentile)
        stepped = steps.shaped(graph, lambda _: "unrolled")

        def observed() -> tuple[dict[str, Range], dict[str, Range], dict[str, str]]:
            statistics = calibrate.observe(
                stepped.model, self.calibration, method, self.progress, len(self.calibration)
            )
            data = self.calibration, len(self.calibration)
            found, methods = choose.drawn(stepped, statistics, method, data, self.progress)
            kept = steps.across_steps(found, stepped.shared)
            return found, kept | memory.limits(graph, self.calibration, kept), methods

        with self.stage("calibrate"):
            depends_on = [self.sha256(graph), self.calibration.sha256, config.range, config.percentile, [*METHODS]]
            *stored, methods = self.remembered("ranges", depends_on, observed)
        found, kept = ({name: (low, high) for name, (low, high) in part.items()} for part in stored)
        return found, kept, methods

    @property
    def rounding(self) -> Rounding | None:
        """How weights are rounded; None to the nearest integer, and where no sample says what they multiply."""
        if not (self.wants_ranges or self.project.calibration.data):
            return None
        if self.project.calibration.rounding == "adaround":
            from edgekit.compress.adaround import adaround

            return adaround
        return {"reconstruct": reconstruct.reconstruct, "nearest": None}[self.project.calibration.rounding]

    def rounds(self, lifted: Lifted, graph: ir.Model, plan: QuantPlan) -> bool:
        """Whether there are weights to round otherwise than to the nearest integer."""
        return self.rounding is not None and not lifted.settled and bool(reconstruct.weights_of(graph, plan))

    def rounded(self, graph: ir.Model, plan: QuantPlan) -> ir.Model:
        """The graph with its weights on the plan's grid."""

        def reconstructed() -> dict[str, str]:
            assert self.rounding is not None
            found = self.rounding(graph, plan, self.calibration, self.progress, len(self.calibration))
            return {name: b64encode(array.tobytes()).decode() for name, array in found.items()}

        hashes = [self.sha256(graph), plan.sha256, self.calibration.sha256]
        stored = self.remembered("weights", [*hashes, self.project.calibration.rounding], reconstructed)
        constants = {
            name: np.frombuffer(b64decode(data), np.float32).reshape(shape_of(graph.graph.initializers[name]))
            for name, data in stored.items()
        }
        return with_constants(graph, constants)

    def description(self, precision: str) -> emit.Description:
        """What every artifact says of itself."""
        config, samples = self.project.calibration, self.calibration
        calibration = {"sha256": samples.sha256, "samples": len(samples), "range": config.range}
        moved = {"absorb": True} if config.absorb else {}
        facts = {
            "source": self.project.model.source,
            "calibration": calibration | {"rounding": config.rounding, "equalize": config.equalize, **moved},
            "precision": precision,
        }
        return emit.Description(samples.preprocessing, self.project.evaluation.labels or samples.labels, facts)

    def examine(self, built: Built, graph: ir.Model) -> None:
        """Write, verify, evaluate and measure one artifact."""
        built.keep()
        self.judge(built, graph)
        name = built.target.name
        with self.stage("measure", name), self.progress.task(f"measure {name}", 2) as step:
            with bench_on(self.device) as bench:
                built.latency = bench.measure(built.path, threads=self.threads(built.target))
                step()
                self._measure_float(built, graph, bench)
            step()
        if self.project.counts_instructions(name):
            with self.stage("count", name), self.progress.task(f"count {name}"):
                self._count(built)
        with self.stage("profile", name):
            self._profile(built)

    def _count(self, built: Built) -> None:
        """Instructions, where they can be counted."""
        try:
            built.instructions = count_instructions(built.path, self.device)
        except DeviceError as error:
            self.warnings.append(f"{built.target.name}: {error}")

    def threads(self, target: Target) -> int:
        """Those of the device, where one measures."""
        return self.device.threads if self.device else target.threads

    def judge(self, built: Built, graph: ir.Model) -> None:
        """Verify and evaluate one artifact."""
        name = built.target.name
        with self.stage("verify", name):
            built.fidelity = verify.fidelity(built.graph, built.artifact.data, self.judging, self.progress)
        if self.evaluation is not None:
            with self.stage("evaluate", name):
                built.evaluation = self._evaluated(built, graph, self.evaluation)

    def _measure_float(self, built: Built, graph: ir.Model, bench: Bench) -> None:
        """What the artifact is compared with; some ops have an integer form on a target and no float one."""
        try:
            floating = emit.emit_float(graph, built.target)
        except UnsupportedError as error:
            built.float_bytes = len(serialize(graph))
            self.warnings.append(f"{built.target.name}: float is not timed: {error.problems[0]}")
            return
        built.float_bytes = len(floating)
        with TemporaryDirectory(prefix="edgekit-") as folder:
            beside = write(Path(folder) / f"float.{built.target.format}", floating)
            built.float_latency = bench.glance(beside, self.threads(built.target))

    def _profile(self, built: Built) -> None:
        """The time of every layer, on this machine: what a device's runtime can tell is not asked for."""
        try:
            built.layer_times = profile(built.path, threads=built.target.threads)
        except EdgekitError as error:  # it has run before, so this is the profiler's doing
            self.warnings.append(f"{built.target.name}: layers are not timed: {error}")

    def _evaluated(self, built: Built, graph: ir.Model, samples: Samples) -> Evaluation:
        if self._float_result is None:
            self._float_result = self.judged(FloatModel(graph), samples, "evaluate float")
        runner = ArtifactModel(built.artifact.data)
        result = self.judged(runner, samples, f"evaluate {built.target.name}")
        return verify.compared(self.project.evaluation.metric, self._float_result, result)

    def judged(self, runner: Runner, samples: Samples, title: str) -> verify.Result:
        """The project's metric of a model."""
        metric = verify.metric_of(self.project.evaluation.metric, self.project.folder)
        return verify.evaluate(runner, samples, metric, self.progress, title, len(samples))

    def stages_of(self, target: Target) -> tuple[Stage, ...]:
        """The stages that all targets share, and those of one."""
        return (*self.stages.get("", ()), *self.stages.get(target.name, ()))


def _about(plan: QuantPlan, precision: str, target: Target, lifted: Lifted) -> Iterator[str]:
    """What is to say of a plan: that it plans nothing, or what it kept of the scales that a model came with."""
    if precision != "float32" and not plan:
        yield f"{target.name}: nothing in the network is large enough for {precision}; the artifact is float32"
    if given := lifted.scales:
        lost = [name for name, q in given.items() if name not in plan or plan[name].scale != q.scale]
        added = [str(out.name) for out in lifted.graph.graph.outputs if str(out.name) not in given and out.name in plan]
        said = f"the model was quantized elsewhere: {len(given) - len(lost)} of its {len(given)} scales are kept"
        said += f", not those of {', '.join(lost[:5])}{', ...' * (len(lost) > 5)}" if lost else ""
        yield said + (f"; that of {', '.join(added)} is from calibration" if added else "")
