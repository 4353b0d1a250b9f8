"""The current state of the models in memory as gauges, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from myna.inference.models import Models
from myna.server.operations.admission import Admission
from myna.streaming.session.jobs import JobKind


@dataclass(slots=True)
class ModelGauges:
    """Reads the gauges of the models whose workers belong to this process."""

    models: Models
    admission: Admission

    def read(self) -> Iterable[Metric]:
        """Return all gauges."""
        channels = GaugeMetricFamily("myna_channels", "Live channels.", labels=["model"])
        workers = GaugeMetricFamily("myna_workers", "Workers that accept jobs.", labels=["model"])
        busy = GaugeMetricFamily("myna_lanes_busy", "Lanes that run a batch.", labels=["model"])
        lanes = GaugeMetricFamily("myna_lanes", "Lanes of all workers.", labels=["model"])
        restarts = CounterMetricFamily("myna_worker_restarts", "Workers that were replaced.", labels=["model"])
        memory = GaugeMetricFamily(
            "myna_worker_memory_bytes", "Memory of the workers when they were ready.", labels=["model"]
        )
        ages = GaugeMetricFamily(
            "myna_queue_age_seconds", "How overdue the oldest waiting job is.", labels=["model", "kind"]
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
