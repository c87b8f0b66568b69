"""torch modules and exported programs -> graph, through ``torch.onnx.export(dynamo=True)``.

The exporter is asked not to optimize, so that BatchNormalization stays a node of its own; weights keep their
``state_dict`` names. Nothing is unpickled: weights come as safetensors or with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import onnx_ir as ir

from edgekit.errors import ModelError
from edgekit.frontends import Loaded
from edgekit.frontends.onnx import finish
from edgekit.graph import OPSET
from edgekit.named import ForeignCode, load_named

Shapes = Mapping[str, Sequence[int]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load_callable(source: str, weights: Path | None, shapes: Shapes | None, folder: Path) -> Loaded:
    """``package.module:callable`` returning a module, or (module, example inputs) -> graph."""
    import torch

    made = _call(source, folder)
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"model {source}: returned {type(module).__name__}; expected an nn.Module or (module, example_inputs)"
        )
    if weights is not None:
        _load_weights(module, weights)
    module.eval()
    arguments = _arguments(source, examples, shapes)
    return _exported(module, arguments, f"model {source}", shapes, module)


def load_program(path: Path, shapes: Shapes | None) -> Loaded:
    """A saved ``torch.export`` program -> graph."""
    import torch

    if not path.is_file():
        raise ModelError(f"model {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    said = f"model {path}: not a sound torch.export program"
    with _quiet(), _tensors_only(path), ForeignCode(said, ModelError, (UnpicklingError,)):
        program = torch.export.load(path)
        module = program.module()
    if program.example_inputs is None:
        raise ModelError(f"model {path}: was saved without its example inputs; save it again with torch.export.save")
    return _exported(program, program.example_inputs, f"model {path}", shapes, module)


def _exported(what: Any, arguments: Arguments, said: str, shapes: Shapes | None, module: Any) -> Loaded:
    """The ONNX graph of a module or program, and the module that runs the original."""
    import torch

    given: dict[str, Any] = {"dynamo": True, "optimize": False, "verbose": False, "opset_version": OPSET}
    if not isinstance(what, torch.export.ExportedProgram):
        given |= {"args": arguments[0], "kwargs": arguments[1]}
    attention = torch.nn.attention  # its fused forms lay their results out in ways that the exporter trips over
    with (
        _quiet(),
        ForeignCode(f"{said}: torch cannot export it", ModelError),
        attention.sdpa_kernel(attention.SDPBackend.MATH),
    ):
        exported = torch.onnx.export(what, **given)
    if exported is None:
        raise ModelError(f"{said}: torch exported nothing")
    model = finish(_named(exported.model, shapes), said.removeprefix("model "), shapes)
    return Loaded(model, _runner(module, arguments, [str(value.name) for value in model.graph.inputs]))


def _runner(module: Any, arguments: Arguments, names: list[str]) -> Callable[[Mapping[str, Any]], list[Any]]:
    """The original module over inputs by name; they fill the places of the example inputs in order."""
    import torch

    tree = torch.utils._pytree
    leaves, places = tree.tree_flatten(arguments)

    def run(inputs: Mapping[str, Any]) -> list[Any]:
        filled = [torch.tensor(inputs[name], dtype=leaf.dtype) for name, leaf in zip(names, leaves, strict=True)]
        args, kwargs = tree.tree_unflatten(filled, places)
        with torch.no_grad():
            results = tree.tree_leaves(module(*args, **kwargs))
        found = [leaf for leaf in results if isinstance(leaf, torch.Tensor)]
        return [(leaf.float() if leaf.is_floating_point() else leaf).numpy() for leaf in found]

    return run


def _arguments(source: str, examples: Any, shapes: Shapes | None) -> Arguments:
    """The example inputs as (positional, named); zeros of the declared shapes when there are none."""
    import torch

    if examples is None:
        if not shapes:
            raise ModelError(
                f"model {source}: no example inputs; give [model.inputs.NAME] shape, or return (module, example_inputs)"
            )
        return tuple(torch.zeros(*shape) for shape in shapes.values()), {}
    named = dict(examples) if isinstance(examples, Mapping) else {}
    placed = () if named else tuple(examples) if isinstance(examples, (tuple, list)) else (examples,)
    for leaf in torch.utils._pytree.tree_leaves((placed, named)):
        if not isinstance(leaf, torch.Tensor):
            raise ModelError(f"model {source}: an example input is of type {type(leaf).__name__}; expected tensors")
    return placed, named


def _pickled(path: Path) -> ModelError:
    return ModelError(f"model {path}: holds pickled objects besides tensors; they can run code and are refused")


@contextlib.contextmanager
def _tensors_only(path: Path) -> Iterator[None]:
    """Lets ``torch.export.load`` read tensors, but no pickled objects, which could run code. Raises ModelError."""
    try:
        with zipfile.ZipFile(path) as archive:
            objects = [name for name in archive.namelist() if "custom_obj" in name or "opaque_obj" in name]
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"model {path}: not a torch.export program, truncated or corrupt ({error})") from error
    if objects:
        raise _pickled(path)
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    except UnpicklingError:
        raise _pickled(path) from None
    finally:
        os.environ.pop(WEIGHTS_ONLY)
        if before is not None:
            os.environ[WEIGHTS_ONLY] = before


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
        raise ModelError(f"model {source}: is of type {type(function).__name__}, and cannot be called for an nn.Module")
    with ForeignCode(f"model {source}", ModelError):
        return function()


def _read_weights(path: Path) -> Any:
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    with _quiet():
        return torch.load(path, map_location="cpu", weights_only=True)


def _shape(value: Any) -> str:
    return str(list(value.shape)) if hasattr(value, "shape") else f"of type {type(value).__name__}"


def _load_weights(module: Any, path: Path) -> None:
    from safetensors import SafetensorError

    if not path.is_file():
        raise ModelError(f"weights {path}: no such file")
    try:
        state = _read_weights(path)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            f"weights {path}: not safetensors or a plain state_dict ({_first_line(error)}); save with "
            "safetensors.torch.save_file(model.state_dict(), ...); a pickled module can run code and is refused"
        ) from error
    if not isinstance(state, Mapping):
        raise ModelError(f"weights {path}: holds a {type(state).__name__}; expected a state_dict")
    state = {str(name): value for name, value in state.items()}
    wanted = module.state_dict()
    missing = sorted(name for name in wanted if name not in state and not name.endswith("num_batches_tracked"))
    unknown = sorted(name for name in state if name not in wanted)
    shapes = [
        f"{name} is {_shape(state[name])}, the model wants {list(wanted[name].shape)}"
        for name in wanted
        if name in state and _shape(state[name]) != str(list(wanted[name].shape))
    ]
    named = {"missing": missing, "unknown": unknown}
    problems = [f"{kind} {', '.join(names)}" for kind, names in named.items() if names] + shapes
    if problems:
        raise ModelError(f"weights {path}: do not fit the model: {'; '.join(problems)}")
    module.load_state_dict(state, strict=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter (missing torchvision, progress lines, dumps of graphs) from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
