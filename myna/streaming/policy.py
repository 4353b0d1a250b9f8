"""How one stream is segmented, gated and reported: plain values that a dialect derives from its client's parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

from myna.streaming.speakers.labelling import SpeakerLimits


@dataclass(frozen=True, slots=True)
class PlausibilityGate:
    """Decides whether a transcript is plausible, from voice activity and from the engine's own probability.

    `hopeless` and `doubtful` are mean token log-probabilities. A transcript below `hopeless` never passes. A transcript below
    `doubtful` passes only if the segment's voice (the mean speech probability of the surer half of its windows) is at least
    `sure_voice`. In the reference recordings speech has a voice of at least 0.99, and good transcripts are at least -0.9. A
    chord that the VAD takes for speech has a voice of 0.6, and the engine's "You" for it -0.2.
    """

    hopeless: float = -1.1
    doubtful: float = -0.1
    sure_voice: float = 0.85

    def passes(self, log_probability: float, voice: float) -> bool:
        """Return whether a transcript with this mean log-probability passes, given the segment's voice."""
        if log_probability < self.hopeless:
            return False
        return log_probability >= self.doubtful or voice >= self.sure_voice


@dataclass(frozen=True, slots=True)
class TurnPolicy:
    """When a turn ends."""

    end: float = 0.7
    """The end-of-turn confidence that ends a turn; 1: confidence never ends it."""
    eager: float | None = None
    """The confidence at which `TurnEager` is emitted; None: it is never emitted."""
    timeout_ms: int = 5000
    """The silence that ends a turn whatever the confidence."""
    longest_s: float = 300.0
    """A turn of this length ends at the next cut by length: each message of a turn repeats all of its words."""
    most_words: int = 1000
    """A turn with this many words ends at the next cut by length, too."""

    def __post_init__(self) -> None:
        if not 0 < self.end <= 1:
            raise ValueError(f"the end-of-turn threshold must be above 0 and at most 1, not {self.end}")
        if self.eager is not None and not 0 < self.eager <= self.end:
            raise ValueError(f"the eager threshold must be above 0 and at most the other, {self.end}, not {self.eager}")
        if self.timeout_ms <= 0:
            raise ValueError(f"timeout_ms of a turn must be positive, not {self.timeout_ms}")
        if self.longest_s <= 0 or self.most_words <= 0:
            raise ValueError(f"longest_s and most_words must be positive, not {self.longest_s} and {self.most_words}")


@dataclass(frozen=True, slots=True)
class Policy:
    """How one stream is segmented and reported. All durations are durations of audio, not of wall time."""

    live: bool = True
    """Whether the stream is live: its finals have priority over files, and a pause is decoded before its endpoint.

    Otherwise it is a file, and a cut by length waits for the hard length and then lies in the longest pause so far."""
    endpoint_ms: int | None = 500
    """The silence that ends an utterance; None: there are no endpoints, and only length, flush and end cut."""
    gap_ms: int | None = None
    """The silence after a final word that is reported as the end of an utterance; None: the endpoint is reported."""
    silence_s: float | None = None
    """The interval of empty Finals in silence, for clients that track how far the server has processed; None: none."""
    turns: TurnPolicy | None = None
    """When turns end, if utterances are turns; `endpoint_ms` is None then."""
    progress_s: float | None = None
    """The interval of `Progress` events; None: there are none."""
    onset: float = 0.5
    """The probability from which a voice-activity window is speech: Silero's own default threshold."""
    soft_s: float = 8.0
    """From this length of speech on, the pause required for a cut shrinks; in a file it stays 1 s."""
    hard_s: float = 12.0
    """At this length of speech the segment is cut: where speech is least probable, in a file in the longest pause."""
    lead_s: float = 0.3
    """Audio decoded before the first speech window: quiet first consonants lie below the VAD's threshold."""
    context_s: float = 10.0
    """The longest context: audio before a segment that is decoded with it, and whose words are dropped."""
    context_gap_s: float = 2.0
    """A segment is decoded without context if the speech before it ended longer ago than this."""
    enough_s: float = 10.0
    """A decode of this much audio gains nothing from more context, beyond the 3 s that every segment has."""
    interim_every_s: float | None = 0.8
    """The interval of interim transcripts during speech; None: there are none."""
    interim_window_s: float = 6.0
    """The longest interim decode; older words of the segment stay as the last decode that covered them had them."""
    gate: PlausibilityGate = field(default_factory=PlausibilityGate)
    speakers: SpeakerLimits | None = None
    """How many speakers to tell apart; None: words have no speakers."""
    speakers_within_s: float = 0.3
    """How long a Final waits for the speakers of its words, in seconds of wall time."""
    speakers_revised: bool = False
    """Whether all speakers are labelled once more at the end of the stream, as those of a file (`SpeakersRevised`)."""

    def __post_init__(self) -> None:
        if self.endpoint_ms is not None and self.endpoint_ms <= 0:
            raise ValueError(f"endpoint_ms must be positive or None, not {self.endpoint_ms}")
        if self.turns is not None and self.endpoint_ms is not None:
            raise ValueError(f"endpoint_ms must be None in a policy with turns, not {self.endpoint_ms}")
        if not 0 < self.onset < 1:
            raise ValueError(f"onset must be between 0 and 1, not {self.onset}")
        if self.gap_ms is not None and self.gap_ms <= 0:
            raise ValueError(f"gap_ms must be positive or None, not {self.gap_ms}")
        if self.silence_s is not None and self.silence_s <= 1:
            raise ValueError(f"silence_s must be above 1 or None, not {self.silence_s}")
        if not 0 < self.soft_s <= self.hard_s:
            raise ValueError(f"soft_s={self.soft_s} must be above 0 and at most hard_s={self.hard_s}")
        if self.interim_every_s is not None and self.interim_every_s <= 0:
            raise ValueError(f"interim_every_s must be positive or None, not {self.interim_every_s}")

    @property
    def patience_s(self) -> float:
        """The silence in seconds after which an utterance is certainly over; 0: there is no limit."""
        return (self.turns.timeout_ms if self.turns else self.endpoint_ms or 0) / 1000


MULTIPLE = "multi"
"""The language of a stream in which languages change. No job carries it: the engine finds the language of each."""


@dataclass(frozen=True, slots=True)
class Options:
    """The client's options for the engine. Every job carries its own."""

    language: str | None = None
    """The ISO 639-1 code of the language; None: the engine finds it, if it can; `MULTIPLE`: it may change at any time."""
    keyterms: tuple[str, ...] = ()
    """Words and phrases that the engine boosts."""
    hints: tuple[str, ...] = ()
    """The languages among which the engine finds the one spoken; empty: all that it knows."""
    expected: str = ""
    """The language that the engine hears unless another is sure; empty: it expects none."""
    translate: bool = False
    """Whether the engine writes the speech in English, whatever its language."""
    prompt: str = ""
    """Text that precedes the speech, for engines that use one."""
