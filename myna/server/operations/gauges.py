"""What there is right now, as gauges: looked up whenever metrics are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from myna.server.operations.admission import Admission
from myna.batch.job_runner import JobRunner
from myna.inference.models import Models
from myna.server.operations.loop_monitor import LoopMonitor
from myna.inference.workers.vad_worker import VadWorker
from myna.media.pool import DecoderPool
from myna.runtime.supervisor import Supervisor
from myna.batch.transcriber import Transcriber
from myna.streaming.session.jobs import JobKind


@dataclass(slots=True)
class Gauges:
    """At one server."""

    streams: Mapping[str, object]
    """The live ones."""
    vad: VadWorker
    decoders: DecoderPool
    models: Models
    transcriber: Transcriber
    admission: Admission
    loop_monitor: LoopMonitor
    jobs: JobRunner
    supervisor: Supervisor

    @property
    def failing(self) -> dict[str, str]:
        """The parts of the server that do not work, each with the reason: it should get no new streams then."""
        return self.supervisor.failing

    def read(self) -> Iterable[Metric]:
        """Return every gauge."""
        yield GaugeMetricFamily("myna_streams", "Live streams.", value=len(self.streams))
        yield GaugeMetricFamily("myna_files", "Files being transcribed.", value=self.transcriber.active)
        yield GaugeMetricFamily("myna_jobs_unfinished", "Jobs waiting or under way.", value=self.jobs.unfinished())
        yield GaugeMetricFamily("myna_loop_busy", "Share of a core the event loop uses.", value=self.loop_monitor.busy)
        voice = self.vad
        yield CounterMetricFamily("myna_vad_windows", "Windows of voice activity looked at.", value=voice.windows)
        yield CounterMetricFamily("myna_vad_seconds", "CPU seconds that took.", value=voice.seconds)
        decoders = self.decoders
        yield GaugeMetricFamily("myna_decoders", "Decoder processes at a stream or file.", value=decoders.active)
        lost = CounterMetricFamily("myna_decoders_lost", "Decoder processes that did not end well.", labels=["reason"])
        for reason, count in decoders.lost.items():
            lost.add_metric([reason], count)
        yield lost
        yield GaugeMetricFamily("myna_tasks", "Tasks on the event loop.", value=len(asyncio.all_tasks()))
        yield GaugeMetricFamily("myna_draining", "Whether the server is stopping.", value=self.admission.draining)
        yield GaugeMetricFamily("myna_failing_parts", "Parts that do not work.", value=len(self.failing))
        restarts = self.supervisor.restarts
        yield CounterMetricFamily("myna_part_restarts", "Parts that failed and were started again.", value=restarts)
        yield from self._of_models()

    def _of_models(self) -> Iterator[Metric]:
        channels = GaugeMetricFamily("myna_channels", "Live channels.", labels=["model"])
        workers = GaugeMetricFamily("myna_workers", "Workers that take jobs.", labels=["model"])
        busy = GaugeMetricFamily("myna_lanes_busy", "Lanes at a batch.", labels=["model"])
        lanes = GaugeMetricFamily("myna_lanes", "Lanes there are when all workers live.", labels=["model"])
        restarts = CounterMetricFamily("myna_worker_restarts", "Workers that had to be replaced.", labels=["model"])
        memory = GaugeMetricFamily("myna_worker_memory_bytes", "What workers took when ready.", labels=["model"])
        ages = GaugeMetricFamily(
            "myna_queue_age_seconds", "How overdue the oldest job is that no lane has taken.", labels=["model", "kind"]
        )
        room = GaugeMetricFamily("myna_headroom_streams", "Streams that could still be admitted.", labels=["model"])
        for name, pool in self.models.pools_by_name.items():
            channels.add_metric([name], pool.capacity.streams)
            workers.add_metric([name], len(pool.pids))
            busy.add_metric([name], pool.busy_lanes)
            lanes.add_metric([name], pool.lanes)
            restarts.add_metric([name], pool.restarts)
            memory.add_metric([name], pool.memory)
            room.add_metric([name], self.admission.room(pool))
            for kind in JobKind:
                ages.add_metric([name, kind.name.lower()], pool.waiting_s(kind))
        yield from (channels, workers, busy, lanes, restarts, memory, ages, room)
