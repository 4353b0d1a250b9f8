"""A job: a transcription request whose result is delivered later."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The states of a job, in order. `failed` is left over from older servers, which did not report all failures."""

    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    """Done, but all deliveries failed; the result can be queried."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """An accepted request. `url` is the address of its audio; None: the audio is in the store.

    `share` is the client to whose limits it counts, `size` the bytes of its stored audio. `created`, `finished` and `due`,
    the time of its next delivery, are wall times.
    """

    id: str
    owner: str
    share: str
    state: State
    created: float
    due: float
    query: tuple[tuple[str, str], ...]
    url: str | None
    sha256: str | None
    size: int = 0
    attempts: int = 0
    deliveries: int = 0
    heard_s: float = 0.0
    finished: float | None = None
    error: str | None = None
