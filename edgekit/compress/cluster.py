"""Weight clustering: the weights of a tensor share a few values, so that an index and a codebook say them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.compress.coded import clustered_bytes, constants, entropy, packed
from edgekit.compress.layers import layers_of
from edgekit.compress.steps import Context, Outcome, method, trained
from edgekit.compress.training import Training
from edgekit.errors import ConfigError
from edgekit.graph import Array, constant, with_constants
from edgekit.quant.codebook import MOST, is_codebook

ROUNDS = 300  # of Lloyd's algorithm; along a line it settles long before


@dataclass(frozen=True)
class Cluster:
    """Settings of ``cluster``.

    Each weight gets ``clusters`` values, 0 among them where it holds exact zeros; weights of less than three numbers a
    value, zeros apart, are left as they are, as those that ``skip`` names. Training moves the values, not which weight
    has which.
    """

    clusters: int = 16
    skip: tuple[str, ...] = ()
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if not 2 <= self.clusters <= MOST:
            raise ConfigError(f"clusters: {self.clusters} was given, 2 to {MOST} are accepted")


@method("cluster", Cluster)
def cluster(graph: ir.Model, settings: Cluster, context: Context) -> Outcome:
    """Let the weights of each tensor share a codebook, and train that (Han et al. 2016, "Deep Compression", 3)."""
    layers = layers_of(graph, settings.skip)
    found = {x.name: clustered(x.array, settings.clusters) for x in layers}
    shared = {name: array for name, array in found.items() if is_codebook(array)}
    done = Outcome(with_constants(graph, shared))
    if settings.training.epochs:
        done = trained(done.graph, settings.training, context)
    left = [name for name in found if name not in shared]
    return Outcome(done.graph, {**_facts(done.graph, list(shared)), "left": left, **done.facts})


def clustered(weights: Array, clusters: int) -> Array:
    """The weights, each at the nearest of so many values; exact zeros stay, and are one of the values.

    k-means from values spread evenly between the smallest and the largest, which keeps the few large weights apart
    (section 3.2 there).
    """
    flat = weights.reshape(-1)
    others = np.sort(flat[flat != 0].astype(np.float64))
    centroids = np.unique(kmeans(others, clusters - (others.size < flat.size)).astype(np.float32))
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, flat)
    return np.where(flat == 0, np.float32(0), centroids[nearest]).reshape(weights.shape)


def kmeans(ordered: Array, clusters: int) -> Array:
    """The means of so many clusters of ordered numbers, or of as many as there are distinct ones (Lloyd 1982).

    Along a line clusters are intervals. Where one holds nothing, that with the largest error is cut at its mean.
    """
    if ordered.size == 0:
        return np.zeros(1)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], clusters)
    while True:
        centroids, edges = _settled(ordered, sums, centroids)
        low, high = edges[:-1], edges[1:]
        cut = np.add.reduceat((ordered - np.repeat(centroids, high - low)) ** 2, low)
        cut[ordered[low] == ordered[high - 1]] = 0.0
        if len(centroids) >= clusters or not cut.any():
            return centroids
        worst = int(cut.argmax())
        middle = int(np.searchsorted(ordered, centroids[worst]))
        ends = np.array([low[worst], middle, high[worst]])
        halves = np.diff(sums[ends]) / np.diff(ends)
        centroids = np.concatenate([centroids[:worst], halves, centroids[worst + 1 :]])


def _settled(ordered: Array, sums: Array, centroids: Array) -> tuple[Array, Array]:
    """The means that Lloyd's algorithm ends with, and where their intervals begin and end; empty ones are gone."""
    for _ in range(ROUNDS):
        ends = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.concatenate([[0], ends, [ordered.size]])
        edges = edges[np.concatenate([[True], np.diff(edges) > 0])]
        means = np.diff(sums[edges]) / np.diff(edges)
        if np.array_equal(means, centroids):
            break
        centroids = means
    return means, edges


def _facts(graph: ir.Model, names: list[str]) -> dict[str, Any]:
    arrays = {name: constant(graph.graph.initializers[name]) for name in names}
    weights = {name: array for name, array in arrays.items() if array is not None}
    return {
        "layers": {n: {"values": len(np.unique(a)), "bits": entropy(a)} for n, a in weights.items()},
        "bytes": packed(constants(graph)),
        "coded_bytes": clustered_bytes(graph, weights),
    }
