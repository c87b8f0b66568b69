"""What a training makes small. A subclass of ``Loss`` asks for more of the model, and may learn along."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.batches import Batch
from edgekit.errors import DataError
from edgekit.graph import constant

WEIGHTED = ("Conv", "Gemm", "MatMul")


class Loss:
    """Cross-entropy with the labels. ``names`` are tensors that a subclass reads, ``learned`` what it trains along."""

    names: Sequence[str] = ()

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing
        self.learned = nn.ModuleDict()

    def __call__(self, found: dict[str, Tensor], output: str, batch: Batch) -> Tensor:
        """A scalar. Raises DataError when the data has no labels."""
        labels = batch[1]
        if labels is None:
            raise DataError("training data: has no labels; distillation can do without")
        scores = by_class(found[output], labels)
        if int(labels.min()) < 0 or int(labels.max()) >= scores.shape[1]:
            worst = int(labels.max()) if int(labels.min()) >= 0 else int(labels.min())
            raise DataError(f"training data: a label is {worst}; output {output} has {scores.shape[1]} classes, from 0")
        return functional.cross_entropy(scores, labels, label_smoothing=self.smoothing)


def by_class(scores: Tensor, labels: Tensor) -> Tensor:
    """Scores (batch, classes, ...) in float32, with the axes behind the classes that the labels (batch, ...) have.

    Raises DataError where these are others.
    """
    found = scores.float().flatten(1) if labels.ndim == 1 else scores.float()
    if found.shape[2:] != labels.shape[1:]:
        raise DataError(
            f"training data: a label is of shape {list(labels.shape[1:])}, scores of shape {list(scores.shape[1:])}; "
            "a label is the number of a class, of each position where there are several"
        )
    return found


def right(scores: Tensor, labels: Tensor) -> float:
    """The share of the labels that have the highest score."""
    return float((by_class(scores, labels).argmax(1) == labels).float().mean())


def scores_of(graph: ir.Graph) -> str:
    """The first output, or what a Softmax that it ends in reads: losses are of scores."""
    value = graph.outputs[0]
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Softmax" else None
    return str((source or value).name)


def classifier_input(graph: ir.Graph) -> str | None:
    """What the last layer with weights before the first output reads, unless it is the graph's own input."""
    node = graph.outputs[0].producer()
    while node is not None:
        read = [value for value in node.inputs if value is not None and constant(value) is None]
        source = read[0] if read else None
        if node.op_type in WEIGHTED and len(read) == 1:
            return None if source is None or source.is_graph_input() else str(source.name)
        node = source.producer() if source is not None else None
    return None
