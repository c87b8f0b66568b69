"""Keep what a compressed weight has while it trains on: its exact zeros, and its few shared values.

What is kept is read off the numbers, so that a later step (fine-tuning, distillation, quantization-aware training)
keeps it without being told by the earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgekit.compress.layers import weights_in
from edgekit.compress.module import GraphModule
from edgekit.quant.codebook import is_codebook


class Kept:
    """The zeros and shared values of a module's weights as they are now; called after a step it puts them back.

    Weights that share a value take their mean. The value's gradient is the sum of theirs (Han et al. 2016, "Deep
    Compression", section 3.3) over the root of their number, so that a rate which suits weights suits values (as Esser
    et al. 2020, "Learned step size quantization", section 2.2, do with scales). ``zeros`` False lets zeros go. With
    ``units`` values are shared by the weights named there only: those that are the same whole number of units, which
    are broadcast along a weight's channels (the scales of a plan, say). A weight that is zero or of one value
    throughout is not compressed but fresh, and is let go.
    """

    def __init__(self, module: GraphModule, zeros: bool = True, units: Mapping[str, Tensor] | None = None) -> None:
        weights = {n: module.tensor(n).detach() for n in weights_in(module.graph) if n in set(module.held)}
        self.units = units or {}
        if units is None:
            shared = {name: weight for name, weight in weights.items() if is_codebook(weight.cpu().numpy())}
        else:
            shared = {name: torch.round(module.tensor(name).detach() / unit) for name, unit in units.items()}
        self.indices = {name: torch.unique(values, return_inverse=True)[1] for name, values in shared.items()}
        for name, index in self.indices.items():
            root = torch.bincount(index.reshape(-1)).sqrt()[index].float()
            module.tensor(name).register_hook(_times(root))  # type: ignore[no-untyped-call]
        gone = {name: weight == 0 for name, weight in weights.items() if zeros}
        self.zeros = {name: mask for name, mask in gone.items() if mask.any() and not mask.all()}

    def __call__(self, module: GraphModule) -> None:
        """Put them back, in place."""
        with torch.no_grad():
            for name, index in self.indices.items():
                weight = module.tensor(name)
                index = self.indices[name] = index.to(weight.device)
                weight.copy_(_nearest_shared(weight.double(), index, self.units.get(name)))
            for name, mask in self.zeros.items():
                weight = module.tensor(name)
                mask = self.zeros[name] = mask.to(weight.device)
                weight.masked_fill_(mask, 0.0)


def _times(factor: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * factor.to(gradient.device)


def _nearest_shared(weight: Tensor, index: Tensor, unit: Tensor | None) -> Tensor:
    """The nearest weight, by squares, in which the numbers of an index are the same count of their units."""
    units = torch.ones_like(weight) if unit is None else unit.to(weight).expand_as(weight)
    count, flat = int(index.max()) + 1, index.reshape(-1)

    def sums(values: Tensor) -> Tensor:
        return weight.new_zeros(count).scatter_add_(0, flat, values.reshape(-1))

    shared: Tensor = (sums(weight * units) / sums(units * units))[index]
    return shared * units
