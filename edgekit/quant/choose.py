"""The method that draws each tensor's range, chosen by what its rounding does to what reads the tensor.

No method is the best for every tensor: a far value is noise to one layer and the answer to another. So each method's
range is tried where it counts. Every op that reads the tensor runs once more on the tensor as it would be stored, and
what its output loses is the method's cost (Wu et al. 2020, "EasyQuant: post-training quantization via scale
optimization", section 3, judges a scale by its layer's output, too). Tensors of one scale are tried together. What
clipping alone costs counts ``CLIPPING_WEIGHT`` times, as it does for ``mse``. All of this is one graph that gives sums,
so a pass over a few samples judges all tensors, and the cost is a small multiple of the float network's.

Differences between good ranges are as small as what a few samples can tell, so ``mse``, the best of them on the whole,
stays unless another method costs clearly less. Judging by the outputs of the whole network was tried and left: what a
single tensor costs there varies more from sample to sample than from method to method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import onnx_ir as ir

from edgekit.graph import Unit, activations, is_float, shape_of, units
from edgekit.passes import steps
from edgekit.passes.rewrite import add_constant, make
from edgekit.passes.steps import Shaped
from edgekit.progress import Progress
from edgekit.quant import calibrate
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.ranges import CLIPPING_WEIGHT, METHODS, Method, Range, Statistics
from edgekit.quant.simulate import rounding
from edgekit.quant.solve import joined, solve
from edgekit.reference import Reference
from edgekit.samples import Sample

AUTO, PREFERRED = "auto", "mse"
SAMPLES = 64  # that are looked at
CLEARLY = 0.9  # of the preferred method's cost: what another one may cost at most to be taken
Data = tuple[Iterable[Sample], int]  # samples, and how many they are


def drawn(
    form: Shaped, statistics: Mapping[str, Statistics], method: Method, data: Data, progress: Progress
) -> tuple[dict[str, Range], dict[str, str]]:
    """The range of each tensor that was seen; and the method of each that had a choice, where ``method`` is auto."""
    if method.name != AUTO:
        return calibrate.ranges_of(statistics, method), {}
    found = {name: calibrate.ranges_of(statistics, replace(method, name=name)) for name in METHODS}
    plans = {
        name: solve(form.model, steps.ranges_of(form, ranges, steps.across_steps(ranges, form.shared)))
        for name, ranges in found.items()
    }
    chosen = choose(form, plans, data, progress)
    return {name: found[chosen.get(name, PREFERRED)][name] for name in found[PREFERRED]}, chosen


def choose(form: Shaped, plans: Mapping[str, QuantPlan], data: Data, progress: Progress) -> dict[str, str]:
    """Of the plans by method, the method that each tensor is best off with; tensors alike in all of them have none.

    Of many samples, every n-th is looked at.
    """
    judge = _Judge(form.model)
    groups = _groups(form, plans)
    for key, names in groups.items():
        judge.add(key, {method: {name: plan[name] for name in names} for method, plan in plans.items()})
    samples, total = data
    stride = -(-total // SAMPLES)
    costs = judge.costs(islice(samples, 0, None, stride), progress, -(-total // stride))
    return {name: _cheapest(costs.get(key, {})) for key, names in groups.items() for name in names}


def _groups(form: Shaped, plans: Mapping[str, QuantPlan]) -> dict[str, list[str]]:
    """The tensors that share a scale and have a choice; all steps of a recurrent layer are one."""
    base, found = plans[PREFERRED], dict[str, list[str]]()
    scales = joined(form.model, base)
    for value in activations(form.model.graph):
        name = str(value.name)
        if all(name in plan for plan in plans.values()):
            found.setdefault(form.shared.get(name, scales.find(name)), []).append(name)
    return {key: names for key, names in found.items() if len({tuple(p[n] for n in names) for p in plans.values()}) > 1}


def _cheapest(costs: Mapping[str, float]) -> str:
    """The method of least cost, if that is clearly less than the preferred one's."""
    best = min(costs, key=lambda method: costs[method], default=PREFERRED)
    return best if costs and costs[best] <= CLEARLY * costs[PREFERRED] else PREFERRED


@dataclass(frozen=True)
class _Loss:
    """A sum of squares that the graph gives: what an output of a reader loses, and how much it counts."""

    name: str
    key: str
    methods: tuple[str, ...]
    reader: ir.Value
    weight: float


class _Judge:
    """A graph that runs what reads a tensor once more for each way to store it, and gives what that loses."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model.clone()
        self._graph = self._model.graph
        self._units = units(self._graph)
        self._ends = list(self._graph.outputs)
        self._graph.outputs.clear()
        self._losses: list[_Loss] = []
        self._known: set[ir.Value] = set()
        self._numbers: dict[float, ir.Value] = {}

    def add(self, key: str, stored: Mapping[str, Mapping[str, QParams]]) -> None:
        """Try some tensors as each method stores them."""
        alike: dict[tuple[QParams, ...], list[str]] = {}
        for method, tensors in stored.items():
            alike.setdefault(tuple(tensors.values()), []).append(method)
        for methods in alike.values():
            tensors = stored[methods[0]]
            for store, weight in ((self._rounded, 1.0), (self._clipped, CLIPPING_WEIGHT - 1)):
                for wanted, found in list(self._again(tensors, store)):
                    self._compare(wanted, found, _Loss("", key, tuple(methods), wanted, weight))

    def costs(self, samples: Iterable[Sample], progress: Progress, total: int) -> dict[str, dict[str, float]]:
        """By group and method, the sum over its readers of what they lose, of how much they vary."""
        if not self._losses:
            return {}
        sums: dict[str, float] = {}
        reference, count = Reference(self._model), 0
        with progress.task("choose ranges", total) as step:
            for sample in samples:
                for name, value in reference.run(sample.inputs).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
                count += 1
                step()
        found: dict[str, dict[str, float]] = {}
        for loss in self._losses:
            power, mean = sums[f"{loss.reader.name}/power"], sums[f"{loss.reader.name}/sum"]
            varies = power - mean**2 / (count * np.prod(shape_of(loss.reader)))
            for method in loss.methods if varies > 0 else ():
                costs = found.setdefault(loss.key, {})
                costs[method] = costs.get(method, 0.0) + loss.weight * sums[loss.name] / varies
        return found

    def _again(
        self, tensors: Mapping[str, QParams], store: Callable[[ir.Value, QParams], ir.Value]
    ) -> Iterator[tuple[ir.Value, ir.Value]]:
        """What reads the tensors gives, and what it gives when they are stored; an output of the model reads itself."""
        held: dict[ir.Value, ir.Value] = {}
        for value in self._graph.inputs:
            if str(value.name) in tensors:
                held[value] = store(value, tensors[str(value.name)])
        for unit in self._units:
            results = self._copied(unit, held)
            for out in unit.outputs:
                found = results.get(out, out)
                if str(out.name) in tensors:
                    found = held[out] = store(found, tensors[str(out.name)])
                if found is not out and is_float(out) and (out not in held or out in self._ends):
                    yield out, found

    def _copied(self, unit: Unit, held: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
        """The results of a unit that runs on these values in place of its own; nothing where it reads none of them."""
        nodes = [node for node in (unit.node, unit.bias, unit.activation) if node is not None]
        if not any(value in held for node in nodes for value in node.inputs if value is not None):
            return {}
        results: dict[ir.Value, ir.Value] = {}
        known = {**held}
        for node in nodes:
            inputs = [None if value is None else known.get(value, value) for value in node.inputs]
            attributes = list(node.attributes.values())
            copy = ir.Node("", node.op_type, inputs, attributes, num_outputs=len(node.outputs))
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.shape, new.type = old.shape, old.type
                known[old] = results[old] = new
            self._append(copy)
        return results

    def _rounded(self, value: ir.Value, q: QParams) -> ir.Value:
        """The value as it is after having been stored."""
        for op_type, more in rounding(q, self._number):
            value = self._op(op_type, [value, *more], value)
        return value

    def _clipped(self, value: ir.Value, q: QParams) -> ir.Value:
        """The value cut to what can be stored, not rounded."""
        return self._op("Clip", [value, *map(self._number, q.range)], value)

    def _compare(self, wanted: ir.Value, found: ir.Value, loss: _Loss) -> None:
        """Let the graph give the squared difference, and once for each reader what that is to be held against."""
        name = f"again/loss.{len(self._losses)}"
        self._give("ReduceSumSquare", self._op("Sub", [found, wanted], wanted), name)
        self._losses.append(replace(loss, name=name))
        if wanted not in self._known:
            self._known.add(wanted)
            self._give("ReduceSumSquare", wanted, f"{wanted.name}/power")
            self._give("ReduceSum", wanted, f"{wanted.name}/sum")

    def _give(self, op_type: str, value: ir.Value, name: str) -> None:
        node = make(op_type, [value], value, name, keepdims=0)
        node.outputs[0].shape = ir.Shape([])
        self._graph.append(node)
        self._graph.outputs.append(node.outputs[0])

    def _op(self, op_type: str, inputs: Sequence[ir.Value], like: ir.Value) -> ir.Value:
        node = make(op_type, inputs, like, "")
        self._append(node)
        return node.outputs[0]

    def _append(self, node: ir.Node) -> None:
        """Put a node, which has no name yet, behind all others."""
        node.name = f"again/{len(self._graph)}"
        for number, value in enumerate(node.outputs):
            value.name = f"{node.name}.{number}"
        self._graph.append(node)

    def _number(self, value: float) -> ir.Value:
        if value not in self._numbers:
            array = np.asarray(value, np.float32)
            self._numbers[value] = add_constant(self._graph, f"again/number.{len(self._numbers)}", array)
        return self._numbers[value]
