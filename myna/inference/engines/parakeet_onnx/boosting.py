"""Boosts words and phrases in greedy decoding: NeMo's boosting tree, over token ids.

The tree is a prefix tree with failure links, as of Aho and Corasick. A step into a phrase earns a bonus; leaving a phrase
before its end takes back what its steps earned. The scores are those of NeMo's `BoostingTreeModelConfig` by default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_CONTEXT_SCORE = 1.0
"""NeMo's `context_score`: the bonus of a phrase's first token."""
_DEPTH_SCALING = 2.0
"""NeMo's `depth_scaling`: factor of the bonus of later tokens, to which the logarithm of their place is added."""


@dataclass(slots=True)
class _Node:
    """A place in the tree: the sum of the bonuses that lead here, and the bonus of the last step."""

    total: float = 0.0
    step: float = 0.0
    ends: bool = False
    """Whether a phrase ends here."""
    back: int = 0
    """The node of the longest proper suffix that is in the tree."""
    next: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bonuses:
    """The bonus of each token [pieces] at a node, and the node that follows; tokens that are not listed lead to the root."""

    scores: np.ndarray
    next: dict[int, int]


class BoostingTree:
    """The phrases of one stream, as lists of token ids below `pieces`."""

    ROOT = 0

    def __init__(self, phrases: Sequence[Sequence[int]], pieces: int) -> None:
        self._pieces = pieces
        self._nodes = [_Node()]
        self._known: dict[int, Bonuses] = {}
        for phrase in phrases:
            self._add(phrase)
        self._link()

    def bonuses(self, node: int) -> Bonuses:
        """Return the bonuses at a node."""
        known = self._known.get(node)
        if known is None:
            known = self._known[node] = self._computed(node)
        return known

    def _add(self, phrase: Sequence[int]) -> None:
        at = self.ROOT
        for place, token in enumerate(phrase):
            last = place == len(phrase) - 1
            known = self._nodes[at].next.get(token)
            if known is None:
                known = self._nodes[at].next[token] = len(self._nodes)
                step = _CONTEXT_SCORE * _DEPTH_SCALING + math.log(place + 1) if place else _CONTEXT_SCORE
                self._nodes.append(_Node(self._nodes[at].total + step, step, last))
            else:
                node = self._nodes[known]
                node.step = max(_CONTEXT_SCORE, node.step)
                node.total = self._nodes[at].total + node.step
                node.ends = node.ends or last
            at = known

    def _link(self) -> None:
        """Set the failure links, breadth first."""
        queue = list(self._nodes[self.ROOT].next.values())
        for at in queue:
            for token, child in self._nodes[at].next.items():
                suffix = self._nodes[at].back
                while token not in self._nodes[suffix].next and suffix != self.ROOT:
                    suffix = self._nodes[suffix].back
                self._nodes[child].back = self._nodes[suffix].next.get(token, self.ROOT)
                queue.append(child)

    def _computed(self, node: int) -> Bonuses:
        scores, following, at, lost = dict[int, float](), dict[int, int](), node, 0.0
        while True:  # the longest suffix with an arc for the token counts
            for token, child in self._nodes[at].next.items():
                if token not in following:
                    following[token], scores[token] = child, lost + self._nodes[child].step
            if at == self.ROOT:
                break
            here, suffix = self._nodes[at], self._nodes[self._nodes[at].back]
            lost += 0.0 if here.ends else suffix.total - here.total
            at = here.back
        dense = np.full(self._pieces, lost, np.float32)
        dense[list(scores)] = list(scores.values())
        return Bonuses(dense, following)
