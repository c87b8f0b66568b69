"""Weights rounded up or down by learning which, layer by layer (Nagel et al. 2020, "Up or down? Adaptive rounding").

Each weight lies between two integers. A soft choice between them is trained so that the layer, fed what the layers
before it give in integers, answers as it does in float, its activation included (section 3.3 there); a penalty then
makes each choice a hard one. Scales, and so the plan, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from edgekit.graph import Array, constant
from edgekit.progress import Progress
from edgekit.quant.plan import QuantPlan
from edgekit.quant.reconstruct import Layer, every_nth, in_turn, least_change
from edgekit.samples import Sample

SAMPLES = 256  # that are looked at
COLUMNS = 8192  # input vectors of a layer, over all samples
FEWEST = 16  # and at least of each sample
STEPS, BATCH, RATE = 1000, 512, 0.01
LEARNED = 0.75  # share of the input vectors; by the others it is seen whether that helps
WARM = 0.2  # share of the steps without the penalty
HARDENS = (20.0, 2.0)  # its exponent, from and to
PENALTY = 0.01  # of what a layer's output varies
PATIENCE, CHOSEN = 50, 0.02  # so often it is seen whether all choices are as good as made
STRETCH = (-0.1, 1.1)  # the sigmoid's ends, so that a choice can be reached (Louizos et al. 2018)


def adaround(
    model: ir.Model, plan: QuantPlan, samples: Iterable[Sample], progress: Progress, total: int
) -> dict[str, Array]:
    """The rounded weights and corrected biases of a prepared model's int8 layers, float32, by name.

    ``total`` is the number of ``samples``; of many, every n-th is looked at.
    """
    inputs = every_nth(model, samples, total, SAMPLES)

    def rounded(layer: Layer, wanted: Sequence[Array], given: Sequence[Array]) -> dict[str, Array]:
        closed, _ = least_change(layer, wanted, given, plan)
        return _rounded(layer, plan, torch.from_numpy(closed), _columns(layer, wanted), _columns(layer, given))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return in_turn(model, plan, inputs, rounded, progress, "adaptive rounding")


def _columns(layer: Layer, values: Sequence[Array]) -> Tensor:
    """What a layer's weights multiply: (group, in, positions); the same positions whichever network's values it is."""
    draw, most = np.random.default_rng(0), max(FEWEST, COLUMNS // len(values))
    return torch.from_numpy(
        np.concatenate([layer.columns(value, draw, most) for value in values], 2).astype(np.float32)
    )


def _rounded(layer: Layer, plan: QuantPlan, closed: Tensor, wanted: Tensor, given: Tensor) -> dict[str, Array]:
    """The constants of a layer that is to answer to ``given`` as its weights do to ``wanted``.

    ``closed`` are the weights that ``reconstruct`` rounds in closed form, kept where what was learned is no better on
    input vectors that it was not learned from.
    """
    weights = torch.from_numpy(layer.weights.astype(np.float32))
    scales = torch.from_numpy(layer.scales(plan).astype(np.float32))[:, :, None]
    bias = torch.zeros(weights.shape[:2])
    if layer.bias is not None:
        bias = torch.from_numpy(np.array(constant(layer.bias), np.float32)).reshape(weights.shape[:2])
    target = weights @ wanted + bias[:, :, None]
    limits = plan[str(layer.weight.name)].limits
    output = _Output(scales, bias, layer.unit.bounds, given, target)
    candidates = (*_learned(weights / scales, limits, output), (closed / scales).round().float())
    found = min(candidates, key=lambda integers: float(output.error(integers, output.kept)))
    error = (target - bias[:, :, None] - (found * scales) @ given).mean(2)
    return layer.constants((found.double() * scales.double()).numpy(), error.double().numpy())


class _Output:
    """A layer's output for integer weights, and how far it is from what is wanted, in terms of how that varies."""

    def __init__(
        self, scales: Tensor, bias: Tensor, bounds: tuple[float, float], given: Tensor, target: Tensor
    ) -> None:
        self._scales, self._bias, self._bounds, self._given = scales, bias[:, :, None], bounds, given
        self._target = target.clamp(*bounds)
        self._power = float(self._target.var()) or 1.0
        self._learned = max(1, int(given.shape[2] * LEARNED))  # positions of the first samples
        self.kept = slice(min(self._learned, given.shape[2] - 1), None)  # to choose by: nothing was learned from them

    def error(self, integers: Tensor, picks: Tensor | slice) -> Tensor:
        """The squared error of an output channel, summed over these."""
        found = ((integers * self._scales) @ self._given[:, :, picks] + self._bias).clamp(*self._bounds)
        return (found - self._target[:, :, picks]).pow(2).mean(2).sum() / self._power

    def picks(self) -> Tensor:
        """A batch of positions."""
        return torch.randint(self._learned, (min(BATCH, self._learned),))


def _learned(real: Tensor, limits: tuple[int, int], output: _Output) -> tuple[Tensor, Tensor]:
    """Integers next to ``real`` weights, those that were learned and the nearest ones. Zeros stay."""
    low = real.floor()
    free = (real != low) & (low >= limits[0]) & (low < limits[1])
    start = (real - low).clamp(0.01, 0.99)
    choice = torch.logit((start - STRETCH[0]) / (STRETCH[1] - STRETCH[0])).requires_grad_()
    optimizer = torch.optim.Adam([choice], RATE)

    def soft() -> Tensor:
        return (torch.sigmoid(choice) * (STRETCH[1] - STRETCH[0]) + STRETCH[0]).clamp(0, 1) * free

    for step in range(STEPS):
        up = soft()
        loss = output.error(low + up, output.picks())
        done = (step / STEPS - WARM) / (1 - WARM)
        if done > 0:
            exponent = HARDENS[1] + 0.5 * (HARDENS[0] - HARDENS[1]) * (1 + np.cos(np.pi * done))
            loss = loss + PENALTY * ((1 - (2 * up - 1).abs().pow(exponent)) * free).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if done > 0 and step % PATIENCE == 0 and bool(((up - up.round()).abs() < CHOSEN).all()):
            break
    with torch.no_grad():
        return (low + soft().round()).clamp(*limits), real.round().clamp(*limits)
