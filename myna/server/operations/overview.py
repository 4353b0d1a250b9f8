"""The state of a server: of its one process, or of all its processes together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from myna.server.operations.metrics import Metrics


class Family(msgspec.Struct, frozen=True):
    """A metric of one process, with its samples: names, labels and values."""

    name: str
    documentation: str
    type: str
    samples: tuple[tuple[str, dict[str, str], float], ...]


class Snapshot(msgspec.Struct, frozen=True):
    """The state of one process. `streams` counts live streams by address, `files` those that are being transcribed."""

    process: str
    failing: dict[str, str]
    streams: dict[str, int]
    files: int
    families: tuple[Family, ...]


class Overview:
    """The state of a server of one process, which is called `process`."""

    def __init__(
        self,
        process: str,
        metrics: Metrics,
        failing: Callable[[], Mapping[str, str]],
        paths: Callable[[], list[str]] = list,
        files: Callable[[], int] = lambda: 0,
    ) -> None:
        self._process = process
        self._metrics = metrics
        self._failing = failing
        self._paths = paths
        self._files = files

    def snapshot(self) -> Snapshot:
        """Return the state of this process."""
        families = tuple(
            Family(
                metric.name,
                metric.documentation,
                metric.type,
                tuple((sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples),
            )
            for metric in self._metrics.families()
        )
        return Snapshot(self._process, dict(self._failing()), dict(Counter(self._paths())), self._files(), families)

    async def failing(self) -> dict[str, str]:
        """Return the parts of the server that do not work, each with the reason."""
        return dict(self._failing())

    async def streams(self) -> Mapping[str, int]:
        """Return the number of live streams by address."""
        return Counter(self._paths())

    async def files(self) -> int:
        """Return how many files are being transcribed."""
        return self._files()

    async def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return self._metrics.exposition()
