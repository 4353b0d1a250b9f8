"""The word pieces of an exported vocabulary: reading them, spelling text with them, and finding those of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from myna.inference.engines.byte_pairs import WORD_START, split

BLANK = "<blk>"
UNKNOWN = "<unk>"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_CONTROL = re.compile(r"<[^<>\s]+>")
"""Pieces that stand for no text, such as `<pad>` and the language tags `<en-US>` of multilingual models."""


def read_pieces(text: str) -> tuple[str, ...]:
    """Return the pieces, without the blank, from lines that hold a piece and its id. Raises ValueError."""
    pieces: list[str] = []
    for number, line in enumerate(text.rstrip("\n").split("\n")):
        piece, separator, written = line.rstrip("\r").rpartition(" ")
        if not separator or written != str(number):
            raise ValueError(f"line {number + 1} is {line[:40]!r}; expected a piece and the id {number}")
        pieces.append(piece)
    if pieces[-1] != BLANK:
        raise ValueError(f"its last piece is {pieces[-1][:40]!r}; expected {BLANK}")
    return tuple(pieces[:-1])


class Speller:
    """Turns ids of pieces into text, as SentencePiece does."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._text = [piece.replace(WORD_START, " ").encode() for piece in pieces]
        for number, piece in enumerate(pieces):
            if byte := _BYTE.fullmatch(piece):
                self._text[number] = bytes.fromhex(byte[1])
            elif piece == UNKNOWN:
                self._text[number] = " ⁇ ".encode()
            elif _CONTROL.fullmatch(piece):
                self._text[number] = b""

    def __call__(self, ids: Sequence[int]) -> str:
        """Return the text of the pieces. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._text[number] for number in ids).decode("utf-8", "replace").strip()


class Splitter:
    """Splits text into pieces; see `byte_pairs`."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._unknown = self._ids.get(UNKNOWN, 0)

    def __call__(self, text: str) -> list[int]:
        """Return the ids of the pieces of a text."""
        return [self._ids.get(piece, self._unknown) for piece in split(text, self._ids)]
