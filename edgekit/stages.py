"""The stages of a build: what every target shares, and what is done for each. Finished ones come from the cache."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgekit import __version__, emit, gate, verify
from edgekit.audit import audit
from edgekit.emitters import Artifact
from edgekit.errors import ConfigError, DataError, UnsupportedError
from edgekit.graph import constant, is_float, shape_of
from edgekit.measure import Measurement, glance, measure
from edgekit.noise import random_samples
from edgekit.output import CACHE, Cache, prepare_folder, write
from edgekit.passes import opened, prepare, steps
from edgekit.progress import Progress
from edgekit.project import METRICS, Project, QuantizationConfig
from edgekit.quant import calibrate, equalize, memory, reconstruct
from edgekit.quant.from_qdq import Lifted
from edgekit.quant.mixed import crushed
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.precision import needs_calibration, plan_for
from edgekit.quant.ranges import Method, Range
from edgekit.reference import serialize
from edgekit.report import html
from edgekit.report import json as report_json
from edgekit.report.model import (
    ArtifactFacts,
    CalibrationFacts,
    Compression,
    Evaluation,
    Fidelity,
    ModelFacts,
    Parity,
    Report,
    Stage,
)
from edgekit.samples import Samples, open_calibration, open_evaluation, open_training
from edgekit.target import Target


@dataclass(frozen=True)
class Basis:
    """What every target's artifact is made from.

    ``equal`` is the graph with its channels equalized, to which the ranges belong; ``kept`` are the ranges that hold in
    all steps of recurrent layers.
    """

    lifted: Lifted
    equal: ir.Model
    ranges: Mapping[str, Range]
    kept: Mapping[str, Range]

    @property
    def given(self) -> Mapping[str, QParams]:
        """The scales that the model came with."""
        return {**self.lifted.scales, **self.lifted.copies}


@dataclass
class Built:
    """One artifact, the float graph that it holds in integers, and what was found out about it."""

    target: Target
    graph: ir.Model
    plan: QuantPlan
    artifact: Artifact
    path: Path
    fidelity: Fidelity | None = None
    evaluation: Evaluation | None = None
    latency: Measurement | None = None
    float_latency: Measurement | None = None
    float_bytes: int = 0


@dataclass
class Work:
    """One build under way: its settings, its clock and its cache."""

    project: Project
    out: Path
    progress: Progress
    command: str
    rounds: bool = False
    warnings: list[str] = field(default_factory=list)
    stages: dict[str, list[Stage]] = field(default_factory=dict)
    compression: list[Compression] = field(default_factory=list)
    _compress: list[Any] = field(default_factory=list)
    _cached: bool = False
    _float_results: dict[str, verify.Result] = field(default_factory=dict)

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

    def data(self, graph: ir.Model, calibrates: bool) -> tuple[Samples, Samples | None]:
        """The calibration samples, and the evaluation samples where there are any.

        Without data, and where no scale is drawn from it, random inputs stand in for looking at the artifact.
        """
        ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
        calibration = open_calibration(self.project, ports) if calibrates else random_samples(ports)
        if not self.project.evaluation.data:
            return calibration, None
        evaluation = open_evaluation(self.project, ports)
        if self.project.evaluation.metric in METRICS and next(iter(evaluation)).label is None:
            raise DataError(f"{evaluation.data}: has no labels, which metric {self.project.evaluation.metric} needs")
        return calibration, evaluation

    def read_compression(self) -> None:
        """Read every ``[[compress]]`` step before any work. Raises ConfigError where torch is not there for them."""
        if not self.project.compress:
            return
        file = self.project.file
        try:
            from edgekit.compress.methods import read_step
        except ImportError as error:
            raise ConfigError(f"{file}:compress: needs torch ({error}); pip install 'edgekit[torch]'") from None
        self._compress = [read_step(step, file, number) for number, step in enumerate(self.project.compress)]

    def compressed(self, source: ir.Model, lifted: Lifted, calibration: Samples, evaluation: Samples | None) -> Lifted:
        """The graph after every ``[[compress]]`` step, prepared; what was finished before comes from the cache."""
        if not self._compress:
            return lifted
        if lifted.scales:
            raise ConfigError("the model is quantized to int8 already; [[compress]] needs the float model")
        graph = opened(source)
        ports = {str(value.name): shape_of(value) for value in graph.graph.inputs}
        for number, (method, _, data) in enumerate(self._compress):
            training = open_training(self.project, data, ports) if data else calibration
            with self.stage(f"compress: {method.name}"):
                graph, facts = self._step(graph, number, training, calibration)
            prepared = prepare(graph)
            self.compression.append(self._compression(method.name, prepared, facts, evaluation))
        return Lifted(prepared)

    def _step(
        self, graph: ir.Model, number: int, training: Samples, calibration: Samples
    ) -> tuple[ir.Model, dict[str, Any]]:
        from edgekit.compress.methods import Context, run_step

        method, settings, _ = self._compress[number]
        before = serialize(graph)
        depends_on = [_sha256(before), method.name, repr(settings), training.sha256, calibration.sha256]
        checkpoint = self.out / CACHE / f"training-{_sha256(repr(depends_on).encode())[:32]}.pt"

        def found() -> list[Any]:
            prepare_folder(checkpoint.parent)
            outcome = run_step(graph, method, settings, Context(training, calibration, self.progress, checkpoint))
            return [b64encode(serialize(outcome.graph)).decode(), dict(outcome.facts)]

        stored, facts = self.remembered("compress", depends_on, found)
        checkpoint.unlink(missing_ok=True)
        return ir.from_proto(onnx.ModelProto.FromString(b64decode(stored))), facts

    def _compression(
        self, method: str, graph: ir.Model, facts: dict[str, Any], evaluation: Samples | None
    ) -> Compression:
        """What the network is like after a step."""
        checked = audit(serialize(graph))
        weights = [constant(value) for value in graph.graph.initializers.values() if is_float(value)]
        nonzero = sum(int(np.count_nonzero(array)) for array in weights if array is not None)
        metric = None
        if evaluation is not None:
            function = verify.metric_of(self.project.evaluation.metric, self.project.folder)
            runner = verify.FloatModel(graph)
            said = f"evaluate after {method}"
            metric = verify.evaluate(runner, evaluation, function, self.progress, said, len(evaluation)).value
        return Compression(method, checked.parameters, min(nonzero, checked.parameters), checked.macs, metric, facts)

    def basis(self, lifted: Lifted, samples: Samples, calibrates: bool) -> Basis:
        """Equalize and calibrate, where a precision is drawn from ranges."""
        if not calibrates:
            return Basis(lifted, lifted.graph, {}, {})
        equal = lifted.graph if lifted.scales else self.equalized(lifted.graph, samples)
        return Basis(lifted, equal, *self.ranges(equal, samples))

    def built(
        self, target: Target, precision: str, basis: Basis, samples: Samples, config: QuantizationConfig
    ) -> Built:
        """Plan, round and write one target's artifact."""
        graph = basis.equal if needs_calibration(precision) else basis.lifted.graph
        form = emit.form(graph, target, precision, config.recurrent)
        rules = emit.rules_of(target, config.float_nodes, basis.given)
        plan = plan_for(form.model, precision, steps.ranges_of(form, basis.ranges, basis.kept), rules)
        said = (*_about(plan, precision, target, basis.lifted), *crushed(form.model.graph, plan, basis.ranges))
        self.warnings += [line for line in said if line not in self.warnings]
        rounded = form.model
        if self.rounds and reconstruct.weights_of(form.model, plan):
            with self.stage("round", target.name):
                rounded = self.rounded(form.model, plan, samples)
        with self.stage("emit", target.name):
            artifact = emit.emit(rounded, plan, target, self.description(samples, precision))
            path = write(prepare_folder(self.out / target.name) / target.artifact_name, artifact.data)
        return Built(target, form.model, plan, artifact, path)

    def equalized(self, graph: ir.Model, samples: Samples) -> ir.Model:
        """The graph with its channels scaled, unless that is left out: the same function."""
        if not self.project.calibration.equalize:
            return graph

        def found() -> list[int]:
            return equalize.factors(graph, samples, self.progress, len(samples))

        with self.stage("equalize"):
            return equalize.scaled(
                graph, self.remembered("factors", [_sha256(serialize(graph)), samples.sha256], found)
            )

    def ranges(self, graph: ir.Model, samples: Samples) -> tuple[dict[str, Range], dict[str, Range]]:
        """The range of each activation, and the ranges that hold in all steps of recurrent layers."""
        config = self.project.calibration
        method = Method(config.range, config.percentile)
        stepped = steps.shaped(graph, lambda _: "unrolled")

        def observed() -> list[dict[str, Range]]:
            statistics = calibrate.observe(stepped.model, samples, method, self.progress, len(samples))
            found = calibrate.ranges_of(statistics, method)
            kept = steps.across_steps(found, stepped.shared)
            return [found, kept | memory.limits(graph, samples, kept)]

        with self.stage("calibrate"):
            depends_on = [_sha256(serialize(graph)), samples.sha256, config.range, config.percentile]
            stored = self.remembered("ranges", depends_on, observed)
        found, kept = ({name: (low, high) for name, (low, high) in part.items()} for part in stored)
        return found, kept

    def rounded(self, graph: ir.Model, plan: QuantPlan, samples: Samples) -> ir.Model:
        """The graph with its weights on the plan's grid."""

        def reconstructed() -> dict[str, str]:
            found = reconstruct.reconstruct(graph, plan, samples, self.progress, len(samples))
            return {name: b64encode(array.tobytes()).decode() for name, array in found.items()}

        weights = {name: quant.to_json() for name, quant in reconstruct.weights_of(graph, plan).items()}
        stored = self.remembered("weights", [_sha256(serialize(graph)), samples.sha256, weights], reconstructed)
        constants = {
            name: np.frombuffer(b64decode(data), np.float32).reshape(shape_of(graph.graph.initializers[name]))
            for name, data in stored.items()
        }
        return reconstruct.with_constants(graph, constants)

    def description(self, samples: Samples, precision: str) -> emit.Description:
        """What every artifact says of itself."""
        config = self.project.calibration
        calibration = {"sha256": samples.sha256, "samples": len(samples), "range": config.range}
        facts = {
            "source": self.project.model.source,
            "calibration": calibration | {"rounding": config.rounding, "equalize": config.equalize},
            "precision": precision,
        }
        return emit.Description(samples.preprocessing, self.project.evaluation.labels or samples.labels, facts)

    def examine(self, built: Built, graph: ir.Model, samples: Samples, evaluation: Samples | None) -> None:
        """Verify, evaluate and measure one artifact."""
        name = built.target.name
        with self.stage("verify", name):
            built.fidelity = verify.fidelity(built.graph, built.artifact.data, samples, self.progress)
        if evaluation is not None:
            with self.stage("evaluate", name):
                built.evaluation = self._evaluated(built, graph, evaluation)
        with self.stage("measure", name), self.progress.task(f"measure {name}", 2) as step:
            built.latency = measure(built.path, threads=built.target.threads)
            step()
            self._measure_float(built, graph)
            step()

    def _measure_float(self, built: Built, graph: ir.Model) -> None:
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
            built.float_latency = glance(beside, built.target.threads)

    def _evaluated(self, built: Built, graph: ir.Model, samples: Samples) -> Evaluation:
        name = self.project.evaluation.metric
        metric = verify.metric_of(name, self.project.folder)
        if not self._float_results:
            floating = verify.FloatModel(graph)
            self._float_results["float"] = verify.evaluate(
                floating, samples, metric, self.progress, "evaluate float", len(samples)
            )
        runner = verify.ArtifactModel(built.artifact.data)
        result = verify.evaluate(runner, samples, metric, self.progress, f"evaluate {built.target.name}", len(samples))
        return verify.compared(name, self._float_results["float"], result)

    def model_facts(self, graph: ir.Model, samples: Samples | None) -> dict[str, Any]:
        """What all reports of this build say alike; ``samples`` are those that calibrated."""
        data = serialize(graph)
        checked = audit(data)
        model = ModelFacts(
            self.project.model.source, _sha256(data), checked.parameters, checked.macs, len(data), checked.opset
        )
        config = self.project.calibration
        calibration = None
        if samples is not None:
            calibration = CalibrationFacts(
                str(config.recipe or config.data), len(samples), config.range, samples.sha256
            )
        return {"model": model, "calibration": calibration}

    def report(self, built: Built, all_built: Sequence[Built], samples: Samples, facts: dict[str, Any]) -> Report:
        """Judge the gates and write everything but the artifact, the report last."""
        other = next((b for b in all_built if b.target.format != built.target.format and b.plan == built.plan), None)
        checked, data = audit(built.artifact.data), built.artifact.data
        report = Report(
            edgekit=__version__,
            reproduce=self.command,
            target=built.target.to_json(),
            artifact=ArtifactFacts(str(built.path), built.target.format, len(data), _sha256(data), checked.precision),
            audit=checked.to_json(),
            contract=built.artifact.contract.to_json(),
            evaluation=built.evaluation,
            fidelity=built.fidelity,
            parity=_parity(built, other, samples) if other is not None and _integer_outputs(built) else None,
            latency=built.latency,
            float_latency=built.float_latency,
            warnings=tuple(self.warnings),
            compression=tuple(self.compression),
            stages=(*self.stages.get("", ()), *self.stages.get(built.target.name, ())),
            **facts | {"model": replace(facts["model"], float_bytes=built.float_bytes)},
        )
        report = replace(report, gates=gate.judge(report, self.project.limits(built.target.name)))
        folder = built.path.parent
        write(folder / "plan.json", json.dumps(built.plan.to_json(), indent=1) + "\n")
        write(folder / "contract.json", json.dumps(report.contract, indent=2) + "\n")
        write(folder / "report.html", html.render(report))
        write(folder / "report.json", report_json.render(report))
        return report


def _integer_outputs(built: Built) -> bool:
    return all(port.name in built.plan for port in built.artifact.contract.outputs)


def _parity(built: Built, other: Built, samples: Samples) -> Parity:
    return verify.parity(
        verify.ArtifactModel(built.artifact.data), verify.ArtifactModel(other.artifact.data), samples, other.target.name
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
