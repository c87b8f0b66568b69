"""Einsum written as what runtimes have: ReduceSum, Transpose, Reshape, MatMul, Mul."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph import attributes, constant, shape_of
from edgekit.passes.rewrite import Writer, drop, put_in_place

ELLIPSIS = "0123456789"  # stand for the axes behind "...", aligned from the right


def spell_out_einsum(model: ir.Model) -> bool:
    """Einsum -> one product after the other. Left as it is: an axis twice in one term, and axes that broadcast by name.

    A constant without axes of a batch comes to stand on the right, where it is a layer's weight.
    """
    graph, changed = model.graph, False
    for node in [n for n in graph if n.op_type == "Einsum"]:
        parsed = _parsed(node)
        if parsed is None:
            continue
        terms, result = parsed
        writer = _Writer(graph, node)
        operands = [(value, term) for value, term in zip(node.inputs, terms, strict=True) if value is not None]
        left = operands[0]
        for i, right in enumerate(operands[1:], 2):
            later = "".join(term for _, term in operands[i:]) + result
            left = writer.product(writer.summed(*left, right[1] + later), writer.summed(*right, left[1] + later), later)
        value = writer.ordered(*writer.summed(*left, result), result)
        last = writer.last(value)
        put_in_place(graph, node.outputs[0], last)
        drop(graph, node)
        changed = True
    return changed


def _parsed(node: ir.Node) -> tuple[list[str], str] | None:
    """The letters of each operand's axes and of the result's, or None for a form that is left."""
    equation = str(attributes(node)["equation"]).replace(" ", "")
    given, arrow, result = equation.partition("->")
    ranks = [len(shape_of(value)) for value in node.inputs if value is not None]
    terms, widest = [], 0
    for term, rank in zip(given.split(","), ranks, strict=True):
        hidden = rank - len(term.replace("...", ""))
        terms.append(term.replace("...", ELLIPSIS[len(ELLIPSIS) - hidden :]))
        widest = max(widest, hidden)
    if not arrow:
        letters = "".join(terms)
        result = "..." + "".join(sorted(x for x in set(letters) if letters.count(x) == 1 and x not in ELLIPSIS))
    result = result.replace("...", ELLIPSIS[len(ELLIPSIS) - widest :])
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        for letter, size in zip(term, shape_of(value), strict=True):  # type: ignore[arg-type]
            if sizes.setdefault(letter, size) != size:
                return None
    return (terms, result) if all(len(set(term)) == len(term) for term in (*terms, result)) else None


Term = tuple[ir.Value, str]


class _Writer(Writer):
    """Adds nodes before an Einsum; values go with the letters of their axes."""

    def last(self, value: ir.Value) -> ir.Value:
        """A value that a node of this Einsum gives, so that it can stand in the Einsum's place."""
        own = value.producer() is not None and value.name is not None and value.name.startswith(f"{self.stem}/")
        return value if own else self.add("Identity", [value], shape_of(value))

    def summed(self, value: ir.Value, term: str, wanted: str) -> Term:
        """Summed over the axes that nothing else wants."""
        gone = [i for i, letter in enumerate(term) if letter not in wanted]
        if not gone:
            return value, term
        left = "".join(letter for letter in term if letter in wanted)
        shape = [n for i, n in enumerate(shape_of(value)) if i not in gone]
        return self.add("ReduceSum", [value, self.constant(gone)], shape, keepdims=0), left

    def ordered(self, value: ir.Value, term: str, wanted: str) -> ir.Value:
        """Transposed into the order of ``wanted``."""
        order = [term.index(letter) for letter in wanted]
        array, shape = constant(value), shape_of(value)
        if order == sorted(order):
            return value
        if array is not None:
            return self.constant(array.transpose(order))
        return self.add("Transpose", [value], [shape[i] for i in order], perm=order)

    def shaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshaped, where that changes something."""
        array = constant(value)
        if shape_of(value) == tuple(shape):
            return value
        if array is not None:
            return self.constant(array.reshape(shape))
        return self.add("Reshape", [value, self.constant(np.asarray(shape, np.int64))], shape)

    def product(self, a: Term, b: Term, wanted: str) -> Term:
        """The product of two, summed over the axes that nothing else wants."""
        if not set(a[1]) & set(b[1]) - set(wanted):
            return self._spread(a, b)
        batch = [x for x in a[1] if x in b[1] and x in wanted]
        if not batch and constant(a[0]) is not None:
            a, b = b, a
        inner = [x for x in b[1] if x in a[1] and x not in wanted]
        rows, columns = ([x for x in t if x not in batch and x not in inner] for t in (a[1], b[1]))
        size = dict(zip(a[1] + b[1], (*shape_of(a[0]), *shape_of(b[0])), strict=True))
        i, k, j = (math.prod(size[x] for x in axes) for axes in (rows, inner, columns))
        outer = [size[x] for x in batch]
        apart = rows and not batch and inner == [a[1][-1]]  # as a layer has them
        heads = [size[x] for x in rows] if apart else [i]
        left = self.shaped(self.ordered(*a, "".join((*batch, *rows, *inner))), [*outer, *heads, k])
        right = self.shaped(self.ordered(*b, "".join((*batch, *inner, *columns))), [*outer, k, j])
        found = self.add("MatMul", [left, right], [*outer, *heads, j])
        term = "".join((*batch, *rows, *columns))
        return self.shaped(found, [size[x] for x in term]), term

    def _spread(self, a: Term, b: Term) -> Term:
        """A product without a sum: Mul, each operand with axes of length 1 where only the other has them."""
        term = a[1] + "".join(x for x in b[1] if x not in a[1])
        size = dict(zip(a[1] + b[1], (*shape_of(a[0]), *shape_of(b[0])), strict=True))
        operands = []
        for value, own in (a, b):
            turned = self.ordered(value, own, "".join(x for x in term if x in own))
            operands.append(self.shaped(turned, [size[x] if x in own else 1 for x in term]))
        return self.add("Mul", operands, [size[x] for x in term]), term
