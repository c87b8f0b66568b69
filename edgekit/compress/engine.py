"""Where a training runs: the processor, one GPU where there is one, or several through Lightning Fabric."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import multiprocessing, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from edgekit.compress.batches import Batch
from edgekit.errors import ConfigError, EdgekitError

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

    def setup(self, *modules: nn.Module) -> None:
        """Put modules on the device."""
        for module in modules:
            module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self) -> AbstractContextManager[Any]:
        """Around every pass through the module."""
        return torch.autocast(self.device.type, HALF, enabled=self.mixed)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients become their means over the processes."""

    def share(self, batch: Batch) -> tuple[Batch, float]:
        """This process's rows of a batch, on its device, and how often their mean counts in the mean over processes.

        A process for which there is no row takes one that does not count, so that all take part in every exchange.
        """
        inputs, labels = batch
        size = len(inputs[0])
        held = len(range(self.rank, size, self.count))
        rows = slice(self.rank, None, self.count) if held else slice(0, 1)
        mine = [value[rows].to(self.device) for value in inputs]
        return (mine, None if labels is None else labels[rows].to(self.device)), held * self.count / size

    def agreed(self, decision: bool) -> bool:
        """What the first process decided."""
        return decision

    def mean(self, value: float) -> float:
        """The mean over the processes."""
        return value


class FabricEngine(Engine):
    """Lightning Fabric: all GPUs of the machine, a process for each, gradients averaged between them.

    BatchNormalization normalizes the rows of each process by themselves; the first one's statistics come out.
    """

    def __init__(self, mixed: bool = False, devices: int = 0) -> None:
        fabric = _fabric()
        gpus = torch.cuda.device_count()  # asks the driver only: processes are forked before CUDA is used
        self.devices = devices or gpus or 1
        self.mixed = mixed and (gpus > 0 or computes_in_half(torch.device("cpu")))
        if self.devices > 1 and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise ConfigError("fabric: an earlier step has used a GPU in this process; set fabric in every step")
        self._fabric = fabric(
            accelerator="auto",
            devices=self.devices,
            strategy="ddp_fork" if self.devices > 1 else "auto",
            precision="bf16-mixed" if self.mixed else "32-true",
        )

    def run(self, work: Callable[[], Any]) -> Any:
        """What the first process gives. Raises what another one raises, where that is an EdgekitError."""
        failures: Any = multiprocessing.get_context("fork").SimpleQueue()

        def launched(_: Any = None) -> Any:
            self.rank, self.count = self._fabric.global_rank, self._fabric.world_size
            self.device = self._fabric.device
            if self.count > 1:
                torch.set_num_threads(1)  # GNU OpenMP hangs in a fork of a process that has used threads
            try:
                return work()
            except EdgekitError as error:
                failures.put(error)
                raise

        try:
            return self._fabric.launch(launched)
        except ProcessRaisedException:
            if failures.empty():
                raise
            raise failures.get() from None

    def forward(self) -> AbstractContextManager[Any]:
        """Around every pass through the module."""
        context: AbstractContextManager[Any] = self._fabric.autocast()
        return context

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients become their means over the processes: exchanged at once, whichever parameters have one."""
        held = [p.grad for p in parameters if p.grad is not None]
        means = self._fabric.all_reduce(torch.cat([grad.reshape(-1) for grad in held]))
        for grad, mean in zip(held, means.split([grad.numel() for grad in held]), strict=True):
            grad.copy_(mean.view_as(grad))

    def agreed(self, decision: bool) -> bool:
        """What the first process decided."""
        return bool(self._fabric.broadcast(decision))

    def mean(self, value: float) -> float:
        """The mean over the processes."""
        return float(self._fabric.all_reduce(torch.tensor(value, dtype=torch.float64, device=self.device)))


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
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    return Fabric
