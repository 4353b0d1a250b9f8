"""Shares places among owners: the owner with the fewest goes first; among equals, the one that has waited longest."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

SLICE_S = 2.0
"""Shortest time for which an owner keeps a place before an owner with one place fewer gets it."""
_Item = TypeVar("_Item")


def _anybody(_owner: str) -> bool:
    return True


class FairQueue(Generic[_Item]):
    """Waiting items by owner. The items of an owner keep their order; owners take turns. Pure."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[_Item]] = {}  # in order of the owners' turns

    def add(self, owner: str, item: _Item, *, first: bool = False) -> None:
        """Add an item; with `first`, ahead of the owner's other items."""
        items = self._waiting.setdefault(owner, deque())
        items.appendleft(item) if first else items.append(item)

    def discard(self, owner: str, item: _Item) -> None:
        """Remove an item if it waits."""
        items = self._waiting.get(owner, deque())
        with contextlib.suppress(ValueError):
            items.remove(item)
        if not items:
            self._waiting.pop(owner, None)

    def next_owner(self, taken: Counter[str]) -> str | None:
        """Return the owner whose turn it is, given the number of places of each; None if no item waits."""
        return min(self._waiting, key=lambda owner: taken[owner], default=None)  # the first of equals

    def take(
        self, taken: Counter[str], most_each: float = float("inf"), may: Callable[[str], bool] = _anybody
    ) -> tuple[str, _Item] | None:
        """Remove and return the next item of a permitted owner with fewer than `most_each` places; None if there is none."""
        for owner in sorted(self._waiting, key=lambda owner: taken[owner]):  # stable
            if taken[owner] >= most_each:
                break
            if may(owner):
                items = self._waiting.pop(owner)
                item = items.popleft()
                if items:
                    self._waiting[owner] = items  # behind the others
                return owner, item
        return None


class FairTurns:
    """Places for long work that can pause. A waiting owner gets a place as soon as another owner has more places."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = places
        self._clock = clock
        self._taken: Counter[str] = Counter()
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    @contextlib.asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Wait for a place and hold it. Yields a function that the work awaits wherever it can pause."""
        await self._wait(owner)
        since, held = self._clock(), True

        async def pause() -> None:
            nonlocal since, held
            if self._is_due(owner, since):
                self._leave(owner)
                held = False
                await self._wait(owner, first=True)
                since, held = self._clock(), True

        try:
            yield pause
        finally:
            if held:
                self._leave(owner)

    def _is_due(self, owner: str, since: float) -> bool:
        """Return whether an owner that has held a place since `since` must give it up."""
        rival = self._waiting.next_owner(self._taken)
        if rival is None:
            return False
        more = self._taken[owner] - self._taken[rival]
        return more > 1 or (more == 1 and self._clock() - since >= SLICE_S)

    async def _wait(self, owner: str, *, first: bool = False) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(owner, place, first=first)
        self._give()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # the place was assigned at the same moment
                self._leave(owner)
            else:
                self._waiting.discard(owner, place)
            raise

    def _leave(self, owner: str) -> None:
        self._free += 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        self._give()

    def _give(self) -> None:
        while self._free and (found := self._waiting.take(self._taken)):
            owner, place = found
            if not place.done():
                self._free -= 1
                self._taken[owner] += 1
                place.set_result(None)


class Pool(Generic[_Item]):
    """Processes items concurrently: at most `most`, of one owner at most `most_each`, owners in turn.

    `may` returns whether an owner's next item may start now. `work` handles the errors of an item; an exception that it
    raises is logged.
    """

    def __init__(
        self,
        name: str,
        most: int,
        most_each: int,
        work: Callable[[_Item], Awaitable[None]],
        may: Callable[[str], bool] = _anybody,
    ) -> None:
        self._name = name
        self._most, self._most_each = most, most_each
        self._work = work
        self._may = may
        self._taken: Counter[str] = Counter()
        self._waiting: FairQueue[_Item] = FairQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def add(self, owner: str, item: _Item) -> None:
        """Add an item; process it when its turn comes."""
        self._waiting.add(owner, item)
        self.fill()

    def fill(self) -> None:
        """Start all items that can start now."""
        while not self._closed and len(self._tasks) < self._most:
            found = self._waiting.take(self._taken, self._most_each, self._may)
            if found is None:
                return
            owner, item = found
            self._taken[owner] += 1
            self._tasks.add(asyncio.create_task(self._run(owner, item), name=self._name))

    async def close(self) -> None:
        """Cancel the running items and drop the waiting ones."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, owner: str, item: _Item) -> None:
        try:
            await self._work(item)
        except Exception:
            log.exception("item of a pool failed", pool=self._name)
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)
            self.fill()
