"""What the stages of a build hand on: what artifacts are made from, and one that is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from edgekit.contract import Join
from edgekit.emitters import Artifact
from edgekit.measure import Measurement
from edgekit.output import prepare_folder, write
from edgekit.profile import LayerTimes
from edgekit.quant.from_qdq import Lifted
from edgekit.quant.plan import QuantPlan
from edgekit.quant.ranges import Range
from edgekit.report.model import Evaluation, Fidelity, Instructions
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.stages import Work


@dataclass(frozen=True)
class Basis:
    """What every target's artifact is made from.

    ``equal`` is the graph with its channels equalized, to which the ranges belong; ``kept`` are the ranges that hold in
    all steps of recurrent layers, ``methods`` how each range was drawn where that was chosen by tensor, ``joins`` what
    the model's outputs are split into.
    """

    lifted: Lifted
    equal: ir.Model
    ranges: Mapping[str, Range]
    kept: Mapping[str, Range]
    methods: Mapping[str, str] = field(default_factory=dict)
    joins: tuple[Join, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A build whose artifacts are still to be made, by ``work``.

    ``source`` is the model as it came, ``graph`` the prepared float graph that artifacts are judged by, ``trainable``
    the graph after every ``[[compress]]`` step, ``lifted`` the same prepared, ``facts`` what all reports say alike.
    """

    work: Work
    source: ir.Model
    graph: ir.Model
    trainable: ir.Model
    lifted: Lifted
    facts: dict[str, Any]


@dataclass
class Built:
    """One artifact, what it was made from, the float graph that it holds in integers, and what was found out."""

    target: Target
    lifted: Lifted
    graph: ir.Model
    plan: QuantPlan
    artifact: Artifact
    path: Path
    packed: Mapping[str, int]
    methods: Mapping[str, str]
    fidelity: Fidelity | None = None
    evaluation: Evaluation | None = None
    latency: Measurement | None = None
    float_latency: Measurement | None = None
    instructions: Instructions | None = None
    layer_times: LayerTimes | None = None
    float_bytes: int = 0

    def keep(self) -> None:
        """Write the artifact to its path."""
        write(prepare_folder(self.path.parent) / self.path.name, self.artifact.data)
