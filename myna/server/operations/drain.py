"""Draining: the server takes no new work and waits for its streams and files, so that no final is lost when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from myna.runtime.deadlines import Clock
from myna.runtime.errors import DialectError
from myna.server.operations.front_admission import FrontAdmission

log = structlog.get_logger()

_POLL_S = 0.05


class DrainedStream(Protocol):
    """A live stream, as draining sees it."""

    def shut_down(self, error: DialectError) -> None:
        """End the stream for this reason, after its finals if `error.finals_first`."""
        ...


async def drain(
    admission: FrontAdmission,
    streams: Mapping[str, DrainedStream],
    files: Callable[[], int],
    clock: Clock,
    *,
    drain_s: float,
    last_finals_s: float,
) -> None:
    """Refuse new work; wait `drain_s` for streams and files to end, then end the streams left, finals first.

    `files` returns how many are being transcribed. `last_finals_s` is the time for the streams that are ended.
    """

    async def idle_within(limit_s: float) -> bool:
        until = clock() + limit_s
        while streams or files():
            if clock() >= until:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    admission.draining = True
    log.info("draining", streams=len(streams), files=files(), drain_s=drain_s)
    if await idle_within(drain_s):
        return
    for stream in list(streams.values()):
        stream.shut_down(DialectError("shutting_down", "the server is stopping", finals_first=True))
    await idle_within(last_finals_s)
