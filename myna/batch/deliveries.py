"""Delivers the results of jobs to their callbacks. A dead address delays only its own deliveries."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from myna.batch.address_gate import AddressGate
from myna.batch.callback import Callback, CallbackSender
from myna.batch.fairness import FairQueue, Pool
from myna.batch.job import Job
from myna.batch.job_store import JobStore

log = structlog.get_logger()

PAUSES_S = (5.0, 15.0, 45.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 1800.0)
"""Pauses between attempts to deliver a result: ten attempts over about two hours."""
AT_ONCE, OF_ONE_OWNER = 48, 24
"""Concurrent deliveries to hosts whose last delivery succeeded or that had none yet: a delivery mostly waits."""
AT_ONCE_TO_FAILING, OF_ONE_OWNER_TO_FAILING = 16, 8
"""Concurrent deliveries to hosts whose last delivery failed."""
TO_ONE_HOST = 2
_LOG_EVERY_S = 60.0
"""Interval at which a host that keeps failing is logged."""
_MOST_REMEMBERED = 10_000
"""Limit on remembered hosts whose last delivery failed; beyond it, all are forgotten."""


class Keep(Protocol):
    """Repeats a call of the store until it succeeds, so that a full disk only delays it."""

    def __call__(self, call: Callable[..., Any], *arguments: object) -> Awaitable[Any]:
        """Return what the call returns."""
        ...


@dataclass(frozen=True, slots=True)
class _Delivery:
    job: Job
    host: str
    attempts: int


class Deliveries:
    """The deliveries of one server. Pauses use the monotonic clock; the store keeps their wall time for the next start."""

    def __init__(
        self, gate: AddressGate, keep: Keep, callback_of: Callable[[Job], Callback | None], ended: Callable[[Job], None]
    ) -> None:
        self._gate = gate
        self._callback_of = callback_of
        self._keep = keep
        self._ended = ended
        self._busy: Counter[str] = Counter()  # by host: deliveries running or waiting in a pool
        self._parked: dict[str, FairQueue[_Delivery]] = {}  # by host, while it has `TO_ONE_HOST`
        self._failing: dict[str, float] = {}  # host → when it was last logged, monotonic
        self._quick = Pool("delivery", AT_ONCE, OF_ONE_OWNER, self._deliver)
        self._slow = Pool("delivery to a failing host", AT_ONCE_TO_FAILING, OF_ONE_OWNER_TO_FAILING, self._deliver)
        self._timers: set[asyncio.TimerHandle] = set()
        self._store: JobStore | None = None

    def start(self, store: JobStore) -> None:
        """Set the store that holds the results."""
        self._store = store

    def add(self, job: Job, pause_s: float = 0.0) -> None:
        """Deliver the job's result after a pause, which is limited to the longest of `PAUSES_S`."""
        try:
            callback = self._callback_of(job)
            host = "" if callback is None else self._gate.check(callback.url).host or ""
        except Exception:  # accepted by an older server; the attempt reports the reason
            host = ""
        self._wait(_Delivery(job, host, job.deliveries), min(pause_s, max(PAUSES_S)))

    async def close(self) -> None:
        """Stop. Undelivered results are tried again at the next start."""
        for timer in self._timers:
            timer.cancel()
        await self._quick.close()
        await self._slow.close()

    def _wait(self, delivery: _Delivery, pause_s: float) -> None:
        if pause_s <= 0:
            self._due(delivery)
            return

        def due() -> None:
            self._timers.discard(timer)
            self._due(delivery)

        timer = asyncio.get_running_loop().call_later(pause_s, due)
        self._timers.add(timer)

    def _due(self, delivery: _Delivery) -> None:
        if self._busy[delivery.host] >= TO_ONE_HOST:
            self._parked.setdefault(delivery.host, FairQueue()).add(delivery.job.share, delivery)
        else:
            self._line_up(delivery)

    def _line_up(self, delivery: _Delivery) -> None:
        self._busy[delivery.host] += 1
        pool = self._slow if delivery.host in self._failing else self._quick
        pool.add(delivery.job.share, delivery)

    def _leave(self, host: str) -> None:
        """End a delivery to this host and start the next one that waits for it."""
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]
        if host in self._parked:
            found = self._parked[host].take(Counter())
            if found is None:
                del self._parked[host]
            else:
                self._line_up(found[1])

    async def _deliver(self, delivery: _Delivery) -> None:
        try:
            reason = await self._attempt(delivery.job)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:200]
        finally:
            self._leave(delivery.host)
        await self._note(delivery, reason)

    async def _attempt(self, job: Job) -> str | None:
        assert self._store is not None
        callback = self._callback_of(job)
        assert callback is not None
        async with CallbackSender(callback, self._gate, job.share) as sender:
            return await sender.attempt_file(self._store.result(job.id))

    async def _note(self, delivery: _Delivery, reason: str | None) -> None:
        assert self._store is not None
        job, attempts = delivery.job, delivery.attempts + 1
        if reason is None:
            self._failing.pop(delivery.host, None)
            await self._keep(self._store.delivered, job.id)
            log.info("job result delivered", job=job.id)
            self._ended(job)
            return
        self._log(delivery, reason)
        if attempts > len(PAUSES_S):
            await self._keep(self._store.undelivered, job.id, attempts, reason)
            log.warning("job result undelivered, no more attempts", job=job.id, host=delivery.host, reason=reason)
            self._ended(job)
            return
        pause_s = PAUSES_S[attempts - 1]
        await self._keep(self._store.not_delivered, job.id, attempts, pause_s, reason)
        self._wait(_Delivery(job, delivery.host, attempts), pause_s)

    def _log(self, delivery: _Delivery, reason: str) -> None:
        now = time.monotonic()
        logged_at = self._failing.get(delivery.host)
        if logged_at is None or now - logged_at >= _LOG_EVERY_S:
            if len(self._failing) >= _MOST_REMEMBERED:
                self._failing.clear()
            self._failing[delivery.host] = now
            log.warning("job result not delivered", job=delivery.job.id, host=delivery.host, reason=reason)
