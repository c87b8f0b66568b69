"""CP decomposition of a convolution's weight, one vector an axis for each component, by alternating least squares.

Lebedev et al. 2015, "Speeding-up convolutional neural networks using fine-tuned CP-decomposition". Components that grow
and cancel each other fit a little better, and survive neither rounding nor training (Phan et al. 2020, "Stable low-rank
tensor decomposition for compression of convolutional neural network"): a penalty on their size keeps them small, which
fades as the error does, so that a weight of that rank is met exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.graph import Array

SWEEPS, ENOUGH = 300, 3e-4  # at most; and the share of the error by which a sweep has to lessen it
PENALTY, LEAST = 1e-2, 1e-12  # times the share of the error, and that without one, of the normal equations' diagonal
EXACT = 1e-13  # share of the weight's squares


def decompose(weight: Array, rank: int) -> list[Array]:
    """Factors of a weight (outputs, inputs, rows, columns), each (axis, rank), in float64.

    The size of a component is in its four vectors alike. ``rank`` is at most that of the matrix which ``_start`` cuts.
    """
    outs, ins, rows, columns = weight.shape
    flat, energy = weight.reshape(outs, -1), float((weight**2).sum()) or 1.0
    a, b, c, d = _start(weight, rank)
    share = 1.0
    for _ in range(SWEEPS):
        a = _solved(flat @ np.einsum("ir,hr,wr->ihwr", b, c, d).reshape(-1, rank), (b, c, d), share)
        seen = (flat.T @ a).reshape(ins, rows, columns, rank)
        b = _solved(np.einsum("ihwr,hr,wr->ir", seen, c, d, optimize=True), (a, c, d), share)
        window = np.einsum("ihwr,ir->hwr", seen, b)
        c = _solved(np.einsum("hwr,wr->hr", window, d), (a, b, d), share)
        matched = np.einsum("hwr,hr->wr", window, c)
        d = _solved(matched, (a, b, c), share)
        error = energy - 2 * float((matched * d).sum()) + float(_gram((a, b, c, d)).sum())
        before, share = share, max(error / energy, 0.0)
        a, b, c, d = _balanced((a, b, c, d))
        if share <= EXACT or before - share <= ENOUGH * before:
            break
    return [a, b, c, d]


def _start(weight: Array, rank: int) -> list[Array]:
    """The best of one term for each of the leading components of the matrix (inputs x rows, outputs x columns)."""
    outs, ins, rows, columns = weight.shape
    matrix = weight.transpose(1, 2, 0, 3).reshape(ins * rows, outs * columns)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    first = np.linalg.svd(left[:, :rank].T.reshape(-1, ins, rows), full_matrices=False)
    last = np.linalg.svd(right[:rank].reshape(-1, outs, columns), full_matrices=False)
    scale = values[:rank] * first[1][:, 0] * last[1][:, 0]
    return _balanced((last[0][:, :, 0].T * scale, first[0][:, :, 0].T, first[2][:, 0].T, last[2][:, 0].T))


def _gram(factors: Sequence[Array]) -> Array:
    """The inner products of the components that factors make."""
    found = np.ones((1, 1))
    for factor in factors:
        found = found * (factor.T @ factor)
    return found


def _solved(matched: Array, others: Sequence[Array], share: float) -> Array:
    """The factor that fits best beside the others, of which ``matched`` is the weight's product with them."""
    gram = _gram(others)
    level = np.trace(gram) / len(gram)
    penalty = (PENALTY * share + LEAST) * level or 1.0
    solved: Array = np.linalg.solve(gram + penalty * np.eye(len(gram)), matched.T).T
    return solved


def _balanced(factors: Sequence[Array]) -> list[Array]:
    """The same components, all vectors of each of one length."""
    lengths = np.stack([np.linalg.norm(factor, axis=0) for factor in factors])
    common = np.prod(lengths, axis=0) ** (1 / len(factors))
    return [factor * (common / np.maximum(n, 1e-300)) for factor, n in zip(factors, lengths, strict=True)]
