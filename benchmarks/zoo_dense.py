"""Small networks that give images, boxes or points rather than one answer, in plain torch."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from zoo_models import Entry, Input
from zoo_vision import Residual, chain, conv, picture


class UNet(nn.Module):
    """Down with pooling, up with a transposed convolution and with bilinear resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = chain(3, 12, 12, strides=(1, 1)), conv(12, 24), conv(24, 48)
        self.up, self.merge = nn.ConvTranspose2d(48, 24, 2, 2), conv(48, 24)
        self.last, self.out = conv(36, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        y = self.merge(torch.cat([self.up(self.c(F.max_pool2d(b, 2))), b], 1))
        y = F.interpolate(y, size=a.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(self.last(torch.cat([y, a], 1)))


class C2f(nn.Module):
    """The block of YOLOv8: the channels in two, one of them through residual blocks, all results beside each other."""

    def __init__(self, cin: int, cout: int, blocks: int = 1) -> None:
        super().__init__()
        half = cout // 2
        self.first, self.last = silu(cin, cout, 1), silu((2 + blocks) * half, cout, 1)
        self.blocks = nn.ModuleList(Residual(nn.Sequential(silu(half, half), silu(half, half))) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        found = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            found.append(block(found[-1]))
        return self.last(torch.cat(found, 1))


def silu(cin: int, cout: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU."""
    return conv(cin, cout, kernel, stride, act=nn.SiLU())


class Sppf(nn.Module):
    """Pooling over three sizes, one after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = silu(channels, channels // 2, 1), silu(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.first(x)]
        for _ in range(3):
            found.append(F.max_pool2d(found[-1], 5, 1, 2))
        return self.last(torch.cat(found, 1))


class Yolo(nn.Module):
    """C2f, SPPF, a pyramid, and a head whose distances are expectations (DFL), decoded to boxes."""

    BINS, CLASSES = 8, 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(silu(3, 16, 3, 2), silu(16, 24, 3, 2), C2f(24, 24))
        self.deep = nn.Sequential(silu(24, 48, 3, 2), C2f(48, 48), Sppf(48))
        self.merge = C2f(72, 24)
        self.boxes = nn.ModuleList(nn.Sequential(silu(c, 24), nn.Conv2d(24, 4 * self.BINS, 1)) for c in (24, 48))
        self.classes = nn.ModuleList(nn.Sequential(silu(c, 24), nn.Conv2d(24, self.CLASSES, 1)) for c in (24, 48))
        self.register_buffer("bins", torch.arange(self.BINS, dtype=torch.float32).view(1, self.BINS, 1, 1))
        self.register_buffer("anchors", _grid((16, 8)), persistent=False)
        self.register_buffer("strides", torch.cat([torch.full((256,), 4.0), torch.full((64,), 8.0)]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.stem(x)
        deep = self.deep(shallow)
        maps = [self.merge(torch.cat([F.interpolate(deep, scale_factor=2.0), shallow], 1)), deep]
        boxes = torch.cat([layer(item).flatten(2) for layer, item in zip(self.boxes, maps, strict=True)], 2)
        scores = torch.cat([layer(item).flatten(2) for layer, item in zip(self.classes, maps, strict=True)], 2)
        spread = boxes.view(len(x), 4, self.BINS, -1).transpose(1, 2).softmax(1)
        near, far = F.conv2d(spread, self.bins).view(len(x), 4, -1).chunk(2, 1)
        low, high = self.anchors - near, self.anchors + far
        found = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([found, scores.sigmoid()], 1)


def _grid(sides: tuple[int, ...]) -> Tensor:
    points = [
        torch.stack(torch.meshgrid(torch.arange(s) + 0.5, torch.arange(s) + 0.5, indexing="xy")).flatten(1)
        for s in sides
    ]
    return torch.cat(points, 1).unsqueeze(0)


class YoloV5(nn.Module):
    """Anchors and a head in five axes that is decoded in place, as YOLOv5 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(silu(3, 16, 6, 2), silu(16, 24, 3, 2), C2f(24, 32), Sppf(32))
        self.head = nn.Conv2d(32, 3 * 9, 1)
        self.register_buffer("anchors", torch.tensor([[8.0, 12.0], [20.0, 16.0], [30.0, 40.0]]).view(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        found = self.head(self.body(x))
        n, _, h, w = found.shape
        found = found.view(n, 3, 9, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack((xs, ys), 2).view(1, 1, h, w, 2).float()
        centre, size, rest = found.split((2, 2, 5), 4)
        boxes = ((centre * 2 + grid - 0.5) * 4, (size * 2) ** 2 * self.anchors, rest)
        return torch.cat(boxes, 4).view(n, -1, 9)


class Ssd(nn.Module):
    """Boxes and classes out of two maps, channels moved last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = chain(3, 16, 32, 32, strides=(2, 2, 2)), conv(32, 48, 3, 2)
        self.boxes = nn.ModuleList(nn.Conv2d(c, 12, 3, padding=1) for c in (32, 48))
        self.classes = nn.ModuleList(nn.Conv2d(c, 15, 3, padding=1) for c in (32, 48))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.a(x)
        maps = (first, self.b(first))
        boxes = [f(m).permute(0, 2, 3, 1).reshape(len(x), -1, 4) for f, m in zip(self.boxes, maps, strict=True)]
        classes = [f(m).permute(0, 2, 3, 1).reshape(len(x), -1, 5) for f, m in zip(self.classes, maps, strict=True)]
        return torch.cat(boxes, 1), torch.cat(classes, 1).softmax(-1)


class Fpn(nn.Module):
    """Three maps, the deeper ones added to the shallower."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 16, 3, 2), conv(16, 24, 3, 2), conv(24, 32, 3, 2)])
        self.sides = nn.ModuleList(nn.Conv2d(c, 16, 1) for c in (16, 24, 32))
        self.outs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage, side in zip(self.stages, self.sides, strict=True):
            x = stage(x)
            maps.append(side(x))
        for i in (1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        return [out(item) for out, item in zip(self.outs, maps, strict=True)]


class HrNet(nn.Module):
    """Two resolutions side by side that exchange what they find."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 16, 3, 2), conv(16, 32, 3, 2)
        self.fine, self.coarse = conv(16, 16), conv(32, 32)
        self.up, self.stride = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.out = nn.Conv2d(48, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = self.down(fine)
        fine, coarse = self.fine(fine), self.coarse(coarse)
        raised = F.interpolate(self.up(coarse), scale_factor=2, mode="bilinear", align_corners=True)
        fine, coarse = F.relu(fine + raised), F.relu(coarse + self.stride(fine))
        return self.out(torch.cat([fine, F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")], 1))


class BiSeNet(nn.Module):
    """A path of details and one of context, refined by attention over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.detail, self.context = (
            chain(3, 16, 24, 24, strides=(2, 2, 2)),
            chain(3, 8, 16, 24, 24, strides=(2, 2, 2, 2)),
        )
        self.refine = nn.Sequential(nn.Conv2d(24, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Sigmoid())
        self.fuse, self.gate = conv(48, 32, 1), nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1))
        self.out = nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        context = self.context(x)
        context = context * self.refine(context.mean((2, 3), keepdim=True))
        context = context + F.adaptive_avg_pool2d(context, 1)
        joined = self.fuse(torch.cat([self.detail(x), F.interpolate(context, scale_factor=2)], 1))
        joined = joined + joined * torch.sigmoid(self.gate(F.avg_pool2d(joined, joined.size()[2:])))
        return F.interpolate(self.out(joined), size=x.shape[-2:], mode="bilinear", align_corners=False)


class Aspp(nn.Module):
    """DeepLab's parallel dilated convolutions and the pooled image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain(3, 16, 32, strides=(2, 2))
        self.rates = nn.ModuleList(nn.Conv2d(32, 16, 3, padding=r, dilation=r) for r in (1, 2, 4))
        self.pooled, self.out = nn.Conv2d(32, 16, 1), nn.Conv2d(64, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        image = F.interpolate(F.relu(self.pooled(F.adaptive_avg_pool2d(y, 1))), size=y.shape[-2:], mode="bilinear")
        return self.out(torch.cat([*[F.relu(rate(y)) for rate in self.rates], image], 1))


def heatmaps() -> nn.Module:
    """Keypoints: three transposed convolutions after the body."""
    ups = []
    for a, b in ((48, 32), (32, 32), (32, 24)):
        ups += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(chain(3, 16, 24, 32, 48, strides=(2, 2, 2, 2)), *ups, nn.Conv2d(24, 17, 1))


def espcn() -> nn.Module:
    """Super-resolution: channels become pixels."""
    layers = [nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 16, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(16, 9, 3, padding=1), nn.PixelShuffle(3))


class Edsr(nn.Module):
    """Super-resolution with residual blocks and the enlarged image added."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 24, 3, padding=1)
        self.body = nn.Sequential(
            *[
                Residual(
                    nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(24, 24, 3, padding=1))
                )
                for _ in range(2)
            ]
        )
        self.tail = nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(12, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        return (self.tail(y + self.body(y) * 0.1) + F.interpolate(x, scale_factor=2, mode="bilinear")).clamp(-3, 3)


def autoencoder() -> nn.Module:
    """Through a narrow middle and back."""
    down = [
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 32),
    ]
    up = [
        nn.Linear(32, 2048),
        nn.ReLU(),
        nn.Unflatten(1, (32, 8, 8)),
        nn.ConvTranspose2d(32, 16, 3, 2, 1, 1),
        nn.ReLU(),
    ]
    return nn.Sequential(*down, *up, nn.ConvTranspose2d(16, 3, 3, 2, 1, 1), nn.Sigmoid())


def vae_decoder() -> nn.Module:
    """From a latent vector to an image."""
    ups = [nn.ConvTranspose2d(32, 24, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.SiLU()]
    first = [nn.Linear(16, 32 * 64), nn.SiLU(), nn.Unflatten(1, (32, 8, 8))]
    return nn.Sequential(*first, *ups, nn.ConvTranspose2d(16, 3, 3, 1, 1), nn.Sigmoid())


def generator() -> nn.Module:
    """DCGAN's, from noise of one pixel."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(32, 48, 4, 1, 0, bias=False), nn.BatchNorm2d(48), nn.ReLU(True)]
    for a, b in ((48, 32), (32, 16)):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh())


def style_transfer() -> nn.Module:
    """Reflected edges and norms of each image by itself."""

    def layer(cin: int, cout: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        edge, norm = nn.ReflectionPad2d(kernel // 2), nn.InstanceNorm2d(cout, affine=True)
        return [edge, nn.Conv2d(cin, cout, kernel, stride), norm, nn.ReLU()]

    middle = Residual(nn.Sequential(*layer(24, 24, 3), *layer(24, 24, 3)[:-1]))
    up = [nn.Upsample(scale_factor=2, mode="nearest"), *layer(24, 12, 3)]
    last = [nn.ReflectionPad2d(4), nn.Conv2d(12, 3, 9)]
    return nn.Sequential(*layer(3, 12, 9), *layer(12, 24, 3, 2), middle, *up, *last)


class PointNet(nn.Module):
    """One network for each point, the largest over all, scores."""

    def __init__(self) -> None:
        super().__init__()

        def layers(*widths: int) -> list[nn.Module]:
            return [part for a, b in pairwise(widths) for part in (nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU())]

        self.transform = nn.Sequential(*layers(3, 16, 32), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, 9))
        self.points = nn.Sequential(*layers(3, 32, 64))
        self.scores = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
        self.register_buffer("unit", torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        turn = self.transform(x).view(-1, 3, 3) + self.unit
        turned = torch.bmm(x.transpose(2, 1), turn).transpose(2, 1)
        return F.log_softmax(self.scores(torch.max(self.points(turned), 2)[0]), dim=1)


ENTRIES: dict[str, Entry] = {
    "unet": Entry(UNet, picture()),
    "yolo_v8": Entry(Yolo, picture()),
    "yolo_v5": Entry(YoloV5, picture()),
    "ssd": Entry(Ssd, picture()),
    "fpn": Entry(Fpn, picture()),
    "hrnet": Entry(HrNet, picture()),
    "bisenet": Entry(BiSeNet, picture()),
    "deeplab": Entry(Aspp, picture()),
    "keypoints": Entry(heatmaps, picture()),
    "espcn": Entry(espcn, picture(32, 1)),
    "edsr": Entry(Edsr, picture(32)),
    "autoencoder": Entry(autoencoder, picture(32)),
    "vae_decoder": Entry(vae_decoder, {"latent": Input("noise", (1, 16))}),
    "gan_generator": Entry(generator, {"noise": Input("noise", (1, 32, 1, 1))}),
    "style_transfer": Entry(style_transfer, picture(48)),
    "pointnet": Entry(PointNet, {"points": Input("noise", (1, 3, 128))}),
}
