"""What a live channel keeps for the end of its stream, where its speakers are labelled as those of a file. Pure."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from myna.streaming.events import Event, Word, samples, seconds
from myna.streaming.speakers.attribution import speakers_of
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, SpeakerTurn, inherited, label_all
from myna.streaming.speakers.runs import Run, in_order

MOST_RUNS_KEPT = 4000
"""Runs kept of a channel, the newest ones: about three hours of speech, 6 MB with embeddings of 256 values. Labelling them
takes about two seconds of CPU time."""
MOST_WORDS_KEPT = 50_000
"""Words whose times are kept of a channel, the newest ones: 0.8 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakersRevised(Event):
    """The speakers of a channel from sample `since` on, labelled as those of a file; follows the channel's last Final.

    `words` are the speakers of the channel's last words in Finals, one for each word; the words before them keep theirs.
    """

    since: int
    turns: tuple[SpeakerTurn, ...]
    words: tuple[int | None, ...]

    @property
    def count(self) -> int:
        """The number of speakers."""
        return len({turn.speaker for turn in self.turns})


@dataclass(frozen=True, slots=True)
class Past:
    """The runs of a channel with the labels that they were told by, and the times of its words, in seconds.

    `since` is the sample from which they are complete.
    """

    channel: int
    since: int
    runs: tuple[Run, ...]
    told: tuple[int, ...]
    words: tuple[tuple[float, float], ...]
    distances: Distances
    limits: SpeakerLimits

    def revised(self) -> SpeakersRevised:
        """Label all runs at once. This takes about two seconds of CPU time for three hours of speech."""
        turns = label_all(self.runs, self.distances, self.limits)
        if self.since:  # words that are forgotten keep the labels told, so these must mean the same speakers
            turns = self._as_told(turns)
        words = tuple(speakers_of(self.words, turns))
        return SpeakersRevised(channel=self.channel, since=self.since, turns=tuple(turns), words=words)

    def _as_told(self, turns: Sequence[SpeakerTurn]) -> list[SpeakerTurn]:
        """Give each speaker the label in which most of its seconds were told, or a new one."""
        spans = [(seconds(run.span.start), seconds(run.span.end)) for run in self.runs]
        claims: dict[tuple[int, int], float] = {}
        for run, speaker, told in zip(self.runs, speakers_of(spans, turns), self.told, strict=True):
            if speaker is not None:
                claim = speaker, told
                claims[claim] = claims.get(claim, 0) + len(run.span)
        names = inherited(claims)
        unused = max(self.told, default=-1) + 1
        for turn in turns:
            if turn.speaker not in names:
                names[turn.speaker] = unused
                unused += 1
        return [replace(turn, speaker=names[turn.speaker]) for turn in turns]


class History:
    """The runs and the words of one live channel, as far as they are kept."""

    def __init__(self, channel: int, distances: Distances, limits: SpeakerLimits) -> None:
        self._channel = channel
        self._distances = distances
        self._limits = limits
        self._since = 0
        self._runs: deque[tuple[Run, int]] = deque()
        self._words = array("d")  # start and end of each word

    @property
    def runs_kept(self) -> int:
        """The number of runs in memory."""
        return len(self._runs)

    @property
    def words_kept(self) -> int:
        """The number of words whose times are in memory."""
        return len(self._words) // 2

    def tell(self, runs: Sequence[Run], told: Sequence[SpeakerTurn]) -> None:
        """Keep the runs of a segment and the labels told for them, as `SpeakerMemory.label` returns them."""
        self._runs.extend((run, turn.speaker) for run, turn in zip(in_order(runs), told, strict=True))
        while len(self._runs) > MOST_RUNS_KEPT:
            self._since = max(self._since, self._runs.popleft()[0].span.end)

    def write(self, words: Sequence[Word]) -> None:
        """Keep the times of the words of a Final."""
        for word in words:
            self._words.extend((word.start, word.end))
        if self.words_kept > MOST_WORDS_KEPT:
            surplus = self.words_kept - MOST_WORDS_KEPT
            self._since = max(self._since, samples(self._words[2 * surplus - 1]))
            del self._words[: 2 * surplus]

    def past(self) -> Past:
        """Return everything that is kept."""
        runs = [(run, told) for run, told in self._runs if run.span.start >= self._since]
        times = zip(self._words[::2], self._words[1::2], strict=True)
        return Past(
            channel=self._channel,
            since=self._since,
            runs=tuple(run for run, _ in runs),
            told=tuple(told for _, told in runs),
            words=tuple((start, end) for start, end in times if samples(start) >= self._since),
            distances=self._distances,
            limits=self._limits,
        )
