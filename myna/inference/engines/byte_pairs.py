"""Splits text into the pieces of a SentencePiece vocabulary by byte-pair encoding, from the vocabulary alone.

SentencePiece numbers the pieces of a BPE model in the order of their merges, so that the ids are the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

WORD_START = "▁"
"""The prefix of a piece that begins a word."""


def split(text: str, ids: Mapping[str, int]) -> list[str]:
    """Return the pieces of a text: those in `ids`, and single characters that are not.

    The lower the id of a piece, the earlier its merge. Words are split separately: no piece that holds a letter reaches over
    the start of a word.
    """
    return [piece for word in text.split() for piece in _merged(list(WORD_START + word), ids)]


def _merged(parts: list[str], ids: Mapping[str, int]) -> list[str]:
    while True:
        merges = [(ids[both], at) for at in range(len(parts) - 1) if (both := parts[at] + parts[at + 1]) in ids]
        if not merges:
            return parts
        _, at = min(merges)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
