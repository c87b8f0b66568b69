"""Low-rank decomposition: a layer becomes two to four smaller ones in a row, where that multiplies less.

matrix      Gemm, MatMul and 1x1 Conv: W = U V by the singular value decomposition
tucker      a k x k Conv: 1x1 to fewer channels, k x k between them, 1x1 back (Kim et al. 2016, "Compression of deep
            convolutional neural networks for fast and low power mobile applications")
spatial     a k x k Conv: k x 1, then 1 x k (Jaderberg et al. 2014; Tai et al. 2016)
cp          a k x k Conv: 1x1 to some channels, a k x 1 and a 1 x k kernel for each, 1x1 back (Lebedev et al. 2015)
separable   a k x k Conv: a depthwise one of some kernels a channel, then 1x1; the nearest such layer for each channel
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgekit.compress import cp
from edgekit.compress.layers import Layer, layers_of, macs_of, macs_of_node
from edgekit.compress.ranks import by_energy, by_vbmf
from edgekit.compress.steps import Context, Outcome, method, trained
from edgekit.compress.training import Training
from edgekit.errors import ConfigError
from edgekit.frontends.onnx import infer_shapes
from edgekit.graph import Array, attributes, shape_of
from edgekit.passes.constants import remove_unused
from edgekit.passes.rewrite import add_constant, drop, put_in_place

HALVINGS = 30  # of the share of energy, in search of a budget
Ranks = tuple[int, ...]


@dataclass(frozen=True)
class LowRank:
    """Settings of ``low-rank``.

    ``kind`` is what becomes of k x k convolutions; matrices are decomposed in any case. Ranks hold the share ``energy``
    of a weight's squares, or the largest such share with which the whole network multiplies at most ``macs`` of what it
    did; with neither they are those that stand out from noise (VBMF). Of cp these are the ranks of ``spatial``, at
    which cp holds less. ``skip`` names what is left alone.
    """

    kind: Literal["tucker", "spatial", "cp", "separable"] = "tucker"
    energy: float | None = None
    macs: float | None = None
    skip: tuple[str, ...] = ()
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.energy is not None and self.macs is not None:
            raise ConfigError("energy: either energy or macs says the ranks")
        for key, share in (("energy", self.energy), ("macs", self.macs)):
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"{key}: {share:g} was given, a share above 0 and up to 1 is needed")


@dataclass(frozen=True)
class Part:
    """One of the layers that stand in for another: its weight, its attributes, and what it is called."""

    name: str
    weight: Array
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """A decomposition: the matrices whose ranks it is given by, what it costs, and the layers it gives.

    Of a stack of matrices (three axes) all have one rank.
    """

    matrices: Callable[[Array], list[Array]]
    cost: Callable[[Layer, Ranks], int]
    parts: Callable[[Layer, Ranks], list[Part]]


def weight_of(layer: Layer) -> Array:
    """The weight in float64 with outputs, then inputs, in front; a Gemm's factor alpha is in it."""
    found = np.moveaxis(layer.array.astype(np.float64), (layer.outputs, layer.inputs), (0, 1))
    return found * float(attributes(layer.node).get("alpha", 1.0)) if layer.node.op_type == "Gemm" else found


def _svd(matrix: Array, rank: int) -> tuple[Array, Array]:
    """Two factors of that rank, nearest to a matrix in their product; the singular values are in both alike."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[..., :rank])
    return left[..., :rank] * root[..., None, :], root[..., None] * right[..., :rank, :]


def _positions(value: ir.Value | None, channels: int) -> int:
    return 0 if value is None else prod(shape_of(value)) // channels


def _window(layer: Layer) -> dict[str, Any]:
    known = ("auto_pad", "dilations", "pads", "strides", "kernel_shape")
    return {name: v for name, v in attributes(layer.node).items() if name in known}


def _matrix_cost(layer: Layer, ranks: Ranks) -> int:
    outs, ins = map(int, weight_of(layer).shape[:2])
    return _positions(layer.node.outputs[0], outs) * ranks[0] * (outs + ins)


def _matrix_parts(layer: Layer, ranks: Ranks) -> list[Part]:
    weight = weight_of(layer)
    last, first = _svd(weight.reshape(weight.shape[:2]), ranks[0])
    if layer.node.op_type == "MatMul":
        return [Part("first", first.T), Part("last", last.T)]
    if layer.node.op_type == "Gemm":
        beta = attributes(layer.node).get("beta", 1.0)
        return [Part("first", first, {"transB": 1}), Part("last", last, {"transB": 1, "beta": beta})]
    ones = (1,) * (weight.ndim - 2)
    return [
        Part("first", first.reshape(*first.shape, *ones), _window(layer)),
        Part("last", last.reshape(*last.shape, *ones)),
    ]


def _tucker_matrices(weight: Array) -> list[Array]:
    return [weight.reshape(len(weight), -1), weight.swapaxes(0, 1).reshape(weight.shape[1], -1)]


def _tucker_cost(layer: Layer, ranks: Ranks) -> int:
    outs, ins, *kernel = map(int, layer.array.shape)
    before, after = _positions(layer.node.inputs[0], ins), _positions(layer.node.outputs[0], outs)
    core = after * ranks[0] * ranks[1] * prod(kernel)
    return (
        core + (before * ins * ranks[1] if ranks[1] < ins else 0) + (after * outs * ranks[0] if ranks[0] < outs else 0)
    )


def _tucker_parts(layer: Layer, ranks: Ranks) -> list[Part]:
    """The core is the weight in the bases of the leading singular vectors; a side of full rank needs no layer."""
    weight = weight_of(layer)
    outs, ins = weight.shape[:2]
    bases = [
        np.linalg.svd(m, full_matrices=False)[0][:, :r] for m, r in zip(_tucker_matrices(weight), ranks, strict=True)
    ]
    wide = [ranks[0] < outs and bases[0], ranks[1] < ins and bases[1]]
    core = weight if wide[0] is False else np.tensordot(wide[0].T, weight, 1)
    core = core if wide[1] is False else np.moveaxis(np.tensordot(core, wide[1], (1, 0)), -1, 1)
    ones = (1,) * (weight.ndim - 2)
    found = [Part("core", core, _window(layer))]
    if wide[1] is not False:
        found.insert(0, Part("first", wide[1].T.reshape(ranks[1], ins, *ones)))
    if wide[0] is not False:
        found.append(Part("last", wide[0].reshape(outs, ranks[0], *ones)))
    return found


def _spatial_matrices(weight: Array) -> list[Array]:
    outs, ins, height, width = weight.shape
    return [weight.transpose(1, 2, 0, 3).reshape(ins * height, outs * width)]


def _spatial_cost(layer: Layer, ranks: Ranks) -> int:
    outs, ins, height, width = map(int, layer.array.shape)
    before, after = (shape_of(v) for v in (layer.node.inputs[0], layer.node.outputs[0]) if v is not None)
    return ranks[0] * after[0] * after[2] * (before[3] * ins * height + after[3] * outs * width)


def _spatial_parts(layer: Layer, ranks: Ranks) -> list[Part]:
    weight, rank = weight_of(layer), ranks[0]
    outs, ins, height, width = weight.shape
    first, last = _svd(_spatial_matrices(weight)[0], rank)
    vertical = first.reshape(ins, height, rank).transpose(2, 0, 1)[..., None]
    horizontal = last.reshape(rank, outs, width).transpose(1, 0, 2)[:, :, None]
    return [Part("first", vertical, _along(layer, 0)), Part("last", horizontal, _along(layer, 1))]


def _cp_cost(layer: Layer, ranks: Ranks) -> int:
    outs, ins, height, width = map(int, layer.array.shape)
    before, after = (shape_of(v) for v in (layer.node.inputs[0], layer.node.outputs[0]) if v is not None)
    between = after[2] * (before[3] * height + after[3] * width)
    return ranks[0] * after[0] * (before[2] * before[3] * ins + between + after[2] * after[3] * outs)


def _cp_parts(layer: Layer, ranks: Ranks) -> list[Part]:
    last, first, vertical, horizontal = cp.decompose(weight_of(layer), ranks[0])
    return [
        Part("first", first.T[:, :, None, None]),
        Part("vertical", vertical.T[:, None, :, None], {**_along(layer, 0), "group": ranks[0]}),
        Part("horizontal", horizontal.T[:, None, None], {**_along(layer, 1), "group": ranks[0]}),
        Part("last", last[:, :, None, None]),
    ]


def _along(layer: Layer, axis: int) -> dict[str, Any]:
    """The attributes of a two-dimensional window as they are for one of its axes alone."""
    found = {name: v for name, v in _window(layer).items() if name != "kernel_shape"}
    for name, values in found.items():
        neutral = 0 if name == "pads" else 1
        if name != "auto_pad":
            found[name] = [int(v) if i % 2 == axis else neutral for i, v in enumerate(values)]
    return found


def _separable_matrices(weight: Array) -> list[Array]:
    return [weight.swapaxes(0, 1).reshape(weight.shape[1], len(weight), -1)]


def _separable_cost(layer: Layer, ranks: Ranks) -> int:
    outs, ins, *kernel = map(int, layer.array.shape)
    return _positions(layer.node.outputs[0], outs) * ins * ranks[0] * (prod(kernel) + outs)


def _separable_parts(layer: Layer, ranks: Ranks) -> list[Part]:
    weight = weight_of(layer)
    outs, ins, *kernel = weight.shape
    last, first = _svd(_separable_matrices(weight)[0], ranks[0])  # (ins, outs, rank), (ins, rank, taps)
    mixing = last.transpose(1, 0, 2).reshape(outs, ins * ranks[0], *(1,) * len(kernel))
    return [
        Part("first", first.reshape(ins * ranks[0], 1, *kernel), {**_window(layer), "group": ins}),
        Part("last", mixing),
    ]


FORMS = {
    "matrix": Form(lambda weight: [weight.reshape(weight.shape[:2])], _matrix_cost, _matrix_parts),
    "tucker": Form(_tucker_matrices, _tucker_cost, _tucker_parts),
    "spatial": Form(_spatial_matrices, _spatial_cost, _spatial_parts),
    "cp": Form(_spatial_matrices, _cp_cost, _cp_parts),
    "separable": Form(_separable_matrices, _separable_cost, _separable_parts),
}


def form_of(layer: Layer, kind: str) -> str | None:
    """The decomposition that a layer can have, or None."""
    node, array, attrs = layer.node, layer.array, attributes(layer.node)
    alone = len(layer.weight.uses()) == 1 and not layer.weight.is_graph_output()
    if not alone or node.inputs[0] is None or node.inputs[0] is layer.weight:
        return None
    if node.op_type == "Gemm":
        return None if attrs.get("transA", 0) else "matrix"
    if node.op_type == "MatMul":
        return "matrix" if array.ndim == 2 else None
    if node.op_type != "Conv" or int(attrs.get("group", 1)) > 1:
        return None
    if prod(array.shape[2:]) == 1:
        return "matrix"
    return None if kind in ("spatial", "cp") and (array.ndim != 4 or 1 in array.shape[2:]) else kind


@dataclass(frozen=True)
class Candidate:
    """A layer, how it can be decomposed, what it costs, and the singular values of each matrix of the form."""

    layer: Layer
    kind: str
    macs: int
    spectra: list[Array]
    shapes: list[tuple[int, int]]

    @classmethod
    def of(cls, layer: Layer, kind: str) -> Candidate:
        """With everything that ranks are chosen by."""
        matrices = FORMS[kind].matrices(weight_of(layer))
        spectra = [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices]
        return cls(layer, kind, macs_of_node(layer.node), spectra, [(m.shape[-2], m.shape[-1]) for m in matrices])

    def ranks(self, energy: float | None) -> Ranks:
        """By a share of energy, else by VBMF."""
        if energy is not None:
            return tuple(by_energy(np.sqrt((s.reshape(-1, s.shape[-1]) ** 2).sum(0)), energy) for s in self.spectra)
        stacks = [(s.reshape(-1, s.shape[-1]), shape) for s, shape in zip(self.spectra, self.shapes, strict=True)]
        return tuple(round(sum(by_vbmf(s, shape) for s in stack) / len(stack)) for stack, shape in stacks)

    def cost(self, ranks: Ranks) -> int:
        """Multiply-adds with these ranks, or as it is where that is no more."""
        return min(self.macs, FORMS[self.kind].cost(self.layer, ranks))


@method("low-rank", LowRank)
def low_rank(graph: ir.Model, settings: LowRank, context: Context) -> Outcome:
    """Replace layers by smaller ones in a row, where that is cheaper; then train them, if epochs are asked for."""
    copy = graph.clone()
    found = [(layer, form_of(layer, settings.kind)) for layer in layers_of(copy, settings.skip)]
    candidates = [Candidate.of(layer, kind) for layer, kind in found if kind is not None]
    before = macs_of(copy)
    energy = settings.energy if settings.macs is None else _within(candidates, before, settings.macs)
    facts: dict[str, Any] = {"macs_before": before, "layers": {}, "left": [x.name for x, kind in found if kind is None]}
    for candidate in candidates:
        ranks, name = candidate.ranks(energy), candidate.layer.name
        after = candidate.cost(ranks)
        if after >= candidate.macs:
            facts["left"].append(name)
            continue
        said = {"kind": candidate.kind, "ranks": list(ranks), "macs_before": candidate.macs, "macs_after": after}
        facts["layers"][name] = said
        replace(copy, candidate.layer, FORMS[candidate.kind].parts(candidate.layer, ranks))
    remove_unused(copy)
    copy = infer_shapes(copy)
    facts |= {"macs_after": macs_of(copy)} | ({} if energy is None else {"energy": energy})
    if not settings.training.epochs:
        return Outcome(copy, facts)
    done = trained(copy, settings.training, context)
    return Outcome(done.graph, {**facts, **done.facts})


def _within(candidates: list[Candidate], before: int, share: float) -> float:
    """The largest share of energy with which the network multiplies at most ``share`` of ``before``."""
    others = before - sum(candidate.macs for candidate in candidates)

    def costs(energy: float) -> int:
        return others + sum(candidate.cost(candidate.ranks(energy)) for candidate in candidates)

    low, high = 0.0, 1.0
    if costs(low) > share * before:
        least = costs(low) / before
        raise ConfigError(f"macs: {share:g} was given, but with ranks of 1 the network still needs {least:.3f}")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if costs(middle) <= share * before else (low, middle)
    return low


def replace(model: ir.Model, layer: Layer, parts: list[Part]) -> None:
    """Put layers in a row in the place of one; its bias goes to the last, whose output keeps the name."""
    graph, node, stem = model.graph, layer.node, layer.name.removesuffix(".weight")
    old, read, made = node.outputs[0], node.inputs[0], list[ir.Node]()
    name = old.name
    for part in parts:
        weight = add_constant(graph, f"{stem}.{part.name}.weight", part.weight.astype(layer.array.dtype))
        inputs = [read, weight, *(node.inputs[2:3] if part is parts[-1] else ())]
        given = {"kernel_shape": list(part.weight.shape[2:])} if node.op_type == "Conv" else {}
        attrs = convenience.convert_attributes({**part.attributes, **given})
        made.append(ir.Node("", node.op_type, inputs, attrs, name=f"{node.name}/{part.name}"))
        read = made[-1].outputs[0]
        read.name, read.type = f"{name}/{part.name}", old.type
    last = made[-1].outputs[0]
    last.shape = old.shape
    graph.insert_after(node, made)
    put_in_place(graph, old, last)
    drop(graph, node)
    last.name = name
