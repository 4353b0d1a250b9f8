"""How a client asks for the speakers of words, and how it applies the labels that come at the end of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from myna.wire import messages as wire


@dataclass(frozen=True, slots=True)
class SpeakersWanted:
    """A request for the speakers of words; `number` fixes how many there are, `lowest` and `highest` limit it."""

    number: int | None = None
    lowest: int | None = None
    highest: int | None = None

    def parameters(self) -> dict[str, str]:
        """Return the parameters of a request."""
        limits = {"num_speakers": self.number, "min_speakers": self.lowest, "max_speakers": self.highest}
        return {"diarize": "true"} | {name: str(limit) for name, limit in limits.items() if limit is not None}


def relabelled(finals: Sequence[wire.FinalMessage], revision: wire.SpeakersMessage) -> list[wire.FinalMessage]:
    """Return the finals of a stream with the speakers of a `speakers` message in the words of its channel."""
    theirs = [final for final in finals if final.channel == revision.channel]
    told = [word.speaker for final in theirs for word in final.words]
    surplus = len(told) - len(revision.words)  # the message has the last words of the channel
    speakers = iter([*told[: max(0, surplus)], *revision.words[max(0, -surplus) :]])

    def with_speakers(final: wire.FinalMessage) -> wire.FinalMessage:
        words = tuple(word.model_copy(update={"speaker": next(speakers)}) for word in final.words)
        return final.model_copy(update={"words": words})

    return [with_speakers(final) if final.channel == revision.channel else final for final in finals]
