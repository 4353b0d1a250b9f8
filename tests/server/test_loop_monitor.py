"""The clock that stands still while the event loop does, and limits that are measured with it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from peer import eventually

from myna.runtime.deadlines import timeout
from myna.server.operations.loop_monitor import LoopMonitor


async def test_a_standstill_is_not_counted() -> None:
    now, lags = 100.0, list[float]()
    pulse = LoopMonitor(lags.append, lambda: now)
    beating = asyncio.create_task(pulse.beat())
    await asyncio.sleep(0)
    now += 12.0
    await eventually(lambda: len(lags) >= 2)
    assert pulse.awake() == 100.25
    assert max(lags) > 11
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating


async def test_time_that_is_short_is_counted_whole() -> None:
    now, lags = 0.0, list[float]()
    pulse = LoopMonitor(lags.append, lambda: now)
    beating = asyncio.create_task(pulse.beat())
    for beat in range(1, 4):
        now += 0.2
        await eventually(lambda beat=beat: len(lags) >= beat)  # type: ignore[misc]
    assert pulse.awake() == pytest.approx(0.6)
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating


async def test_a_limit_does_not_run_out_while_its_clock_stands_still() -> None:
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
    assert asked > 6  # it looked once more after the limit had run out


async def test_what_is_done_in_time_is_not_disturbed() -> None:
    async with timeout(0.0, lambda: 0.0):
        await asyncio.sleep(0)
