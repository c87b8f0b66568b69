"""Quantization-aware training: the network learns with its tensors rounded as the artifact will round them.

It starts from the post-training plan and rounds exactly the tensors of that plan; straight-through gradients
(Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference")
train weights and, as learned step sizes (Esser et al. 2020), scales. It ends in a graph and a plan.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgekit.compress.distill import Distillation, softened
from edgekit.compress.grids import Grid, Learned, MovingRange, MovingWeight
from edgekit.compress.loss import Loss
from edgekit.compress.module import GraphModule, from_torch
from edgekit.compress.steps import Context, Outcome, method
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError
from edgekit.graph import all_units, constant
from edgekit.passes import prepare
from edgekit.quant import calibrate, numerics
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
    starts from is drawn. Weights that are zero stay zero (``keep_zeros``), those of an output channel that are equal
    stay equal (``keep_clusters``). ``distil`` is the share of the loss that comes from the network before compression,
    softened by ``temperature``; with a share of 1 no labels are needed.
    """

    scales: Literal["learned", "moving"] = "learned"
    range: Literal["minmax", "percentile", "entropy", "mse"] = "mse"
    keep_zeros: bool = True
    keep_clusters: bool = False
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
    prepared, plan = post_training(graph, settings, context)
    module = QuantizedModule(prepared, plan, settings.scales == "learned")
    kept = Kept(module, settings.keep_zeros, settings.keep_clusters)
    how = settings.training
    loss = Loss(how.smoothing)
    if settings.distil:
        loss = Distillation(softened(settings.distil, settings.temperature, how.smoothing), context.teacher(), prepared)
    history = train(
        module, context.training, how, context.progress, loss=loss, after_step=kept, resume=context.checkpoint
    )
    trained, found = finished(module)
    return Outcome(trained, {**history.facts, "scales": settings.scales}, found)


def post_training(graph: ir.Model, settings: QuantizeAware, context: Context) -> tuple[ir.Model, QuantPlan]:
    """The prepared graph, BatchNormalization folded, and the plan that calibration alone gives."""
    prepared = prepare(graph)
    ranges = Method(settings.range)
    count = operator.length_hint(context.calibration)
    statistics = calibrate.observe(prepared, context.calibration, ranges, context.progress, count)
    return prepared, plan_for(prepared, "int8", calibrate.ranges_of(statistics, ranges), context.rules)


class QuantizedModule(GraphModule):
    """A prepared graph whose planned tensors are rounded; ``learned`` trains their scales, else they follow ranges.

    What the specification fixes stays, and what shares a scale has one grid.
    """

    _of: Mapping[str, Grid] = {}  # by tensor; none while the graph is looked at unrounded

    def __init__(self, graph: ir.Model, plan: QuantPlan, learned: bool) -> None:
        super().__init__(graph.clone())
        if self.mixes_batch and not learned:
            raise ConfigError('scales: the graph mixes the batch with other axes, so no range is seen; take "learned"')
        self.plan = plan
        groups = joined(self.graph, plan)
        fixed = {groups.find(str(u.outputs[0].name)) for u in all_units(self.graph.graph) if is_fixed(u, plan)}
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

    def scales(self) -> dict[str, QParams]:
        """Every rounded tensor's scale as it is now."""
        values = super().constants()
        return {name: grid.now(values.get(name, grid.first)) for name, grid in self._of.items()}


class Kept:
    """After each step: zeros and clusters of the weights as they were at first.

    Weights of one output channel that were equal stay equal (folding a BatchNormalization scales each channel by a
    factor of its own): each takes the mean of its cluster, which gives centroids the mean of their gradients
    (Han et al. 2016, "Deep compression", section 3, with a mean in place of the sum).
    """

    def __init__(self, module: QuantizedModule, zeros: bool, clusters: bool) -> None:
        weights = {name: q for name, q in module.plan.items() if q.narrow and name in module.held}
        arrays = {name: module.tensor(name).detach() for name in weights}
        self._masks = {name: array != 0 for name, array in arrays.items() if zeros and bool((array == 0).any())}
        self._labels = {name: _clusters(arrays[name], q) for name, q in weights.items()} if clusters else {}

    def __call__(self, module: GraphModule) -> None:
        """Put them back."""
        for name, labels in self._labels.items():
            weight = module.tensor(name)
            labels = self._labels[name] = labels.to(weight.device)
            sums = torch.zeros(int(labels.max()) + 1, device=weight.device).index_add_(0, labels, weight.reshape(-1))
            weight.copy_((sums / torch.bincount(labels))[labels].reshape(weight.shape))
        for name, mask in self._masks.items():
            mask = self._masks[name] = mask.to(module.tensor(name).device)
            module.tensor(name).mul_(mask)


def _clusters(weight: Tensor, q: QParams) -> Tensor:
    """For every weight the number of its cluster: equal weights of one channel have one."""
    array = weight.numpy()
    channel = np.zeros(array.shape) if q.axis is None else np.indices(array.shape)[q.axis]
    _, labels = np.unique(np.stack([channel.reshape(-1), array.reshape(-1)]), axis=1, return_inverse=True)
    return torch.from_numpy(labels.reshape(-1))


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
