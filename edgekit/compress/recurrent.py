"""Torch functions of recurrent layers (see ``functions``), in the one form that ``passes.recurrent`` leaves them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.compress.functions import op
from edgekit.graph import attributes
from edgekit.passes.recurrent import STATES

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Relu": torch.relu}
Step = Callable[..., tuple[Tensor, ...]]


def is_plain(node: ir.Node) -> bool:
    """Whether a recurrent node is in the form that ``passes.recurrent`` leaves."""
    given, (_, *weights, lengths), states = attributes(node), [*node.inputs, *[None] * 5][:5], node.inputs[5:]
    whole = len(states) == STATES[node.op_type] and None not in (*weights, *states) and lengths is None
    return (
        whole and "activations" in given and given.get("direction", "forward") == "forward" and not given.get("layout")
    )


def _run(taken: Tensor, states: tuple[Tensor, ...], step: Step) -> tuple[Tensor, ...]:
    """The first state after every step (time, 1, batch, hidden), then each state at the end (1, batch, hidden)."""
    now = tuple(state[0].expand(taken.shape[1], -1) for state in states)
    seen = []
    for row in taken.unbind(0):
        now = step(row, *now)
        seen.append(now[0])
    return (torch.stack(seen)[:, None], *(state[None] for state in now))


@op("LSTM")
def lstm(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor,
    sequence_lens: None = None,
    *initial_h: Tensor,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: tuple[str, ...] = ("Sigmoid", "Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Gates in the order input, output, forget, cell. First states: hidden, then cells."""
    soft, new, shown = (ACTIVATIONS[name] for name in activations)
    inner, outer = B[0].chunk(2)

    def step(taken: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        i, o, f, c = F.linear(hidden, R[0], outer).add(taken).chunk(4, 1)
        memory = soft(f) * memory + soft(i) * new(c)
        return soft(o) * shown(memory), memory

    return _run(F.linear(X, W[0], inner), initial_h, step)


@op("GRU")
def gru(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor,
    sequence_lens: None = None,
    *initial_h: Tensor,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: tuple[str, ...] = ("Sigmoid", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gates in the order update, reset, hidden."""
    soft, shown = (ACTIVATIONS[name] for name in activations)
    inner, outer = B[0].chunk(2)
    count = 2 * R.shape[2]

    def step(taken: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        z, r = soft(F.linear(hidden, R[0, :count], outer[:count]) + taken[:, :count]).chunk(2, 1)
        if linear_before_reset:
            past = r * F.linear(hidden, R[0, count:], outer[count:])
        else:
            past = F.linear(r * hidden, R[0, count:], outer[count:])
        new = shown(taken[:, count:] + past)
        return (new + z * (hidden - new),)

    return _run(F.linear(X, W[0], inner), initial_h, step)


@op("RNN")
def rnn(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor,
    sequence_lens: None = None,
    *initial_h: Tensor,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: tuple[str, ...] = ("Tanh",),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """One gate, which is the state."""
    inner, outer = B[0].chunk(2)

    def step(taken: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        return (ACTIVATIONS[activations[0]](F.linear(hidden, R[0], outer) + taken),)

    return _run(F.linear(X, W[0], inner), initial_h, step)
