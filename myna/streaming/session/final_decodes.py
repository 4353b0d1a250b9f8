"""Requests the decodes of one channel that become Finals. Pure."""

from __future__ import annotations

from myna.streaming.events import Span
from myna.streaming.session.decode_window import DecodeWindow
from myna.streaming.session.following import Following
from myna.streaming.session.jobs import JobKind
from myna.streaming.session.pending import Decode
from myna.streaming.session.requester import Requester


class FinalDecodes:
    """The final decodes: steps of the utterance that the engine follows if it flushes finals, otherwise decodes of their own.

    Decodes of a file (not `live`) have a lower priority and are never steps.
    """

    def __init__(self, requester: Requester, window: DecodeWindow, following: Following | None, *, live: bool) -> None:
        self._requester = requester
        self._window = window
        self._following = following if live and following is not None and following.flushed else None
        self._kind = JobKind.FINAL if live else JobKind.FILE

    def window(self, speech: Span) -> Span:
        """Return the audio that the final decode of `speech` covers."""
        if self._following is None:
            return self._window.of_final(speech)
        return self._following.covered(speech.start, self._window.end_of_final(speech, to_the_end=True))

    def request(self, speech: Span, audio: Span, *, after_s: float = 0.0) -> Decode:
        """Request the final decode of `speech`, due `after_s` seconds later than the newest audio."""
        retries = self._window.of_retries(speech, audio)
        if self._following is None:
            return self._requester.decode(audio, self._kind, after_s=after_s, retries=retries)
        return self._following.step(speech.start, audio, self._kind, after_s=after_s, retries=retries)
