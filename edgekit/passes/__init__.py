"""The ordered list of graph -> graph steps that every model goes through before calibration.

Each step is ``model -> changed`` and says in its docstring what it ensures and what it refuses. After ``prepare`` the
graph is frozen: plans, artifacts and reports speak of its tensors by name.
"""

from __future__ import annotations

import onnx_ir as ir

from edgekit.passes import (
    attention,
    blocks,
    canonical,
    constants,
    convolution,
    einsum,
    factors,
    gelu,
    known,
    longhand,
    moves,
    normalisation,
    pooling,
    recurrent,
    shuffle,
)
from edgekit.passes.rewrite import Pass, unique_names

PLAIN: tuple[Pass, ...] = (
    known.refuse_unsized,
    constants.fold_constants,
    constants.remove_idle_nodes,
    attention.plain_choices,
    constants.remove_unused,
    attention.plain_masks,
    constants.remove_unused,
    einsum.spell_out_einsum,
    pooling.refuse_outer_windows,
    pooling.spell_out_pools,
    pooling.pad_before_means,
    blocks.join_blocks,
    known.refuse_unknown,
    recurrent.plain_recurrences,
    longhand.spell_out,
    longhand.largest_first,
)
PASSES: tuple[Pass, ...] = (
    *PLAIN,
    canonical.simplify_powers,
    canonical.divide_by_multiplying,
    canonical.inverse_powers,
    gelu.fuse_gelu,
    canonical.plain_gemm,
    convolution.fold_batch_norm,
    convolution.absorb_padding,
    convolution.order_for_depth_to_space,
    canonical.global_pooling,
    shuffle.plain_shuffles,
    blocks.flat_indices,
    factors.one_factor,
    normalisation.fuse_group_norm,
    normalisation.fold_layer_norm,
    moves.one_move,
    constants.remove_idle_nodes,
    constants.remove_unused,
    canonical.own_constants,
    canonical.lone_shared_inputs,
    constants.remove_unused,
    known.refuse_unrewritten,
    known.refuse_unsound,
)


OPENING: tuple[Pass, ...] = (*PLAIN, gelu.fuse_gelu, constants.remove_unused)


def opened(model: ir.Model) -> ir.Model:
    """A copy with constants folded and nothing idle, that can still be trained: BatchNormalization stays."""
    from edgekit.frontends.onnx import infer_shapes

    copy = model.clone()
    for step in OPENING:
        step(copy)
    unique_names(copy.graph)
    return infer_shapes(copy)


def prepare(model: ir.Model, quantized: bool = False) -> ir.Model:
    """Run every pass on a copy of the model, and infer the shapes of the result.

    ``quantized`` lets QuantizeLinear and DequantizeLinear through, as ``quant.from_qdq`` wants them.
    """
    from edgekit.frontends.onnx import infer_shapes

    prepared = model.clone()
    for step in PASSES:
        if step is known.refuse_unknown and quantized:
            step = known.refuse_unknown_but_pairs
        step(prepared)
    unique_names(prepared.graph)
    return infer_shapes(prepared)
