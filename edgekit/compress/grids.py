"""What a tensor is rounded to while a network trains: the integers of a plan, whose scale may learn or move.

Rounding is half to even, as ``numerics.quantize`` rounds, and its gradient is passed straight through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.quant import numerics
from edgekit.quant.plan import QParams

SMALLEST = 1 / 64  # of what it was at first: below, a learned scale does not go
MOVES = 0.01  # of the way to what a batch shows, a moving range goes in a step


class Rounded(torch.autograd.Function):
    """Round to a grid. The gradient of the scale is that of learned step sizes.

    Esser et al. 2020, "Learned step size quantization", equation 3, times a ``factor`` that keeps steps of scales and
    weights in proportion (section 2.2).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, low: Tensor, high: Tensor, factor: float) -> Tensor:
        return torch.clamp(torch.round(x / scale), low, high) * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, low, high, ctx.factor = inputs
        ctx.save_for_backward(x, scale, low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, low, high = ctx.saved_tensors
        (gradient,) = gradients
        steps = x / scale
        inside = (steps >= low) & (steps <= high)
        of_x = gradient * inside
        if not ctx.needs_input_grad[1]:
            return of_x, None, None, None, None
        slope = torch.clamp(torch.round(steps), low, high) - steps * inside
        of_scale = (gradient * slope).sum_to_size(scale.shape) * ctx.factor
        return of_x, of_scale, None, None, None


class Grid(nn.Module):
    """The integers of one scale, as the plan says it."""

    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, q: QParams) -> None:
        super().__init__()
        self.q = q
        low, high = q.limits
        self.register_buffer("low", torch.tensor(float(low - q.zero_point[0])))
        self.register_buffer("high", torch.tensor(float(high - q.zero_point[0])))
        self._set_scale(torch.tensor(q.scale if q.axis is not None else q.scale[0], dtype=torch.float32))

    def _set_scale(self, scale: Tensor) -> None:
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, name: str) -> Tensor:
        """The tensor of that name, rounded."""
        return self._rounded(x, self.scale)

    def _rounded(self, x: Tensor, scale: Tensor) -> Tensor:
        if self.q.axis is not None:
            scale = scale.reshape([-1 if i == self.q.axis else 1 for i in range(x.ndim)])
        found: Tensor = Rounded.apply(x.float(), scale, self.low, self.high, self._factor(x))  # type: ignore[no-untyped-call]
        return found

    def _factor(self, x: Tensor) -> float:
        return 1.0

    def now(self, value: Tensor | None = None) -> QParams:
        """The scale as it is now, for a constant of that ``value``."""
        return replace(self.q, scale=tuple(float(s) for s in self.scale.detach().reshape(-1)))

    def settle(self) -> None:
        """Put right what a step of the optimizer may have spoiled."""


class Learned(Grid):
    """A scale that is trained; zero points stay, so that zero stays exact and a Relu's limits stay where they clip.

    ``batched`` tensors hold as many features as one sample does.
    """

    least: Tensor

    def __init__(self, q: QParams, batched: bool) -> None:
        super().__init__(q)
        self._batched = batched
        self.register_buffer("least", self.scale.detach() * SMALLEST)

    def _set_scale(self, scale: Tensor) -> None:
        self.scale = nn.Parameter(scale)

    def _factor(self, x: Tensor) -> float:
        sharing = x.shape[0] if self._batched and x.ndim else self.scale.numel()
        return float((x.numel() / max(sharing, 1) * self.q.limits[1]) ** -0.5)

    def settle(self) -> None:
        """A scale stays positive."""
        self.scale.clamp_(min=self.least)


class MovingWeight(Grid):
    """A symmetric scale that follows the largest weight of each channel."""

    def forward(self, x: Tensor, name: str) -> Tensor:
        """The weight, rounded."""
        return self._rounded(x, self._scale_of(x.detach()))

    def _scale_of(self, weight: Tensor) -> Tensor:
        axes = [i for i in range(weight.ndim) if i != self.q.axis]
        bound = weight.abs().amax(axes) if axes else weight.abs()
        return torch.clamp(bound.double() / self.q.limits[1], min=numerics.SMALLEST_SCALE).float()

    def now(self, value: Tensor | None = None) -> QParams:
        """The scale of the weight as it is now."""
        scales = self.scale if value is None else self._scale_of(value.detach())
        return replace(self.q, scale=tuple(float(s) for s in scales.reshape(-1)))


class MovingRange(Grid):
    """An affine scale around the ranges of all tensors that share it, each a moving average of what batches show."""

    lows: Tensor
    highs: Tensor

    def __init__(self, q: QParams, names: Sequence[str]) -> None:
        super().__init__(q)
        self._names = list(names)
        low, high = q.range
        self.register_buffer("lows", torch.full((len(names),), low, dtype=torch.float64))
        self.register_buffer("highs", torch.full((len(names),), high, dtype=torch.float64))

    def forward(self, x: Tensor, name: str) -> Tensor:
        """The tensor of that name, rounded; in training it moves its range."""
        if self.training:
            with torch.no_grad():
                i = self._names.index(name)
                self.lows[i].lerp_(x.amin().double(), MOVES)
                self.highs[i].lerp_(x.amax().double(), MOVES)
        q = self.now()
        low, high = q.limits
        ends = [torch.tensor(float(end - q.zero_point[0]), device=x.device) for end in (low, high)]
        found: Tensor = Rounded.apply(x.float(), torch.tensor(q.scale[0], device=x.device), *ends, 1.0)  # type: ignore[no-untyped-call]
        return found

    def now(self, value: Tensor | None = None) -> QParams:
        """The scale of the ranges as they are now."""
        return numerics.affine(float(self.lows.min()), float(self.highs.max()), self.q.dtype)
