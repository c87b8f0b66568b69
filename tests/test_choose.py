"""Each tensor's range is drawn by the method that costs what reads it least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from nets import Array, inputs_of
from small_graphs import Builder

from edgekit.passes import prepare, steps
from edgekit.passes.steps import Shaped
from edgekit.progress import SilentProgress
from edgekit.quant import calibrate, choose, numerics
from edgekit.quant.ranges import METHODS, Method, Range
from edgekit.quant.solve import solve
from edgekit.samples import Sample

SILENT = SilentProgress()


def drawn(
    form: Shaped, samples: Sequence[Sample], method: str = choose.AUTO
) -> tuple[dict[str, Range], dict[str, str]]:
    how = Method(method)
    statistics = calibrate.observe(form.model, samples, how, SILENT, len(samples))
    return choose.drawn(form, statistics, how, (samples, len(samples)), SILENT)


def with_outliers(*shape: int, channel: int = 3) -> list[Sample]:
    """Values that each sample spans, and in one channel of a sample in eight a value far out."""
    draw = np.random.default_rng(0)
    values = draw.uniform(-1, 1, (64, *shape)).astype(np.float32)
    values[::8, 0, channel, 0, 0] = 40.0
    return [Sample({"x": value}) for value in values]


def reader(weights: Array) -> Shaped:
    """One layer of four inputs."""
    g = Builder()
    x = g.input(1, 4, 6, 6)
    return Shaped(prepare(g.model(g.node("Conv", x, g.const(weights.reshape(2, 4, 1, 1).astype(np.float32))))))


def test_a_far_value_is_kept_for_what_reads_it_and_cut_for_what_does_not() -> None:
    samples = with_outliers(1, 4, 6, 6)
    blind, seeing = np.asarray([[1, -1, 0.5, 0], [0.3, 1, 1, 0]]), np.asarray([[0.2, 0, 0, 1], [0, 0.1, 0, -1]])
    (cut, how), (kept, _) = drawn(reader(blind), samples), drawn(reader(seeing), samples)
    assert cut["x"][1] < 10 < 39 < kept["x"][1]
    assert drawn(reader(blind), samples, "mse")[0]["x"] == drawn(reader(seeing), samples, "mse")[0]["x"]
    assert cut["x"] == drawn(reader(blind), samples, how["x"])[0]["x"]


def test_a_method_that_is_named_leaves_no_choice() -> None:
    form, samples = reader(np.ones((2, 4))), with_outliers(1, 4, 6, 6)
    statistics = calibrate.observe(form.model, samples, Method("mse"), SILENT, 64)
    for name in METHODS:
        found = choose.drawn(form, statistics, Method(name), (samples, 64), SILENT)
        assert found == (calibrate.ranges_of(statistics, Method(name)), {})


def test_where_methods_do_as_well_mse_stays() -> None:
    draw = np.random.default_rng(1)
    even = [Sample({"x": draw.uniform(-1, 1, (1, 4, 6, 6)).astype(np.float32)}) for _ in range(16)]
    form = reader(np.ones((2, 4)))
    found, methods = drawn(form, even)
    assert methods["x"] == "mse" and found["x"] == drawn(form, even, "mse")[0]["x"]


def test_where_nothing_can_be_lost_mse_stays() -> None:
    g = Builder()
    form = Shaped(prepare(g.model(g.node("ArgMax", g.input(1, 4, 6, 6), axis=1))))
    assert drawn(form, with_outliers(1, 4, 6, 6))[1] == {"x": "mse"}


def test_tensors_of_one_scale_have_one_method() -> None:
    g = Builder()
    x = g.input(1, 4, 6, 6)
    left, right = g.node("Relu", g.conv(x, 4, 4)), g.node("Relu", g.conv(x, 4, 4))
    pooled = g.node("MaxPool", g.node("Concat", left, right, axis=1), kernel_shape=[2, 2])
    form = Shaped(prepare(g.model(g.conv(pooled, 8, 3))))
    _, methods = drawn(form, with_outliers(1, 4, 6, 6))
    (concat,) = [node for node in form.model.graph if node.op_type == "Concat"]
    names = [str(value.name) for value in (*concat.inputs, *concat.outputs) if value is not None]
    assert len(names) == 3 and len({methods[name] for name in (*names, pooled)}) == 1


@pytest.mark.parametrize(("op_type", "gates"), [("GRU", 3), ("LSTM", 4)])
def test_all_steps_of_a_recurrent_layer_have_one_method(op_type: str, gates: int) -> None:
    g = Builder()
    x = g.input(3, 1, 6)
    hidden = g.nodes(op_type, 2, x, g.weights(1, gates * 4, 6), g.weights(1, gates * 4, 4), hidden_size=4)[0]
    model = prepare(g.model(hidden))
    form = steps.shaped(model, lambda _: "unrolled")
    _, methods = drawn(form, inputs_of(model, 12))
    alike: dict[str, set[str]] = {}
    for name, kept in form.shared.items():
        if name in methods:
            alike.setdefault(kept, set()).add(methods[name])
    assert len(alike) > 2 and all(len(found) == 1 for found in alike.values())


def test_an_output_of_the_model_reads_itself() -> None:
    form, samples = reader(np.ones((2, 4))), with_outliers(1, 4, 6, 6)
    x, y = (str(value.name) for value in (form.model.graph.inputs[0], form.model.graph.outputs[0]))
    assert x == "x"
    ranges = {x: (-45.0, 45.0), y: (-45.0, 45.0)}
    plans = {"mse": solve(form.model, ranges | {y: (-2.0, 2.0)}), "minmax": solve(form.model, ranges)}
    assert choose.choose(form, plans, (samples, 64), SILENT) == {y: "minmax"}


def test_clipping_counts_more_than_rounding() -> None:
    """Both of these lose as much; what was cut errs to one side."""
    form = reader(np.eye(2, 4))
    draw = np.random.default_rng(2)
    samples = [Sample({"x": draw.uniform(-1, 1, (1, 4, 6, 6)).astype(np.float32)}) for _ in range(64)]
    values = np.concatenate([sample.inputs["x"][:, :2].ravel() for sample in samples])
    cut, coarse = 0.9, 9.0
    lost = {limit: float(np.square(_on_grid(values, limit) - values).sum()) for limit in (cut, coarse)}
    assert lost[cut] < lost[coarse] < 3 * lost[cut]
    ranges = {str(form.model.graph.outputs[0].name): (-1.0, 1.0)}
    plans = {
        "mse": solve(form.model, ranges | {"x": (-cut, cut)}),
        "minmax": solve(form.model, ranges | {"x": (-coarse, coarse)}),
    }
    assert choose.choose(form, plans, (samples, 64), SILENT) == {"x": "minmax"}


def _on_grid(values: Array, limit: float) -> Array:
    q = numerics.affine(-limit, limit)
    return numerics.dequantize(numerics.quantize(values, q), q)


class Steps(SilentProgress):
    """Counts the steps of all tasks."""

    taken = 0

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        def step(count: int = 1) -> None:
            self.taken += count

        yield step


@pytest.mark.parametrize("count", [16, 64, 640])
def test_of_many_samples_a_few_are_looked_at(count: int) -> None:
    form, samples, progress = reader(np.ones((2, 4))), with_outliers(1, 4, 6, 6) * 10, Steps()
    statistics = calibrate.observe(form.model, samples, Method("auto"), SILENT, len(samples))
    choose.drawn(form, statistics, Method("auto"), (samples[:count], count), progress)
    assert progress.taken == min(count, choose.SAMPLES)
