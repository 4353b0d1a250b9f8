"""Average-linkage clustering of unit vectors by cosine distance, with numpy alone. Pure and deterministic.

The average distance of two clusters of unit vectors is 1 minus the product of their sums divided by their sizes. No matrix of
distances is needed: n vectors take n² products and n·D memory (nearest-neighbour chain, Müllner 2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Tree:
    """The merges of a clustering, closest first: pairs of leaves whose clusters are joined, and their distances."""

    leaves: int
    pairs: tuple[tuple[int, int], ...]
    distances: tuple[float, ...]

    def below(self, distance: float) -> np.ndarray:
        """Return the cluster of each leaf, numbered by first leaf, where clusters closer than this are joined."""
        return self._joined(sum(each <= distance for each in self.distances))

    def into(self, number: int) -> np.ndarray:
        """Return the cluster of each leaf where there are `number` clusters, or one for each leaf if there are fewer."""
        return self._joined(self.leaves - min(max(1, number), self.leaves))

    def _joined(self, merges: int) -> np.ndarray:
        root = list(range(self.leaves))

        def find(leaf: int) -> int:
            while root[leaf] != leaf:
                root[leaf] = root[root[leaf]]
                leaf = root[leaf]
            return leaf

        for one, other in self.pairs[:merges]:
            low, high = sorted((find(one), find(other)))
            root[high] = low
        numbers: dict[int, int] = {}
        return np.array([numbers.setdefault(find(leaf), len(numbers)) for leaf in range(self.leaves)], int)


def clustered(vectors: np.ndarray) -> Tree:
    """Return the tree of float vectors [n, D] of length 1; n is at least 1."""
    count = len(vectors)
    sums, sizes = vectors.astype(np.float32), np.ones(count, np.float32)
    alive = np.ones(count, bool)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < count - 1:
        if not chain:
            chain.append(int(np.argmax(alive)))
        while True:
            top = chain[-1]
            distances = 1 - (sums @ sums[top]) / (sizes * sizes[top])
            distances[~alive] = np.inf
            distances[top] = np.inf
            nearest = int(np.argmin(distances))
            if len(chain) > 1 and distances[chain[-2]] <= distances[nearest]:
                nearest = chain[-2]  # of equals the one before, so that the chain ends
                break
            chain.append(nearest)
        one, other = sorted((chain.pop(), chain.pop()))
        merges.append((float(distances[nearest]), one, other))
        sums[one] += sums[other]
        sizes[one] += sizes[other]
        alive[other] = False
    merges.sort(key=lambda merge: merge[0])  # stable: average linkage has no inversions
    return Tree(count, tuple((one, other) for _, one, other in merges), tuple(distance for distance, *_ in merges))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))
