"""Keeps a model's workers running: launches them, replaces those that die, kills those that hang."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from myna.inference.workers.ipc import STATUS_EVERY_S, Hello, Message, Result
from myna.inference.workers.port import Worker
from myna.runtime.deadlines import Clock
from myna.runtime.supervisor import Supervisor
from myna.streaming.errors import EngineUnavailableError

log = structlog.get_logger()

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 10.0
_LIVED_S = 60.0
"""A worker that ran this long, returned a result or was killed from outside was healthy: its successor starts at once."""
_LOG_EVERY_S = 60.0
"""Interval at which an unchanged reason for a failed start is logged again."""
_WATCH_EVERY_S = 0.25


class WorkerOwner(Protocol):
    """Receives a group's events, on the event loop. A worker's number stays the same when it is replaced."""

    def worker_up(self, number: int) -> None:
        """Take note that a worker takes batches."""
        ...

    def worker_result(self, number: int, result: Result) -> None:
        """Take a job's result."""
        ...

    def worker_down(self, number: int, killed: bool) -> None:
        """Take note that a worker is gone and its batches are lost. `killed`: something outside the server killed it."""
        ...

    def stuck_s(self, number: int, busy_s: tuple[float, ...], now: float) -> float:
        """Return for how long a lane has been at a batch, if that exceeds the batch's limit; 0 if no lane is stuck."""
        ...


class WorkerGroup:
    """The workers of one model, numbered from 0. Call `launch` and then `run`.

    A worker counts as hanging if it sends nothing for `stuck_after_s` or if `stuck_s` finds a stuck lane.
    """

    def __init__(
        self,
        model: str,
        make: Callable[[int], Worker],
        count: int,
        stuck_after_s: float,
        supervisor: Supervisor,
        clock: Clock,
    ) -> None:
        self._model = model
        self._make = make
        self._count = count
        self._stuck_after_s = stuck_after_s
        self._supervisor = supervisor
        self._clock = clock
        self._workers: dict[int, Worker] = {}
        self._memory: dict[int, int] = {}
        self._backoff_s: dict[int, float] = {}  # by worker: the pause before the start that follows its next death
        self._failed_starts: dict[int, tuple[str, float]] = {}  # by worker: the reason, and when it was logged
        self._tasks: list[asyncio.Task[None]] = []
        self.restarts = 0
        """Number of workers that died."""

    @property
    def up(self) -> int:
        """Number of workers that take batches."""
        return len(self._workers)

    @property
    def complete(self) -> bool:
        """Whether all workers take batches."""
        return len(self._workers) == self._count

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers on this host."""
        return [worker.pid for worker in self._workers.values() if worker.pid is not None]

    @property
    def memory(self) -> int:
        """Bytes of memory that the workers reported when they had loaded their engines, GPU memory included."""
        return sum(self._memory.values())

    def why_not(self) -> str | None:
        """Return why no worker takes batches; None if one does."""
        if self._workers:
            return None
        reasons = sorted({reason for reason, _ in self._failed_starts.values()})
        return f"no engine worker for {self._model}: {'; '.join(reasons) or 'starting'}"

    async def launch(self) -> Hello:
        """Start all workers and wait until their engines are loaded; return the first one's `Hello`.

        Raises `EngineUnavailableError`; no worker is left then.
        """
        launches = [asyncio.create_task(self._launch(number)) for number in range(self._count)]
        try:
            launched = await asyncio.gather(*launches)
        except BaseException:  # also on cancellation: no process may be left behind
            for launch in launches:
                launch.cancel()
            await asyncio.gather(*launches, return_exceptions=True)
            for launch in launches:
                if not launch.cancelled() and launch.exception() is None:
                    worker, _ = launch.result()
                    worker.kill()
                    await worker.end()
            raise
        for number, (worker, hello) in enumerate(launched):
            self._workers[number], self._memory[number] = worker, hello.memory
        return launched[0][1]

    def run(self, owner: WorkerOwner) -> None:
        """Announce the launched workers and keep all workers running until `close`."""
        for number in range(self._count):
            owner.worker_up(number)
            work = functools.partial(self._keep, number, owner)
            self._tasks.append(self._supervisor.run(f"worker {number} of {self._model}", work))
        watch = functools.partial(self._watch, owner)
        self._tasks.append(self._supervisor.run(f"watch of {self._model}", watch))

    async def close(self) -> None:
        """End the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in list(self._workers.values()):
            worker.kill()
            await worker.end()
        self._workers.clear()

    def send(self, number: int, message: Message) -> None:
        """Send a message to a worker that is up. A message that cannot be sent kills the worker, which is replaced."""
        worker = self._workers[number]
        try:
            worker.send(message)
        except Exception:
            log.exception("cannot send to the engine worker; replacing it", model=self._model, number=number)
            worker.kill()

    async def _launch(self, number: int) -> tuple[Worker, Hello]:
        worker = self._make(number)
        return worker, await worker.launch()

    async def _keep(self, number: int, owner: WorkerOwner) -> None:
        """Receive a worker's results until it dies; then start its successor, without end."""
        while True:
            if (worker := self._workers.get(number)) is not None:
                await self._receive(number, worker, owner)
            worker, hello = await self._relaunched(number)
            self._workers[number], self._memory[number] = worker, hello.memory
            self._failed_starts.pop(number, None)
            owner.worker_up(number)

    async def _receive(self, number: int, worker: Worker, owner: WorkerOwner) -> None:
        began = self._clock()
        try:
            async for message in worker.messages():
                if not isinstance(message, Result):
                    raise TypeError(f"unexpected message from a running worker: {type(message).__name__}")
                self._backoff_s.pop(number, None)
                owner.worker_result(number, message)
        except Exception:
            log.exception("bad message from the engine worker; replacing it", model=self._model, number=number)
            worker.kill()
        killed = await worker.end()
        if killed or self._clock() - began >= _LIVED_S:
            self._backoff_s.pop(number, None)
        self.restarts += 1
        self._workers.pop(number, None)
        owner.worker_down(number, killed)

    async def _relaunched(self, number: int) -> tuple[Worker, Hello]:
        """Start a worker in place of one that died; retry after increasing pauses until it starts."""
        while True:
            pause_s = self._backoff_s.get(number, 0.0)
            self._backoff_s[number] = min(2 * pause_s or _FIRST_BACKOFF_S, _LONGEST_BACKOFF_S)
            await asyncio.sleep(pause_s)
            try:
                worker, hello = await self._launch(number)
            except EngineUnavailableError as error:
                self._on_failed_start(number, str(error))
                continue
            log.info("engine worker restarted", model=self._model, number=number, worker=worker.pid)
            return worker, hello

    def _on_failed_start(self, number: int, reason: str) -> None:
        now = time.monotonic()
        known, logged_at = self._failed_starts.get(number, ("", 0.0))
        if reason != known or now - logged_at >= _LOG_EVERY_S:
            logged_at = now
            log.error("engine worker does not start", model=self._model, number=number, reason=reason)
        self._failed_starts[number] = (reason, logged_at)

    async def _watch(self, owner: WorkerOwner) -> None:
        """Kill workers that are silent or stuck; `_keep` replaces them."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            now = self._clock()
            for number, worker in self._workers.items():
                silent_s, stuck_s = now - worker.heard_at, owner.stuck_s(number, worker.busy_s, now)
                if silent_s > self._stuck_after_s + STATUS_EVERY_S or stuck_s:
                    log.error(
                        "engine worker hangs; replacing it", model=self._model, number=number,
                        silent_s=round(silent_s, 1), stuck_s=round(stuck_s, 1),
                    )  # fmt: skip
                    worker.kill()
