"""torch modules and exported programs -> graph, through ``torch.onnx.export(dynamo=True)``.

The exporter is asked not to optimize, so that BatchNormalization stays a node of its own; weights keep their
``state_dict`` names. Nothing is unpickled: weights come as safetensors or with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import onnx_ir as ir

from edgekit.errors import ModelError
from edgekit.frontends import Loaded
from edgekit.frontends.onnx import finish
from edgekit.graph import OPSET
from edgekit.named import load_named

Shapes = Mapping[str, Sequence[int]]


def load_callable(source: str, weights: Path | None, shapes: Shapes | None, folder: Path) -> Loaded:
    """``package.module:callable`` returning a module, or (module, example inputs) -> graph."""
    import torch

    made = _call(source, folder)
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"model {source}: returned {type(module).__name__}; expected an nn.Module or (module, example_inputs)")
    if weights is not None:
        _load_weights(module, weights)
    module.eval()
    if examples is None:
        if not shapes:
            raise ModelError(f"model {source}: no example inputs; give [model.inputs.NAME] shape, or return (module, example_inputs)")
        examples = tuple(torch.zeros(*shape) for shape in shapes.values())
    examples = examples if isinstance(examples, tuple) else tuple(examples) if isinstance(examples, list) else (examples,)
    with _quiet():
        try:
            program = torch.onnx.export(module, examples, dynamo=True, optimize=False, verbose=False, opset_version=OPSET)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ModelError(f"model {source}: torch cannot export it: {_first_line(error)}") from error
    if program is None:
        raise ModelError(f"model {source}: torch exported nothing")
    return _loaded(module, finish(_named(program.model, shapes), source, None))


def load_program(path: Path, shapes: Shapes | None) -> Loaded:
    """A saved ``torch.export`` program -> graph."""
    import torch

    if not path.is_file():
        raise ModelError(f"model {path}: no such file")
    with _quiet():
        try:
            exported = torch.export.load(path)
            program = torch.onnx.export(exported, dynamo=True, optimize=False, verbose=False, opset_version=OPSET)
        except (RuntimeError, OSError, ValueError, KeyError, AssertionError) as error:
            raise ModelError(f"model {path}: not a torch.export program: {_first_line(error)}") from error
    if program is None:
        raise ModelError(f"model {path}: torch exported nothing")
    return _loaded(exported.module(), finish(_named(program.model, shapes), str(path), shapes))


def _loaded(module: Any, model: ir.Model) -> Loaded:
    """The graph with the module that it came from; the module takes the graph's inputs in order."""
    import torch

    names = [str(value.name) for value in model.graph.inputs]

    def run(inputs: Mapping[str, Any]) -> list[Any]:
        with torch.no_grad():
            result = module(*(torch.from_numpy(inputs[name].copy()) for name in names))
        leaves = torch.utils._pytree.tree_leaves(result)
        return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    return Loaded(model, run)


def _named(model: ir.Model, shapes: Shapes | None) -> ir.Model:
    """Give the inputs the names under which the project declares them, when there are as many."""
    names = list(shapes or ())
    if names and len(names) == len(model.graph.inputs) and set(names) != {v.name for v in model.graph.inputs}:
        for value, name in zip(model.graph.inputs, names, strict=True):
            value.name = name
    return model


def _call(source: str, folder: Path) -> Any:
    function = load_named(source, folder, "model", ModelError)
    if not callable(function):
        raise ModelError(f"model {source}: is a {type(function).__name__}; expected a callable that returns an nn.Module")
    try:
        return function()
    except Exception as error:  # the user's own code can raise anything
        raise ModelError(f"model {source}: raised {type(error).__name__}: {_first_line(error)}") from error


def _load_weights(module: Any, path: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"weights {path}: no such file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            f"weights {path}: not safetensors or a plain state_dict ({_first_line(error)}); save with "
            "safetensors.torch.save_file(model.state_dict(), ...); a pickled module can run code and is refused"
        ) from error
    if not isinstance(state, Mapping):
        raise ModelError(f"weights {path}: holds a {type(state).__name__}; expected a state_dict")
    wanted = module.state_dict()
    missing = sorted(name for name in wanted if name not in state and not name.endswith("num_batches_tracked"))
    unknown = sorted(name for name in state if name not in wanted)
    shapes = [
        f"{name} is {list(state[name].shape)}, the model wants {list(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    problems = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown) + shapes
    if problems:
        raise ModelError(f"weights {path}: do not fit the model: {'; '.join(problems)}")
    module.load_state_dict(state, strict=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter (missing torchvision, progress lines) from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
