"""The utterances that the lanes of a process follow together: any lane may decode the next step of one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from myna.inference.engines.transducer.words import Tokens

MOST_FOLLOWED = 4096
"""Limit on utterances followed at once. The state of the least recently used is dropped; if that utterance goes on, the
engine asks for its audio again."""


@dataclass(slots=True)
class Utterance:
    """`pcm` is int16 audio from sample `start` on; `committed` tokens never change. `state` is the decoder's."""

    number: int
    pcm: bytearray = field(default_factory=bytearray)
    start: int = 0
    committed: Tokens = field(default_factory=Tokens)
    state: Any = None

    @property
    def end(self) -> int:
        """Samples received."""
        return self.start + len(self.pcm) // 2

    def audio(self, start: int) -> np.ndarray:
        """Return a copy of the audio from sample `start` on."""
        return np.frombuffer(self.pcm, np.int16)[start - self.start :].copy()

    def drop_before(self, start: int) -> None:
        """Drop the audio before sample `start`."""
        del self.pcm[: 2 * max(0, start - self.start)]
        self.start = max(start, self.start)


class FollowedUtterances:
    """Utterances by channel. Safe to use from several threads; one lane at a time has a channel's utterance."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: OrderedDict[str, Utterance] = OrderedDict()  # the least recently used first
        self._borrowed: dict[str, bool] = {}  # channel → whether it has been released meanwhile

    def __len__(self) -> int:
        with self._changed:
            return len(self._idle)

    @property
    def audio_held(self) -> int:
        """Samples of audio in memory, of the utterances that no lane has."""
        with self._changed:
            return sum(utterance.end - utterance.start for utterance in self._idle.values())

    @contextmanager
    def borrowed(self, sources: Collection[str]) -> Iterator[dict[str, Any]]:
        """Yield the utterances of these channels, as far as there are any, to be changed, replaced and added to.

        Waits until no other lane has one of them. A lane never waits while it has some, so that no two wait for each other.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._borrowed.keys().isdisjoint(sources))
            self._borrowed.update(dict.fromkeys(sources, False))
            taken = {source: self._idle.pop(source) for source in sources if source in self._idle}
        try:
            yield taken
        finally:
            with self._changed:
                for source in sources:
                    released = self._borrowed.pop(source)
                    if source in taken and not released:
                        self._idle[source] = taken[source]
                while len(self._idle) > MOST_FOLLOWED:
                    self._idle.popitem(last=False)
                self._changed.notify_all()

    def release(self, source: str) -> None:
        """Drop a channel's utterance, or have it dropped after the step that a lane is decoding."""
        with self._changed:
            self._idle.pop(source, None)
            if source in self._borrowed:
                self._borrowed[source] = True


_of_weights: WeakKeyDictionary[Any, FollowedUtterances] = WeakKeyDictionary()
_finding = threading.Lock()


def followed_with(weights: object) -> FollowedUtterances:
    """Return the utterances followed with these weights."""
    with _finding:
        return _of_weights.setdefault(weights, FollowedUtterances())
