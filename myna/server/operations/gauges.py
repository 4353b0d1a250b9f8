"""The current state of a front as gauges, read at each scrape."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from myna.batch.job_runner import JobRunner
from myna.batch.transcriber import Transcriber
from myna.inference.workers.vad_worker import VadWorker
from myna.media.pool import DecoderPool
from myna.runtime.supervisor import Supervisor
from myna.server.operations.front_admission import FrontAdmission
from myna.server.operations.loop_monitor import LoopMonitor


class MeasuredStream(Protocol):
    """A live stream, as the gauges see it."""

    @property
    def held_s(self) -> float:
        """Seconds of decoded audio in memory, all channels together."""
        ...

    @property
    def backlog_s(self) -> float:
        """Seconds of decoded audio that wait for voice activity detection or the engine."""
        ...

    @property
    def spooled_bytes(self) -> int:
        """Bytes of audio and commands that wait to be decoded."""
        ...


@dataclass(slots=True)
class Gauges:
    """Reads the gauges of one front."""

    streams: Mapping[str, MeasuredStream]
    """The live streams, by name."""
    vad: VadWorker
    decoders: DecoderPool
    transcriber: Transcriber
    admission: FrontAdmission
    loop_monitor: LoopMonitor
    jobs: JobRunner
    supervisor: Supervisor

    @property
    def failing(self) -> dict[str, str]:
        """The parts of the server that do not work, each with the reason; it should then get no new streams."""
        return self.supervisor.failing

    def read(self) -> Iterable[Metric]:
        """Return all gauges."""
        yield from self._of_streams()
        yield GaugeMetricFamily("myna_files", "Files being transcribed.", value=self.transcriber.active)
        yield GaugeMetricFamily("myna_jobs_unfinished", "Jobs that are not finished.", value=self.jobs.unfinished())
        yield GaugeMetricFamily(
            "myna_loop_busy", "Share of a core that the event loop uses.", value=self.loop_monitor.busy
        )
        vad = self.vad
        yield CounterMetricFamily("myna_vad_windows", "Windows of voice activity detection.", value=vad.windows)
        yield CounterMetricFamily("myna_vad_seconds", "CPU seconds of voice activity detection.", value=vad.seconds)
        decoders = self.decoders
        yield GaugeMetricFamily(
            "myna_decoders", "Decoder processes that serve a stream or file.", value=decoders.active
        )
        lost = CounterMetricFamily(
            "myna_decoders_lost", "Decoder processes that failed or were killed.", labels=["reason"]
        )
        for reason, count in decoders.lost.items():
            lost.add_metric([reason], count)
        yield lost
        yield GaugeMetricFamily("myna_tasks", "Tasks on the event loop.", value=len(asyncio.all_tasks()))
        yield GaugeMetricFamily("myna_draining", "Whether the server is stopping.", value=self.admission.draining)
        yield GaugeMetricFamily("myna_failing_parts", "Parts of the server that do not work.", value=len(self.failing))
        restarts = self.supervisor.restarts
        yield CounterMetricFamily("myna_part_restarts", "Restarts of parts that failed.", value=restarts)

    def _of_streams(self) -> Iterator[Metric]:
        streams = self.streams.values()
        yield GaugeMetricFamily("myna_streams", "Live streams.", value=len(streams))
        yield GaugeMetricFamily(
            "myna_streams_away", "Live streams that wait for their client to come back.", value=self.admission.away
        )
        held_s = sum(stream.held_s for stream in streams)
        yield GaugeMetricFamily("myna_audio_held_seconds", "Decoded audio of live streams in memory.", value=held_s)
        spooled = sum(stream.spooled_bytes for stream in streams)
        yield GaugeMetricFamily("myna_spool_bytes", "Audio of live streams that waits to be decoded.", value=spooled)
        backlog_s = max((stream.backlog_s for stream in streams), default=0.0)
        yield GaugeMetricFamily(
            "myna_backlog_seconds",
            "Decoded audio that waits for a final, of the stream furthest behind.",
            value=backlog_s,
        )
