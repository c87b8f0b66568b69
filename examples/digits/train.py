"""Train the digit classifier, in well under two minutes on a CPU: ``python examples/digits/train.py``.

Images go through the preprocessing that edgekit.toml declares, so that training and building cannot differ.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from model import DigitsCNN
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from edgekit import load_project, open_samples

HERE = Path(__file__).resolve().parent
EPOCHS = 60
BATCH = 64


def load(name: str) -> tuple[Tensor, Tensor]:
    """Preprocessed images (N, 1, 8, 8) and labels (N,) of ``data:NAME``."""
    config = load_project(HERE / "edgekit.toml").model.input("image")
    samples = list(open_samples(f"data:{name}", {"image": (1, 1, 8, 8)}, {"image": config}, folder=HERE))
    images = np.concatenate([sample.inputs["image"] for sample in samples])
    return torch.from_numpy(images), torch.tensor([sample.label for sample in samples])


def jittered(images: Tensor, background: float) -> Tensor:
    """Each image moved by up to a pixel either way and turned and scaled a little, as other hands would write it."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * math.radians(20)
    size = 1 + (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(count, 2) - 0.5) * (2 * 2 / 8)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(count, 2, 2)
    grid = functional.affine_grid(
        torch.cat([turn * size[:, None, None], shift[:, :, None]], dim=2), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images - background, grid, align_corners=False) + background


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose highest score is their label's."""
    network.eval()
    with torch.inference_mode():
        return float((network(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Train, print the held-out accuracy, and write digits.safetensors."""
    started = time.perf_counter()
    torch.manual_seed(0)
    images, labels = load("calibration")
    held_images, held_labels = load("evaluation")
    network = DigitsCNN()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for epoch in range(EPOCHS):
        network.train()
        for picks in torch.randperm(len(images)).split(BATCH):
            batch = jittered(images[picks], float(images.min()))
            loss = functional.cross_entropy(network(batch), labels[picks], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            held_out = accuracy(network, held_images, held_labels)
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}, held-out accuracy {held_out:.2%}", flush=True)
    path = HERE / "digits.safetensors"
    save_file({name: value for name, value in network.state_dict().items() if "num_batches" not in name}, path)
    seconds = time.perf_counter() - started
    print(f"{path.name}: {path.stat().st_size} bytes, {seconds:.0f} s")


if __name__ == "__main__":
    main()
