"""What the server tells Prometheus: counters and histograms fed while it works, gauges looked up when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from myna.inference.workers.batches import Step
from myna.streaming.session.jobs import JobKind

CONTENT_TYPE = CONTENT_TYPE_LATEST
_DELAYS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

Gauges = Callable[[], Iterable[Metric]]


class _Looked(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        return self._gauges()


class Metrics:
    """One server's."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._streams = Counter(
            "myna_streams_total", "Streams that ended, by their reason.", ["reason"], registry=self._registry
        )
        self._audio = Counter("myna_audio_seconds_total", "Audio taken from live streams.", registry=self._registry)
        self._refusals = Counter(
            "myna_refusals_total", "Requests refused for want of room.", ["reason"], registry=self._registry
        )
        self._dropped = Counter(
            "myna_connections_dropped_total", "Connections, or their messages, given up.", ["reason"],
            registry=self._registry,
        )  # fmt: skip
        self._dropped.labels("unauthenticated")  # is shown before there is one
        self._steps = Histogram(
            "myna_step_seconds", "A batch on a lane.", ["model", "kind"], registry=self._registry, buckets=_DELAYS
        )
        self._batches = Histogram(
            "myna_batch_jobs", "Jobs in a batch.", ["model", "kind"], registry=self._registry, buckets=_BATCHES
        )
        self._decoded = Counter(
            "myna_decoded_seconds_total", "Audio decoded, context and all.", ["model", "kind"], registry=self._registry
        )
        self._waits = Histogram(
            "myna_queue_seconds", "From when a batch's oldest job was due until a lane took it.", ["model", "kind"],
            registry=self._registry, buckets=_DELAYS,
        )  # fmt: skip
        self._delays = Histogram(
            "myna_result_delay_seconds",
            "From when a result was due to when it was there: of finals since their endpoint, of interims since their audio.",
            ["model", "kind"], registry=self._registry, buckets=_DELAYS,
        )  # fmt: skip
        self._repeated = Counter(
            "myna_speech_repeated_total", "Segments of sure speech that were not heard credibly at first.", ["result"],
            registry=self._registry,
        )  # fmt: skip
        for result in ("words", "empty"):
            self._repeated.labels(result)  # is shown before there is one
        self._lag = Histogram(
            "myna_loop_lag_seconds", "How late the event loop was.", registry=self._registry, buckets=_LAGS
        )

    def stream_ended(self, reason: str) -> None:
        """A stream was said farewell: `close`, or the code of an error."""
        self._streams.labels(reason).inc()

    def audio_in(self, seconds: float) -> None:
        """Live streams have sent so much audio."""
        self._audio.inc(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused for want of room."""
        self._refusals.labels(reason).inc()

    def connection_dropped(self, reason: str) -> None:
        """A connection was closed, or its message given up, for what it cost."""
        self._dropped.labels(reason).inc()

    def speech_repeated(self, *, heard: bool) -> None:
        """Sure speech was decoded once more, if there was another window; `heard`: its final has words."""
        self._repeated.labels("words" if heard else "empty").inc()

    def lagged(self, seconds: float) -> None:
        """The event loop came to a timer so late."""
        self._lag.observe(seconds)

    def on_step(self, model: str) -> Callable[[Step], None]:
        """Return what counts the steps of a model."""

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

    def look_up(self, gauges: Gauges) -> None:
        """Ask for these gauges, too, whenever metrics are read."""
        self._registry.register(_Looked(gauges))

    def written(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)
