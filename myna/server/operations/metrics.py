"""Prometheus metrics: counters and histograms, updated as events happen, and gauges, read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from myna.inference.workers.batches import Step
from myna.streaming.events import Repeated
from myna.streaming.session.jobs import JobKind

CONTENT_TYPE = CONTENT_TYPE_LATEST
_DELAYS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_REQUESTS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

Gauges = Callable[[], Iterable[Metric]]


class _GaugeCollector(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        return self._gauges()


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._streams = Counter(
            "myna_streams_total", "Streams that ended, by reason.", ["reason"], registry=self._registry
        )
        self._audio_s = 0.0
        self.add_gauges(self._audio)
        self._refusals = Counter(
            "myna_refusals_total", "Requests refused because a limit was reached.", ["reason"], registry=self._registry
        )
        self._dropped = Counter(
            "myna_connections_dropped_total", "Connections or messages that were dropped.", ["reason"],
            registry=self._registry,
        )  # fmt: skip
        self._dropped.labels("unauthenticated")  # makes the metric visible before the first one
        self._steps = Histogram(
            "myna_step_seconds",
            "Time of a batch on a lane.",
            ["model", "kind"],
            registry=self._registry,
            buckets=_DELAYS,
        )
        self._batches = Histogram(
            "myna_batch_jobs", "Jobs in a batch.", ["model", "kind"], registry=self._registry, buckets=_BATCHES
        )
        self._decoded = Counter(
            "myna_decoded_seconds_total", "Audio decoded, context included.", ["model", "kind"], registry=self._registry
        )
        self._waits = Histogram(
            "myna_queue_seconds", "Time from when the oldest job of a batch was due until a lane took it.", ["model", "kind"],
            registry=self._registry, buckets=_DELAYS,
        )  # fmt: skip
        self._delays = Histogram(
            "myna_result_delay_seconds",
            "Time from when a result was due until it was ready: finals since their endpoint, interims since their audio.",
            ["model", "kind"], registry=self._registry, buckets=_DELAYS,
        )  # fmt: skip
        self._repeated = Counter(
            "myna_speech_repeated_total", "Segments of certain speech whose first decode was not credible.", ["result"],
            registry=self._registry,
        )  # fmt: skip
        for result in ("words", "empty"):
            self._repeated.labels(result)  # makes the metric visible before the first one
        self._unheard = Counter(
            "myna_unheard_seconds_total", "Certain speech that stayed without words after all decodes.",
            registry=self._registry,
        )  # fmt: skip
        self._requests = Counter(
            "myna_requests_total", "Requests that ended, by route, kind (stream, batch, other) and class of status.",
            ["route", "kind", "status"], registry=self._registry,
        )  # fmt: skip
        self._request_times = Histogram(
            "myna_request_seconds", "Time from a request's headers until its end.", ["kind"],
            registry=self._registry, buckets=_REQUESTS,
        )  # fmt: skip
        self._lag = Histogram(
            "myna_loop_lag_seconds", "Delay of the event loop.", registry=self._registry, buckets=_LAGS
        )

    def _audio(self) -> Iterable[Metric]:
        yield CounterMetricFamily("myna_audio_seconds_total", "Audio received from live streams.", value=self._audio_s)

    def stream_ended(self, reason: str) -> None:
        """Count a stream that ended: `close`, or the code of an error."""
        self._streams.labels(reason).inc()

    def audio_in(self, seconds: float) -> None:
        """Count audio received from live streams."""
        self._audio_s += seconds  # a Counter, with its lock, costs ten times as much

    def refused(self, reason: str) -> None:
        """Count a request that was refused because a limit was reached."""
        self._refusals.labels(reason).inc()

    def connection_dropped(self, reason: str) -> None:
        """Count a connection or message that was dropped because of its cost."""
        self._dropped.labels(reason).inc()

    def speech_repeated(self, event: Repeated) -> None:
        """Count a segment of certain speech that was decoded again, and its speech without words."""
        self._repeated.labels("words" if event.heard else "empty").inc()
        self._unheard.inc(event.unheard_s)

    def request_ended(self, route: str, kind: str, status: int, took_s: float) -> None:
        """Count a request."""
        self._requests.labels(route, kind, f"{status // 100}xx").inc()
        self._request_times.labels(kind).observe(took_s)

    def lagged(self, seconds: float) -> None:
        """Record by how much the event loop was late for a timer."""
        self._lag.observe(seconds)

    def on_step(self, model: str) -> Callable[[Step], None]:
        """Return the function that records the steps of a model."""

        def count(step: Step) -> None:
            kind = step.kind.name.lower()
            self._steps.labels(model, kind).observe(step.took_s)
            self._batches.labels(model, kind).observe(step.jobs)
            self._decoded.labels(model, kind).inc(step.audio_s)
            self._waits.labels(model, kind).observe(step.waited_s)
            if step.kind is not JobKind.FILE:
                delays = self._delays.labels(model, kind)
                for late_s in step.late_s:
                    delays.observe(late_s)

        return count

    def add_gauges(self, gauges: Gauges) -> None:
        """Read these gauges at each scrape."""
        self._registry.register(_GaugeCollector(gauges))

    def families(self) -> list[Metric]:
        """Return all metrics as they are now."""
        return list(self._registry.collect())

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
