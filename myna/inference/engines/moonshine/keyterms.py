"""Keyterms in Moonshine's greedy decoding: the tokens of a term, and the choice of a token while a term may be spoken.

Boosting may open a term that is not spoken. A greedy decoder notices only later, when none of the term's next tokens is likely
even with its bonus. The decode then goes back to the first token that boosting changed, whose caches it has kept, and takes the
token that the model prefers there: an opened term that is not completed has no effect on the transcript.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from myna.inference.engines.boosting import BoostingTree, BoostingTrees
from myna.inference.engines.byte_pairs import WORD_START, split

CONTEXT_SCORE, DEPTH_SCALING = 4.0, 1.0
"""The bonus of a term's first token in nats, and the factor for later tokens; see docs/accuracy.md."""
MOST_LOST = 8.0
"""The most nats by which an opened term may be less likely, all its tokens together, than the tokens that the model prefers."""
_MOST_TREES = 64
"""Limit on compiled boosting trees; the least recently used are dropped."""
_FIRST_BYTE = 3
"""The token of byte 0. A character without a token is written as the tokens of its UTF-8 bytes."""


class Terms:
    """Compiles keyterms for a vocabulary, whose pieces are bytes by token."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._ids = dict(_texts(pieces))
        # Tokens that go on with a word: whoever follows a term with one of these says a longer word.
        self._joined = np.array([piece[:1].isalnum() or piece[:1] >= b"\x80" for piece in pieces])
        self._joined &= np.array([not piece.startswith(WORD_START.encode()) for piece in pieces])
        self._trees = BoostingTrees(self._tree, _MOST_TREES)

    def choice(self, terms: tuple[str, ...], budget: int) -> Choice:
        """Return the choice of tokens for one decode. Terms are dropped once `budget` tokens were decoded in vain."""
        return Choice(self._trees.of(terms), self._joined, budget)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, as the model writes it."""
        return [token for piece in split(text, self._ids) for token in self._of(piece)]

    def _of(self, piece: str) -> list[int]:
        token = self._ids.get(piece)
        return [token] if token is not None else [_FIRST_BYTE + byte for byte in piece.encode("utf-8", "replace")]

    def _tree(self, terms: tuple[str, ...]) -> BoostingTree:
        phrases = (self.tokens(text) for term in terms for text in written(term))
        return BoostingTree(phrases, CONTEXT_SCORE, DEPTH_SCALING)


def written(term: str) -> list[str]:
    """Return the ways to write a term: as given, as the start of a sentence, and as a name, each word capitalised."""
    plain = " ".join(term.replace("’", "'").split())
    capitalised = [word[:1].upper() + word[1:] for word in plain.split()]
    return list(dict.fromkeys([plain, plain[:1].upper() + plain[1:], " ".join(capitalised)]))


class Choice:
    """Chooses the tokens of one decode, in order.

    While `opened` is not None, a term is open that boosting chose from the token at this place on.
    """

    def __init__(self, tree: BoostingTree, joined: np.ndarray, budget: int) -> None:
        self.opened: int | None = None
        self._tree, self._joined, self._budget = tree, joined, budget
        self._node = self._before = BoostingTree.ROOT
        self._lost = 0.0
        """How much less likely the tokens of the open term are than those that the model prefers, in nats."""
        self._plain: int | None = None
        """The place to which the decode went back: its token is not boosted."""

    def choose(self, scores: np.ndarray, best: int, at: int, *, last: bool = False) -> int | None:
        """Return the token at a place, of which the model prefers `best`; `scores` [tokens] are logits.

        `last` says that no token may follow. None: go back to the place `opened`, and choose again from there on.
        """
        bonuses = self._tree.bonuses(self._node)
        token, boosted = best, self._plain != at and self._budget > 0 and len(bonuses.tokens) > 0
        if boosted:
            raised = scores[bonuses.tokens] + bonuses.steps
            highest = int(raised.argmax())
            if raised[highest] > scores[best]:
                token = int(bonuses.tokens[highest])
        if self.opened is not None and token not in bonuses.goes_on:
            if not bonuses.ends or self._joined[token]:
                return None
            self.opened = None
        self._lost = (0.0 if self.opened is None else self._lost) + float(scores[best] - scores[token])
        if self.opened is not None and self._lost > MOST_LOST:
            return None
        following = bonuses.next.get(token, BoostingTree.ROOT)
        if last and self.opened is not None and not self._tree.bonuses(following).ends:
            return None
        if token != best and self.opened is None:
            self.opened, self._before = at, self._node
        self._node = following
        return token

    def go_back(self, at: int) -> int:
        """Return the place `opened`, from which the decode at place `at` goes on. No term is open any more."""
        assert self.opened is not None
        place, self.opened = self.opened, None
        self._plain, self._node = place, self._before
        self._budget -= at - place
        return place


def _texts(pieces: Sequence[bytes]) -> Iterator[tuple[str, int]]:
    """Yield the pieces that are text. Of two tokens with one text, the later is the one in use: the first is a byte's."""
    for token, piece in enumerate(pieces):
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            continue
        if text:
            yield text, token
