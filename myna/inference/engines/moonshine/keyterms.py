"""Keyterms in Moonshine's greedy decoding: the tokens of a term, and the choice of a token while a term may be spoken.

Boosting may open a term that is not spoken. A greedy decoder notices only later, when none of the term's next tokens is
likely even with its bonus. The decode then goes back to the first token that boosting changed, whose caches it has kept, and
takes the token that the model prefers there: an opened term that is not completed has no effect on the transcript.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from myna.inference.engines.boosting import Bonuses, BoostingTree, BoostingTrees
from myna.inference.engines.byte_pairs import WORD_START, split

CONTEXT_SCORE, DEPTH_SCALING = 3.0, 4 / 3
"""The bonus of a term's first token in nats, and the factor for later tokens; see docs/accuracy.md."""
MOST_LOST = 6.0
"""The most nats by which all tokens of a term together may be less likely than the tokens that the model prefers."""
MOST_OPENED = 2
"""How often boosting may complete one term in a decode: where the model repeats itself, so would the term."""
_MOST_TREES = 64
"""Limit on compiled boosting trees of each sort; the least recently used are dropped."""
_FIRST_BYTE = 3
"""The token of byte 0. A character without a token is written as the tokens of its UTF-8 bytes."""
_SENTENCE_ENDS = (b".", b"?", b"!")


class Terms:
    """Compiles keyterms for a vocabulary, whose pieces are bytes by token."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._ids = dict(_texts(pieces))
        self._marks = Marks(pieces)
        self._inside = BoostingTrees(lambda terms: self._tree(terms, names), _MOST_TREES)
        self._starting = BoostingTrees(lambda terms: self._tree(terms, sentence_starts), _MOST_TREES)

    def choice(self, terms: tuple[str, ...], budget: int) -> Choice:
        """Return the choice of tokens for one decode. Terms are dropped once `budget` tokens were decoded in vain."""
        return Choice(self._inside.of(terms), self._starting.of(terms), self._marks, budget)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, as the model writes it."""
        return [token for piece in split(text, self._ids) for token in self._of(piece)]

    def _of(self, piece: str) -> list[int]:
        token = self._ids.get(piece)
        return [token] if token is not None else [_FIRST_BYTE + byte for byte in piece.encode("utf-8", "replace")]

    def _tree(self, terms: tuple[str, ...], written: Callable[[str], list[str]]) -> BoostingTree:
        phrases = (self.tokens(text) for term in terms for text in written(term.replace("’", "'")))
        return BoostingTree(phrases, CONTEXT_SCORE, DEPTH_SCALING)


class Marks:
    """What the pieces are in a text: `joins` a word, or `ends` a sentence; booleans by token."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        letters = np.array([piece[:1].isalnum() or piece[:1] >= b"\x80" for piece in pieces])
        self.joins = letters & np.array([not piece.startswith(WORD_START.encode()) for piece in pieces])
        self.ends = np.array([piece.endswith(_SENTENCE_ENDS) for piece in pieces])


def names(term: str) -> list[str]:
    """Return the ways to write a term: as given, and if that begins with a capital, each word capitalised."""
    words = term.split()
    given = " ".join(words)
    return [given, *({" ".join(map(_capitalised, words))} - {given} if given[:1].isupper() else ())]


def sentence_starts(term: str) -> list[str]:
    """Return the ways to write a term at the start of a sentence: those of `names`, and the first word capitalised."""
    return list(dict.fromkeys([*names(term), _capitalised(" ".join(term.split()))]))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a decode stands before a token: its tree and node, and whether a sentence starts."""

    tree: BoostingTree
    node: int
    starts: bool


class Choice:
    """Chooses the tokens of one decode, in order.

    While `opened` is not None, a term is open that boosting chose from the token at this place on.
    """

    def __init__(self, inside: BoostingTree, starting: BoostingTree, marks: Marks, budget: int) -> None:
        self.opened: int | None = None
        self._inside, self._starting, self._marks, self._budget = inside, starting, marks, budget
        self._place = self._before = _Place(starting, BoostingTree.ROOT, starts=True)
        self._lost = 0.0
        """How much less likely the tokens of the open term are than those that the model prefers, in nats."""
        self._plain: int | None = None
        """The place to which the decode went back: its token is not boosted."""
        self._completed = Counter[tuple[int, ...]]()
        """How often boosting completed a term, by its tokens from the opened one on."""
        self._tokens: list[int] = []

    def choose(self, scores: np.ndarray, best: int, at: int, *, last: bool = False) -> int | None:
        """Return the token at a place, of which the model prefers `best`; `scores` [tokens] are logits.

        None: go back to the place `opened`, and choose again from there on. `last` says that the token will not be taken.
        """
        tree, node = self._place.tree, self._place.node
        if node == BoostingTree.ROOT:
            tree = self._starting if self._place.starts else self._inside
        bonuses = tree.bonuses(node)
        if last:
            return best if self.opened is None or bonuses.ends else None
        token = best if self._plain == at or self._budget <= 0 else _boosted(bonuses, scores, best)
        if self.opened is not None:
            if bonuses.ends and not self._marks.joins[token]:
                term = tuple(self._tokens)
                if self._completed[term] >= MOST_OPENED:
                    return None
                self._completed[term] += 1
                self.opened = None
            elif token not in bonuses.goes_on:
                return None
        self._lost = (0.0 if self.opened is None else self._lost) + float(scores[best] - scores[token])
        if self.opened is not None and self._lost > MOST_LOST:
            return None
        following = bonuses.next.get(token, BoostingTree.ROOT)
        if self.opened is not None:
            self._tokens.append(token)
        elif token != best:
            self.opened, self._before, self._tokens = at, self._place, [token]
        self._place = _Place(tree, following, bool(self._marks.ends[token]))
        return token

    def go_back(self, at: int) -> int:
        """Return the place `opened`, from which the decode at place `at` goes on. No term is open any more."""
        assert self.opened is not None
        place, self.opened = self.opened, None
        self._plain, self._place = place, self._before
        self._budget -= at - place
        return place


def _boosted(bonuses: Bonuses, scores: np.ndarray, best: int) -> int:
    """Return the token with the greatest score when the steps' bonuses are added; `best` has the greatest without."""
    if not len(bonuses.tokens):
        return best
    raised = scores[bonuses.tokens] + bonuses.steps
    highest = int(raised.argmax())
    return int(bonuses.tokens[highest]) if raised[highest] > scores[best] else best


def _texts(pieces: Sequence[bytes]) -> Iterator[tuple[str, int]]:
    """Yield the pieces that are text. Of two tokens with one text, the later is the one in use: the first is a byte's."""
    for token, piece in enumerate(pieces):
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            continue
        if text:
            yield text, token
