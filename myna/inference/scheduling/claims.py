"""Counts a model's live streams in speaking channels. Pure: the caller passes the time."""

from __future__ import annotations

from dataclasses import dataclass

QUIET_S = 30.0
"""A channel without a job for this long is quiet, until its next job."""
_QUIET = 1 / 20
"""Weight of a quiet channel for streams of other owners: it costs voice-activity detection only, but may speak again."""
_QUIET_OWN = 1 / 4
"""Weight of a quiet channel for further streams of its own owner. One owner may hold four times as many quiet channels as
the model can serve; for other owners they take one fifth of the model."""


@dataclass(slots=True, eq=False)
class Claim:
    """The claim of one stream. `away`: the client has lost its connection and may resume the stream."""

    name: str
    owner: str
    away: bool
    asked_at: list[float]
    """By channel: the time of its last job, or of its start."""

    @property
    def channels(self) -> int:
        """Number of channels of the stream."""
        return len(self.asked_at)

    def speaking(self, now: float) -> int:
        """Return how many of the channels are not quiet."""
        return 0 if self.away else sum(now - asked < QUIET_S for asked in self.asked_at)

    def resize(self, channels: int, now: float) -> None:
        """Set the number of channels. New channels count as speaking at first."""
        del self.asked_at[channels:]
        self.asked_at += [now] * (channels - len(self.asked_at))

    def back(self, now: float) -> None:
        """Mark the stream as resumed. Every channel counts as speaking at first."""
        self.away = False
        self.asked_at[:] = [now] * len(self.asked_at)


class Claims:
    """The claims of one model's live streams."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}

    @property
    def channels(self) -> int:
        """Number of live channels, quiet or not."""
        return sum(claim.channels for claim in self._claims.values())

    def join(self, name: str, owner: str, channels: int, now: float) -> Claim:
        """Add a stream and return its claim. No other live stream has its name."""
        claim = self._claims[name] = Claim(name, owner, away=False, asked_at=[now] * channels)
        return claim

    def share(self, claim: Claim) -> None:
        """Add a stream by its claim on another model."""
        self._claims[claim.name] = claim

    def leave(self, claim: Claim) -> None:
        """Remove a stream. Further calls do nothing."""
        if self._claims.get(claim.name) is claim:
            del self._claims[claim.name]

    def asked(self, source: str, now: float) -> None:
        """Record a job of the channel `NAME/NUMBER`. A source that belongs to no live stream is ignored."""
        name, _, channel = source.rpartition("/")
        claim = self._claims.get(name)
        if claim is not None and channel.isdecimal() and int(channel) < claim.channels:
            claim.asked_at[int(channel)] = now

    def weight(self, now: float, owner: str | None = None, without: Claim | None = None) -> float:
        """Return the weight of all streams, in speaking channels, as it counts for another stream of this owner.

        `without` leaves out one stream.
        """
        total = 0.0
        for claim in self._claims.values():
            if claim is not without:
                speaking = claim.speaking(now)
                quiet = _QUIET_OWN if claim.owner == owner else _QUIET
                total += speaking + quiet * (claim.channels - speaking)
        return total
