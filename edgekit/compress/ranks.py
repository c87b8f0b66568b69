"""How many components of a matrix are worth keeping: by their share of its energy, or by what is not noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.graph import Array

GRID, NARROWING = 200, 60  # points at which a noise level is tried first; steps of the search around the best


def by_energy(singular: Array, share: float) -> int:
    """The fewest singular values (largest first) whose squares hold so large a share of the sum of all."""
    energy = np.cumsum(np.asarray(singular, np.float64) ** 2)
    if share >= 1 or energy[-1] == 0:
        return len(singular) if share >= 1 else 1
    return int(min(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12)) + 1, len(singular)))


def by_vbmf(singular: Array, shape: tuple[int, int]) -> int:
    """The rank of a matrix of these singular values under noise of unknown strength, 1 at least.

    The global analytic solution of empirical variational Bayesian matrix factorization (Nakajima, Sugiyama, Babacan &
    Tomioka 2013, JMLR 14): a component stays when its singular value exceeds a threshold that depends on the noise, and
    the noise is where a function of one variable is least.
    """
    short, long = sorted(shape)
    if singular[0] == 0:
        return 1
    alpha = short / long
    tau = 2.5129 * np.sqrt(alpha)
    edge = (1 + tau) * (1 + alpha / tau)  # of what is noise, in units of it
    squares = np.asarray(singular, np.float64) ** 2 / long
    most = min(int(np.ceil(short / (1 + alpha))) - 1, short - 1)
    high = squares.sum() / short
    low = max(squares[most] / edge, squares[most:].mean(), high * 1e-12)
    noise = _minimum(lambda sigma2: _free_energy(squares / sigma2, alpha, edge), low, max(high, low))
    return max(1, int((squares > noise * edge).sum()))


def _free_energy(x: Array, alpha: float, edge: float) -> float:
    """What the noise level minimizes, of the squared singular values in units of it."""
    kept, noise = x[x > edge], np.maximum(x[x <= edge], 1e-300)
    gap = kept - (1 + alpha)
    tau = (gap + np.sqrt(np.maximum(gap**2 - 4 * alpha, 0.0))) / 2
    signal = kept - tau + np.log((tau + 1) / kept) + alpha * np.log(tau / alpha + 1)
    return float((noise - np.log(noise)).sum() + signal.sum())


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is least, on a grid in equal ratios and then by golden sections around its best point."""
    grid = np.geomspace(low, high, GRID)
    best = int(np.argmin([function(float(x)) for x in grid]))
    a, b = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, GRID - 1)])
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(NARROWING):
        c, d = b - golden * (b - a), a + golden * (b - a)
        a, b = (a, d) if function(c) < function(d) else (c, b)
    return (a + b) / 2
