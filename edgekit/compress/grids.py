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

MOVES = 0.01  # of the way to what a batch shows, a moving range goes in a step


class Rounded(torch.autograd.Function):
    """Round to a grid. The gradient of the scale is that of learned step sizes.

    Esser et al. 2020, "Learned step size quantization", equation 3.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.clamp((x / scale).round_(), low, high).mul_(scale)  # in place: memory is what rounding costs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, low, high = ctx.saved_tensors
        (gradient,) = gradients
        steps = x / scale
        held = torch.clamp(steps, low, high)
        inside = held == steps
        of_x = gradient * inside
        if not ctx.needs_input_grad[1]:
            return of_x, None, None, None
        slope = held.round_().sub_(steps.mul_(inside))
        return of_x, slope.mul_(gradient).sum_to_size(scale.shape), None, None


def rounded(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A tensor on the grid of a scale, between two integers."""
    found: Tensor = Rounded.apply(x.float(), scale, low, high)  # type: ignore[no-untyped-call]
    return found


class Grid(nn.Module):
    """The integers of one scale, as the plan says it."""

    first: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, q: QParams) -> None:
        super().__init__()
        self.q = q
        low, high = q.limits
        self.register_buffer("low", torch.tensor(float(low - q.zero_point[0])))
        self.register_buffer("high", torch.tensor(float(high - q.zero_point[0])))
        self.register_buffer("first", torch.tensor(q.scale if q.axis is not None else q.scale[0], dtype=torch.float32))

    def forward(self, x: Tensor, name: str) -> Tensor:
        """The tensor of that name, rounded."""
        return rounded(x, self.along(self.scale(x), x.ndim), self.low, self.high)

    def scale(self, value: Tensor) -> Tensor:
        """The scale, or one a channel, as it is now, for a constant of that ``value``."""
        return self.first

    def now(self, value: Tensor) -> QParams:
        """The same as the plan writes it."""
        return replace(self.q, scale=tuple(float(s) for s in self.scale(value).detach().reshape(-1)))

    def along(self, scale: Tensor, rank: int) -> Tensor:
        """One scale, or one a channel, as a factor of a tensor of so many axes."""
        axis = self.q.axis
        return scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(rank)])


class Learned(Grid):
    """A scale that is trained; zero points stay, so that zero stays exact and a Relu's limits stay where they clip.

    What is trained is its logarithm, so that a step changes it by a share, whatever its size, and it stays positive
    (Jain et al. 2020, "Trained quantization thresholds", section 3.2); that share is at most the rate.
    """

    def __init__(self, q: QParams) -> None:
        super().__init__(q)
        self.growth = nn.Parameter(torch.zeros_like(self.first))
        self.growth.register_hook(lambda gradient: gradient.clamp(-1.0, 1.0))  # type: ignore[no-untyped-call]

    def scale(self, value: Tensor) -> Tensor:
        """The scale as it is now."""
        return self.first * self.growth.exp()


class MovingWeight(Grid):
    """A symmetric scale that follows the largest weight of each channel."""

    def scale(self, value: Tensor) -> Tensor:
        """The scale of the weight as it is now."""
        weight = value.detach()
        axes = [i for i in range(weight.ndim) if i != self.q.axis]
        bound = weight.abs().amax(axes) if axes else weight.abs()
        return torch.clamp(bound.double() / self.q.limits[1], min=numerics.SMALLEST_SCALE).float()


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
        q = self.now(x)
        numbers = (q.scale[0], *(float(end - q.zero_point[0]) for end in q.limits))
        return rounded(x, *(torch.tensor(number, device=x.device) for number in numbers))

    def now(self, value: Tensor) -> QParams:
        """The scale of the ranges as they are now."""
        return numerics.affine(float(self.lows.min()), float(self.highs.max()), self.q.dtype)
