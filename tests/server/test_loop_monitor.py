"""The clock that stops while the event loop is blocked, and time limits that use it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from peer import eventually

from myna.runtime.deadlines import timeout
from myna.server.operations.loop_monitor import LoopMonitor


async def test_time_while_the_loop_is_blocked_is_not_counted() -> None:
    now, lags = 100.0, list[float]()
    monitor = LoopMonitor(lags.append, lambda: now)
    running = asyncio.create_task(monitor.run())
    await asyncio.sleep(0)
    now += 12.0
    await eventually(lambda: len(lags) >= 2)
    assert monitor.awake() == 100.25
    assert max(lags) > 11
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_short_delays_are_counted_whole() -> None:
    now, lags = 0.0, list[float]()
    monitor = LoopMonitor(lags.append, lambda: now)
    running = asyncio.create_task(monitor.run())
    for beat in range(1, 4):
        now += 0.2
        await eventually(lambda beat=beat: len(lags) >= beat)  # type: ignore[misc]
    assert monitor.awake() == pytest.approx(0.6)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_limit_does_not_run_out_while_its_clock_is_stopped() -> None:
    now, asked = 0.0, 0

    def clock() -> float:
        nonlocal asked, now
        asked += 1
        if asked > 5:
            now = 1.0
        return now

    with pytest.raises(TimeoutError):
        async with timeout(0.01, clock):
            await asyncio.Event().wait()
    assert asked > 6  # the clock was read once more after the limit had run out


async def test_work_that_ends_in_time_is_not_interrupted() -> None:
    async with timeout(0.0, lambda: 0.0):
        await asyncio.sleep(0)
