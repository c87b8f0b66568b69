"""Modules and callables for tests/test_frontends.py, as users write them and as they should not."""

import torch
from torch import nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class Call(nn.Module):
    """A module around a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.fc = nn.Linear(4, 5)

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class Two(nn.Module):
    def forward(self, a, b):
        return a + b, a * b


class Outputs(nn.Module):
    def forward(self, x):
        y = torch.relu(x)
        return {"b": y, "a": [x * 2, y], "none": None, "same": x, "constant": torch.ones(3)}


def small():
    torch.manual_seed(0)
    return Small()


def small_with_examples():
    return small(), (torch.zeros(1, 3, 8, 8),)


def one_tensor():
    return small(), torch.zeros(1, 3, 8, 8)


def a_list():
    return [Small()]


def nothing():
    return None


def raises():
    raise RuntimeError("no weights\nhere")


def leaves():
    raise SystemExit(3)


def wants_more(a):
    return small()


NUMBER = 3


def text_example():
    return small(), "hello"


def two():
    return Two(), (torch.zeros(1, 4), torch.zeros(1, 4))


def named():
    return Two(), {"a": torch.zeros(1, 4), "b": torch.zeros(1, 4)}


def half():
    return small().half(), torch.zeros(1, 3, 8, 8, dtype=torch.half)


def double():
    return small().double(), torch.zeros(1, 3, 8, 8, dtype=torch.double)


def outputs():
    return Outputs(), torch.zeros(1, 4)


class BadForward(nn.Module):
    def forward(self, x):
        raise ValueError("the forward pass is wrong")


def bad_forward():
    return BadForward(), torch.zeros(1, 4)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def branches():
    return Branches(), torch.zeros(1, 4)


def nan():
    module = small()
    module.fc.weight.data[0, 0] = float("nan")
    return module, torch.zeros(1, 3, 8, 8)


class NoInputs(nn.Module):
    def forward(self):
        return torch.ones(3)


def no_inputs():
    return NoInputs(), ()


class Attention(nn.Module):
    """Fused attention with a bias; its result is laid out as the fused kernel leaves it, which a view relies on."""

    def __init__(self):
        super().__init__()
        self.heads, self.bias = nn.Linear(16, 48), nn.Parameter(torch.randn(4, 5, 5))

    def forward(self, x):
        q, k, v = self.heads(x).view(1, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.unsqueeze(0))
        return found.permute(0, 2, 1, 3).contiguous().view(1, 5, 16)


def attention():
    return Attention(), (torch.randn(1, 5, 16),)


class Attentive(nn.Module):
    """Attention in both of the forms that torch exports: queries, keys and values of one matrix, and of three."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.MultiheadAttention(12, 4, batch_first=True)
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.fused(x, x, x, need_weights=False)[0]
        q, k, v = (part(x).unflatten(-1, (4, 3)).transpose(1, 2) for part in (self.q, self.k, self.v))
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(found.transpose(1, 2).flatten(2))


def attentive():
    torch.manual_seed(0)
    return Attentive()


class Tagger(nn.Module):
    """A sequence both ways, batch first, as torch has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(12, 7, batch_first=True)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(self.lstm(torch.relu(self.embed(x)))[0])
        return self.fc(y)


def tagger():
    torch.manual_seed(0)
    return Tagger()
