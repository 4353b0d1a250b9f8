"""What work costs, told so that neither the machine's speed nor what else it does matters much."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable


def best_cost(work: Callable[[], object]) -> float:
    """Return the processor time in seconds of the best of some runs: what else the machine does must not matter."""
    costs = []
    for _ in range(5):
        before = time.thread_time()
        work()
        costs.append(time.thread_time() - before)
    return min(costs)


def yard_s() -> float:
    """Return what a yardstick costs here and now: adding 100,000 numbers in Python, some 5 ms."""
    return best_cost(lambda: sum(number & 7 for number in range(100_000)))


def yards(work: Callable[[], object]) -> float:
    """Return what `work` costs as a multiple of the yardstick."""
    return best_cost(work) / yard_s()


class Turns:
    """Watches the turns of the event loop, in processor time of its thread.

    A walk over everything that older tests have left in memory is no turn of the server: it is made before.
    """

    def __init__(self) -> None:
        self.longest_yards = 0.0

    async def __aenter__(self) -> Turns:
        gc.collect()
        gc.freeze()
        self._longest_s = 0.0
        self._task = asyncio.create_task(self._look())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self.longest_yards = self._longest_s / yard_s()

    async def _look(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self._longest_s = max(self._longest_s, time.thread_time() - before)
