"""Sensitivity and causes: what a scale alone costs is what ONNX Runtime loses, and what is planted is named."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command import answer, edgekit
from small_graphs import Builder

from edgekit import verify
from edgekit.diagnose import data, evidence, sensitivity
from edgekit.diagnose.causes import CAUSES, HURTS, MEASURES, OF_DATA, Cause, Limit, cause_of
from edgekit.diagnose.diagnosis import Case, Diagnosis, diagnose
from edgekit.diagnose.sensitivity import ACTIVATIONS, WEIGHTS, Sensitivity, Subject, groups, measure
from edgekit.emitters import onnx_qdq, tflite
from edgekit.errors import DataError, InputError
from edgekit.graph import attributes, constant, shape_of, with_constants
from edgekit.inputs import InputConfig
from edgekit.output import Cache
from edgekit.passes import prepare
from edgekit.passes.steps import Shaped
from edgekit.progress import SilentProgress
from edgekit.quant import numerics
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.precision import plan_for
from edgekit.quant.ranges import Method
from edgekit.quant.solve import Rules
from edgekit.reference import serialize
from edgekit.report.codec import decode, encode
from edgekit.runners import FloatModel
from edgekit.samples import Samples, open_samples

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import planted  # noqa: E402

sys.path.pop(0)  # a benchmark's name is another test's package

SILENT = SilentProgress()
MINMAX = Method("minmax")
COUNT = 64
SHAPE = (1, 3, 12, 12)


def network() -> ir.Model:
    """Convolutions, one of them depthwise, pooling and a layer that gives five scores."""
    b = Builder(3)
    x = b.input(*SHAPE, name="image")
    y = b.node("Relu", b.conv(x, 3, 16, (3, 3), pads=[1] * 4))
    y = b.node("Relu", b.conv(y, 16, 16, (3, 3), group=16, pads=[1] * 4))
    y = b.node("Relu", b.conv(y, 16, 24, (3, 3), pads=[1] * 4))
    y = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", b.conv(y, 24, 24))))
    return b.model(b.node("Gemm", y, b.weights(5, 24), b.uniform(-0.1, 0.1, 5), transB=1))


def images(count: int = COUNT, seed: int = 0, size: float = 1.0) -> Any:
    """Blobs of one of five kinds on noise: inputs whose scores differ."""
    draw = np.random.default_rng(seed)
    kinds = np.random.default_rng(1).normal(size=(5, *SHAPE[1:]))
    values = kinds[np.arange(count) % 5] * draw.uniform(0.5, 2, (count, 1, 1, 1))
    return (size * (values + draw.normal(size=values.shape))).astype(np.float32)


def opened(
    folder: Path, values: Any, name: str = "data", config: InputConfig | None = None, labels: Any = None
) -> Samples:
    """Samples from a file, labelled by kind unless ``labels`` are given."""
    np.savez(folder / f"{name}.npz", image=values, labels=np.arange(len(values)) % 5 if labels is None else labels)
    configs = {"image": config} if config else {}
    return open_samples(str(folder / f"{name}.npz"), {"image": SHAPE}, configs)


def subject_of(graph: ir.Model, samples: Samples, method: Method = MINMAX) -> Subject:
    statistics = observe(graph, samples, method, SILENT, len(samples))
    return Subject(Shaped(graph), plan_for(graph, "int8", ranges_of(statistics, method), Rules()))


def case_of(
    graph: ir.Model,
    samples: Samples,
    judging: Samples | None = None,
    method: Method = MINMAX,
    **more: Any,
) -> Case:
    """A graph in int8, in ONNX Runtime or (``emitter``) LiteRT, held against float."""
    subject = subject_of(graph, samples, method)
    data = more.pop("emitter", onnx_qdq).emit(graph, subject.plan).data
    fidelity = verify.fidelity(graph, data, judging or samples, SILENT, 32)
    return Case(subject, fidelity, samples, judging or samples, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diagnose")


@pytest.fixture(scope="module")
def samples(folder: Path) -> Samples:
    return opened(folder, images())


@pytest.fixture(scope="module")
def healthy() -> ir.Model:
    return prepare(network())


@pytest.fixture(scope="module")
def measured(healthy: ir.Model, samples: Samples) -> tuple[Subject, Sensitivity]:
    subject = subject_of(healthy, samples)
    return subject, measure(subject, samples, SILENT, verify.metric_of("top1", ROOT))


def stored(real: Any, q: QParams) -> Any:
    return numerics.dequantize(numerics.quantize(real, q), q)


def answers_of(graph: ir.Model, values: Any) -> list[int]:
    """What a network says of images."""
    model = FloatModel(graph)
    return [int(next(iter(model.outputs({"image": value[None]}).values())).argmax()) for value in values]


# -- sensitivity ------------------------------------------------------------------------------------------------------


def test_every_planned_tensor_is_in_one_group(healthy: ir.Model, samples: Samples) -> None:
    subject = subject_of(healthy, samples)
    found = groups(subject)
    named = [name for group in found for name in group.tensors]
    assert sorted(named) == sorted(subject.plan)
    assert {group.kind for group in found} == {ACTIVATIONS, WEIGHTS}
    assert found[0].tensors == ("image",)
    for group in found:
        scales = {subject.plan[name].scale for name in group.tensors}
        assert group.kind == WEIGHTS or len(scales) == 1
    by_name = {group.name: group.tensors for group in found}
    assert by_name["globalaveragepool8"] == ("globalaveragepool8", "flatten9")  # one scale


def test_a_group_alone_costs_what_rounding_it_by_hand_costs(
    healthy: ir.Model, measured: tuple[Subject, Sensitivity], samples: Samples
) -> None:
    """The input before a float model sees it, the scores behind it, and weights in it are put on their grid."""
    subject, found = measured
    rounded = {"image": healthy, "gemm10": healthy}
    weight = next(effect.group for effect in found.effects if effect.group.kind == WEIGHTS)
    held = healthy.graph.initializers
    grid = {name: stored(np.asarray(constant(held[name])), subject.plan[name]) for name in weight.tensors}
    rounded[weight.name] = with_constants(healthy, grid)
    for name, model in rounded.items():
        noise, reference, other = verify.Noise(), FloatModel(healthy), FloatModel(model)
        for sample in samples:
            fed = dict(sample.inputs)
            if name == "image":
                fed["image"] = stored(fed["image"], subject.plan["image"])
            wanted, got = (next(iter(m.outputs(i).values())) for m, i in ((reference, sample.inputs), (other, fed)))
            noise.add(wanted, stored(got, subject.plan["gemm10"]) if name == "gemm10" else got, keep_mean=True)
        effect = found.of(name)
        assert effect is not None and effect.snr_db == pytest.approx(noise.snr_db, abs=0.05), name


def test_a_group_alone_costs_what_its_qdq_form_costs(
    healthy: ir.Model, measured: tuple[Subject, Sensitivity], samples: Samples
) -> None:
    """Every activation by itself, in the ONNX artifact of the plan that holds it alone."""
    subject, found = measured
    for effect in found.effects:
        if effect.group.kind == ACTIVATIONS:
            alone = QuantPlan({name: subject.plan[name] for name in effect.group.tensors})
            artifact = verify.fidelity(healthy, onnx_qdq.emit(healthy, alone).data, samples, SILENT)
            assert effect.snr_db == pytest.approx(artifact.outputs["gemm10"], abs=0.05), effect.group


def test_the_noise_of_the_groups_is_that_of_the_artifact(
    healthy: ir.Model, measured: tuple[Subject, Sensitivity], samples: Samples
) -> None:
    subject, found = measured
    whole = verify.fidelity(healthy, onnx_qdq.emit(healthy, subject.plan).data, samples, SILENT)
    (output_db,) = whole.outputs.values()
    assert sensitivity.together(found.effects) == pytest.approx(output_db, abs=1.0)
    assert [effect.snr_db for effect in found.effects] == sorted(effect.snr_db for effect in found.effects)


def test_metric_and_agreement_are_of_the_same_samples(measured: tuple[Subject, Sensitivity]) -> None:
    _, found = measured
    assert found.samples == COUNT and found.metric is not None
    for effect in found.effects:
        assert effect.metric is not None and effect.agreement is not None
        assert abs(effect.metric - found.metric) <= 1 - effect.agreement + 1e-9


def test_the_cost_is_a_session_a_group(healthy: ir.Model, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = []
    real = sensitivity.FloatModel
    monkeypatch.setattr(sensitivity, "FloatModel", lambda model: sessions.append(1) or real(model))
    subject = subject_of(healthy, samples)
    found = measure(subject, samples.some(4), SILENT)
    assert len(sessions) - 1 == len(groups(subject)) == len(found.effects)  # and one for float
    assert found.samples == 4 and found.metric is None and found.effects[0].metric is None


def test_weights_are_measured_as_they_were_rounded(healthy: ir.Model, samples: Samples) -> None:
    """With weights that are rounded to half as many integers, their groups lose more, and no other does."""
    subject = subject_of(healthy, samples)
    weights = [name for group in groups(subject) if group.kind == WEIGHTS for name in group.tensors]
    coarse = {}
    for name in weights:
        q, real = subject.plan[name], np.asarray(constant(healthy.graph.initializers[name]))
        wide = replace(q, scale=tuple(16 * scale for scale in q.scale))
        coarse[name] = stored(real, wide)
    found = measure(replace(subject, rounded=with_constants(healthy, coarse)), samples.some(8), SILENT)
    before = measure(subject, samples.some(8), SILENT)
    for effect in found.effects:
        other = before.of(effect.group.name)
        assert other is not None
        lost = other.snr_db - effect.snr_db
        assert lost > 12 if effect.group.kind == WEIGHTS else lost == 0, effect


def test_without_samples_nothing_is_measured(healthy: ir.Model, samples: Samples) -> None:
    with pytest.raises(DataError, match="sensitivity: the data holds no samples; at least one is needed"):
        measure(subject_of(healthy, samples), [], SILENT)


def test_steps_of_a_recurrent_layer_are_one_group(healthy: ir.Model, samples: Samples) -> None:
    case = case_of(healthy, samples)
    subject = replace(case.subject, form=Shaped(healthy, {"relu1": "all", "relu3": "all"}))
    assert ("relu1", "relu3") in [group.tensors for group in groups(subject)]
    rows = [loss.name for loss in diagnose(replace(case, subject=subject), SILENT).tensors]
    assert "relu1" in rows and "relu3" not in rows


@pytest.mark.parametrize(("precision", "within"), [("dynamic-int8", 1.5), ("float16", 4.0), ("float32", 0.0)])
def test_weights_alone_are_measured_as_the_artifact_computes(
    healthy: ir.Model, samples: Samples, precision: str, within: float
) -> None:
    """What rounds as it runs is part of what its weights cost."""
    subject = Subject(Shaped(healthy), plan_for(healthy, precision, {}, Rules()))
    found = measure(subject, samples, SILENT)
    assert {effect.group.kind for effect in found.effects} <= {WEIGHTS}
    whole = verify.fidelity(healthy, onnx_qdq.emit(healthy, subject.plan).data, samples, SILENT)
    if precision == "float32":
        assert found.effects == () and sensitivity.together(found.effects) == math.inf
    else:
        assert sensitivity.together(found.effects) == pytest.approx(whole.outputs["gemm10"], abs=within)


# -- causes in the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emitter", [onnx_qdq, tflite])
def test_a_healthy_network_has_no_cause(healthy: ir.Model, samples: Samples, folder: Path, emitter: Any) -> None:
    other = opened(folder, images(seed=5), "held out")
    found = diagnose(case_of(healthy, samples, other, emitter=emitter), SILENT)
    assert found.findings == () and found.output_db > HURTS
    assert all(loss.cause is None for loss in found.tensors)


@pytest.mark.parametrize("cause", planted.CASES)
def test_a_planted_cause_is_named(healthy: ir.Model, samples: Samples, cause: str) -> None:
    graph, tensor = planted.CASES[cause](healthy)
    graph = prepare(graph)
    plain, bad = FloatModel(healthy), FloatModel(graph)
    for sample in samples.some(4):
        wanted, got = (next(iter(model.outputs(sample.inputs).values())) for model in (plain, bad))
        assert np.abs(wanted - got).max() < 2e-2 * np.abs(wanted).max()  # the same function
    found = diagnose(case_of(graph, samples), SILENT)
    assert [finding.cause for finding in found.findings] == [cause]
    finding = found.findings[0]
    assert finding.tensors[0] == tensor and finding.text.startswith(f"{cause} at {tensor}")
    loss = next(loss for loss in found.tensors if loss.name == tensor)
    assert loss.cause == cause and loss.alone_db is not None and loss.alone_db <= HURTS
    assert found.output_db <= HURTS


def test_a_planted_cause_is_named_in_litert_too(healthy: ir.Model, samples: Samples) -> None:
    graph, tensor = planted.outlier_channel(healthy)
    found = diagnose(case_of(prepare(graph), samples, emitter=tflite), SILENT)
    assert [(f.cause, f.tensors[0]) for f in found.findings] == [("outlier channel", tensor)]
    losses = {loss.name: loss for loss in found.tensors}
    assert losses[tensor].before_db is not None and losses[tensor].after_db is not None


def test_a_depthwise_spread_of_weights_in_one_scale_is_named(healthy: ir.Model, samples: Samples) -> None:
    """Weights with one scale for all channels, as models that come quantized have them."""
    graph, tensor = planted.depthwise_spread(healthy)
    graph = prepare(graph)
    subject = subject_of(graph, samples)
    name = next(str(node.inputs[1].name) for node in graph.graph if attributes(node).get("group", 1) > 1)
    one = numerics.symmetric(np.abs(np.asarray(constant(graph.graph.initializers[name]))).max(), None)
    plan = QuantPlan({**subject.plan, name: one})
    fidelity = verify.fidelity(graph, onnx_qdq.emit(graph, plan).data, samples, SILENT, 8)
    found = diagnose(Case(replace(subject, plan=plan), fidelity, samples, samples), SILENT)
    assert [(finding.cause, finding.tensors) for finding in found.findings] == [("depthwise weight spread", (tensor,))]
    numbers = evidence.numbers(graph, plan, evidence.look(graph, plan, samples.some(8), SILENT, 8))[tensor]
    narrow = next(cause for cause in CAUSES if cause.name == "depthwise weight spread")
    assert narrow.evidence(numbers | {"weights_db": 0.0}) == ("weights_db", "weight_spread", "weight_levels")


def test_a_saturated_activation_is_named(healthy: ir.Model, samples: Samples) -> None:
    found = diagnose(case_of(healthy, samples, method=Method("percentile", 70.0)), SILENT)
    assert found.findings[0].cause == "saturated activation"
    assert found.findings[0].evidence["clipped_db"] < HURTS


def test_rare_values_leave_a_dead_range(healthy: ir.Model, folder: Path) -> None:
    """One sample that is far larger than all others: minmax makes room for it."""
    values = images(COUNT)
    values[7] *= 100
    samples = opened(folder, values, "one large", InputConfig(scale=1.0))
    other = opened(folder, images(seed=5), "held out")
    found = diagnose(case_of(healthy, samples, other), SILENT)
    assert [finding.cause for finding in found.findings] == ["dead range"]
    assert found.findings[0].evidence["sample_levels"] < 32


def normalised(root: str) -> ir.Model:
    """Features over the root of their mean square."""
    b = Builder(5)
    y = b.node("Relu", b.conv(b.input(*SHAPE, name="image"), 3, 24, (3, 3)))
    y = b.node("Flatten", b.node("GlobalAveragePool", y))
    mean = b.node("Add", b.node("ReduceMean", b.node("Mul", y, y), b.const([1]), keepdims=1), b.const(1e-4))
    y = (
        b.node("Div", y, b.node("Sqrt", mean))
        if root == "Sqrt"
        else b.node("Mul", y, b.node("Pow", mean, b.const(-0.5)))
    )
    return b.model(b.node("Gemm", y, b.weights(5, 24), b.uniform(-0.1, 0.1, 5), transB=1))


@pytest.mark.parametrize("root", ["Sqrt", "Pow"])
def test_a_normalisation_that_is_spelled_out_is_named(folder: Path, root: str) -> None:
    """Inputs of very different size: the variance of small ones is no step, and dividing by it gives no number."""
    sizes = np.random.default_rng(0).permutation(np.geomspace(0.02, 2, COUNT)).astype(np.float32)
    samples = opened(folder, images() * sizes[:, None, None, None], "sizes")
    found = diagnose(case_of(prepare(normalised(root)), samples), SILENT)
    assert [finding.cause for finding in found.findings] == ["softmax/normalisation in int8"]
    assert found.findings[0].tensors == ("add6", "reducemean5", "mul4")
    assert found.tensors[0].alone_db == -math.inf


# -- causes in the data -----------------------------------------------------------------------------------------------


def test_too_little_data_is_named(healthy: ir.Model, folder: Path) -> None:
    few, other = opened(folder, images(2, size=0.3), "few"), opened(folder, images(seed=5), "held out")
    found = diagnose(case_of(healthy, few, other), SILENT)
    assert found.findings[0].cause == "too little data"
    assert found.findings[0].evidence["samples"] == 2 and found.findings[0].tensors == ()


def test_data_that_shows_less_than_others_is_too_little(healthy: ir.Model, folder: Path) -> None:
    """Many samples, but of one dim kind."""
    dim, other = opened(folder, images(64, size=0.6), "dim"), opened(folder, images(seed=5), "held out")
    found = diagnose(case_of(healthy, dim, other), SILENT)
    assert found.findings[0].cause == "too little data"
    assert found.findings[0].evidence["unseen"] >= 0.1


def test_ranges_that_half_of_the_samples_do_not_show_are_too_little() -> None:
    cause = next(cause for cause in OF_DATA if cause.name == "too little data")
    assert cause.evidence({"output_db": 10.0, "samples": 64.0, "half_ranges": 0.5}) == ("output_db", "half_ranges")
    seen = evidence.Seen(None, numerics.affine(-1, 1))
    for number, value in enumerate((1.0, 9.0, 2.0, 3.0)):
        seen.add(np.float32([0.0, value]), number % 2)
    assert seen.half_range == pytest.approx(2 / 9)
    assert data.of_ranges({"x": seen}, {}) == {"half_ranges": pytest.approx(2 / 9)}


@pytest.mark.parametrize(("size", "measure"), [(8.0, "input_stretch"), (0.2, "input_stretch"), (None, "input_shift")])
def test_calibration_that_was_prepared_otherwise_is_named(
    healthy: ir.Model, folder: Path, size: float | None, measure: str
) -> None:
    values = images() + 3 if size is None else images(size=size)
    wrong, other = opened(folder, values, "wrong"), opened(folder, images(seed=5), "held out")
    finding = diagnose(case_of(healthy, wrong, other), SILENT).findings[0]
    assert finding.cause == "wrong preprocessing" and list(finding.evidence) == ["samples", measure]


def test_raw_values_where_mean_and_std_are_declared_are_named(healthy: ir.Model, folder: Path) -> None:
    raw = np.clip(images() * 40 + 128, 0, 255).astype(np.float32)
    samples = opened(folder, raw, "raw", InputConfig(mean=(0.5,), std=(0.5,)))
    finding = diagnose(case_of(healthy, samples), SILENT).findings[0]
    assert finding.cause == "wrong preprocessing" and finding.evidence == {"odd_inputs": 1.0}


def test_a_float_model_that_guesses_is_fed_wrongly(healthy: ir.Model, samples: Samples, folder: Path) -> None:
    top1 = ("top1", verify.metric_of("top1", ROOT))
    finding = diagnose(case_of(healthy, samples, metric=top1), SILENT).findings[0]  # its weights are random
    assert finding.cause == "wrong preprocessing" and list(finding.evidence) == ["over_chance"]
    knowing = opened(folder, images(), "known", labels=answers_of(healthy, images()))
    assert diagnose(case_of(healthy, knowing, metric=top1), SILENT).findings == ()


def trained(values: Any) -> ir.Model:
    """A convolution and a BatchNormalization that remembers what it saw of these images."""
    b = Builder(4)
    x = b.input(*SHAPE, name="image")
    y = b.conv(x, 3, 8)
    seen = np.stack([FloatModel(b.model(y)).outputs({"image": v[None]})[y][0] for v in values])
    held = (np.ones(8), np.zeros(8), seen.mean((0, 2, 3)), seen.var((0, 2, 3)))
    y = b.node("BatchNormalization", y, *(b.const(array.astype(np.float32)) for array in held))
    y = b.node("Flatten", b.node("GlobalAveragePool", b.node("Relu", y)))
    return b.model(b.node("Gemm", y, b.weights(5, 8), b.uniform(-0.1, 0.1, 5), transB=1))


def colours(count: int = COUNT) -> Any:
    """Images whose channels differ in brightness."""
    draw = np.random.default_rng(0)
    return np.clip(draw.normal([0.3, 0.5, 0.7], 0.2, (count, 12, 12, 3)), 0, 1).transpose(0, 3, 1, 2).astype(np.float32)


RIGHT = InputConfig(mean=(0.4, 0.5, 0.6), std=(0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("config", "measures"),
    [
        (RIGHT, []),
        (replace(RIGHT, channels="BGR"), ["norm_turned", "norm_shift"]),
        (InputConfig(), ["norm_stretch"]),
        (replace(RIGHT, mean=(-0.2, -0.1, 0.0)), ["norm_shift"]),
    ],
)
def test_the_first_normalisation_tells_how_inputs_were_prepared(
    folder: Path, config: InputConfig, measures: list[str]
) -> None:
    right = opened(folder, colours(), "colours", RIGHT)
    source = trained(np.concatenate([sample.inputs["image"] for sample in right]))
    samples = opened(folder, colours(), "colours", config)
    found = diagnose(case_of(prepare(source), samples, source=source), SILENT)
    assert [list(finding.evidence) for finding in found.findings] == [measures] * bool(measures)
    assert all(finding.cause == "wrong preprocessing" for finding in found.findings)


# -- the table of causes ----------------------------------------------------------------------------------------------


def test_causes_name_figures_that_are_measured() -> None:
    every = (*OF_DATA, *CAUSES)
    assert len({cause.name for cause in every}) == len(every) == 9
    for cause in every:
        assert {limit.measure for limits in cause.when for limit in limits} <= set(MEASURES), cause.name
    for cause in CAUSES:  # what costs nothing by itself is no cause
        assert all({"alone_db", "weights_db"} & {limit.measure for limit in limits} for limits in cause.when)


def test_a_figure_that_is_missing_never_fits() -> None:
    assert not Limit("levels", most=5).fits({}) and not Limit("levels", most=5).fits({"levels": math.nan})
    assert Limit("levels", most=5).fits({"levels": 5.0}) and not Limit("levels", most=5).fits({"levels": 5.1})
    assert [str(limit) for limit in (Limit("a", least=2), Limit("a", most=3), Limit("a", 1, 1))] == [
        "a >= 2",
        "a <= 3",
        "a = 1",
    ]


def test_the_first_cause_that_fits_is_named() -> None:
    numbers = {"alone_db": 3.0, "levels": 4.0, "part_levels": 2.0}
    found = cause_of(CAUSES, numbers)
    assert found is not None and found[0].name == "mixed-range concat" and found[1] == ("alone_db", "part_levels")
    assert cause_of(CAUSES, numbers | {"alone_db": 40.0}) is None


@pytest.mark.parametrize("cause", [*OF_DATA, *CAUSES], ids=lambda cause: cause.anchor)
def test_every_cause_is_told(cause: Cause) -> None:
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    parts = page.split("\n## ")
    sections = {re.sub(r"[^\w\- ]", "", part.splitlines()[0].lower()).replace(" ", "-"): part for part in parts}
    told = set(re.findall(r"`([^`]+)`", sections[cause.anchor]))
    assert {str(limit) for limits in cause.when for limit in limits} - told == set()


# -- the whole --------------------------------------------------------------------------------------------------------


def test_a_diagnosis_is_json(healthy: ir.Model, samples: Samples) -> None:
    found = diagnose(case_of(prepare(planted.dead_range(healthy)[0]), samples), SILENT)
    again = Diagnosis.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found and again.findings[0].docs == "docs/accuracy.md#dead-range"
    with pytest.raises(InputError, match="diagnosis:samples: missing"):
        Diagnosis.from_json({})


def test_what_was_measured_is_kept(
    healthy: ir.Model, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, cache = case_of(healthy, samples.some(40)), Cache(tmp_path)

    def remember(stage: str, depends_on: Any, make: Callable[[], Any]) -> Any:
        return cache.get(stage, depends_on, make)[0]

    found = diagnose(case, SILENT, remember)
    monkeypatch.setattr(sensitivity, "FloatModel", None)
    assert diagnose(case, SILENT, remember) == found
    stages = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert stages == ["evidence", "sensitivity"]
    finer = replace(case, subject=subject_of(healthy, samples.some(40), Method("mse")))
    with pytest.raises(TypeError):  # another plan is measured anew
        diagnose(finer, SILENT, remember)
    stored = decode(Sensitivity, encode(measured_again(case, monkeypatch)), "x")
    assert stored.effects[0].snr_db == found.tensors[0].worst_db


def test_what_an_own_metric_found_is_not_kept(healthy: ir.Model, samples: Samples) -> None:
    """Its code may be another one the next time, under the same name."""
    case, top1 = case_of(healthy, samples.some(4)), verify.metric_of("top1", ROOT)

    def remember(stage: str, depends_on: Any, make: Callable[[], Any]) -> Any:
        raise LookupError(stage)

    assert sensitivity.remembered(case.subject, case.judging, SILENT, ("own:metric", top1), remember).effects
    with pytest.raises(LookupError, match="sensitivity"):
        sensitivity.remembered(case.subject, case.judging, SILENT, ("top1", top1), remember)


def measured_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> Sensitivity:
    monkeypatch.undo()
    return measure(case.subject, case.judging.some(sensitivity.SAMPLES), SILENT)


PROJECT = """
[model]
source = "net.onnx"
[calibration]
data = "data.npz"
equalize = false
rounding = "nearest"
range = "minmax"
[evaluation]
data = "data.npz"
"""


@pytest.fixture
def project(healthy: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose network has an outlier channel, in the current folder."""
    graph, _ = planted.outlier_channel(healthy)
    (tmp_path / "net.onnx").write_bytes(serialize(graph))
    opened(tmp_path, images(), labels=answers_of(healthy, images()))
    (tmp_path / "edgekit.toml").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_names_cause_tensor_and_remedy(project: Path) -> None:
    target = ("--target", "linux-x86_64-litert")
    found = answer("diagnose", *target)
    assert (found["source"], found["target"]) == ("net.onnx", "linux-x86_64-litert")
    (finding,) = Diagnosis.from_json(found["diagnosis"]).findings
    assert finding.cause == "outlier channel" and finding.tensors == ("relu5",)
    assert (project / found["artifact"]).is_file()
    result = edgekit("diagnose", *target)
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    for words in ("cause outlier channel", "at relu5", "do [calibration] equalize = true", "docs/accuracy.md#outlier"):
        assert words in said, words
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("  relu5"))
    assert row[:2] == ["relu5", "Conv"] and row[-2:] == ["outlier", "channel"] and len(row) == 8


def test_progress_is_shown_while_it_measures(project: Path) -> None:
    result = edgekit("diagnose", "--target", "linux-x86_64-litert")
    assert re.search(r"sensitivity: (\d+) of \1, done in", result.stderr)


def test_what_the_command_asks_for_helps(project: Path) -> None:
    target = ("--target", "linux-x86_64-onnxruntime", "--quiet")
    before = answer("diagnose", *target)
    (project / "edgekit.toml").write_text(PROJECT.replace("equalize = false", "equalize = true"))
    after = answer("diagnose", *target)
    assert after["diagnosis"]["output_db"] > before["diagnosis"]["output_db"] + 6


def test_a_healthy_project_has_nothing_to_say(healthy: ir.Model, project: Path) -> None:
    (project / "net.onnx").write_bytes(serialize(healthy))
    result = edgekit("diagnose", "-t", "linux-x86_64-litert", "-q")
    assert "no cause is recognised: nothing costs the outputs much by itself" in result.stdout and not result.stderr


def test_a_project_or_a_model_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = edgekit("diagnose", "-t", "linux-x86_64-litert")
    assert result.exit_code == 2 and "no model: give MODEL, or write an edgekit.toml" in result.stderr


def test_what_is_read_of_onnx_is_what_was_planted(healthy: ir.Model) -> None:
    """The planting functions leave their argument as it is."""
    before = serialize(healthy)
    for plant in planted.CASES.values():
        assert serialize(plant(healthy)[0]) != before
    assert serialize(healthy) == before and shape_of(healthy.graph.inputs[0]) == SHAPE
    assert onnx.ModelProto.FromString(before).graph.node
