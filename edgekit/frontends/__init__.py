"""Frontends: a torch callable, a ``.pt2`` program or an ``.onnx`` file becomes the one graph.

After this nothing knows where a model came from. Only ``frontends.torch`` imports torch, and only when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    source: str, weights: Path | None = None, shapes: Shapes | None = None, folder: Path | None = None
) -> ir.Model:
    """The graph of ``load_source``."""
    return load_source(source, weights, shapes, folder).model


def load_source(
    source: str, weights: Path | None = None, shapes: Shapes | None = None, folder: Path | None = None
) -> Loaded:
    """Load a model as a graph at edgekit's opset, with fixed shapes and sound weights, and the original beside it.

    ``source`` is ``file.onnx``, ``file.pt2`` or ``package.module:callable`` (found from ``folder`` too); ``weights`` a
    safetensors file or a saved ``state_dict`` for a callable; ``shapes`` pins input shapes by name.

    Raises ModelError when the model cannot be read or its weights are not finite.
    """
    folder = folder or Path.cwd()
    if source.endswith(".onnx"):
        from edgekit.frontends.onnx import load

        _no_weights(source, weights)
        return load(folder / source, shapes)
    if source.endswith(".pt2"):
        from edgekit.frontends.torch import load_program

        _no_weights(source, weights)
        return load_program(folder / source, shapes)
    if ":" in source:
        from edgekit.frontends.torch import load_callable

        return load_callable(source, weights, shapes, folder)
    raise ModelError(f"model {source}: expected file.onnx, file.pt2 or package.module:callable")


def _no_weights(source: str, weights: Path | None) -> None:
    if weights is not None:
        raise ModelError(f"model {source}: holds its own weights; [model] weights is for package.module:callable")
