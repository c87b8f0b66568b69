"""Small networks for sound, sensors and text, in plain torch."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from zoo_models import Entry, Input
from zoo_vision import chain, conv


def ds_cnn() -> nn.Module:
    """Keyword spotting with depthwise separable convolutions, its SAME padding uneven as in TensorFlow."""
    first = [nn.ZeroPad2d((1, 1, 4, 5)), nn.Conv2d(1, 32, (10, 4), 2, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    blocks = [part for _ in range(3) for part in (conv(32, 32, 3, groups=32), conv(32, 32, 1))]
    return nn.Sequential(*first, *blocks, nn.AvgPool2d((25, 5)), nn.Flatten(), nn.Linear(32, 12))


class Temporal(nn.Module):
    """The residual block of a TCN: causal, dilated; what is padded too much is cut off."""

    def __init__(self, cin: int, cout: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.a = nn.Conv1d(cin, cout, 3, padding=self.pad, dilation=dilation)
        self.b = nn.Conv1d(cout, cout, 3, padding=self.pad, dilation=dilation)
        self.skip = nn.Conv1d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x)[:, :, : -self.pad])
        return F.relu(F.relu(self.b(y)[:, :, : -self.pad]) + self.skip(x))


class Last(nn.Module):
    """Layers over time, scores of the last step."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.scores = body, nn.Linear(channels, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.body(x)[:, :, -1])


class WaveNet(nn.Module):
    """Gated dilated convolutions; each gives to a sum that the output is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 16, 1)
        self.gated = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(5))
        self.skips = nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in range(5))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(24, 24, 1), nn.ReLU(), nn.Conv1d(24, 32, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), None
        for i, (gated, skip) in enumerate(zip(self.gated, self.skips, strict=True)):
            filtered, gate = gated(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = torch.tanh(filtered) * torch.sigmoid(gate)
            total = skip(y) if total is None else total + skip(y)
            x = x + y
        return self.last(total)


class Tagger(nn.Module):
    """Embedded tokens, a recurrent layer, a tag for each."""

    def __init__(self, kind: str, bidirectional: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.cell = getattr(nn, kind)(32, 48, layers, batch_first=True, bidirectional=bidirectional)
        self.tags = nn.Linear(96 if bidirectional else 48, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tags(self.cell(self.embed(tokens))[0])


class Crnn(nn.Module):
    """Text in images: columns of a convolutional map as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d((2, 1)), conv(32, 32), nn.MaxPool2d((8, 1))
        )
        self.cell, self.scores = nn.LSTM(32, 32, bidirectional=True), nn.Linear(64, 20)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.body(x).squeeze(2).permute(2, 0, 1)
        return F.log_softmax(self.scores(self.cell(steps)[0]), 2)


class KeywordTransformer(nn.Module):
    """Frames of a spectrogram as tokens, torch's own encoder layers, the class token's scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(40, 48), nn.Parameter(torch.zeros(1, 1, 48))
        self.positions = nn.Parameter(torch.zeros(1, 50, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, activation="gelu", batch_first=True, norm_first=True)
        self.encoder, self.scores = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.positions
        return self.scores(self.encoder(x)[:, 0])


class Translator(nn.Module):
    """torch's encoder and decoder over embedded tokens, the decoder causal."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 48)
        self.body = nn.Transformer(48, 4, 1, 1, 96, batch_first=True)
        self.scores = nn.Linear(48, 200)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(12))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.scores(self.body(self.embed(source), self.embed(target), tgt_mask=self.causal, tgt_is_causal=True))


def audio_net() -> nn.Module:
    """Depthwise convolutions over a waveform."""

    def block(cin: int, cout: int, stride: int) -> list[nn.Module]:
        deep = nn.Conv1d(cin, cin, 9, stride, 4, groups=cin, bias=False)
        return [deep, nn.BatchNorm1d(cin), nn.ReLU6(), nn.Conv1d(cin, cout, 1), nn.BatchNorm1d(cout), nn.ReLU6()]

    body = [nn.Conv1d(1, 16, 40, 16), nn.ReLU(), *block(16, 24, 2), *block(24, 32, 2), *block(32, 48, 2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, 10))


class YamNet(nn.Module):
    """A MobileNet over a log-mel spectrogram, with the logarithm inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 16, 3, 2), conv(16, 16, 3, groups=16), conv(16, 32, 1), conv(32, 32, 3, 2, groups=32)
        )
        self.scores = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        loudness = torch.log(x.abs() + 0.01).unsqueeze(1)
        return torch.sigmoid(self.scores(self.body(loudness).mean((2, 3))))


class Denoiser(nn.Module):
    """A waveform encoded, masked and decoded, as Conv-TasNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Conv1d(1, 32, 16, 8, bias=False), nn.ConvTranspose1d(32, 1, 16, 8, bias=False)
        self.norm = nn.GroupNorm(1, 32)
        self.mask = nn.Sequential(
            nn.Conv1d(32, 48, 1),
            nn.PReLU(),
            nn.Conv1d(48, 48, 3, padding=2, dilation=2, groups=48),
            nn.PReLU(),
            nn.Conv1d(48, 32, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        coded = F.relu(self.encode(x))
        return self.decode(coded * torch.sigmoid(self.mask(self.norm(coded))))


class Ranker(nn.Module):
    """Several embeddings and measured values, their products, one score: a recommender (DLRM)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(100, 16) for _ in range(4))
        self.dense = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(26, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, measured: Tensor, picked: Tensor) -> Tensor:
        dense = self.dense(measured)
        rows = torch.stack([dense, *[table(picked[:, i]) for i, table in enumerate(self.tables)]], 1)
        products = torch.bmm(rows, rows.transpose(1, 2))
        i, j = torch.tril_indices(5, 5, -1)
        return torch.sigmoid(self.top(torch.cat([dense, products[:, i, j]], 1)))


class TextCnn(nn.Module):
    """Convolutions of three widths over embedded tokens, the largest of each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.layers = nn.ModuleList(nn.Conv1d(32, 16, k) for k in (3, 4, 5))
        self.scores = nn.Linear(48, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).transpose(1, 2)
        return self.scores(torch.cat([F.relu(layer(x)).max(2).values for layer in self.layers], 1))


def sensor_mlp() -> nn.Module:
    """A window of an accelerometer, flattened."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(96, 64),
        nn.BatchNorm1d(64),
        nn.ELU(),
        nn.Linear(64, 32),
        nn.Softplus(),
        nn.Linear(32, 6),
        nn.Softmax(1),
    )


def anomaly() -> nn.Module:
    """MLPerf Tiny's dense autoencoder."""
    widths = (160, 64, 64, 8, 64, 64)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(64, 160))


def ecg() -> nn.Module:
    """A residual-free one-dimensional network over a heartbeat, then a small image of it."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 16)), chain(1, 12, 24, 24, strides=(1, 2, 2)), nn.Flatten(), nn.Linear(384, 5)
    )


FRAMES = {"frames": Input("mel", (1, 49, 40))}
SERIES = {"series": Input("mel", (1, 4, 64))}
SENTENCE = {"tokens": Input("tokens", (1, 24), 200)}

ENTRIES: dict[str, Entry] = {
    "ds_cnn": Entry(ds_cnn, {"frames": Input("mel", (1, 1, 49, 10))}),
    "tcn": Entry(lambda: Last(nn.Sequential(Temporal(4, 24, 1), Temporal(24, 24, 2), Temporal(24, 32, 4)), 32), SERIES),
    "wavenet": Entry(WaveNet, {"wave": Input("wave", (1, 1, 256))}),
    "gru_tagger": Entry(lambda: Tagger("GRU"), SENTENCE),
    "lstm_tagger": Entry(lambda: Tagger("LSTM"), SENTENCE),
    "bilstm_tagger": Entry(lambda: Tagger("LSTM", bidirectional=True, layers=2), SENTENCE),
    "crnn": Entry(Crnn, {"image": Input("image", (1, 1, 32, 64))}),
    "keyword_transformer": Entry(KeywordTransformer, FRAMES),
    "translator": Entry(Translator, {"source": Input("tokens", (1, 16), 200), "target": Input("tokens", (1, 12), 200)}),
    "audio_net": Entry(audio_net, {"wave": Input("wave", (1, 1, 2000))}),
    "yamnet": Entry(YamNet, FRAMES),
    "denoiser": Entry(Denoiser, {"wave": Input("wave", (1, 1, 800))}),
    "ranker": Entry(Ranker, {"measured": Input("noise", (1, 8)), "picked": Input("tokens", (1, 4), 100)}),
    "text_cnn": Entry(TextCnn, SENTENCE),
    "sensor_mlp": Entry(sensor_mlp, {"window": Input("mel", (1, 32, 3))}),
    "anomaly": Entry(anomaly, {"frames": Input("noise", (1, 160))}),
    "heartbeat": Entry(ecg, {"beats": Input("wave", (1, 16, 16))}),
}
