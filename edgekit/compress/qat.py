"""Quantization-aware training: the network learns with its tensors rounded as the artifact will round them.

It starts from the post-training plan and rounds exactly the tensors of that plan; straight-through gradients
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference")
train weights and, as learned step sizes (Esser et al. 2020), scales. It ends in a graph and a plan.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from edgekit.compress.distill import Distillation, softened
from edgekit.compress.grids import Grid, Learned, MovingRange, MovingWeight
from edgekit.compress.kept import Kept
from edgekit.compress.loss import Loss
from edgekit.compress.module import GraphModule, from_torch
from edgekit.compress.steps import Context, Outcome, method
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError, UnsupportedError
from edgekit.graph import all_units, constant
from edgekit.passes import prepare
from edgekit.passes.steps import recurrent_nodes
from edgekit.quant import calibrate, codebook, numerics
from edgekit.quant.kernels import constant_weight
from edgekit.quant.plan import QParams, QuantPlan
from edgekit.quant.precision import plan_for
from edgekit.quant.ranges import Method
from edgekit.quant.solve import is_fixed, joined, least_scale

STORED = ("int8", "int16")  # what is rounded; a bias of 32 bits is as good as real


@dataclass(frozen=True)
class QuantizeAware:
    """Settings of ``quantize-aware``.

    ``scales`` are learned with the weights, or follow a moving range of what is seen. ``range`` is how the plan that it
    starts from is drawn. Weights that are zero stay zero (``keep_zeros``), and clustered ones share their few integers
    (``keep_clusters``). ``distil`` is the share of the loss that comes from the network before compression, softened by
    ``temperature``; with a share of 1 no labels are needed. A network with LSTM, GRU or RNN is refused.
    """

    scales: Literal["learned", "moving"] = "learned"
    range: Literal["minmax", "moving-average", "percentile", "entropy", "mse"] = "mse"
    keep_zeros: bool = True
    keep_clusters: bool = True
    distil: float = 0.0
    temperature: float = 4.0
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Raises ConfigError for what cannot be trained so."""
        if self.distil > 1:
            raise ConfigError(f"distil: {self.distil:g} was given, a share from 0 to 1 is needed")
        if self.training.mixed:
            raise ConfigError("mixed: bfloat16 does not tell neighbouring integers apart; leave it out here")


@method("quantize-aware", QuantizeAware, plans=True)
def quantize_aware(graph: ir.Model, settings: QuantizeAware, context: Context) -> Outcome:
    """Train with the tensors of the post-training plan rounded. What comes out is a prepared graph and its plan."""
    refuse_recurrent(graph)
    prepared, plan = post_training(graph, settings, context)
    shared = codebook.bounds(graph, prepared) if settings.keep_clusters else ()
    module = QuantizedModule(prepared, plan, settings.scales == "learned", shared)
    kept = Kept(module, settings.keep_zeros, module.units())
    how = settings.training
    loss = Loss(how.smoothing)
    if settings.distil:
        loss = Distillation(softened(settings.distil, settings.temperature, how.smoothing), context.teacher(), prepared)
    history = train(
        module, context.training, how, context.progress, loss=loss, after_step=kept, resume=context.checkpoint
    )
    kept(module)
    trained, found = finished(module)
    return Outcome(trained, {**history.facts, "scales": settings.scales}, found)


def refuse_recurrent(graph: ir.Model) -> None:
    """Raises UnsupportedError that names the recurrent layers: an artifact holds them in a form of their own."""
    found = [f"node {node.name}: quantize-aware does not train {node.op_type}" for node in recurrent_nodes(graph.graph)]
    if found:
        raise UnsupportedError(found)


def post_training(graph: ir.Model, settings: QuantizeAware, context: Context) -> tuple[ir.Model, QuantPlan]:
    """The prepared graph, BatchNormalization folded, and the plan that calibration alone gives."""
    prepared = prepare(graph)
    ranges = Method(settings.range)
    count = operator.length_hint(context.calibration)
    statistics = calibrate.observe(prepared, context.calibration, ranges, context.progress, count)
    rules = replace(context.rules, bounds=codebook.bounds(graph, prepared) if settings.keep_clusters else {})
    return prepared, plan_for(prepared, "int8", calibrate.ranges_of(statistics, ranges), rules)


class QuantizedModule(GraphModule):
    """A prepared graph whose planned tensors are rounded; ``learned`` trains their scales, else they follow ranges.

    What the specification fixes stays, as do the scales of the weights that ``shared`` names, whose values are few in
    all channels only while the scales of these are in proportion; what shares a scale has one grid.
    """

    _of: Mapping[str, Grid] = {}  # by tensor; none while the graph is looked at unrounded

    def __init__(self, graph: ir.Model, plan: QuantPlan, learned: bool, shared: Iterable[str] = ()) -> None:
        super().__init__(graph.clone())
        if self.mixes_batch and not learned:
            raise ConfigError('scales: the graph mixes the batch with other axes, so no range is seen; take "learned"')
        self.plan, self.shared = plan, [name for name in shared if name in plan]
        groups = joined(self.graph, plan)
        pinned = {str(u.outputs[0].name) for u in all_units(self.graph.graph) if is_fixed(u, plan)}
        fixed = {groups.find(name) for name in (*pinned, *self.shared)}
        members: dict[str, list[str]] = {}
        for name, q in plan.items():
            if q.dtype in STORED:
                members.setdefault(groups.find(name), []).append(name)
        grids = {root: self._grid(names, root in fixed, learned) for root, names in members.items()}
        self._grids = nn.ModuleList(grids.values())
        self._of = {name: grids[root] for root, names in members.items() for name in names}
        self.eval()

    def _grid(self, names: list[str], fixed: bool, learned: bool) -> Grid:
        q = self.plan[names[0]]
        if fixed:
            return Grid(q)
        if learned:
            return Learned(q)
        return MovingWeight(q) if q.narrow else MovingRange(q, names)

    def constants(self) -> dict[str, Tensor]:
        """Weights and other planned constants, rounded."""
        return {name: self.seen(name, tensor) for name, tensor in super().constants().items()}

    def seen(self, name: str, tensor: Tensor) -> Tensor:
        """A planned tensor, rounded."""
        grid = self._of.get(name)
        return tensor if grid is None else grid(tensor, name)

    def units(self) -> dict[str, Tensor]:
        """What each weight whose integers are ``shared`` is a multiple of: its scales, along its channels."""
        return {name: self._of[name].along(self._of[name].first, self.tensor(name).ndim) for name in self.shared}

    def scales(self) -> dict[str, QParams]:
        """Every rounded tensor's scale as it is now."""
        values = super().constants()
        return {name: grid.now(values.get(name, grid.first)) for name, grid in self._of.items()}


def finished(module: QuantizedModule) -> tuple[ir.Model, QuantPlan]:
    """The trained graph, its constants on their grids, and the plan of the trained scales."""
    graph = from_torch(module)
    tensors = {**module.plan.tensors, **module.scales()}
    for unit in all_units(graph.graph):
        weight, bias, out = constant_weight(unit), unit.bias_value, tensors.get(str(unit.outputs[0].name))
        source = tensors.get(str(unit.node.inputs[0].name)) if unit.node.inputs[0] is not None else None
        if weight is None or source is None or out is None or str(weight.name) not in tensors:
            continue
        q = tensors[str(weight.name)]
        least = np.broadcast_to(least_scale(source, out, constant(bias), q.axis), len(q.scale))
        bound = np.maximum(q.scale, least) * q.limits[1]
        tensors[str(weight.name)] = q = numerics.symmetric(bound, q.axis, q.dtype)
        if bias is not None and str(bias.name) in tensors:
            tensors[str(bias.name)] = numerics.bias(source, q)
    for name, value in graph.graph.initializers.items():
        array, grid = constant(value), tensors.get(name)
        if array is not None and grid is not None and grid.dtype in STORED:
            stored = numerics.dequantize(numerics.quantize(np.asarray(array), grid), grid)
            value.const_value = ir.tensor(stored, name=name)
    return graph, replace(module.plan, tensors=tensors)
