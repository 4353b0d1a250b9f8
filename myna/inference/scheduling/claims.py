"""How much of a model its live streams may ask for at once, in channels that speak. Pure; time is handed in."""

from __future__ import annotations

from dataclasses import dataclass

QUIET_S = 30.0
"""A channel for which nothing was to be decoded for so long is quiet, until it speaks again."""
_QUIET = 1 / 20
"""What a quiet channel counts against the streams of other owners: it costs voice activity at most, and some will speak."""
_QUIET_OWN = 1 / 4
"""What a quiet channel counts against further streams of its own owner: one owner may hold four times the channels that a
model takes while they are quiet, and leaves four fifths of it to others."""


@dataclass(slots=True, eq=False)
class Claim:
    """One stream's. `away`: its client has lost its connection and may come back."""

    name: str
    owner: str
    away: bool
    asked_at: list[float]
    """By channel: when something was last to be decoded, or when the channel came."""

    @property
    def channels(self) -> int:
        """Channels the stream has."""
        return len(self.asked_at)

    def speaking(self, now: float) -> int:
        """Return how many of the channels are not quiet."""
        return 0 if self.away else sum(now - asked < QUIET_S for asked in self.asked_at)

    def resize(self, channels: int, now: float) -> None:
        """Note how many channels the stream has; those that are new count as speaking at first."""
        del self.asked_at[channels:]
        self.asked_at += [now] * (channels - len(self.asked_at))

    def back(self, now: float) -> None:
        """Note that the client is back; every channel counts as speaking at first."""
        self.away = False
        self.asked_at[:] = [now] * len(self.asked_at)


class Claims:
    """Those of one model's live streams."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}

    @property
    def channels(self) -> int:
        """Live channels there are, quiet or not."""
        return sum(claim.channels for claim in self._claims.values())

    def join(self, name: str, owner: str, channels: int, now: float) -> Claim:
        """Note that a stream has come; no other live stream has its name."""
        claim = self._claims[name] = Claim(name, owner, away=False, asked_at=[now] * channels)
        return claim

    def leave(self, claim: Claim) -> None:
        """Note that a stream has gone. May be called again."""
        if self._claims.get(claim.name) is claim:
            del self._claims[claim.name]

    def asked(self, source: str, now: float) -> None:
        """Note that something is to be decoded for this channel, `NAME/NUMBER`; what belongs to no live stream is ignored."""
        name, _, channel = source.rpartition("/")
        claim = self._claims.get(name)
        if claim is not None and channel.isdecimal() and int(channel) < claim.channels:
            claim.asked_at[int(channel)] = now

    def weight(self, now: float, owner: str | None = None, without: Claim | None = None) -> float:
        """Return how many speaking channels the streams count as, for another stream of this owner; one may be left out."""
        total = 0.0
        for claim in self._claims.values():
            if claim is not without:
                speaking = claim.speaking(now)
                quiet = _QUIET_OWN if claim.owner == owner else _QUIET
                total += speaking + quiet * (claim.channels - speaking)
        return total
