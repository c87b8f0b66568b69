"""Where a training runs: the processor, one GPU where there is one, or several through Lightning Fabric."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import ConfigError

HALF = torch.bfloat16


class Engine:
    """One device. ``rank`` of ``count`` processes train on a share of every batch each."""

    rank, count = 0, 1

    def __init__(self, mixed: bool = False) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mixed = mixed and computes_in_half(self.device)

    def run(self, work: Callable[[], Any]) -> Any:
        """What ``work`` gives, done where this engine trains."""
        return work()

    def setup(self, module: Any, optimizer: Any, learned: nn.ModuleDict) -> tuple[Any, Any]:
        """The module and the optimizer as they are to be used."""
        learned.to(self.device)
        return module.to(self.device, memory_format=torch.channels_last), optimizer

    def forward(self) -> AbstractContextManager[Any]:
        """Around every pass through the module."""
        return torch.autocast(self.device.type, HALF, enabled=self.mixed)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def agreed(self, decision: bool) -> bool:
        """What the first process decided."""
        return decision


class FabricEngine(Engine):
    """Lightning Fabric: all GPUs of the machine, a process for each, gradients averaged between them."""

    def __init__(self, mixed: bool = False, devices: int = 0) -> None:
        fabric = _fabric()
        gpus = torch.cuda.device_count()  # asks the driver only: processes are forked before CUDA is used
        self.devices = devices or gpus or 1
        self.mixed = mixed and (gpus > 0 or computes_in_half(torch.device("cpu")))
        self._fabric = fabric(
            accelerator="auto",
            devices=self.devices,
            strategy="ddp_fork" if self.devices > 1 else "auto",
            precision="bf16-mixed" if self.mixed else "32-true",
        )

    def run(self, work: Callable[[], Any]) -> Any:
        """What the first process gives."""

        def launched(_: Any = None) -> Any:
            self.rank, self.count = self._fabric.global_rank, self._fabric.world_size
            self.device = self._fabric.device
            return work()

        return self._fabric.launch(launched)

    def setup(self, module: Any, optimizer: Any, learned: nn.ModuleDict) -> tuple[Any, Any]:
        """The module and the optimizer in Fabric's wrapping, whose ``run`` averages gradients."""
        wrapped, used = self._fabric.setup(module, optimizer)
        wrapped.mark_forward_method("run")
        for name, part in learned.items():
            learned[name] = self._fabric.setup_module(part)
        return wrapped, used

    def forward(self) -> AbstractContextManager[Any]:
        """Around every pass through the module."""
        context: AbstractContextManager[Any] = self._fabric.autocast()
        return context

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, averaged over the processes."""
        self._fabric.backward(loss)

    def agreed(self, decision: bool) -> bool:
        """What the first process decided."""
        return bool(self._fabric.broadcast(decision))


def engine(mixed: bool, fabric: bool) -> Engine:
    """Where to train. Raises ConfigError when Lightning Fabric is asked for and not installed."""
    return FabricEngine(mixed) if fabric else Engine(mixed)


def computes_in_half(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; elsewhere it would only be slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fabric() -> Any:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ConfigError(f"fabric: needs Lightning Fabric ({error}); pip install lightning-fabric") from None
    return Fabric
