"""Supervises the server's long-lived parts: a part that fails is logged, restarted and reported by readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger()

FIRST_PAUSE_S = 0.1
"""Pause before a failed part is restarted. It doubles with each consecutive failure."""
LONGEST_PAUSE_S = 5.0
PROVEN_S = 1.0
"""Time for which a restarted part must run before it counts as working; its last pause if that is longer."""
_LOG_EVERY_S = 60.0
"""Interval at which a part that keeps failing for the same reason is logged."""


@dataclass(slots=True)
class _Trouble:
    reason: str
    logged_at: float
    pause_s: float = 0.0
    restarted_at: float | None = None


class Supervisor:
    """The supervisor of one server. Readiness reports `failing`; each long-lived task runs under `run`.

    A part that another owner restarts, such as a thread, reports its state with `failed` and `works`. A part whose state
    can be queried, such as a thread that may hang, is registered with `watch`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}
        self._checks: dict[str, Callable[[], str | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.restarts = 0
        """Number of failures after which a part was restarted."""

    @property
    def failing(self) -> dict[str, str]:
        """The parts that do not work now, with reasons."""
        self._forget_proven(self._clock())
        found = {name: _asked(check) for name, check in self._checks.items()}
        troubles = {name: trouble.reason for name, trouble in self._troubles.items()}
        return troubles | {name: reason for name, reason in found.items() if reason is not None}

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `work()` as a task; restart it whenever it raises or returns, until it is cancelled or `close` is called."""
        task = asyncio.create_task(self._supervise(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def watch(self, name: str, check: Callable[[], str | None]) -> None:
        """Register a check for `failing`: it returns why the part does not work, or None, and must not block."""
        self._checks[name] = check

    def forget(self, name: str) -> None:
        """Remove a part that has ended intentionally."""
        self._checks.pop(name, None)
        self._troubles.pop(name, None)

    def failed(self, name: str, error: BaseException | str) -> float:
        """Record that a part has failed; return the pause before its restart, in seconds."""
        now, reason = self._clock(), error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self._forget_proven(now)
        trouble = self._troubles.get(name) or _Trouble(reason, now - _LOG_EVERY_S)
        trouble.pause_s = min(LONGEST_PAUSE_S, 2 * trouble.pause_s or FIRST_PAUSE_S)
        trouble.restarted_at = None
        if reason != trouble.reason or now - trouble.logged_at >= _LOG_EVERY_S:
            trouble.reason, trouble.logged_at = reason, now
            exception = error if isinstance(error, BaseException) else None
            log.error("server part failed", part=name, reason=reason, exc_info=exception)
        self._troubles[name] = trouble
        self.restarts += 1
        return trouble.pause_s

    def restarted(self, name: str) -> None:
        """Record that a failed part was restarted; it counts as working after `PROVEN_S`."""
        if trouble := self._troubles.get(name):
            trouble.restarted_at = self._clock()

    def works(self, name: str) -> None:
        """Record that a part works."""
        self._troubles.pop(name, None)

    async def close(self) -> None:
        """End every task and wait for it."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _forget_proven(self, now: float) -> None:
        for name, trouble in list(self._troubles.items()):
            if trouble.restarted_at is not None and now - trouble.restarted_at >= max(PROVEN_S, trouble.pause_s):
                del self._troubles[name]

    async def _supervise(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                try:
                    await work()
                    pause_s = self.failed(name, "it ended unexpectedly")
                except asyncio.CancelledError as error:
                    if task.cancelling():
                        raise
                    pause_s = self.failed(name, error)  # something that the part awaited was cancelled, not the part
                except Exception as error:
                    pause_s = self.failed(name, error)
                await asyncio.sleep(pause_s)
                self.restarted(name)
        finally:
            self.forget(name)


def _asked(check: Callable[[], str | None]) -> str | None:
    try:
        return check()
    except Exception as error:  # a check that fails counts as a part that fails
        return f"{type(error).__name__}: {error}"
