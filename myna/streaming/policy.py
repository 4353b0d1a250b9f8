"""How one stream is to be cut, gated and reported: numbers only, compiled by a dialect from its client's parameters."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlausibilityGate:
    """No speech, no text: a transcript passes only if voice activity *and* the engine's own probability say so.

    `hopeless` and `doubtful` are mean token log-probabilities. What lies below `hopeless` never passes; what lies below
    `doubtful` passes only if the segment's voice (mean speech probability of its surer half) is at least `sure_voice`.
    In the reference speech no voice is below 0.99 and no good transcript below -0.9; a chord that fools the VAD has 0.6,
    and the engine's "You" for it -0.2.
    """

    hopeless: float = -1.1
    doubtful: float = -0.1
    sure_voice: float = 0.85

    def passes(self, log_probability: float, voice: float) -> bool:
        """Return whether a transcript with this mean log-probability, over speech of this voice, is to be believed."""
        if log_probability < self.hopeless:
            return False
        return log_probability >= self.doubtful or voice >= self.sure_voice


@dataclass(frozen=True, slots=True)
class TurnPolicy:
    """When a turn is over."""

    end: float = 0.7
    """End-of-turn confidence that ends it; 1: confidence never does."""
    eager: float | None = None
    """Confidence at which it is said that the end may have come; None: it is not said."""
    timeout_ms: int = 5000
    """Silence that ends it whatever the confidence."""
    longest_s: float = 300.0
    """A turn so long ends at the next cut, whatever the confidence: clients are told all words of a turn again and again."""
    most_words: int = 1000
    """So does a turn of so many words."""

    def __post_init__(self) -> None:
        if not 0 < self.end <= 1:
            raise ValueError(f"the end-of-turn threshold must be above 0 and at most 1, not {self.end}")
        if self.eager is not None and not 0 < self.eager <= self.end:
            raise ValueError(f"the eager threshold must be above 0 and at most the other, {self.end}, not {self.eager}")
        if self.timeout_ms <= 0:
            raise ValueError(f"the time-out of a turn must be positive, not {self.timeout_ms}")
        if self.longest_s <= 0 or self.most_words <= 0:
            raise ValueError(f"a turn must be let last, not {self.longest_s} s and {self.most_words} words")


@dataclass(frozen=True, slots=True)
class Policy:
    """Segmenting and reporting of one stream. All durations are of audio, none of wall time."""

    live: bool = True
    """Somebody waits for the words: finals go before files, and are decoded ahead of their endpoint."""
    endpoint_ms: int | None = 500
    """Silence that ends an utterance; None: no endpoints, cuts by length, flush and end only."""
    gap_ms: int | None = None
    """Silence after a word that is told as the end of an utterance, the word being final by then; None: the endpoint is."""
    silence_s: float | None = None
    """An empty Final at least every so much silence, for clients that follow how far the server has heard; None: none."""
    turns: TurnPolicy | None = None
    """Ends utterances as turns, by confidence; there is no endpoint then."""
    progress_s: float | None = None
    """How far the channel has been heard is told every so much audio; None: never."""
    onset: float = 0.5
    """Probability from which a voice-activity window is speech: Silero's own default threshold."""
    soft_s: float = 8.0
    """From this length of speech on, shorter and shorter pauses suffice for a cut."""
    hard_s: float = 12.0
    """At this length the segment is cut where speech is least probable."""
    lead_s: float = 0.3
    """Audio heard before the first speech window: quiet first consonants lie below the VAD's threshold."""
    context_s: float = 10.0
    """At most so much audio before a segment is decoded with it, its words being dropped again."""
    context_gap_s: float = 2.0
    """A segment that follows the last speech later than this is decoded without context."""
    interim_every_s: float | None = 0.8
    """An interim transcript at least every so much speech; None: none."""
    interim_window_s: float = 6.0
    """An interim decode hears at most so much; older words of the segment stay as they settled."""
    gate: PlausibilityGate = field(default_factory=PlausibilityGate)

    def __post_init__(self) -> None:
        if self.endpoint_ms is not None and self.endpoint_ms <= 0:
            raise ValueError(f"endpoint_ms must be positive or None, not {self.endpoint_ms}")
        if self.turns is not None and self.endpoint_ms is not None:
            raise ValueError(f"where turns end by confidence, endpoint_ms must be None, not {self.endpoint_ms}")
        if not 0 < self.onset < 1:
            raise ValueError(f"onset must be between 0 and 1, not {self.onset}")
        if self.gap_ms is not None and self.gap_ms <= 0:
            raise ValueError(f"gap_ms must be positive or None, not {self.gap_ms}")
        if self.silence_s is not None and self.silence_s <= 1:
            raise ValueError(f"silence_s must be above 1 or None, not {self.silence_s}")
        if not 0 < self.soft_s <= self.hard_s:
            raise ValueError(f"0 < soft_s <= hard_s is needed, not soft_s={self.soft_s}, hard_s={self.hard_s}")
        if self.interim_every_s is not None and self.interim_every_s <= 0:
            raise ValueError(f"interim_every_s must be positive or None, not {self.interim_every_s}")

    @property
    def patience_s(self) -> float:
        """Silence after which an utterance is over for certain, in seconds; 0 where there is no such limit."""
        return (self.turns.timeout_ms if self.turns else self.endpoint_ms or 0) / 1000


@dataclass(frozen=True, slots=True)
class Options:
    """What the client asks of the engine itself; every job carries its own."""

    language: str | None = None
    keyterms: tuple[str, ...] = ()
    """Words and phrases to be made likelier."""
