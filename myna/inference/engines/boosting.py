"""Boosts words and phrases in greedy decoding: NeMo's boosting tree, over token ids.

The tree is a prefix tree with failure links, as of Aho and Corasick. A step into a phrase earns a bonus; leaving a phrase
before its end takes back what its steps earned. The scores are those of NeMo's `BoostingTreeModelConfig` by default.

A decoder that cannot return to an earlier token adds the bonuses with what leaving takes back (`Bonuses.added_to`). A decoder
that can return adds the steps' bonuses alone, and returns when a phrase is left before its end.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

CONTEXT_SCORE = 1.0
"""NeMo's `context_score`: the bonus of a phrase's first token."""
DEPTH_SCALING = 2.0
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
    """What the tokens earn at a node of the tree, and which nodes follow. Tokens that are not listed lead to the root."""

    tokens: np.ndarray
    """The listed tokens [n]: those that go on with a phrase or begin one."""
    steps: np.ndarray
    """The bonuses of their steps [n]."""
    losses: np.ndarray
    """What each of them takes back [n], at most 0; 0 for a token that leaves no phrase before its end."""
    lost: float
    """What the tokens that are not listed take back, at most 0."""
    next: dict[int, int]
    """The node that follows a listed token."""
    ends: bool
    """Whether a phrase ends at the node."""
    goes_on: frozenset[int]
    """The tokens that go on with the phrases that are open at the node."""

    def added_to(self, scores: np.ndarray) -> np.ndarray:
        """Return float32 scores [pieces] with bonuses and losses added."""
        boosted = scores + np.float32(self.lost)
        boosted[self.tokens] = scores[self.tokens] + (self.losses + self.steps).astype(np.float32)
        return boosted


class BoostingTree:
    """The phrases of one stream, as lists of token ids."""

    ROOT = 0

    def __init__(
        self,
        phrases: Iterable[Sequence[int]],
        context_score: float = CONTEXT_SCORE,
        depth_scaling: float = DEPTH_SCALING,
    ) -> None:
        self._first, self._later = context_score, context_score * depth_scaling
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
                step = self._later + math.log(place + 1) if place else self._first
                self._nodes.append(_Node(self._nodes[at].total + step, step, last))
            else:
                node = self._nodes[known]
                node.step = max(self._first, node.step)
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
        steps, losses, following = dict[int, float](), list[float](), dict[int, int]()
        at, lost = node, 0.0
        while True:  # the longest suffix with an arc for the token counts
            for token, child in self._nodes[at].next.items():
                if token not in following:
                    following[token], steps[token] = child, self._nodes[child].step
                    losses.append(lost)
            if at == self.ROOT:
                break
            here, suffix = self._nodes[at], self._nodes[self._nodes[at].back]
            lost += 0.0 if here.ends else suffix.total - here.total
            at = here.back
        return Bonuses(
            np.array(list(steps), np.intp),
            np.array(list(steps.values())),
            np.array(losses),
            lost,
            following,
            self._nodes[node].ends,
            frozenset(self._nodes[node].next),
        )


class BoostingTrees:
    """The trees of the most recently used sets of phrases. `build` makes the tree of a set; `most` trees are kept."""

    def __init__(self, build: Callable[[tuple[str, ...]], BoostingTree], most: int) -> None:
        self._build, self._most = build, most
        self._trees = OrderedDict[tuple[str, ...], BoostingTree]()

    def of(self, terms: tuple[str, ...]) -> BoostingTree:
        """Return the tree of a set of phrases."""
        tree = self._trees.pop(terms, None)
        if tree is None:
            tree = self._build(terms)
            if len(self._trees) >= self._most:
                self._trees.popitem(last=False)
        self._trees[terms] = tree  # last in the order: most recently used
        return tree
