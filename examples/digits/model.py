"""A small convolutional network for 8x8 grey digits: ``model:digits_cnn``."""

from __future__ import annotations

from torch import Tensor, nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 3x3 convolution that keeps the size, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class DigitsCNN(nn.Module):
    """(N, 1, 8, 8) -> scores (N, 10). The third block adds what it is given, as residual networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = block(1, 16)
        self.second = block(16, 32)
        self.third = block(32, 32)
        self.fourth = block(32, 48)
        self.pool = nn.MaxPool2d(2)
        self.score = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Scores for each digit."""
        x = self.pool(self.second(self.first(image)))
        x = self.fourth(x + self.third(x))
        score: Tensor = self.score(x.mean(dim=(2, 3)))
        return score


def digits_cnn() -> nn.Module:
    """The network as edgekit asks for it: in evaluation mode, without trained weights."""
    return DigitsCNN().eval()
