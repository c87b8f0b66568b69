"""Keep what a compressed weight has while it trains on: its exact zeros, and its few shared values.

What is kept is read off the numbers, so that a later step (fine-tuning, distillation, quantization-aware training)
keeps it without being told by the earlier one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from edgekit.compress.layers import layers_of
from edgekit.compress.module import GraphModule
from edgekit.quant.codebook import MOST, SHARING


class Kept:
    """The zeros and shared values of a module's weights, by name; gradients are tied by hooks until ``release``.

    The gradient of a shared value is the ``sum`` of those of the weights that share it, as the chain rule has it (Han
    et al. 2016, "Deep Compression", section 3.3), or their ``mean``: the same with a rate for each value, one over the
    number of its weights, so that a rate which suits weights suits centroids. Zeros get none.
    """

    def __init__(self, module: GraphModule, gradient: Literal["sum", "mean"] = "mean") -> None:
        held = set(module.held)
        names = [layer.name for layer in layers_of(module.graph) if layer.name in held]
        self.indices = {name: found for name in names if (found := shared_values(module.tensor(name))) is not None}
        self.zeros = {name: module.tensor(name).detach() == 0 for name in names}
        self._hooks = [
            module.tensor(name).register_hook(  # type: ignore[no-untyped-call]
                _tied(self.zeros[name], self.indices.get(name), gradient)
            )
            for name in names
            if name in self.indices or bool(self.zeros[name].any())
        ]

    def settle(self, module: GraphModule) -> None:
        """Make zeros and shared values exact again, whatever rounding did to them."""
        with torch.no_grad():
            for name, zeros in self.zeros.items():
                weight = module.tensor(name)
                if name in self.indices:
                    weight.copy_(_reduced(weight.double(), self.indices[name].to(weight.device), "mean"))
                weight.masked_fill_(zeros.to(weight.device), 0.0)

    def release(self) -> None:
        """Let the gradients be as they are."""
        for hook in self._hooks:
            hook.remove()


def shared_values(weight: Tensor) -> Tensor | None:
    """For each number which of the tensor's distinct values it is, or None where these are no codebook."""
    distinct, index = torch.unique(weight.detach(), return_inverse=True)
    few = len(distinct) <= min(MOST, weight.numel() / SHARING)
    return index if few else None


def _tied(zeros: Tensor, index: Tensor | None, gradient: str) -> Callable[[Tensor], Tensor]:
    def hook(given: Tensor) -> Tensor:
        tied = given if index is None else _reduced(given, index.to(given.device), gradient)
        return tied.masked_fill(zeros.to(given.device), 0.0)

    return hook


def _reduced(values: Tensor, index: Tensor, how: str) -> Tensor:
    """For each number the sum or mean over those of its index."""
    flat = index.reshape(-1)
    sums = torch.zeros(int(flat.max()) + 1, dtype=values.dtype, device=values.device)
    sums.scatter_add_(0, flat, values.reshape(-1))
    if how == "mean":
        sums = sums / torch.bincount(flat, minlength=len(sums))
    return sums[index]
