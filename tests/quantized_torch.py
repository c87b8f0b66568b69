"""A torch network as its pt2e quantization leaves it: ``quantized_decomposed`` ops around float ones."""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed

SCALES = (0.03, 0.02, 0.05, 0.01)  # of the input, of the convolution, of the output and of the second weights
OPS = torch.ops.quantized_decomposed


def stored(x: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
    """x in int8 and back."""
    integers = OPS.quantize_per_tensor(x, scale, zero, -128, 127, torch.int8)
    return OPS.dequantize_per_tensor(integers, scale, zero, -128, 127, torch.int8)  # type: ignore[no-any-return]


class Net(torch.nn.Module):
    """A convolution with weights per channel, Relu, and a fully-connected layer."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randint(-127, 128, (4, 3, 3, 3), generator=generator, dtype=torch.int8))
        self.register_buffer("ws", torch.tensor([0.002, 0.003, 0.004, 0.005]))
        self.register_buffer("wz", torch.zeros(4, dtype=torch.int64))
        self.register_buffer("v", torch.randint(-127, 128, (5, 4), generator=generator, dtype=torch.int8))
        self.bias = torch.nn.Parameter(torch.linspace(-0.2, 0.2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images -> scores."""
        w = OPS.dequantize_per_channel(self.w, self.ws, self.wz, 0, -127, 127, torch.int8)
        h = stored(torch.relu(torch.nn.functional.conv2d(stored(x, SCALES[0], 5), w, self.bias)), SCALES[1], -128)
        v = OPS.dequantize_per_tensor(self.v, SCALES[3], 0, -127, 127, torch.int8)
        return stored(torch.nn.functional.linear(h.amax((2, 3)), v), SCALES[2], 0)


def net() -> torch.nn.Module:
    """The network, for inference."""
    return Net().eval()
