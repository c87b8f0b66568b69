"""The one graph as a ``torch.nn.Module`` and back: same parameters, same names, same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgekit.compress import indexing, moves, recurrent, windows  # noqa: F401 - they register their functions
from edgekit.compress.functions import FUNCTIONS
from edgekit.errors import ModelError, UnsupportedError
from edgekit.graph import GATES, attributes, constant, is_float, shape_of
from edgekit.passes import opened

STATISTICS = {"BatchNormalization": (3, 4)}  # inputs that training moves without a gradient
SHAPED = {"Reshape": 1, "Expand": 1}  # the input that says the shape, batch included


class GraphModule(nn.Module):
    """A graph that torch runs and trains. Parameters are the constants that ops multiply with or add, by their names.

    Inputs are positional, in the graph's order, outputs one tensor or a tuple. Any batch may be fed.
    """

    def __init__(self, graph: ir.Model) -> None:
        super().__init__()
        self.graph = graph
        self._nodes = list(graph.graph)
        if unknown := unfit(graph.graph):
            raise UnsupportedError(unknown)
        self._held: dict[str, tuple[nn.Module, str]] = {}
        self._fixed: dict[str, Tensor] = {}
        moved = [node.inputs[i] for node in self._nodes for i in STATISTICS.get(node.op_type, ())]
        statistics = {str(value.name) for value in moved if value is not None}
        for name, value in graph.graph.initializers.items():
            self._hold(name, value, name in statistics)
        self.dropped: dict[str, float] = {}  # of tensors that are dropped in training, the share
        self._batch = (shape_of(graph.graph.inputs[0]) or (1,))[0]
        self._last = self._last_uses()
        self._apart = not self._takes_batches()

    def _hold(self, name: str, value: ir.Value, statistic: bool) -> None:
        array = np.array(constant(value))
        if not is_float(value) or (array.size == 1 and not statistic and array.ndim == 0):
            self._fixed[name] = torch.from_numpy(array)
            return
        place, leaf = self._place(name)
        if statistic:
            place.register_buffer(leaf, torch.from_numpy(array))
        else:
            place.register_parameter(leaf, nn.Parameter(torch.from_numpy(array)))
        self._held[name] = (place, leaf)

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """Where a name with dots lives, so that ``state_dict`` says it as the source did.

        What is taken (``w.bias`` beside a parameter ``w``, a name of a module's own attribute) is written with slashes.
        """
        *path, leaf = name.split(".")
        place: nn.Module = self
        for part in path:
            found = getattr(place, part, None)
            if found is None:
                place.add_module(part, nn.Module())
                found = getattr(place, part)
            if not isinstance(found, nn.Module):
                place, leaf = self, name.replace(".", "/")
                break
            place = found
        while hasattr(place, leaf):
            leaf += "/"
        return place, leaf

    def tensor(self, name: str) -> Tensor:
        """The parameter or statistic of that name."""
        place, leaf = self._held[name]
        found: Tensor = getattr(place, leaf)
        return found

    @property
    def mixes_batch(self) -> bool:
        """Whether the graph folds the batch into other axes, so that samples are run one by one."""
        return self._apart

    @property
    def held(self) -> Sequence[str]:
        """The names of all parameters and statistics, as in the graph."""
        return tuple(self._held)

    def _last_uses(self) -> dict[ir.Node, list[str]]:
        """What nobody reads after each node."""
        outputs = {str(value.name) for value in self.graph.graph.outputs}
        last: dict[str, ir.Node] = {}
        for node in self._nodes:
            last |= {str(value.name): node for value in (*node.inputs, *node.outputs) if value is not None}
        found: dict[ir.Node, list[str]] = {}
        for name, node in last.items():
            if name not in outputs:
                found.setdefault(node, []).append(name)
        return found

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs for a batch: one tensor, or a tuple of several."""
        names = [str(value.name) for value in self.graph.graph.outputs]
        values = self.run(inputs, names)
        found = tuple(values[name] for name in names)
        return found[0] if len(found) == 1 else found

    def run(self, inputs: Sequence[Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Tensors by name for a batch, inner ones among them."""
        if not self._apart or len(inputs[0]) == self._batch:
            return self._run(inputs, names)
        if self.training and any(node.op_type == "BatchNormalization" for node in self._nodes):
            raise ModelError(
                f"the graph mixes the batch with other axes, so it trains with a batch of {self._batch} only"
            )

        def one(*sample: Tensor) -> dict[str, Tensor]:
            return self._run(sample, names)

        parts = [value.reshape(-1, self._batch, *value.shape[1:]) for value in inputs]
        found = torch.func.vmap(one, randomness="different")(*parts)
        return {name: value.reshape(-1, *value.shape[2:]) for name, value in found.items()}

    def _takes_batches(self) -> bool:
        """Whether two batches at once give what each gives: some graphs fold the batch into other axes."""
        draw = torch.Generator().manual_seed(0)
        ports = self.graph.graph.inputs
        if any(not is_float(value) or not value.shape for value in ports):
            return False
        inputs = [torch.randn(2 * self._batch, *shape_of(value)[1:], generator=draw) for value in ports]
        names = [str(value.name) for value in self.graph.graph.outputs]
        was, self._apart = self.training, False
        self.eval()
        try:
            with torch.no_grad():
                both = self._run(inputs, names)
                first = self._run([value[: self._batch] for value in inputs], names)
        except (ModelError, RuntimeError):
            return False
        finally:
            self.train(was)
        return all(
            len(both[n]) == 2 * len(first[n]) and torch.allclose(both[n][: len(first[n])], first[n], 1e-3, 1e-4)
            for n in names
        )

    def _run(self, inputs: Sequence[Tensor], keep: Sequence[str]) -> dict[str, Tensor]:
        values = self.constants()
        for value, tensor in zip(self.graph.graph.inputs, inputs, strict=True):
            values[str(value.name)] = self.seen(str(value.name), tensor)
        kept = set(keep)
        for node in self._nodes:
            if kept and kept <= values.keys():
                break
            read = [None if value is None else values[str(value.name)] for value in node.inputs]
            given = self._compute(node, read, inputs[0].shape[0] if inputs[0].ndim else 1)
            for value, tensor in zip(node.outputs, given, strict=False):
                name = str(value.name)
                values[name] = self.seen(name, tensor)
                if self.training and name in self.dropped:
                    values[name] = nn.functional.dropout(values[name], self.dropped[name])
            for name in self._last.get(node, ()):
                if name not in kept:
                    values.pop(name, None)
        return {name: values[name] for name in keep}

    def constants(self) -> dict[str, Tensor]:
        """What the ops read besides activations: parameters, statistics, what is fixed; a subclass may round them."""
        return self._fixed | {name: getattr(place, leaf) for name, (place, leaf) in self._held.items()}

    def seen(self, name: str, tensor: Tensor) -> Tensor:
        """What stands for a fed or computed tensor from here on: itself; a subclass may mask or round it."""
        return tensor

    def _compute(self, node: ir.Node, read: list[Tensor | None], batch: int) -> Sequence[Tensor]:
        given = attributes(node)
        if node.op_type in SHAPED:
            return (self._reshaped(node, read, batch),)
        if node.op_type == "Concat":
            read = self._one_batch(read, batch, int(given["axis"]))
        if node.op_type == "BatchNormalization":
            given["training_mode"] = int(self.training)
        if node.op_type == "Dropout":
            read = [*read[:1], *(read[1:2] or [None]), torch.tensor(self.training)]
        found = FUNCTIONS[node.op_type](*read, **given)
        return found if isinstance(found, tuple) else (found,)

    def _one_batch(self, read: list[Tensor | None], batch: int, axis: int) -> list[Tensor | None]:
        """Constants of one sample beside tensors of a batch (a class token), once for each of it."""
        sizes = {len(t) for t in read if t is not None and t.ndim}
        if axis == 0 or sizes != {batch, self._batch}:
            return read
        return [t.expand(batch, *t.shape[1:]) if t is not None and len(t) == self._batch == 1 else t for t in read]

    def _reshaped(self, node: ir.Node, read: list[Tensor | None], batch: int) -> Tensor:
        """Reshape or Expand, whose first length follows the batch where it is the graph's."""
        data, target = read
        assert data is not None and target is not None
        shape = [int(n) for n in target]
        source = node.inputs[0]
        follows = batch != self._batch and source is not None and shape_of(source)[:1] == (self._batch,)
        if node.op_type == "Expand":
            rank = max(data.ndim, len(shape))
            ours = [1] * (rank - data.ndim) + list(data.shape)
            wanted = [1] * (rank - len(shape)) + shape
            if follows and wanted[0] == self._batch:
                wanted[0] = batch
            return data.expand(*(max(a, b) for a, b in zip(ours, wanted, strict=True)))
        if not attributes(node).get("allowzero"):
            shape = [data.shape[i] if n == 0 else n for i, n in enumerate(shape)]
        if follows and shape and shape[0] == self._batch:
            shape[0] = batch
        try:
            return data.reshape(shape)
        except RuntimeError as error:
            raise ModelError(
                f"node {node.name}: mixes the batch with other axes, so it trains with a batch of {self._batch} only"
            ) from error


def unfit(graph: ir.Graph) -> list[str]:
    """Every node that torch has no form of, one line each."""
    return [
        f"node {node.name}: op {node.op_type} has no training form"
        for node in graph
        if node.domain or node.op_type not in {*FUNCTIONS, *SHAPED} or not _fits(node)
    ]


def _fits(node: ir.Node) -> bool:
    """Whether torch has this form of an op that it has in part."""
    source, out = (node.inputs or [None])[0], node.outputs[0]
    if node.op_type in GATES:
        return recurrent.is_plain(node)
    if node.op_type != "Resize" or source is None:
        return True
    return windows.resizable(shape_of(source), shape_of(out), attributes(node))


def to_torch(graph: ir.Model) -> GraphModule:
    """The graph as a module, in evaluation mode. Raises UnsupportedError that names every op torch has no form of.

    Parameters keep their names. Where a node is none that torch has, the graph is first spelled out (``opened``).
    """
    return GraphModule(opened(graph) if unfit(graph.graph) else graph.clone()).eval()


def from_torch(module: GraphModule) -> ir.Model:
    """A copy of the module's graph with its parameters and statistics as they are now."""
    graph = module.graph.clone()
    for name, array in arrays_of(module).items():
        value = graph.graph.initializers[name]
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
    return graph


def arrays_of(module: GraphModule) -> Mapping[str, np.ndarray[Any, Any]]:
    """Every parameter and statistic as an array, by its name in the graph."""
    return {name: module.tensor(name).detach().cpu().numpy().copy() for name in module.held}
