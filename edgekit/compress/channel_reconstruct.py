"""Fit what is left of a cut layer's weights to what the whole layer made of the whole input.

Layer after layer, each on what the cut network before it really gives, by least squares (He et al. 2017, "Channel
Pruning for Accelerating Very Deep Neural Networks", section 3.1). No labels are needed. The least squares are solved by
conjugate gradients on the op itself, started at the weights there are (CGLS; Björck 1996, "Numerical Methods for Least
Squares Problems", algorithm 7.4.1), so that a convolution needs no unfolding; few iterations keep near the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from edgekit.compress.batches import stacked
from edgekit.compress.channel_cut import Cut
from edgekit.compress.functions import FUNCTIONS
from edgekit.compress.module import GraphModule, from_torch, to_torch
from edgekit.errors import ModelError
from edgekit.graph import attributes, constant
from edgekit.samples import Sample

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ITERATIONS = 5
EXACT = 1e-12  # of the squared gradient at the start


def reconstructed(cut: Cut, left: ir.Model, samples: Iterable[Sample]) -> ir.Model:
    """What a cut leaves, ``left``, with the weights of every layer that reads less fitted to what it gave before.

    Raises ModelError for a graph that cannot be fed several samples at once.
    """
    whole = to_torch(cut.channels.model)
    if whole.mixes_batch:
        raise ModelError("channel-prune: reconstruct: the graph mixes the batch with other axes; leave it out")
    names = [str(value.name) for value in whole.graph.graph.inputs]
    inputs, _ = stacked(samples, names)
    fitted = [new for old, new in zip(cut.channels.graph, left.graph, strict=True) if _reads_less(cut, old)]
    outputs = {str(node.outputs[0].name) for node in fitted}
    with torch.no_grad():
        wanted = whole.run(inputs, sorted(outputs))
        for value in (v for node in cut.channels.graph for v in node.outputs if str(v.name) in outputs):
            if (kept := cut.kept(value)) is not None:
                places = torch.from_numpy(kept[1]).nonzero()[:, 0]
                wanted[str(value.name)] = wanted[str(value.name)].index_select(kept[0], places)
        module = _Fitting(left.clone())
        module.fit(fitted, wanted)
        module.run(inputs, [])
    return from_torch(module)


def _reads_less(cut: Cut, node: ir.Node) -> bool:
    """Whether it has weights of its own and its input lost channels that it sums over."""
    weights = node.inputs[1] if node.op_type in LINEAR else None
    return (
        weights is not None
        and constant(weights) is not None
        and len(weights.uses()) == 1
        and cut.kept(node.inputs[0]) is not None
        and int(attributes(node).get("group", 1)) == 1
    )


def _read_by(node: ir.Node) -> tuple[str, str]:
    """The names of a layer's input and of its weights."""
    source, weights = node.inputs[:2]
    assert source is not None and weights is not None
    return str(source.name), str(weights.name)


class _Fitting(GraphModule):
    """A graph that fits some layers' weights as it runs, each before anything reads what it gives."""

    def __init__(self, graph: ir.Model) -> None:
        self._fitted: dict[str, ir.Node] = {}
        self._wanted: dict[str, Tensor] = {}
        self._sources: set[str] = set()
        self._read: dict[str, Tensor] = {}
        super().__init__(graph)
        self.eval()

    def fit(self, nodes: Sequence[ir.Node], wanted: dict[str, Tensor]) -> None:
        """From now on these nodes are to give what is wanted of their outputs."""
        self._fitted, self._wanted = {str(node.outputs[0].name): node for node in nodes}, wanted
        self._sources = {_read_by(node)[0] for node in nodes}

    def seen(self, name: str, tensor: Tensor) -> Tensor:
        if name in self._fitted:
            tensor = self._fit(self._fitted[name], tensor, self._wanted.pop(name))
        if name in self._sources:
            self._read[name] = tensor
        return tensor

    def _fit(self, node: ir.Node, given: Tensor, wanted: Tensor) -> Tensor:
        """The node's outputs, ``given`` so far, after its weights have moved towards what is wanted."""
        source, name = _read_by(node)
        x, weights = self._read[source], self.tensor(name)

        def output(change: Tensor) -> Tensor:
            found: Tensor = FUNCTIONS[node.op_type](x, change, **attributes(node))
            return found

        change = least_squares(output, torch.zeros_like(weights), wanted - given)
        weights += change
        return given + output(change)


def least_squares(output: Callable[[Tensor], Tensor], zero: Tensor, wanted: Tensor) -> Tensor:
    """About the ``change``, from ``zero`` on, for which the linear ``output(change)`` is nearest to what is wanted."""
    change, residual = zero, wanted

    def back(error: Tensor) -> Tensor:
        with torch.enable_grad():
            at = zero.clone().requires_grad_()
            return torch.autograd.grad(output(at), at, error)[0]

    slope = back(residual)
    direction, power = slope, float(slope.pow(2).sum())
    first = power
    for _ in range(ITERATIONS):
        if power <= EXACT * first:
            break
        moved = output(direction)
        length = power / float(moved.pow(2).sum())
        change, residual = change + length * direction, residual - length * moved
        slope = back(residual)
        last, power = power, float(slope.pow(2).sum())
        direction = slope + power / last * direction
    return change
