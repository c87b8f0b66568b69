"""Frontends: a torch callable, a ``.pt2`` program or an ``.onnx`` file becomes the one graph.

After this nothing knows where a model came from. Only ``frontends.torch`` imports torch, and only when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.errors import ModelError

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Loaded:
    """A source model: its graph, and ``run``, which runs the original (inputs by name -> outputs in order)."""

    model: ir.Model
    run: Callable[[Mapping[str, Any]], list[Any]]


def load_graph(
    source: str,
    weights: Path | None = None,
    shapes: Shapes | None = None,
    folder: Path | None = None,
    outputs: Sequence[str] = (),
) -> ir.Model:
    """The graph of ``load_source``."""
    return load_source(source, weights, shapes, folder, outputs).model


def load_source(
    source: str,
    weights: Path | None = None,
    shapes: Shapes | None = None,
    folder: Path | None = None,
    outputs: Sequence[str] = (),
) -> Loaded:
    """Load a model as a graph at edgekit's opset, with fixed shapes and sound weights, and the original beside it.

    ``source`` is ``file.onnx``, ``file.pt2`` or ``package.module:callable`` (found from ``folder`` too); ``weights`` a
    safetensors file or a saved ``state_dict`` for a callable; ``shapes`` pins input shapes by name; ``outputs`` are the
    tensors of an ONNX file at which the model shall end, where not at its own outputs.

    Raises ModelError when the model cannot be read or its weights are not finite.
    """
    folder = folder or Path.cwd()
    if source.endswith(".onnx"):
        from edgekit.frontends.onnx import load

        _no_weights(source, weights)
        return load(folder / source, shapes, outputs)
    if outputs:
        raise ModelError(f"model {source}: [model] outputs is for file.onnx; let the module return what is wanted")
    if source.endswith(".pt2"):
        _no_weights(source, weights)
        program: Loaded = _torch(source).load_program(folder / source, shapes)
        return program
    if ":" in source:
        loaded: Loaded = _torch(source).load_callable(source, weights, shapes, folder)
        return loaded
    raise ModelError(f"model {source}: expected file.onnx, file.pt2 or package.module:callable")


def _torch(source: str) -> Any:
    """The torch frontend. Raises ModelError where torch is not installed."""
    try:
        import torch  # noqa: F401, TID251 - only to see whether it is there
    except ImportError as error:
        raise ModelError(
            f"model {source}: needs torch, which cannot be imported ({error}); install it: pip install 'edgekit[torch]'"
        ) from None
    return import_module("edgekit.frontends.torch")


def _no_weights(source: str, weights: Path | None) -> None:
    if weights is not None:
        raise ModelError(f"model {source}: holds its own weights; [model] weights is for package.module:callable")
