"""Architectures with random, seeded, numerically sane weights, and inputs that look like real ones.

``zoo_models:NAME`` is a source that edgekit takes: it returns (module, example inputs). Those of ``zoo_published`` need
the package ``transformers``; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]
SEED = 0
FITTED = 32  # inputs whose statistics the weights are fitted to
QUIETEST = 0.3  # the least variance of a channel, of the mean one's: what is next to nothing is not blown up
SLOPES = (1.5, 0.4)  # of the bands of a spectrogram, lowest to highest


@dataclass(frozen=True)
class Input:
    """What one input looks like: ``image``, ``tokens`` below ``high``, ``mask``, ``mel``, ``wave`` or ``noise``."""

    kind: str
    shape: tuple[int, ...]
    high: int = 0


@dataclass(frozen=True)
class Entry:
    """One architecture: ``make`` gives the module, ``inputs`` what it takes, in order."""

    make: Callable[[], nn.Module]
    inputs: Mapping[str, Input]

    def __call__(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The module with its weights, and example inputs."""
        torch.manual_seed(SEED)
        module = self.make()
        samples = [tensors(sample) for sample in self.samples(FITTED, SEED)]
        fit(module, tuple(torch.cat(values) for values in zip(*samples, strict=True)))
        return module, samples[0]

    def samples(self, number: int, seed: int) -> list[dict[str, Array]]:
        """So many inputs by name."""
        random = np.random.default_rng(seed)
        return [{name: draw(item, random) for name, item in self.inputs.items()} for _ in range(number)]


def tensors(sample: Mapping[str, Array]) -> tuple[torch.Tensor, ...]:
    """A sample as the module takes it."""
    return tuple(torch.from_numpy(value) for value in sample.values())


def draw(item: Input, random: np.random.Generator) -> Array:
    """One input."""
    shape = item.shape
    if item.kind == "tokens":
        return random.integers(0, item.high, shape)
    if item.kind == "mask":
        return np.ones(shape, np.int64)
    if item.kind == "image":
        return _image(shape, random)
    if item.kind == "mel":
        walk = random.standard_normal(shape).cumsum(-2) * 0.3 + random.standard_normal((*shape[:-2], 1, shape[-1]))
        return np.clip(walk * np.linspace(*SLOPES, shape[-1]), -6, 6).astype(np.float32)
    if item.kind == "wave":
        time = np.arange(shape[-1])
        tones = [np.sin(time * random.uniform(0.005, 0.4) + random.uniform(0, 6)) for _ in range(4)]
        return (np.mean(tones, 0) + 0.05 * random.standard_normal(shape)).astype(np.float32)
    return random.standard_normal(shape).astype(np.float32)


def _image(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Noise whose power falls with the frequency, as in photographs, with correlated channels, near N(0, 1)."""
    *lead, height, width = shape
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** 1.2
    pixels = np.fft.irfft2(np.fft.rfft2(random.standard_normal(shape)) * amplitude, s=(height, width))
    pixels = pixels + pixels.mean(axis=tuple(range(len(lead))), keepdims=True)
    pixels = pixels / pixels.std() * random.uniform(0.5, 1.3) + random.normal(0, 0.5)
    return np.clip(pixels, -2.1, 2.6).astype(np.float32)


def fit(module: nn.Module, batch: tuple[torch.Tensor, ...]) -> None:
    """Weights under which activations keep unit size, as trained ones do.

    Each layer is scaled until what it gives on the batch has unit variance (Mishkin and Matas 2016), and BatchNorm
    takes its statistics from it. Scales and biases of norms, positions and the like are drawn anew.
    """
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, 0, 0.1)
        elif isinstance(_owner(module, name), nn.Module) and _is_norm(_owner(module, name)):
            nn.init.uniform_(weight, 0.7, 1.3)
        elif not _is_layer(module, name) and (weight.numel() == 1 or weight.std() < 0.05):
            alike = weight.numel() == 1 or weight.mean().abs() > weight.std()
            nn.init.uniform_(weight, 0.3, 0.8) if alike else nn.init.normal_(weight, 0, 0.3)
    module.train()
    for part in module.modules():
        if isinstance(part, (nn.Dropout, nn.Dropout1d, nn.Dropout2d)) or "DropPath" in type(part).__name__:
            part.eval()
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()
            part.momentum = None
    hooks = [part.register_forward_hook(_unit()) for part in module.modules() if isinstance(part, LAYERS)]
    with torch.no_grad():
        module(*batch)
    for hook in hooks:
        hook.remove()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
            part.running_var.clamp_(min=QUIETEST * float(part.running_var.mean()))
    module.eval()


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def _owner(module: nn.Module, name: str) -> Any:
    return module.get_submodule(name.rpartition(".")[0])


def _is_norm(part: nn.Module) -> bool:
    return "Norm" in type(part).__name__


def _is_layer(module: nn.Module, name: str) -> bool:
    return isinstance(_owner(module, name), (*LAYERS, nn.modules.rnn.RNNBase))


def _unit() -> Callable[..., torch.Tensor | None]:
    """A hook that scales a layer once, so that what it gives has unit variance."""
    done = False

    def hook(part: Any, _: Any, out: torch.Tensor) -> torch.Tensor | None:
        nonlocal done
        size = float(out.std()) if out.numel() > 1 else 0.0
        if done or size < 1e-6 or hasattr(part, "parametrizations"):
            return None
        done = True
        part.weight.data /= size
        if part.bias is not None:
            part.bias.data /= size
        return out / size

    return hook


def _zoo() -> dict[str, Entry]:
    """Every architecture, by name."""
    import zoo_dense
    import zoo_signals
    import zoo_vision

    found = zoo_vision.ENTRIES | zoo_dense.ENTRIES | zoo_signals.ENTRIES
    if find_spec("transformers"):
        import zoo_published

        found = zoo_published.ENTRIES | found
    return found


def __getattr__(name: str) -> Any:
    """``ZOO``, and each entry of it under its name, so that ``zoo_models:NAME`` is a source."""
    if name.startswith("__"):
        raise AttributeError(name)
    zoo = _zoo()
    if name == "ZOO":
        return zoo
    if name not in zoo:
        raise AttributeError(f"the zoo has no {name}")
    return zoo[name]
