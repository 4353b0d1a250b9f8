"""Tokens to words: which tokens make a word, and where each token starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faster_whisper.tokenizer import Tokenizer

_UNSPACED = {"zh", "ja", "th", "lo", "my", "yue", "km", "bo"}
"""Whisper's codes of languages whose words are not separated; there each character, or cluster of bytes, is a word."""
_OPENING = "\"'“‘«¿¡([{「『（"
"""Punctuation that belongs to the word after it."""


@dataclass(slots=True)
class WordGroup:
    """A word: its text, and its first and last token. Tokens of punctuation at its edges are not counted."""

    text: str
    first: int
    last: int


def word_groups(tokenizer: Tokenizer, tokens: list[int]) -> list[WordGroup]:
    """Return the words of a transcript.

    A word begins at a piece with a space before it, or, in a script without spaces, at each piece. Punctuation belongs to the
    word before it, unless it opens or touches the word after it.
    """
    groups: list[WordGroup] = []
    unspaced = tokenizer.language_code in _UNSPACED
    before, position = "", 0  # `before`: punctuation of the next word
    for text, of in zip(*tokenizer.split_tokens_on_unicode(tokens), strict=True):
        first, position = position, position + len(of)
        bare = text.strip()
        spaced = text != bare
        if before and spaced and groups and before not in _OPENING:
            groups[-1].text += before  # it stands alone, as the French " ?"
            before = ""
        if not any(map(str.isalnum, bare)):
            if not groups or before or spaced or (unspaced and bare in _OPENING):
                before += bare
            else:
                groups[-1].text += bare
            continue
        touches = bool(groups) and not spaced and not before
        if touches and (not unspaced or (bare.isascii() and groups[-1].text.isascii())):
            groups[-1].text += bare
            groups[-1].last = position - 1
        else:
            groups.append(WordGroup(before + bare, first, position - 1))
            before = ""
    if before and groups:
        groups[-1].text += before
    return groups


def token_starts(path: Sequence[tuple[int, int]], tokens: int) -> list[int]:
    """Return the encoded frame at which each token and the end starts: `tokens` + 1 numbers that never fall.

    `path` is the alignment: pairs of token and frame, in order.
    """
    starts: list[int] = []
    for token, frame in path:
        while len(starts) <= token:
            starts.append(frame)
    last = path[-1][1] if path else 0
    return (starts + [last] * (tokens + 1))[: tokens + 1]
