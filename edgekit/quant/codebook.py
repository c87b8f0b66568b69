"""The scales with which the few shared values of a weight stay as few integers.

A scale for each channel, drawn from its own largest weight, gives one value of a codebook another integer in every
channel. The codebook's largest value, times what BatchNormalization folded into the channel, gives it the same in all.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, constant, units
from edgekit.ops import OPS
from edgekit.quant.kernels import constant_weight

MOST = 256  # distinct values of a weight that still are a codebook
SHARING = 3  # weights, zeros apart, that share one value, on average: with fewer there is nothing to share
ROUNDING = 1e-5  # of a channel's largest weight: what float32 leaves of a factor


def is_codebook(weights: Array) -> bool:
    """Whether a tensor has so few distinct values that they are shared on purpose; zeros are pruned, not shared."""
    others = weights[weights != 0]
    if len(np.unique(others[: 8 * MOST])) > MOST:  # to sort all of an ordinary weight takes a while
        return False
    values = len(np.unique(others))
    distinct = values + int(others.size < weights.size)
    return 2 <= distinct <= MOST and values * SHARING <= others.size


def bounds(source: ir.Model, prepared: ir.Model) -> dict[str, tuple[float, ...]]:
    """What the channels of clustered weights are to be scaled by (``Rules.bounds``), by the weight's name.

    ``source`` is the graph before ``passes.prepare``. A weight that became something other than its channels times a
    factor each (its inputs were equalized, say) is left out: its values are no longer few.
    """
    found: dict[str, tuple[float, ...]] = {}
    for unit in units(prepared.graph):
        weight, axis = constant_weight(unit), OPS[unit.node.op_type].quant.channel_axis
        now = constant(weight)
        before = constant(source.graph.initializers.get(str(weight.name))) if weight is not None else None
        if weight is None or now is None or before is None or axis is None or before.shape != now.shape:
            continue
        if now.ndim < 2 or not is_codebook(before):
            continue
        old, new = (np.moveaxis(np.asarray(a, np.float64), axis, 0).reshape(a.shape[axis], -1) for a in (before, now))
        power = (old * old).sum(1)
        factor = (old * new).sum(1) / np.where(power > 0, power, 1.0)
        if (np.abs(old * factor[:, None] - new) <= ROUNDING * np.abs(new).max(1, keepdims=True)).all():
            found[str(weight.name)] = tuple((np.abs(factor) * np.abs(old).max()).tolist())
    return found
