"""``[[compress]]``: what methods there are, what keys each reads, and how one is run on the graph.

A method is declared once, as an op is: a dataclass of its settings, whose field names are its keys in ``edgekit.toml``,
and a function ``(graph, settings, context) -> Outcome``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import onnx_ir as ir

from edgekit.compress.kept import Kept
from edgekit.compress.loss import Loss
from edgekit.compress.module import from_torch, to_torch
from edgekit.compress.training import Training, train
from edgekit.errors import ConfigError, ModelError
from edgekit.frontends import load_graph
from edgekit.graph import shape_of
from edgekit.passes import opened
from edgekit.progress import Progress
from edgekit.quant.plan import QuantPlan
from edgekit.quant.solve import Rules
from edgekit.samples import Sample
from edgekit.toml_table import Table, near_misses

SOURCE = "source"  # as a teacher: the model before compression


@dataclass(frozen=True)
class Context:
    """What a method may use: training samples, those that calibrate, progress, and where a checkpoint may lie.

    ``source`` is the graph before the first step, ``folder`` what files are relative to, ``rules`` what is asked of a
    plan. ``latency`` gives the time of several graphs on the target in terms of the first, measured in turns.
    """

    training: Iterable[Sample]
    calibration: Iterable[Sample]
    progress: Progress
    checkpoint: Path | None = None
    source: ir.Model | None = None
    folder: Path = Path()
    rules: Rules = field(default_factory=Rules)
    latency: Callable[[Sequence[ir.Model]], Sequence[float]] | None = None

    def teacher(self, name: str = SOURCE, weights: str | None = None) -> ir.Model:
        """The source, or ``file.onnx`` or ``module:callable``, opened. Raises ModelError where there is none."""
        if name == SOURCE:
            if self.source is None:
                raise ModelError('teacher "source": the model before compression is not there')
            return opened(self.source)
        path = None if weights is None else self.folder / weights
        shapes = {} if self.source is None else {str(v.name): shape_of(v) for v in self.source.graph.inputs}
        return opened(load_graph(name, path, shapes, self.folder))


@dataclass(frozen=True)
class Outcome:
    """A compressed graph, and what is to say of it, JSON values by name.

    With a ``plan`` the graph is prepared and frozen, and the artifact is to hold exactly these scales.
    """

    graph: ir.Model
    facts: Mapping[str, Any] = field(default_factory=dict)
    plan: QuantPlan | None = None


@dataclass(frozen=True)
class Method:
    """One declared method; ``plans`` says that its outcome has a plan, so that no step can follow it."""

    name: str
    settings: type
    run: Callable[[ir.Model, Any, Context], Outcome]
    plans: bool = False


@dataclass(frozen=True)
class Step:
    """One ``[[compress]]`` table, read.

    Every method has the keys ``data`` (what trains, in place of the calibration data) and ``keep_if`` (what the step
    must win on the target to stay).
    """

    method: Method
    settings: Any
    data: str | None = None
    keep_if: str | None = None

    def depends_on(self, context: Context) -> Any:
        """What the outcome depends on besides graphs and data, as JSON: the settings, and what they themselves name."""
        named = getattr(self.settings, "depends_on", None)
        return [self.method.name, repr(self.settings), named and named(context)]

    def run(self, graph: ir.Model, context: Context) -> Outcome:
        """Run the method on an opened graph (``passes.opened``), which stays as it is."""
        return self.method.run(graph, self.settings, context)


METHODS: dict[str, Method] = {}
KEEP_IF = ("latency",)


def method(
    name: str, settings: type, plans: bool = False
) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Declare a method. Raises KeyError when it is declared already."""

    def register(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
        if name in METHODS:
            raise KeyError(f"method {name} is declared twice")
        METHODS[name] = Method(name, settings, run, plans)
        return run

    return register


def read_step(written: Mapping[str, Any], file: str, number: int) -> Step:
    """A ``[[compress]]`` table. Raises ConfigError naming the key."""
    table = Table({k: v for k, v in written.items() if k != "method"}, file, f"compress[{number}]")
    name = str(written["method"])
    if name not in METHODS:
        hint = near_misses(name, METHODS) or f"; known: {', '.join(METHODS)}"
        raise ConfigError(f"{file}:compress[{number}].method: {name!r} is no method{hint}")
    found = METHODS[name]
    data, keep_if = table.text("data"), table.choice("keep_if", KEEP_IF)
    settings = read_settings(found.settings, table)
    table.close()
    return Step(found, settings, data, keep_if)


def read_settings(kind: type, table: Table) -> Any:
    """The dataclass ``kind`` from a table: a field is a key, its type what is accepted, its default what is left out.

    Fields that are dataclasses take their keys from the same table. Raises ConfigError.
    """
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for item in fields(kind):
        wanted = hints[item.name]
        if hasattr(wanted, "__dataclass_fields__"):
            given[item.name] = read_settings(wanted, table)
            continue
        value = _value(table, item.name, wanted)
        if value is not None:
            given[item.name] = value
        elif item.default is MISSING and item.default_factory is MISSING:
            raise table.need(item.name)
    try:
        return kind(**given)
    except ConfigError as error:
        table.close()  # a key that is misspelled explains what is missing
        key, _, said = str(error).partition(": ")
        raise table.error(key, said) from None


def _value(table: Table, key: str, wanted: Any) -> Any:
    if get_origin(wanted) in (Union, types.UnionType):
        wanted = next(arm for arm in get_args(wanted) if arm is not type(None))
    if get_origin(wanted) is Literal:
        return table.choice(key, get_args(wanted))
    if get_origin(wanted) is tuple:
        return table.texts(key) if get_args(wanted)[0] is str else table.numbers(key)
    readers: dict[Any, Callable[[str], Any]] = {
        bool: table.flag,
        int: table.integer,
        float: table.number,
        str: table.text,
    }
    return readers[wanted](key)


@dataclass(frozen=True)
class FineTune:
    """Settings of ``fine-tune``."""

    training: Training = field(default_factory=Training)


@method("fine-tune", FineTune)
def fine_tune(graph: ir.Model, settings: FineTune, context: Context) -> Outcome:
    """Train the graph on labelled data."""
    return trained(graph, settings.training, context)


def trained(graph: ir.Model, how: Training, context: Context, loss: Loss | None = None) -> Outcome:
    """The graph after training, with its last losses as facts; what earlier steps made zero or few stays so."""
    module = to_torch(graph)
    kept = Kept(module)
    loss = loss or Loss(how.smoothing)
    history = train(
        module, context.training, how, context.progress, loss=loss, after_step=kept, resume=context.checkpoint
    )
    kept(module)
    return Outcome(from_torch(module), history.facts)
