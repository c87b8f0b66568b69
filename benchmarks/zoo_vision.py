"""Small networks for images, in plain torch, each the idea of a published architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from zoo_models import Entry, Input


def conv(
    cin: int, cout: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, BatchNorm, activation (ReLU)."""
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(cout), act or nn.ReLU())


def linear(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """A pointwise convolution without activation."""
    return conv(cin, cout, 1, stride, act=nn.Identity())


class Residual(nn.Module):
    """``act(body(x) + skip(x))``."""

    def __init__(self, body: nn.Module, skip: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.skip, self.act = body, skip or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.skip(x))


class Parallel(nn.Module):
    """The results of several branches, beside each other or added."""

    def __init__(self, *branches: nn.Module, add: bool = False) -> None:
        super().__init__()
        self.branches, self.add = nn.ModuleList(branches), add

    def forward(self, x: Tensor) -> Tensor:
        found = [branch(x) for branch in self.branches]
        return torch.stack(found).sum(0) if self.add else torch.cat(found, 1)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, act: nn.Module | None = None, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.act, self.gate = act or nn.ReLU(), gate or nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.act(self.down(F.adaptive_avg_pool2d(x, 1)))))


def head(channels: int, classes: int = 10) -> nn.Sequential:
    """Mean over space, dropout, scores."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, classes))


def inverted(cin: int, cout: int, stride: int, act: Callable[[], nn.Module], gated: bool) -> nn.Module:
    """The inverted residual of MobileNetV3 and EfficientNet."""
    wide = 4 * cin
    parts = [conv(cin, wide, 1, act=act()), conv(wide, wide, 3, stride, groups=wide, act=act())]
    parts += [Gate(wide, nn.ReLU(), nn.Hardsigmoid())] if gated else []
    body = nn.Sequential(*parts, linear(wide, cout))
    return Residual(body) if stride == 1 and cin == cout else body


def mobilenet_v3() -> nn.Module:
    act = nn.Hardswish
    body = [conv(3, 16, 3, 2, act=act()), inverted(16, 24, 2, nn.ReLU, False), inverted(24, 24, 1, nn.ReLU, True)]
    body += [inverted(24, 40, 2, act, True), inverted(40, 40, 1, act, True), conv(40, 96, 1, act=act())]
    return nn.Sequential(*body, head(96))


def efficientnet_lite() -> nn.Module:
    act = nn.ReLU6
    body = [conv(3, 16, 3, 2, act=act()), inverted(16, 24, 2, act, False), inverted(24, 24, 1, act, False)]
    return nn.Sequential(*body, inverted(24, 40, 2, act, False), conv(40, 96, 1, act=act()), head(96))


def bottleneck(cin: int, cout: int, groups: int, gated: bool = False, stride: int = 1) -> nn.Module:
    """The residual block of ResNeXt, or of SENet when gated."""
    mid = cout // 2
    body = nn.Sequential(
        conv(cin, mid, 1), conv(mid, mid, 3, stride, groups=groups), linear(mid, cout), *([Gate(cout)] if gated else [])
    )
    return Residual(body, None if stride == 1 and cin == cout else linear(cin, cout, stride), nn.ReLU())


def resnext() -> nn.Module:
    blocks = [bottleneck(16, 32, 4), bottleneck(32, 32, 4), bottleneck(32, 64, 8, stride=2)]
    return nn.Sequential(conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1), *blocks, head(64))


def senet() -> nn.Module:
    blocks = [bottleneck(16, 32, 1, True), bottleneck(32, 64, 1, True, 2), bottleneck(64, 64, 1, True)]
    return nn.Sequential(conv(3, 16, 3, 2), *blocks, head(64))


def group_norm_resnet() -> nn.Module:
    def block(channels: int) -> nn.Module:
        norms = [nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)]
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        return Residual(nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1]), None, nn.ReLU())

    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU())
    down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(8, 32), nn.ReLU())
    return nn.Sequential(stem, block(16), down, block(32), head(32))


class DenseLayer(nn.Module):
    """BatchNorm before each convolution; what is found is put beside what was there."""

    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(cin), nn.Conv2d(cin, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def densenet() -> nn.Module:
    first = [DenseLayer(16 + 8 * i, 8) for i in range(4)]
    second = [DenseLayer(24 + 8 * i, 8) for i in range(4)]
    between = nn.Sequential(nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 24, 1), nn.AvgPool2d(2))
    last = nn.Sequential(nn.BatchNorm2d(56), nn.ReLU(), head(56))
    return nn.Sequential(conv(3, 16, 3, 2), *first, between, *second, last)


def squeezenet() -> nn.Module:
    def fire(cin: int, squeezed: int, cout: int) -> nn.Module:
        two = Parallel(
            nn.Sequential(nn.Conv2d(squeezed, cout, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(squeezed, cout, 3, padding=1), nn.ReLU()),
        )
        return nn.Sequential(nn.Conv2d(cin, squeezed, 1), nn.ReLU(), two)

    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    body = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), pool, fire(16, 8, 16), fire(32, 8, 16), pool, fire(32, 16, 32)]
    last = [nn.Conv2d(64, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1)]
    return nn.Sequential(*body, nn.Dropout(0.5), *last)


def inception() -> nn.Module:
    def block(cin: int) -> nn.Module:
        pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(cin, 8, 1))
        factored = nn.Sequential(
            conv(cin, 8, 1),
            nn.Conv2d(8, 8, (1, 7), padding=(0, 3)),
            nn.Conv2d(8, 16, (7, 1), padding=(3, 0)),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        averaged = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(cin, 8, 1))
        wide = nn.Sequential(conv(cin, 8, 1), conv(8, 16, 3), conv(16, 16, 3))
        return Parallel(conv(cin, 16, 1), wide, factored, pooled, averaged)

    return nn.Sequential(conv(3, 16, 3, 2), block(16), nn.MaxPool2d(3, 2), block(64), head(64))


class Shuffle(nn.Module):
    """The unit of ShuffleNetV2: half of the channels pass, then both halves are interleaved."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, cout // 2
        from_ = cin if stride == 2 else cin // 2
        middle = conv(half, half, 3, stride, groups=half, act=nn.Identity())
        self.right = nn.Sequential(conv(from_, half, 1), middle, conv(half, half, 1))
        self.left = nn.Sequential(conv(cin, cin, 3, 2, groups=cin, act=nn.Identity()), conv(cin, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            joined = torch.cat([self.left(x), self.right(x)], 1)
        else:
            kept, changed = x.chunk(2, 1)
            joined = torch.cat([kept, self.right(changed)], 1)
        n, c, h, w = joined.shape
        return joined.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    units = [Shuffle(16, 32, 2), Shuffle(32, 32, 1), Shuffle(32, 64, 2), Shuffle(64, 64, 1)]
    return nn.Sequential(conv(3, 16, 3, 2), *units, conv(64, 96, 1), head(96))


class Ghost(nn.Module):
    """Half of the channels by a convolution, the others cheaply from them."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.first, self.cheap = conv(cin, cout // 2, 1), conv(cout // 2, cout // 2, 3, groups=cout // 2)
        self.cout = cout

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.cat([first, self.cheap(first)], 1)[:, : self.cout]


def ghostnet() -> nn.Module:
    body = nn.Sequential(Ghost(16, 48), Gate(48, gate=nn.Hardsigmoid()), Ghost(48, 16))
    return nn.Sequential(conv(3, 16, 3, 2), Residual(body), Ghost(16, 64), nn.MaxPool2d(2), Ghost(64, 64), head(64))


def repvgg() -> nn.Module:
    def block(cin: int, cout: int, stride: int) -> nn.Module:
        branches: list[nn.Module] = [conv(cin, cout, 3, stride, act=nn.Identity()), linear(cin, cout, stride)]
        branches += [nn.BatchNorm2d(cin)] if stride == 1 else []
        return nn.Sequential(Parallel(*branches, add=True), nn.ReLU())

    return nn.Sequential(block(3, 16, 2), block(16, 16, 1), block(16, 32, 2), block(32, 32, 1), head(32))


class MixerLayer(nn.Module):
    """Layers over patches and layers over channels, in turns."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.across = nn.Sequential(nn.Linear(patches, 32), nn.GELU(), nn.Linear(32, patches))
        self.within = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norms[1](x))


class Patches(nn.Module):
    """An image cut into patches, layers over their sequence, the mean and scores."""

    def __init__(self, *layers: nn.Module, width: int = 48) -> None:
        super().__init__()
        self.cut, self.layers = nn.Conv2d(3, width, 8, 8), nn.Sequential(*layers)
        self.norm, self.scores = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.norm(self.layers(self.cut(x).flatten(2).transpose(1, 2))).mean(1))


class SpatialGate(nn.Module):
    """The block of gMLP."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(width), nn.Linear(width, 128), nn.Linear(64, width)
        self.inner, self.across = nn.LayerNorm(64), nn.Conv1d(patches, patches, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.wide(self.norm(x))).chunk(2, -1)
        return x + self.narrow(u * self.across(self.inner(v)))


def convmixer() -> nn.Module:
    def block(width: int) -> nn.Module:
        deep = nn.Sequential(nn.Conv2d(width, width, 5, padding="same", groups=width), nn.GELU(), nn.BatchNorm2d(width))
        return nn.Sequential(Residual(deep), nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))

    stem = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.GELU(), nn.BatchNorm2d(32))
    return nn.Sequential(stem, block(32), block(32), head(32))


class FaceNet(nn.Module):
    """An embedding of unit length, after depthwise pooling and PReLU, as MobileFaceNet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(3, 16, 3, 2, act=nn.PReLU(16)),
            conv(16, 16, 3, 2, groups=16, act=nn.PReLU(16)),
            Residual(nn.Sequential(conv(16, 32, 1, act=nn.PReLU(32)), linear(32, 16))),
            conv(16, 64, 1, act=nn.PReLU(64)),
        )
        self.pool, self.norm = nn.Conv2d(64, 64, 16, groups=64, bias=False), nn.BatchNorm1d(32)
        self.embed = nn.Linear(64, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.norm(self.embed(self.pool(self.body(x)).flatten(1))))


def chain(*widths: int, strides: Sequence[int]) -> nn.Sequential:
    """Convolutions one after the other."""
    return nn.Sequential(*[conv(a, b, 3, s) for (a, b), s in zip(pairwise(widths), strides, strict=True)])


def vgg() -> nn.Module:
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        for a, b in ((3, 16), (16, 32), (32, 48))
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48 * 64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))


def picture(side: int = 64, channels: int = 3) -> dict[str, Input]:
    """One image."""
    return {"image": Input("image", (1, channels, side, side))}


ENTRIES: dict[str, Entry] = {
    "mobilenet_v3": Entry(mobilenet_v3, picture()),
    "efficientnet_lite": Entry(efficientnet_lite, picture()),
    "resnext": Entry(resnext, picture()),
    "senet": Entry(senet, picture()),
    "group_norm_resnet": Entry(group_norm_resnet, picture()),
    "densenet": Entry(densenet, picture()),
    "squeezenet": Entry(squeezenet, picture()),
    "inception": Entry(inception, picture()),
    "shufflenet_v2": Entry(shufflenet_v2, picture()),
    "ghostnet": Entry(ghostnet, picture()),
    "repvgg": Entry(repvgg, picture()),
    "mlp_mixer": Entry(lambda: Patches(MixerLayer(64, 48), MixerLayer(64, 48)), picture()),
    "gmlp": Entry(lambda: Patches(SpatialGate(64, 48), SpatialGate(64, 48)), picture()),
    "convmixer": Entry(convmixer, picture()),
    "facenet": Entry(FaceNet, picture()),
    "vgg": Entry(vgg, picture()),
}
