"""Limits the files and jobs that the server holds, by number and by size, for all clients and for each.

A client is a key, or a network address if the server has no keys. One client may use at most half of each limit.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

import structlog
from aiohttp import web

from myna.batch.addresses import network_of
from myna.batch.storage import Doubt
from myna.runtime.errors import Refusal
from myna.server.keys import ANYBODY, Identity
from myna.server.operations.metrics import Metrics
from myna.server.settings import Settings

log = structlog.get_logger()

RETRY_S = 5
"""Seconds after which a refused client may try again. When a file will be done is unknown."""

_LOG_EVERY_S = 60.0
"""Interval between two log lines about refused requests."""

Taken = Callable[[str | None], tuple[int, int]]
"""Returns how many jobs, of all shares or of one, are unfinished, and the bytes of audio they store."""


def share_of(identity: Identity, request: web.Request) -> str:
    """Return the share a request counts against: its key's, or its address's if it needs no key."""
    return f"@{network_of(request.remote or '')}" if identity is ANYBODY else identity.name


class Intake:
    """The limits of one server. Every method raises `Refusal`: 429 for a number, 507 for a size."""

    def __init__(self, settings: Settings, metrics: Metrics, jobs: Taken, disk: Doubt) -> None:
        self._settings = settings
        self._metrics = metrics
        self._jobs = jobs
        self._disk = disk
        self._files: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._logged_at = float("-inf")

    @property
    def least_free(self) -> int:
        """Bytes of the disk that stay free."""
        return self._settings.min_free_mb << 20

    @contextlib.contextmanager
    def file(self, share: str) -> Iterator[Callable[[int], None]]:
        """Count a request with files while the context lasts; yield what `stored` yields."""
        self._check("files", "max_files", self._settings.max_files, self._files.total(), self._files[share])
        self._files[share] += 1
        try:
            with self.stored(share) as grow:
                yield grow
        finally:
            _lower(self._files, share, 1)

    @contextlib.contextmanager
    def stored(self, share: str) -> Iterator[Callable[[int], None]]:
        """Yield a function to call before bytes are written. When the context ends they are deleted, or belong to a job."""
        total = 0

        def grow(size: int) -> None:
            nonlocal total
            self._check_size(share, size)
            total += size
            self._bytes[share] += size

        try:
            yield grow
        finally:
            _lower(self._bytes, share, total)

    def check_job(self, share: str) -> None:
        """Check that another job may be accepted."""
        self._check("jobs", "max_jobs", self._settings.max_jobs, self._jobs(None)[0], self._jobs(share)[0])

    def disk_failed(self, error: Exception) -> None:
        """Note that a request was refused because the disk is full or broken."""
        self._metrics.refused("disk")
        self._disk.raise_(error)
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            log.error("requests with files are refused: the disk failed", reason=str(error))

    def _check(self, what: str, setting: str, limit: int, taken: int, own: int) -> None:
        most = max(1, limit // 2)
        if own >= most:
            message = f"A client may have {most} unfinished {what}; this one has {own}."
        elif taken >= limit:
            message = f"The server is at its limit of {limit} unfinished {what}."
        else:
            return
        self._metrics.refused(setting)
        raise Refusal(429, f"too_many_{what}", message, retry_after_s=RETRY_S)

    def _check_size(self, share: str, size: int) -> None:
        limit = self._settings.max_stored_mb << 20
        own = self._bytes[share] + self._jobs(share)[1] + size
        if own <= limit // 2 and self._bytes.total() + self._jobs(None)[1] + size <= limit:
            return
        self._metrics.refused("max_stored_mb")
        whose = "This client's files" if own > limit // 2 else "The files of all clients"
        raise Refusal(507, "insufficient_storage", f"{whose} are at their limit of storage.", retry_after_s=RETRY_S)


def _lower(counter: Counter[str], share: str, amount: int) -> None:
    counter[share] -= amount
    if not counter[share]:
        del counter[share]
