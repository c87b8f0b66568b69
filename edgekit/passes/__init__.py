"""The ordered list of graph -> graph steps that every model goes through before calibration.

Each step is ``model -> changed`` and says in its docstring what it ensures and what it refuses. After ``prepare`` the
graph is frozen: plans, artifacts and reports speak of its tensors by name.
"""

from __future__ import annotations

import onnx_ir as ir

from edgekit.passes import canonical, constants, convolution, factors, gelu, known, moves, normalisation, shuffle
from edgekit.passes.rewrite import Pass, unique_names

PASSES: tuple[Pass, ...] = (
    known.refuse_unsized,
    constants.fold_constants,
    known.refuse_unknown,
    constants.remove_idle_nodes,
    canonical.simplify_powers,
    canonical.divide_by_multiplying,
    gelu.fuse_gelu,
    canonical.plain_gemm,
    convolution.fold_batch_norm,
    convolution.absorb_padding,
    canonical.global_pooling,
    shuffle.plain_shuffles,
    factors.one_factor,
    normalisation.fold_layer_norm,
    moves.one_move,
    constants.remove_idle_nodes,
    constants.remove_unused,
    canonical.own_biases,
    canonical.lone_shared_inputs,
    constants.remove_unused,
    known.refuse_unrewritten,
    known.refuse_unsound,
)


def prepare(model: ir.Model) -> ir.Model:
    """Run every pass on a copy of the model, and infer the shapes of the result."""
    from edgekit.frontends.onnx import infer_shapes

    prepared = model.clone()
    for step in PASSES:
        step(prepared)
    unique_names(prepared.graph)
    return infer_shapes(prepared)
