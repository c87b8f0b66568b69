"""How much each class of channels matters: by its weights, by the loss, by its BatchNormalization, or by lot.

- ``l1``, ``l2``: the norm of the filters that make a channel, as a share of the mean of their layer (Li et al. 2017,
  "Pruning Filters for Efficient ConvNets").
- ``taylor``: the square of what the loss changes by, to first order, when a channel goes (Molchanov et al. 2019,
  "Importance Estimation for Neural Network Pruning"); batch by batch, behind BatchNormalization where there is one.
- ``bn-gamma``: the factor that BatchNormalization gives a channel (Liu et al. 2017, "Learning Efficient Convolutional
  Networks through Network Slimming").
- ``random``: the control that every other criterion has to beat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from edgekit.compress.batches import Batch, stacked
from edgekit.compress.channels import PRODUCERS, Channels
from edgekit.compress.module import GraphModule, to_torch
from edgekit.errors import DataError
from edgekit.graph import GATES, Array, attributes, constant
from edgekit.passes.rewrite import single_reader
from edgekit.samples import Sample

Criterion = Literal["l1", "l2", "taylor", "bn-gamma", "random"]
BATCH = 32


def importance(channels: Channels, criterion: Criterion, samples: Iterable[Sample], seed: int) -> Array:
    """The score of every class, by its number; NaN where the criterion has none. Raises DataError without labels."""
    if criterion == "random":
        drawn: Array = np.random.default_rng(seed).random(len(channels.classes))
        return drawn
    if criterion == "taylor":
        return _taylor(channels, samples)
    total, count = np.zeros(len(channels.classes)), np.zeros(len(channels.classes))
    for classes, scores in _gammas(channels) if criterion == "bn-gamma" else _norms(channels, criterion):
        np.add.at(total, classes, scores)
        np.add.at(count, classes, 1)
    found: Array = np.divide(total, count, where=count > 0, out=np.full(len(total), np.nan))
    return found


def makers(channels: Channels) -> Iterator[tuple[ir.Node, Array]]:
    """The nodes whose weights make channels, each with the class of each output channel."""
    for node in channels.graph:
        if node.op_type in PRODUCERS and (classes := channels.made(node)) is not None:
            yield node, classes


def filters(node: ir.Node, array: Array) -> Array:
    """A node's weights, or what is shaped as they are, as one row an output channel, or a hidden unit."""
    if node.op_type in GATES:
        units = int(attributes(node)["hidden_size"])
        return array.reshape(-1, units, *array.shape[2:]).swapaxes(0, 1).reshape(units, -1)
    if node.op_type == "ConvTranspose":
        group = int(attributes(node).get("group", 1))
        array = array.reshape(group, len(array) // group, *array.shape[1:]).swapaxes(1, 2)
        return array.reshape(array.shape[0] * array.shape[1], -1)
    turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes(node).get("transB"))
    return (array.T if turned else array).reshape(array.shape[1 if turned else 0], -1)


def makes(node: ir.Node) -> list[ir.Value]:
    """The weights whose rows make a node's output channels: of a hidden unit, also those that read the state."""
    return [value for value in node.inputs[1 : 3 if node.op_type in GATES else 2] if value is not None]


def norms_of(node: ir.Node) -> ir.Node | None:
    """The BatchNormalization that alone reads a node, or None."""
    reader = single_reader(node.outputs[0])
    return reader if reader is not None and reader.op_type == "BatchNormalization" else None


def _norms(channels: Channels, criterion: str) -> Iterator[tuple[Array, Array]]:
    for node, classes in makers(channels):
        weights = np.concatenate([filters(node, np.asarray(constant(value))) for value in makes(node)], 1)
        norms = np.linalg.norm(weights.astype(np.float64), 1 if criterion == "l1" else 2, axis=1)
        yield classes, norms / (norms.mean() or 1.0)


def _gammas(channels: Channels) -> Iterator[tuple[Array, Array]]:
    for node in channels.graph:
        found = channels.axis_of(node.outputs[0])
        if node.op_type == "BatchNormalization" and found is not None and found[0] == 1:
            gamma = constant(node.inputs[1])
            assert gamma is not None
            yield found[1], np.abs(gamma)


def _taylor(channels: Channels, samples: Iterable[Sample]) -> Array:
    module = to_torch(channels.model)
    total = np.zeros(len(channels.classes))
    names = [str(value.name) for value in channels.graph.inputs]
    output = str(channels.graph.outputs[0].name)
    for inputs, labels in _batches(samples, names):
        module.zero_grad(set_to_none=True)
        scores = module.run(inputs, [output])[output].flatten(1)
        assert labels is not None
        functional.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
        changed = np.zeros_like(total)
        for node, classes in makers(channels):
            passed = channels.axis_of(node.inputs[0])
            if (
                passed is None or not np.intersect1d(passed[1], classes[classes > 0]).size
            ):  # depthwise: counted before it
                np.add.at(changed, classes, _first_order(module, node))
        total += changed**2
    return total


def _first_order(module: GraphModule, node: ir.Node) -> Array:
    """The sum of gradient times value over what makes each output channel."""

    def product(value: ir.Value | None) -> Array:
        parameter = module.tensor(str(value.name))  # type: ignore[union-attr]
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found: Array = (grad * parameter).detach().double().numpy()
        return found

    norm = norms_of(node)
    if norm is not None:
        made = product(norm.inputs[1]) + product(norm.inputs[2])
    else:
        made = np.sum([filters(node, product(value)).sum(1) for value in makes(node)], 0)
        bias = node.inputs[1 + len(makes(node)) :][:1]
        if bias and bias[0] is not None:
            made = made + product(bias[0]).reshape(-1, len(made)).sum(0)
    return made


def _batches(samples: Iterable[Sample], names: list[str]) -> Iterator[Batch]:
    held: list[Sample] = []
    for sample in samples:
        if sample.label is None:
            raise DataError("training data: has no labels, which criterion taylor needs; l1 and l2 do without")
        held.append(sample)
        if len(held) == BATCH:
            yield stacked(held, names)
            held = []
    if held:
        yield stacked(held, names)
