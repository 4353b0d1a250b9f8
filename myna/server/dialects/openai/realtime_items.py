"""The items of a Realtime conversation: stretches of speech, each with its transcript so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from myna.streaming.events import Word
from myna.streaming.text.joining import separator, written_text

Piece = tuple[str, Sequence[Word]]
"""A part of a transcript: its text, with the space before it, and its words."""


@dataclass(slots=True)
class Item:
    """A stretch of speech. `token`: of the client's commit; None: voice activity detection ends the item."""

    id: str
    token: str | None = None
    committed: bool = False
    wanted: bool = True
    """False: the client has cleared the item's audio, and is sent nothing about it."""
    transcribed: bool = True
    pieces: list[Piece] = field(default_factory=list)
    sent: int = 0
    """How many pieces the client has been sent."""
    begin_ms: float = 0.0
    end_ms: float = 0.0
    failure: str | None = None

    @property
    def text(self) -> str:
        """The transcript so far."""
        return "".join(piece for piece, _ in self.pieces)

    @property
    def words(self) -> list[Word]:
        """The words so far."""
        return [word for _, part in self.pieces for word in part]


class ItemQueue:
    """The items whose transcripts are not complete, in the order of their audio. Decoded words belong to the first.

    Words that are decoded before there is an item wait for the next item to be committed.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._unclaimed: list[Piece] = []

    @property
    def first(self) -> Item | None:
        """The item that decoded words belong to."""
        return self._items[0] if self._items else None

    def add(self, item: Item) -> None:
        """Add an item behind all others."""
        self._items.append(item)

    def remove(self, item: Item) -> None:
        """Forget an item."""
        self._items.remove(item)

    def hear(self, words: Sequence[Word]) -> None:
        """Take decoded words."""
        if words:
            pieces = self._items[0].pieces if self._items else self._unclaimed
            text, before = written_text(words), pieces[-1][1][-1].text if pieces else ""
            pieces.append((separator(before, words[0].text) + text, words))

    def commit(self, item: Item) -> None:
        """Note that no audio will be added to an item."""
        item.committed = True
        if item is self.first:
            item.pieces += self._unclaimed
            self._unclaimed = []

    def unsent(self) -> tuple[Item, Sequence[Piece]] | None:
        """Return the first item and its pieces that the client is to be sent now; each piece is returned once."""
        item = self.first
        if item is None or not (item.committed and item.wanted and item.transcribed):
            return None
        fresh, item.sent = item.pieces[item.sent :], len(item.pieces)
        return item, fresh

    def complete(self) -> Item:
        """Remove the first item, whose transcript is complete, and return it."""
        return self._items.popleft()
