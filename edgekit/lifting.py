"""Which layers to take out of int8, in turn: those around the tensors that cost the outputs most.

A tensor keeps what 8 bits lose of it only where the layer that gives it and those that read it compute alike, so these
are lifted together: to activations of 16 bits, where a target has kernels for them, or to float.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from edgekit.diagnose.sensitivity import WEIGHTS, Effect, Sensitivity, Subject, together
from edgekit.graph import constant, units
from edgekit.project import QuantizationConfig
from edgekit.quant.kernels import computes_in_integers, inputs_of
from edgekit.report import text

INT16, FLOAT = "int16", "float"


@dataclass(frozen=True)
class Candidate:
    """Layers of the prepared graph that are lifted together, beside those lifted before, and why.

    ``gain_db`` is what the outputs can still win by these and all that follow, where noise adds up.
    """

    nodes: tuple[str, ...]
    why: str
    gain_db: float


def candidates(
    subject: Subject, found: Sensitivity, known: Collection[str], refused: Collection[str] | None = None
) -> list[Candidate]:
    """What to lift to float, the costliest first, or to int16 where the nodes are given that are ``refused`` there.

    ``known`` are the nodes of the prepared graph. To int16 no layer is lifted for the sake of its weights, which stay
    as they are, nor for that of an input or an output of the model, which keep 8 bits.
    """
    graph, around = subject.form.model.graph, _around(subject)
    ends = {str(value.name) for value in (*graph.inputs, *(graph.outputs if refused is not None else ()))}
    stays: list[Effect] = []
    lifts: list[tuple[Effect, tuple[str, ...]]] = []
    for effect in found.effects:
        group = effect.group
        nodes = tuple(dict.fromkeys(n for t in group.tensors for n in around.get(t, ()) if n in known))
        fixed = refused is not None and (group.kind == WEIGHTS or not {*nodes}.isdisjoint(refused))
        if fixed or not nodes or not ends.isdisjoint(group.tensors):
            stays.append(effect)
        else:
            lifts.append((effect, nodes))
    lifted: set[str] = set()
    result = []
    for i, (effect, nodes) in enumerate(lifts):
        new = tuple(node for node in nodes if node not in lifted)
        lifted.update(new)
        if new:
            before = together([*stays, *(left for left, _ in lifts[i:])])
            result.append(Candidate(new, _why(effect, found), together(stays) - before))
    return result


def _around(subject: Subject) -> dict[str, list[str]]:
    """The nodes of the prepared graph that give or read each tensor in integers."""
    whole = {part: name for name, parts in subject.form.parts.items() for part in parts}
    found: dict[str, list[str]] = {}
    for unit in units(subject.form.model.graph):
        if computes_in_integers(unit, subject.plan):
            name = str(unit.node.name)
            constants = [v for v in (*unit.node.inputs, unit.bias_value) if v is not None and constant(v) is not None]
            for value in dict.fromkeys((*unit.outputs, *inputs_of(unit), *constants)):
                found.setdefault(str(value.name), []).append(whole.get(name, name))
    return found


def _why(effect: Effect, found: Sensitivity) -> str:
    said = f"{effect.group.kind} of {effect.group.name} alone: {text.decibels(effect.snr_db)}"
    if effect.metric is None or found.metric is None:
        return said
    return f"{said}, the metric {effect.metric:.4g} in place of {found.metric:.4g}"


def lifted(config: QuantizationConfig, to: str, chosen: Sequence[Candidate]) -> QuantizationConfig:
    """The settings with these layers lifted."""
    reasons = {node: candidate.why for candidate in chosen for node in candidate.nodes}
    names = tuple(reasons)
    config = replace(config, reasons={**config.reasons, **reasons})
    if to == INT16:
        return replace(config, int16_nodes=(*config.int16_nodes, *names))
    return replace(config, float_nodes=(*config.float_nodes, *names))
