"""Recurrent layers: fused into one operator, or a loop over one step. The passes have brought them into one form."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.ops.context import Operand, Tensor, Tfl
from edgekit.ops.declare import Layout, Quant, op, unsupported
from edgekit.quant.plan import QParams

SUMS = QParams("int16", (2.0**-12,), (0,))
ORDER = (0, 2, 3, 1)  # TFLite's gates (input, forget, cell, output) in ONNX's order (input, output, forget, cell)


WHOLE = Quant(inputs=(0,), weight=1, channel_axis=1, recurrent=2)


@op("LSTM", since=14, layout=Layout.SOURCE, quant=WHOLE)
def lstm(
    tfl: Tfl,
    X: Operand,
    W: Operand,
    R: Operand,
    B: Operand,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> None:
    """UNIDIRECTIONAL_SEQUENCE_LSTM where the state starts at zero; its memory is cleared before each run."""
    if tfl.quantized and tfl.out.dtype != "int8":
        unsupported(f"no fused operator has activations of {tfl.out.dtype}; take the form unrolled")
    assert W.array is not None and B.array is not None
    hidden, batch = int(hidden_size or 0), X.shape[1]
    rows = [slice(gate * hidden, (gate + 1) * hidden) for gate in ORDER]
    inputs = [tfl.rows(W, part) for part in rows]
    sums = B.array[0, : 4 * hidden] + B.array[0, 4 * hidden :]
    biases = [tfl.sums(sums[part], X, weight) for part, weight in zip(rows, inputs, strict=True)]
    shown, memory = tfl.state((batch, hidden), tfl.out), tfl.state((batch, hidden), None)
    _clear(tfl, X, shown, memory)
    sequence = tfl.temp((X.shape[0], batch, hidden), tfl.out)
    gates = [X, *inputs, *[tfl.rows(R, part) for part in rows]]
    tfl.add_many(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        [*gates, *[None] * 3, *biases, None, None, shown, memory, *[None] * 4],
        [sequence],
        _inner(tfl, sequence),
        fused_activation_function="TANH",
        cell_clip=0.0,
        proj_clip=0.0,
        time_major=True,
    )
    tfl.reshape(sequence, tfl.out.shape, tfl.out)
    if len(tfl.outs) > 1:
        size = (1, batch, hidden)
        tfl.add("SLICE", [sequence, np.asarray([X.shape[0] - 1, 0, 0]), np.asarray(size)], tfl.outs[1])


def _inner(tfl: Tfl, sequence: Tensor) -> tuple[Tensor, ...]:
    """The scales of the four sums before their activations (Q3.12, as the kernel has it) and of the hidden state."""
    if sequence.quant is None:
        return ()
    return (*(tfl.temp((0,), dtype="int16", quant=SUMS) for _ in range(4)), tfl.temp((0,), sequence))


def _clear(tfl: Tfl, source: Operand, *states: Tensor) -> None:
    """Zero the memory of a fused operator. LiteRT leaves in it what the run before has left: the next would go on."""
    one = tfl.add("SLICE", [source, np.zeros(3), np.ones(3)], tfl.temp((1, 1, 1), source))
    flat = tfl.reshape(one, (1, 1))
    for state in states:
        zeros = tfl.zeros(state.shape, flat)
        if state.quant is None:
            tfl.add("MUL", [flat, zeros], state, fused_activation_function="NONE")
            continue
        cleared = tfl.add("MUL", [flat, zeros], tfl.temp(state.shape, zeros), fused_activation_function="NONE")
        if state.dtype == "int16":
            tfl.add("CAST", [cleared], state, in_data_type="INT8", out_data_type="INT16")
        else:
            tfl.add("QUANTIZE", [cleared], state)


@op("GRU", since=14, layout=Layout.SOURCE, quant=WHOLE)
def gru(
    tfl: Tfl,
    X: Operand,
    W: Operand,
    R: Operand,
    B: Operand,
    sequence_lens: None = None,
    initial_h: Operand | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> None:
    """A loop (WHILE), or step after step."""
    unsupported("TFLite has no such operator; take the form loop or unrolled")


@op("RNN", since=14, layout=Layout.SOURCE, quant=WHOLE)
def rnn(
    tfl: Tfl,
    X: Operand,
    W: Operand,
    R: Operand,
    B: Operand,
    sequence_lens: None = None,
    initial_h: Operand | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> None:
    """A loop (WHILE), or step after step."""
    unsupported("TFLite has no such operator; take the form loop or unrolled")


@op("Scan", since=21, layout=Layout.SOURCE)
def scan(
    tfl: Tfl,
    *initial_state_and_scan_inputs: Operand,
    body: Any = None,
    num_scan_inputs: int | None = None,
    scan_input_axes: tuple[int, ...] | None = None,
    scan_input_directions: tuple[int, ...] | None = None,
    scan_output_axes: tuple[int, ...] | None = None,
    scan_output_directions: tuple[int, ...] | None = None,
) -> None:
    """WHILE over the first axis, which edgekit writes for recurrent layers; not taken from a model."""
    tfl.loop(body, initial_state_and_scan_inputs, int(num_scan_inputs or 0))
