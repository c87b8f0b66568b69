"""Chains of moves: what several reshapes and transposes do together is often one move, or none.

What a chain does is found by sending the numbers of the elements through it.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from edgekit.graph import Array, shape_of
from edgekit.passes.rewrite import add_constant, drop, make, put_in_place, single_reader
from edgekit.passes.shuffle import MOVES, moved

LARGEST = 1 << 22  # elements; beyond, a chain is left as it is


def one_move(model: ir.Model) -> bool:
    """A chain of reshapes and transposes that only the next one reads -> one Transpose, one Reshape, or nothing."""
    graph, changed = model.graph, False
    for node in list(graph):
        whole = _chain(node)
        for start in range(len(whole) - 1):
            chain = whole[start:]
            single = _single(graph, chain)
            if single is not None:
                graph.insert_after(chain[-1], single)
                put_in_place(graph, chain[-1].outputs[0], single.outputs[0])
                drop(graph, *reversed(chain))
                changed = True
                break
    return changed


def _chain(last: ir.Node) -> list[ir.Node]:
    """The moves that end in ``last``, where no further move follows."""
    reader = single_reader(last.outputs[0])
    if last.op_type not in MOVES or (reader is not None and reader.op_type in MOVES):
        return []
    chain = [last]
    while (source := chain[0].inputs[0]) is not None and (before := source.producer()) is not None:
        if before.op_type not in MOVES or single_reader(source) is not chain[0]:
            break
        chain.insert(0, before)
    return chain


def _single(graph: ir.Graph, chain: list[ir.Node]) -> ir.Node | None:
    """One node that does what the chain does, or None when it takes several."""
    root, out = chain[0].inputs[0], chain[-1].outputs[0]
    if root is None or root.shape is None or not 0 < np.prod(shape_of(root)) <= LARGEST:
        return None
    before = shape_of(root)
    numbers = moved(chain[-1], root, np.arange(np.prod(before)).reshape(before))
    if numbers is None:
        return None
    if np.array_equal(numbers.reshape(-1), np.arange(numbers.size)):
        shape = add_constant(graph, f"{out.name}/shape", np.asarray(numbers.shape))
        return make("Reshape", [root, shape], out, f"{out.name}/move")
    order = _order(numbers, before)
    return None if order is None else make("Transpose", [root], out, f"{out.name}/move", perm=list(order))


def _order(numbers: Array, before: tuple[int, ...]) -> tuple[int, ...] | None:
    """The permutation of axes that gives ``numbers``, or None."""
    if numbers.ndim != len(before) or sorted(numbers.shape) != sorted(before):
        return None
    plain = np.arange(numbers.size).reshape(before)
    for order in itertools.permutations(range(len(before))):
        turned = plain.transpose(order)
        if turned.shape == numbers.shape and np.array_equal(turned, numbers):
            return order
    return None
