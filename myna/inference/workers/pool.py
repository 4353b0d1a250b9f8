"""The front's side of a model: its worker processes, the jobs they share, and the watch over them."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from myna.inference.engines.port import ModelOptions
from myna.inference.scheduling.capacity import Capacity
from myna.inference.scheduling.dispatcher import BLAME, KILLED_BLAME, Dispatcher
from myna.inference.workers.ipc import STATUS_EVERY_S, Batch, Hello, Message, Release, Result
from myna.inference.workers.measurement import Measurement, is_measurement
from myna.inference.workers.process import WorkerProcess
from myna.runtime.deadlines import Clock
from myna.runtime.supervisor import Supervisor
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import seconds
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome

log = structlog.get_logger()

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 10.0
_LIVED_S = 60.0
"""A worker that has lived so long, has decoded a job, or was killed from outside, was well: another is started at once."""
_LOG_EVERY_S = 60.0
"""Why a worker does not start is logged once in so long, unless the reason changes."""
_WATCH_EVERY_S = 0.25
_SLOW_STEP = 8.0
"""A batch may take so many times what its audio is expected to cost before its lane counts as stuck."""
_MEASURE_EVERY_S, _MEASURE_WITHIN_S = 5.0, 1.0
"""The cost is measured at most so often, and waited for at most so long."""
_MEASURE_AHEAD_S = 0.001
"""A measurement is due so much before the files that wait."""

OnResult = Callable[[str, Outcome], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A batch that a lane has decoded, for those who count. `late_s`: how long after their due times its results came."""

    kind: JobKind
    jobs: int
    audio_s: float
    took_s: float
    waited_s: float
    late_s: tuple[float, ...]


@dataclass(slots=True)
class _UnderWay:
    """A batch at a worker, until its last result."""

    jobs: dict[str, InferenceJob]
    count: int
    audio_s: float
    due: float
    sent_at: float
    began: float  # on the pool's clock
    late_s: list[float]
    measures: bool

    @classmethod
    def of(cls, jobs: tuple[InferenceJob, ...], began: float) -> _UnderWay:
        now = time.monotonic()
        audio_s = sum(seconds(job.length) for job in jobs)
        by_id, measures = {job.id: job for job in jobs}, all(map(is_measurement, jobs))
        return cls(by_id, len(jobs), audio_s, min(job.due for job in jobs), now, began, [], measures)


class EnginePool:
    """One model in its worker processes. Results are called back on the event loop, each job's once, whatever dies.

    A worker that dies is replaced, and so is one that is silent or stuck in a batch for `stuck_after_s`, and much longer
    than the batch should take; what it was at is decoded by another. `clock` measures the silence.
    """

    def __init__(
        self,
        engine: str,
        options: ModelOptions,
        workers: int,
        lanes: int,
        stuck_after_s: float,
        supervisor: Supervisor,
        clock: Clock,
    ) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._backoff_s: dict[int, float] = {}  # by worker: how long to wait before it is started after its next death
        self._troubles: dict[int, tuple[str, float]] = {}  # by worker: why it does not start, and when that was logged
        self._engine = engine
        self._options = options
        self._lanes = lanes
        self._stuck_after_s = stuck_after_s
        self._count = workers
        self._dispatcher: Dispatcher | None = None
        self._capacity: Capacity | None = None
        self._waiting: dict[str, tuple[OnResult, float]] = {}  # and when it was asked for
        self._workers: dict[int, WorkerProcess] = {}
        self._batches: dict[tuple[int, int], _UnderWay] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._info: EngineInfo | None = None
        self._memory: dict[int, int] = {}
        self._measurement: Measurement | None = None
        self.restarts = 0
        """How often a worker had to be replaced."""
        self.on_step: Callable[[Step], None] = lambda _: None

    @property
    def info(self) -> EngineInfo:
        """What the engine can do; known once started."""
        assert self._info is not None
        return self._info

    @property
    def capacity(self) -> Capacity:
        """What its work costs, and how much more it can take."""
        assert self._capacity is not None
        return self._capacity

    @property
    def lanes(self) -> int:
        """How many batches it decodes at once, when all its workers live."""
        return self._count * self._lanes

    @property
    def alive(self) -> bool:
        """Whether a worker takes jobs at the moment."""
        return bool(self._workers)

    def why_not(self) -> str | None:
        """Return why no worker takes jobs; None: one does."""
        if self.alive:
            return None
        reasons = sorted({reason for reason, _ in self._troubles.values()})
        return f"no engine worker for {self._options.name}: {'; '.join(reasons) or 'it is being started'}"

    @property
    def complete(self) -> bool:
        """Whether all its workers take jobs."""
        return len(self._workers) == self._count

    @property
    def pids(self) -> list[int]:
        """The worker processes that there are."""
        return [worker.pid for worker in self._workers.values() if worker.pid is not None]

    @property
    def memory(self) -> int:
        """Bytes the processes and their GPU memory took when they were ready."""
        return sum(self._memory.values())

    @property
    def open_jobs(self) -> int:
        """How many results somebody waits for."""
        return len(self._waiting)

    @property
    def busy_lanes(self) -> int:
        """How many lanes are at a batch."""
        return len(self._batches)

    def waiting_s(self, kind: JobKind) -> float:
        """Return for how long the oldest job of this kind that no lane has taken is overdue."""
        due = self._dispatcher.oldest(kind) if self._dispatcher else None
        return 0.0 if due is None else max(0.0, time.monotonic() - due)

    async def start(self) -> None:
        """Start the workers and wait until their engines are loaded. Raises `EngineUnavailableError`."""
        launches = [asyncio.create_task(self._launch(number)) for number in range(self._count)]
        try:
            launched = await asyncio.gather(*launches)
        except BaseException:  # cancelled, too: no process must be left behind
            for launch in launches:
                launch.cancel()
            await asyncio.gather(*launches, return_exceptions=True)
            for launch in launches:
                if not launch.cancelled() and launch.exception() is None:
                    worker, _ = launch.result()
                    worker.kill()
                    await worker.end()
            raise
        hello = launched[0][1]
        self._info = hello.info
        self._dispatcher = Dispatcher(hello.info)
        self._capacity = Capacity(self.lanes, hello.cost)
        for number, (worker, greeting) in enumerate(launched):
            self._count_on(number, worker, greeting)
            name = f"worker {number} of {self._options.name}"
            self._tasks.append(self._supervisor.run(name, functools.partial(self._keep, number)))
        self._tasks.append(self._supervisor.run(f"watch of {self._options.name}", self._watch))

    async def close(self) -> None:
        """End the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in list(self._workers.values()):
            worker.kill()
            await worker.end()
        self._workers.clear()

    async def measure(self) -> None:
        """Learn what the work costs now, if nothing shows it and that was not measured lately; return within a second."""
        self.start_measurement(_MEASURE_EVERY_S)
        if self._measurement is not None:
            await asyncio.wait([self._measurement.done], timeout=_MEASURE_WITHIN_S)

    def start_measurement(self, every_s: float) -> None:
        """Begin to measure what the work costs now, if too few finals show it and that was not measured within `every_s`."""
        assert self._dispatcher is not None
        now = time.monotonic()
        shown = self.capacity.p95(now) is not None or self.capacity.unmeasured_s(now) < every_s
        if shown or self._measurement is not None or not self.complete:
            return
        oldest = self._dispatcher.oldest(JobKind.FILE)  # files may wait for minutes
        due = now if oldest is None else oldest - _MEASURE_AHEAD_S
        self._measurement = measurement = Measurement(self.info, self.lanes, due)
        measurement.done.add_done_callback(lambda _: self._on_measured(measurement))
        for job in measurement.jobs:
            self.submit(job, measurement.on_result)

    def _on_measured(self, measurement: Measurement) -> None:
        self._measurement = None
        self.capacity.measured(time.monotonic(), measurement.cost)

    def submit(self, job: InferenceJob, on_result: OnResult) -> None:
        """Have the job decoded, now or as soon as there is a worker; the result is called back once, unless cancelled."""
        assert self._dispatcher is not None
        self.capacity.claims.asked(job.source, time.monotonic())
        self._waiting[job.id] = (on_result, time.monotonic())
        if replaced := self._dispatcher.submit(job):
            self._waiting.pop(replaced.id, None)
        self._assign()

    def cancel(self, job_id: str) -> None:
        """Say that a job's result is no longer wanted."""
        if self._waiting.pop(job_id, None) and self._dispatcher is not None:
            self._dispatcher.cancel(job_id)

    def release(self, source: str) -> None:
        """Say that no more of this channel's utterance will come."""
        if self._dispatcher is not None and (number := self._dispatcher.release(source)) is not None:
            self._workers[number].send(Release(source))

    def _assign(self) -> None:
        assert self._dispatcher is not None
        for assignment in self._dispatcher.assign():
            self._batches[assignment.worker, assignment.lane] = _UnderWay.of(assignment.jobs, self._clock())
            worker = self._workers[assignment.worker]
            try:
                worker.send(Batch(assignment.lane, assignment.jobs))
            except Exception:  # the other assignments must be sent; these jobs are tried again, then fail alone
                log.exception("a batch cannot be sent; its worker is replaced", model=self._options.name)
                worker.kill()

    async def _launch(self, number: int) -> tuple[WorkerProcess, Hello]:
        worker = WorkerProcess(self._engine, replace(self._options, worker=number), self._lanes, self._clock)
        return worker, await worker.launch()

    def _count_on(self, number: int, worker: WorkerProcess, hello: Hello) -> None:
        assert self._dispatcher is not None
        self._workers[number], self._memory[number] = worker, hello.memory
        self._troubles.pop(number, None)
        self._dispatcher.up(number, self._lanes)
        self.capacity.lanes = len(self._workers) * self._lanes
        self._assign()

    async def _keep(self, number: int) -> None:
        """Take a worker's results; when it dies, have its jobs decoded by another, and start the next."""
        while True:
            if (worker := self._workers.get(number)) is not None:
                began = self._clock()
                try:
                    async for message in worker.messages():
                        self._take(number, message)
                except Exception:
                    log.exception("an engine worker cannot be understood; it is replaced", model=self._options.name)
                    worker.kill()
                killed = await worker.end()
                if killed or self._clock() - began >= _LIVED_S:
                    self._backoff_s.pop(number, None)
                self._on_death(number, killed)
            await self._revive(number)

    async def _revive(self, number: int) -> None:
        """Start a worker that has died, again and again, after ever longer pauses."""
        while True:
            pause_s = self._backoff_s.get(number, 0.0)
            self._backoff_s[number] = min(2 * pause_s or _FIRST_BACKOFF_S, _LONGEST_BACKOFF_S)
            await asyncio.sleep(pause_s)
            try:
                worker, hello = await self._launch(number)
            except EngineUnavailableError as error:
                self._not_started(number, str(error))
                continue
            log.info("the engine worker is back", model=self._options.name, number=number, worker=worker.pid)
            self._count_on(number, worker, hello)
            return

    def _not_started(self, number: int, reason: str) -> None:
        now = time.monotonic()
        known, logged_at = self._troubles.get(number, ("", 0.0))
        if reason != known or now - logged_at >= _LOG_EVERY_S:
            logged_at = now
            log.error("the engine worker does not start", model=self._options.name, number=number, reason=reason)
        self._troubles[number] = (reason, logged_at)

    def _take(self, number: int, message: Message) -> None:
        if not isinstance(message, Result):
            raise TypeError(f"a worker at work does not send {type(message).__name__}")
        assert self._dispatcher is not None
        self._dispatcher.done(number, message.job_id)
        self._backoff_s.pop(number, None)
        wanted = self._waiting.pop(message.job_id, None)
        try:
            self._note_done(number, message, None if wanted is None else wanted[1])
            self._assign()  # before the answer is dealt with: the lane is free
        finally:  # whatever becomes of the worker, this job is done
            _answer(wanted, message.job_id, message.outcome)

    def _note_done(self, number: int, message: Result, asked_at: float | None) -> None:
        """Note that a job is done, and its batch if it was the last; `asked_at`: when it was asked for, if it is wanted."""
        now = time.monotonic()
        for place, batch in list(self._batches.items()):
            if place[0] == number and (job := batch.jobs.pop(message.job_id, None)):
                if asked_at is not None:
                    batch.late_s.append(max(0.0, now - job.due))
                    if job.kind is JobKind.FINAL:
                        self.capacity.final_out(now, now - job.due, job.due - asked_at)
                if not batch.jobs:
                    del self._batches[place]
                    self._count_step(now, job.kind, batch, message.step_s)

    def _count_step(self, now: float, kind: JobKind, batch: _UnderWay, took_s: float) -> None:
        if batch.measures and self._measurement is not None:
            self._measurement.step_done(batch.audio_s, took_s)
            return
        self.capacity.step_done(now, kind, batch.audio_s, took_s, batch.due - now)
        self.on_step(
            Step(kind, batch.count, batch.audio_s, took_s, max(0.0, batch.sent_at - batch.due), tuple(batch.late_s))
        )

    def _on_death(self, number: int, killed: bool) -> None:
        assert self._dispatcher is not None
        self.restarts += 1
        self._workers.pop(number, None)
        self.capacity.lanes = len(self._workers) * self._lanes
        at = [batch for place, batch in self._batches.items() if place[0] == number]
        log.error(
            "an engine worker died; starting another", model=self._options.name, number=number, killed=killed,
            jobs=sum(len(batch.jobs) for batch in at),
        )  # fmt: skip
        self._batches = {place: batch for place, batch in self._batches.items() if place[0] != number}
        death = self._dispatcher.down(number, KILLED_BLAME if killed else BLAME)
        for job in death.superseded:
            self._waiting.pop(job.id, None)
        self._assign()
        for job in death.failed:
            log.error("a job is given up: each worker that decoded it died", job=job.id)
            _answer(self._waiting.pop(job.id, None), job.id, JobError("each worker that decoded this audio died"))

    async def _watch(self) -> None:
        """Kill workers that are silent or stuck; `_keep` replaces them."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            looked_at = self._clock()
            for number, worker in self._workers.items():
                silent_s, stuck_s = looked_at - worker.heard_at, self._stuck_s(number, worker, looked_at)
                if silent_s > self._stuck_after_s + STATUS_EVERY_S or stuck_s:
                    log.error(
                        "an engine worker hangs; it is replaced", model=self._options.name, number=number,
                        silent_s=round(silent_s, 1), stuck_s=round(stuck_s, 1),
                    )  # fmt: skip
                    worker.kill()

    def _stuck_s(self, number: int, worker: WorkerProcess, now: float) -> float:
        """Return for how long a lane has been at its batch, if that is too long; 0 if none is."""
        for lane, said_s in enumerate(worker.busy_s):
            batch = self._batches.get((number, lane))
            if batch is None:
                continue
            busy_s = min(said_s, now - batch.began)  # what it said may still be about the batch before
            if busy_s > max(self._stuck_after_s, _SLOW_STEP * self.capacity.cost * batch.audio_s):
                return busy_s
        return 0.0


def _answer(wanted: tuple[OnResult, float] | None, job_id: str, outcome: Outcome) -> None:
    if wanted is not None:
        try:
            wanted[0](job_id, outcome)
        except Exception:  # that is no fault of the worker's, nor of the other jobs
            log.exception("a stream failed to take a result", job=job_id)
