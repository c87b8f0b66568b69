"""LSTM, GRU and RNN: every form computes what ONNX says, in float and in integers, again and again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import Array, Builder, runner

from edgekit import emit
from edgekit.audit import audit
from edgekit.emitters import Artifact, tflite_bytes
from edgekit.errors import UnsupportedError
from edgekit.graph import activations, all_units
from edgekit.passes import prepare, steps
from edgekit.progress import SilentProgress
from edgekit.project import QuantizationConfig
from edgekit.quant import memory
from edgekit.quant.calibrate import observe, ranges_of
from edgekit.quant.kernels import computes_in_integers
from edgekit.quant.precision import plan_for
from edgekit.quant.ranges import Method
from edgekit.reference import Reference
from edgekit.samples import Sample
from edgekit.target import Target, load_target

LITERT, ORT = load_target("raspberry-pi-4-litert"), load_target("raspberry-pi-4-onnxruntime")
TFLM = load_target("microcontroller-tflm")
TIME, BATCH, WIDTH, HIDDEN = 7, 2, 5, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Layer(Builder):
    """A graph of one layer; ``ends`` are those of its outputs that the model has."""

    ends: Sequence[str] = ()

    def network(self) -> ir.Model:
        """The layer as a model."""
        return self.model(*self.ends)


def layer(op: str, ends: tuple[int, ...] = (0,), fed: bool = False, time: int = TIME, **given: Any) -> Layer:
    """One layer; ``ends`` are the outputs that the model has, ``fed`` makes its initial states inputs."""
    b = Layer(3)
    x = b.input(BATCH, time, WIDTH) if given.get("layout") else b.input(time, BATCH, WIDTH)
    ways, rows = 2 if given.get("direction") == "bidirectional" else 1, GATES[op] * HIDDEN
    constants = [b.uniform(-0.5, 0.5, ways, rows, n) for n in (WIDTH, HIDDEN)] + [b.uniform(-0.3, 0.3, ways, 2 * rows)]
    shape = (BATCH, ways, HIDDEN) if given.get("layout") else (ways, BATCH, HIDDEN)
    states = [b.input(*shape) for _ in range(2 if op == "LSTM" else 1)] if fed else []
    outs = b.nodes(op, 3 if op == "LSTM" else 2, x, *constants, "", *states, hidden_size=HIDDEN, **given)
    b.ends = [outs[i] for i in ends]
    return b


def built(
    source: ir.Model, samples: list[dict[str, Array]], target: Target, precision: str, form: str | None
) -> Artifact:
    """The road from a model to its artifact."""
    graph, how = prepare(source), Method("minmax")
    stepped = steps.shaped(graph, lambda _: "unrolled")
    known = [Sample(s) for s in samples]
    ranges = ranges_of(observe(stepped.model, known, how, SilentProgress(), len(samples)), how)
    kept = steps.across_steps(ranges, stepped.shared)
    config = QuantizationConfig(recurrent=form)
    found = emit.form(graph, target, precision, config)
    kept |= memory.limits(graph, known, kept)
    return emit.emit(
        found.model,
        plan_for(found.model, precision, steps.ranges_of(found, ranges, kept), emit.rules_of(target, found, config)),
        target,
    )


def outputs(artifact: Artifact, samples: list[dict[str, Array]]) -> list[list[Array]]:
    run = runner(artifact)
    return [run(sample) for sample in samples]


def wanted(source: ir.Model, samples: list[dict[str, Array]]) -> list[list[Array]]:
    reference = Reference(source)
    return [[found[str(value.name)] for value in source.graph.outputs] for found in map(reference.run, samples)]


def snr(real: list[list[Array]], found: list[list[Array]]) -> float:
    a = np.concatenate([np.concatenate([v.ravel() for v in s]) for s in real]).astype(np.float64)
    b = np.concatenate([np.concatenate([v.ravel() for v in s]) for s in found]).astype(np.float64)
    return float(10 * np.log10(np.square(a - a.mean()).sum() / np.square(a - b).sum()))


FORMS = [(LITERT, "loop"), (LITERT, "unrolled"), (ORT, "whole"), (ORT, "unrolled")]
LAYERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "lstm-states": ("LSTM", {"ends": (0, 1, 2), "fed": True}),
    "lstm-reverse": ("LSTM", {"direction": "reverse"}),
    "lstm-both-ways": ("LSTM", {"direction": "bidirectional", "ends": (0, 1, 2), "fed": True}),
    "lstm-other-activations": ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}),
    "gru": ("GRU", {}),
    "gru-reset-after": ("GRU", {"linear_before_reset": 1, "ends": (0, 1)}),
    "gru-both-ways": ("GRU", {"direction": "bidirectional", "linear_before_reset": 1, "fed": True}),
    "gru-last-state": ("GRU", {"ends": (1,)}),
    "rnn": ("RNN", {}),
    "rnn-relu": ("RNN", {"activations": ["Relu"], "ends": (0, 1)}),
    "one-step": ("GRU", {"time": 1}),
    "ten-steps": ("LSTM", {"time": 10}),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("target", "form"), FORMS, ids=lambda v: v if isinstance(v, str) else v.format)
def test_float(name: str, target: Target, form: str) -> None:
    op, given = LAYERS[name]
    b = layer(op, **given)
    source, samples = b.network(), b.samples()
    found = outputs(built(source, samples, target, "float32", form), samples)
    for real, got in zip(wanted(source, samples), found, strict=True):
        for a, c in zip(real, got, strict=True):
            np.testing.assert_allclose(c, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("target", "form"), [f for f in FORMS if f[1] != "whole"], ids=lambda v: getattr(v, "format", v)
)
def test_int8(name: str, target: Target, form: str) -> None:
    op, given = LAYERS[name]
    b = layer(op, **given)
    source, samples = b.network(), b.samples()
    artifact = built(source, samples, target, "int8", form)
    assert audit(artifact.data).precision == "int8"
    assert snr(wanted(source, samples), outputs(artifact, samples)) > 27


@pytest.mark.parametrize("precision", ["float32", "int8", "dynamic-int8", "float16"])
def test_a_fused_lstm_forgets_the_run_before(precision: str) -> None:
    b = layer("LSTM", (0, 1))
    source, samples = b.network(), b.samples()
    artifact = built(source, samples, LITERT, precision, "fused")
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in [op.code for op in tflite_bytes.read(artifact.data).ops]
    found = outputs(artifact, [samples[0], samples[1], samples[0]])
    for first, again in zip(found[0], found[2], strict=True):
        np.testing.assert_array_equal(first, again)
    assert snr(wanted(source, samples[:2]), found[:2]) > {"float32": 100, "float16": 60}.get(precision, 33)


@pytest.mark.parametrize("form", ["loop", "unrolled"])
def test_int16_keeps_more(form: str) -> None:
    b = layer("GRU", linear_before_reset=1)
    source, samples = b.network(), b.samples()
    artifact = built(source, samples, LITERT, "int16x8", form)
    assert snr(wanted(source, samples), outputs(artifact, samples)) > 40


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    ("target", "form"), [f for f in FORMS if f[1] != "whole"], ids=lambda v: getattr(v, "format", v)
)
def test_initial_states_that_were_learned(target: Target, form: str, precision: str) -> None:
    b = Builder(3)
    x = b.input(TIME, BATCH, WIDTH)
    constants = [b.weights(1, 24, n) for n in (WIDTH, HIDDEN)] + [b.uniform(-0.3, 0.3, 1, 48)]
    states = [b.uniform(-1, 1, 1, BATCH, HIDDEN) for _ in range(2)]
    source = b.model(*b.nodes("LSTM", 3, x, *constants, "", *states, hidden_size=HIDDEN))
    found = outputs(built(source, b.samples(), target, precision, form), b.samples())
    assert snr(wanted(source, b.samples()), found) > {"float32": 100, "int8": 27}[precision]


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_a_microcontroller_has_the_operators_of_its_own_choice(op: str) -> None:
    b = layer(op, time=23)
    source, samples = b.network(), b.samples()
    emit.refuse_unsupported(prepare(source), {TFLM: "int8"}, QuantizationConfig())
    artifact = built(source, samples, TFLM, "int8", None)
    ops = tflite_bytes.read(artifact.data).ops
    assert ("UNIDIRECTIONAL_SEQUENCE_LSTM" in {op.code for op in ops}) == (op == "LSTM")
    assert all(len(op.inputs) <= 10 for op in ops if op.code == "CONCATENATION"), "TFLM refuses more"
    assert all(math.prod(t.shape) == 0 for op in ops for t in op.intermediates), (
        "TFLM refuses inner tensors with a size"
    )
    assert snr(wanted(source, samples), outputs(artifact, samples)) > 27


def test_forms_say_the_same() -> None:
    """A loop and its steps written out run the same integers."""
    b = layer("LSTM", time=10)
    source, samples = b.network(), b.samples()
    loop, unrolled = (outputs(built(source, samples, LITERT, "int8", form), samples) for form in ("loop", "unrolled"))
    for a, c in zip(loop, unrolled, strict=True):
        np.testing.assert_array_equal(a[0], c[0])


def test_a_loop_is_small_and_reads_back() -> None:
    b = layer("GRU", time=100)
    source, samples = b.network(), b.samples()
    loop, unrolled = (built(source, samples, LITERT, "int8", form) for form in ("loop", "unrolled"))
    assert len(loop.data) < len(unrolled.data) / 5
    (turn,) = [op for op in tflite_bytes.read(loop.data).ops if op.code == "WHILE"]
    assert sorted(turn.bodies) == ["body_subgraph_index", "cond_subgraph_index"]
    assert tflite_bytes.write(tflite_bytes.read(loop.data)) is not None
    one, other = audit(loop.data), audit(unrolled.data)
    assert one.macs == pytest.approx(other.macs, rel=0.02)  # the first step has no state to multiply
    assert one.parameters <= other.parameters


def test_who_reads_the_last_step_keeps_no_sequence() -> None:
    b = layer("LSTM")
    last = b.node("Gather", b.node("Squeeze", b.ends[0], b.const([1])), b.const(-1), axis=0)
    source, samples = b.model(last), b.samples()
    (node,) = steps.recurrent_nodes(prepare(source).graph)
    assert not node.outputs[0].uses() and node.outputs[1].uses()
    found = outputs(built(source, samples, LITERT, "float32", "loop"), samples)
    np.testing.assert_allclose(found[0][0], wanted(source, samples)[0][0], rtol=1e-4, atol=1e-5)


def test_a_cell_state_is_cut_where_that_helps() -> None:
    b = layer("LSTM", time=40)
    source = b.network()
    graph = prepare(source)
    (node,) = steps.recurrent_nodes(graph.graph)
    wide = {f"{node.name}/memory": (-100.0, 100.0)}
    found = memory.limits(graph, [Sample(s) for s in b.samples()], wide)
    low, high = found[f"{node.name}/memory"]
    assert -4 <= low < 0 < high <= 4 and found[f"{node.name}/kept"] == (low, high)
    narrow = {f"{node.name}/memory": (-0.5, 0.25)}
    assert memory.limits(graph, [Sample(s) for s in b.samples()], narrow)[f"{node.name}/memory"] == (-0.5, 0.25)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"clip": 3.0}, "LSTM with clip is not supported"),
        ({"input_forget": 1}, "LSTM with input_forget is not supported"),
        (
            {"activations": ["Sigmoid", "Softsign", "Tanh"]},
            "LSTM with activation Softsign is not supported; Sigmoid, T",
        ),
    ],
)
def test_what_no_form_has_is_refused(given: dict[str, Any], said: str) -> None:
    b = layer("LSTM", **given)
    with pytest.raises(UnsupportedError, match=said):
        prepare(b.network())


def test_peepholes_and_lengths_are_refused() -> None:
    b = Builder()
    x, lengths = b.input(TIME, BATCH, WIDTH), b.const(np.asarray([3, 7]), "int32")
    constants = [b.weights(1, 24, n) for n in (WIDTH, HIDDEN)] + [b.weights(1, 48)]
    out = b.node("LSTM", x, *constants, lengths, "", "", b.weights(1, 18), hidden_size=HIDDEN)
    with pytest.raises(UnsupportedError) as found:
        prepare(b.model(out))
    assert "with peephole weights is not supported" in str(found.value)
    assert "with sequence_lens that are not the whole sequence is not supported" in str(found.value)


def test_a_projection_is_refused() -> None:
    """Exporters write one as an LSTM whose weights are cut in wrong places; the cell state gives it away."""
    b = Builder()
    constants = [b.weights(1, 24, n) for n in (WIDTH, HIDDEN)] + [b.weights(1, 48)]
    states = [b.uniform(-1, 1, 1, BATCH, n) for n in (HIDDEN, HIDDEN + 2)]
    out = b.node("LSTM", b.input(TIME, BATCH, WIDTH), *constants, "", *states, hidden_size=HIDDEN)
    with pytest.raises(UnsupportedError, match=r"with states of another size than its 6 outputs \(a projection\)"):
        prepare(b.model(out))


def test_a_bias_of_another_size_is_refused() -> None:
    b = Builder()
    constants = [b.weights(1, 18, n) for n in (WIDTH, HIDDEN)] + [b.weights(1, 18)]
    out = b.node("GRU", b.input(TIME, BATCH, WIDTH), *constants, hidden_size=HIDDEN)
    with pytest.raises(UnsupportedError, match=r"W, R and B of shapes \[1, 18, 5\], .* \[1, 18\], which do not fit"):
        prepare(b.model(out))


@pytest.mark.parametrize("form", ["loop", "unrolled", "fused"])
def test_nodes_that_shall_stay_float_are_all_that_they_are_written_as(form: str) -> None:
    b = layer("LSTM", time=10)
    two = b.nodes("LSTM", 1, b.node("Squeeze", b.ends[0], b.const([1])), *_constants(b), hidden_size=HIDDEN)
    source = b.model(b.node("Relu", two[0]))
    graph = prepare(source)
    first, second = (str(node.name) for node in steps.recurrent_nodes(graph.graph))
    config = QuantizationConfig(recurrent=form, float_nodes=(first,))
    found = emit.form(graph, LITERT, "int8", config)
    names = [*(str(value.name) for value in activations(found.model.graph)), *found.shared]
    ranges = dict.fromkeys(names, (-1.0, 1.0))
    plan = plan_for(found.model, "int8", ranges, emit.rules_of(LITERT, found, config))
    real = {u.node.name for u in all_units(found.model.graph) if not computes_in_integers(u, plan)}
    assert real == set(found.nodes([first])) & {u.node.name for u in all_units(found.model.graph)}
    assert real and not real & set(found.nodes([second])) and found.nodes(["other"]) == ["other"]


def _constants(b: Builder) -> list[str]:
    return [b.weights(1, 24, n) for n in (HIDDEN, HIDDEN)] + [b.uniform(-0.3, 0.3, 1, 48)]


@pytest.mark.parametrize(("target", "form"), [*FORMS, (LITERT, None)], ids=lambda v: getattr(v, "format", v))
def test_a_constant_sequence_that_starts_from_a_computed_state(target: Target, form: str) -> None:
    b = Builder(3)
    states = [b.input(1, BATCH, HIDDEN) for _ in range(2)]
    out = b.node("LSTM", b.weights(TIME, BATCH, HIDDEN), *_constants(b), "", *states, hidden_size=HIDDEN)
    source = b.model(out)
    found = outputs(built(source, b.samples(), target, "float32", form), b.samples())
    for real, got in zip(wanted(source, b.samples()), found, strict=True):
        np.testing.assert_allclose(got[0], real[0], rtol=1e-4, atol=1e-5)


def test_weights_that_are_computed_are_refused() -> None:
    b = Builder()
    out = b.node(
        "GRU", b.input(TIME, BATCH, WIDTH), b.input(1, 18, WIDTH), b.weights(1, 18, HIDDEN), hidden_size=HIDDEN
    )
    with pytest.raises(UnsupportedError, match="GRU with weights that are computed at run time is not supported"):
        prepare(b.model(out))


@pytest.mark.parametrize(
    ("target", "precision", "form"),
    [(LITERT, "float32", "fused"), (LITERT, "int8", "whole"), (ORT, "int8", "whole"), (ORT, "float32", "loop")],
    ids=lambda v: getattr(v, "name", v),
)
def test_a_form_that_a_node_cannot_have_is_refused(target: Target, precision: str, form: str) -> None:
    b = layer("GRU")
    graph = prepare(b.network())
    with pytest.raises(UnsupportedError, match=rf"has no form {form} in {precision}; unrolled is always there"):
        emit.refuse_unsupported(graph, {target: precision}, QuantizationConfig(recurrent=form))


def test_a_runtime_with_whole_operators_gets_int8_weights() -> None:
    b = layer("GRU")
    graph = prepare(b.network())
    assert emit.precision_of(graph, ORT, None) == "dynamic-int8"
    assert emit.precision_of(graph, LITERT, None) == "int8"
