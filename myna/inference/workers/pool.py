"""Decodes a model's jobs in its workers: takes jobs, assigns them to lanes, calls results back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from myna.inference.port import OnResult
from myna.inference.scheduling.capacity import Capacity
from myna.inference.scheduling.dispatcher import BLAME, KILLED_BLAME, Dispatcher
from myna.inference.workers.batches import RunningBatch, RunningBatches, Step
from myna.inference.workers.cores import Cores, SharedCores
from myna.inference.workers.group import WorkerGroup
from myna.inference.workers.ipc import Batch, Release, Result
from myna.inference.workers.measurement import Measurement
from myna.inference.workers.port import Worker
from myna.runtime.deadlines import Clock
from myna.runtime.supervisor import Supervisor
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome

log = structlog.get_logger()

_SLOW_STEP = 8.0
"""A lane counts as stuck only after this many times the expected duration of its batch."""
_MEASURE_EVERY_S, _MEASURE_WITHIN_S = 5.0, 1.0
"""Shortest interval between two measurements of the cost, and the longest wait for one."""
_MEASURE_AHEAD_S = 0.001
"""A measurement is due this long before the oldest file job, so that it is decoded first."""


class EnginePool:
    """One model in its workers. Each job's result is called back once, on the event loop, even if workers die.

    A worker is replaced if it dies, if it is silent for `stuck_after_s`, or if a lane takes longer than `stuck_after_s` and
    much longer than expected for one batch; other workers decode its jobs. `make_worker` returns the worker of a number;
    `clock` measures silence and batches. Interims and files leave `cores` to the finals of other models.
    """

    def __init__(
        self,
        model: str,
        make_worker: Callable[[int], Worker],
        workers: int,
        lanes: int,
        stuck_after_s: float,
        supervisor: Supervisor,
        clock: Clock,
        cores: Cores | None = None,
    ) -> None:
        self._workers = WorkerGroup(model, make_worker, workers, stuck_after_s, supervisor, clock)
        self._count = workers
        self._lanes = lanes
        self._stuck_after_s = stuck_after_s
        self._model = model
        self._batches = RunningBatches(clock)
        self._dispatcher: Dispatcher | None = None
        self._capacity: Capacity | None = None
        self._info: EngineInfo | None = None
        self._waiting: dict[str, tuple[OnResult, float]] = {}  # by job: its callback and when it was submitted
        self._measurement: Measurement | None = None
        self._cores = cores
        self._shared: SharedCores | None = None
        self.on_step: Callable[[Step], None] = lambda _: None

    @property
    def info(self) -> EngineInfo:
        """The engine's capabilities; known once the pool is started."""
        assert self._info is not None
        return self._info

    @property
    def capacity(self) -> Capacity:
        """The model's cost and its room for more streams; known once the pool is started."""
        assert self._capacity is not None
        return self._capacity

    @property
    def lanes(self) -> int:
        """Number of lanes while all workers are up."""
        return self._count * self._lanes

    @property
    def alive(self) -> bool:
        """Whether a worker takes batches."""
        return self._workers.up > 0

    @property
    def complete(self) -> bool:
        """Whether all workers take batches."""
        return self._workers.complete

    @property
    def restarts(self) -> int:
        """Number of workers that died."""
        return self._workers.restarts

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers on this host."""
        return self._workers.pids

    @property
    def memory(self) -> int:
        """Bytes of memory that the workers reported when they had loaded their engines, GPU memory included."""
        return self._workers.memory

    @property
    def open_jobs(self) -> int:
        """Number of jobs whose result is still to be called back."""
        return len(self._waiting)

    @property
    def busy_lanes(self) -> int:
        """Number of lanes that are decoding a batch."""
        return len(self._batches)

    def why_not(self) -> str | None:
        """Return why no worker takes batches; None if one does."""
        return self._workers.why_not()

    def waiting_s(self, kind: JobKind) -> float:
        """Return how overdue the oldest unassigned job of this kind is, in seconds."""
        due = self._dispatcher.oldest(kind) if self._dispatcher else None
        return 0.0 if due is None else max(0.0, time.monotonic() - due)

    async def start(self) -> None:
        """Start the workers and wait until their engines are loaded. Raises `EngineUnavailableError`."""
        hello = await self._workers.launch()
        self._info = hello.info
        self._dispatcher = Dispatcher(hello.info)
        self._capacity = Capacity(self.lanes, hello.cost)
        if self._cores is not None and not hello.info.gpu:
            self._shared = self._cores.join(self._assign)
        self._workers.run(self)

    async def close(self) -> None:
        """End the workers."""
        if self._shared is not None:
            self._shared.leave()
        await self._workers.close()

    async def measure(self) -> None:
        """Measure the current cost, unless recent work or a recent measurement shows it; return within a second."""
        self.start_measurement(_MEASURE_EVERY_S)
        if self._measurement is not None:
            await asyncio.wait([self._measurement.done], timeout=_MEASURE_WITHIN_S)

    def start_measurement(self, every_s: float) -> None:
        """Start measuring the current cost, unless recent finals or a measurement within the last `every_s` show it."""
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
        """Decode the job as soon as a lane is free; call `on_result` once, unless the job is cancelled or replaced."""
        assert self._dispatcher is not None
        self.capacity.claims.asked(job.source, time.monotonic())
        self._waiting[job.id] = (on_result, time.monotonic())
        if replaced := self._dispatcher.submit(job):
            self._waiting.pop(replaced.id, None)
        self._assign()

    def awaits(self, job_id: str) -> bool:
        """Return whether a result of this job is still to be called back."""
        return job_id in self._waiting

    def cancel(self, job_id: str) -> None:
        """Discard a job, or its result if the job is already running."""
        if self._waiting.pop(job_id, None) and self._dispatcher is not None:
            self._dispatcher.cancel(job_id)

    def release(self, source: str) -> None:
        """End this channel's utterance: the worker that follows it drops its state."""
        if self._dispatcher is not None and (number := self._dispatcher.release(source)) is not None:
            self._workers.send(number, Release(source))

    def _assign(self) -> None:
        assert self._dispatcher is not None
        spare = None if self._shared is None else self._shared.spare(len(self._batches))
        for assignment in self._dispatcher.assign(spare):
            self._batches.start(assignment.worker, assignment.lane, assignment.jobs)
            self._workers.send(assignment.worker, Batch(assignment.lane, assignment.jobs))
        if self._shared is not None:
            self._shared.settle(self._batches.finals, withheld=self._dispatcher.withheld)

    # Events of the workers

    def worker_up(self, number: int) -> None:
        """Assign batches to a worker from now on."""
        assert self._dispatcher is not None
        self._dispatcher.up(number, self._lanes)
        self.capacity.lanes = self._workers.up * self._lanes
        self._assign()

    def worker_result(self, number: int, result: Result) -> None:
        """Call a job's result back, and assign the lane's next batch if that was the last of the batch."""
        assert self._dispatcher is not None
        self._dispatcher.done(number, result.job_id)
        wanted = self._waiting.pop(result.job_id, None)
        try:
            self._note_done(number, result, None if wanted is None else wanted[1])
            self._assign()  # before the callback: the lane is free
        finally:  # an error above ends the worker, but this job is done
            _answer(wanted, result.job_id, result.outcome)

    def worker_down(self, number: int, killed: bool) -> None:
        """Have other workers decode the jobs of a worker that died; fail jobs whose workers died repeatedly."""
        assert self._dispatcher is not None
        self.capacity.lanes = self._workers.up * self._lanes
        jobs = self._batches.lost(number)
        log.error("engine worker died; restarting it", model=self._model, number=number, killed=killed, jobs=jobs)
        death = self._dispatcher.down(number, KILLED_BLAME if killed else BLAME)
        for job in death.superseded:
            self._waiting.pop(job.id, None)
        self._assign()
        for job in death.failed:
            log.error("job failed: each worker that decoded it died", job=job.id)
            reason = "The worker crashed repeatedly on this audio."
            _answer(self._waiting.pop(job.id, None), job.id, JobError(reason))

    def stuck_s(self, number: int, busy_s: tuple[float, ...], now: float) -> float:
        """Return for how long a worker's lane has been at a batch, if that is too long; 0 if no lane is stuck."""
        for lane, reported_s in enumerate(busy_s):
            running = self._batches.busy_s(number, lane, reported_s, now)
            if running is None:
                continue
            taken_s, batch = running
            if taken_s > max(self._stuck_after_s, _SLOW_STEP * self.capacity.cost * batch.audio_s):
                return taken_s
        return 0.0

    def _note_done(self, number: int, result: Result, submitted_at: float | None) -> None:
        """Update the statistics with a result. `submitted_at` is None if the result is no longer wanted."""
        found = self._batches.done(number, result.job_id)
        if found is None:
            return
        job, batch = found
        now = time.monotonic()
        if submitted_at is not None:
            batch.late_s.append(max(0.0, now - job.due))
            if job.kind is JobKind.FINAL:
                self.capacity.final_out(now, now - job.due, job.due - submitted_at)
        if not batch.open:
            self._note_step(now, job.kind, batch, result.step_s)

    def _note_step(self, now: float, kind: JobKind, batch: RunningBatch, took_s: float) -> None:
        if batch.measures and self._measurement is not None:
            self._measurement.step_done(batch.audio_s, took_s)
            return
        self.capacity.step_done(now, kind, batch.audio_s, took_s, batch.due - now)
        self.on_step(batch.step(kind, took_s))


def _answer(wanted: tuple[OnResult, float] | None, job_id: str, outcome: Outcome) -> None:
    if wanted is not None:
        try:
            wanted[0](job_id, outcome)
        except Exception:  # neither the worker nor the other jobs are at fault
            log.exception("a stream's handler of a result failed", job=job_id)
