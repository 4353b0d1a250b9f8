"""The results of the load bench for each number of streams."""

from __future__ import annotations

from dataclasses import dataclass, field

ALLOWED_WER = 0.3
"""Percentage points by which the word error rate under load may exceed that of the same streams one by one."""


@dataclass(slots=True)
class Level:
    """One number of streams. Delays are in milliseconds, CPU in cores, memory in MB."""

    streams: int
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    final_p50_ms: float | None = None
    final_p95_ms: float | None = None
    final_p99_ms: float | None = None
    interim_p50_ms: float | None = None
    interim_p95_ms: float | None = None
    interim_p99_ms: float | None = None
    interims_a_minute: float = 0.0
    wer: float | None = None
    wer_alone: float | None = None
    labelled_percent: float | None = None
    """Final words with a speaker, where speakers are asked for."""
    cpu: float | None = None
    memory_mb: float | None = None
    lag_p99_ms: float | None = None
    """99 % quantile of the event loop's lag since the server's start."""
    holds: bool = False

    def judge(self, target_ms: int) -> None:
        """Whether the server holds this many streams: all of them, in time, with the words they have alone."""
        worse = self.wer is not None and self.wer_alone is not None and self.wer > self.wer_alone + ALLOWED_WER
        in_time = self.final_p95_ms is not None and self.final_p95_ms <= target_ms
        self.holds = in_time and not worse and not self.refused and not self.broken


@dataclass(slots=True)
class Report:
    """All levels. `holds` is the largest number of streams up to which every level is held."""

    what: str
    target_ms: int
    staggered: bool
    levels: list[Level]
    holds: int = 0

    def judge(self) -> None:
        """Decide for every level whether it is held."""
        self.holds = 0
        for level in self.levels:
            level.judge(self.target_ms)
        for level in self.levels:
            if not level.holds:
                break
            self.holds = level.streams
