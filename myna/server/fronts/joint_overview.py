"""The state of a server with several fronts: each process is asked, and the metrics are added up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from myna.server.fronts.peers import snapshot_of
from myna.server.operations.overview import Overview, Snapshot

_OF_EACH = ("process_", "python_", "myna_loop_busy")
"""Beginnings of the metrics that are kept apart by process, with a label `process`: their sums would say nothing."""
_LARGEST = ("myna_backlog_seconds", "myna_draining")
"""Gauges whose largest value counts."""
_DECODER = msgspec.msgpack.Decoder(Snapshot)
_ENCODER = msgspec.msgpack.Encoder()


class JointOverview(Overview):
    """The state of all processes. `own` is that of this one, `peers` are the sockets of the others by process name."""

    def __init__(self, own: Overview, peers: Mapping[str, Path]) -> None:
        self._own = own
        self._peers = peers

    def answer(self) -> bytes:
        """Return the state of this process, for another one."""
        return _ENCODER.encode(self.snapshot())

    def snapshot(self) -> Snapshot:
        """Return the state of this process."""
        return self._own.snapshot()

    async def failing(self) -> dict[str, str]:
        """Return the parts of all processes that do not work, each with the reason."""
        found: dict[str, str] = {}
        for one in await self._all():
            own = one.process == self.snapshot().process
            found |= {part if own else f"{one.process}: {part}": why for part, why in one.failing.items()}
        return found

    async def streams(self) -> Mapping[str, int]:
        """Return the number of live streams by address."""
        return sum((Counter(one.streams) for one in await self._all()), Counter())

    async def files(self) -> int:
        """Return how many files are being transcribed."""
        return sum(one.files for one in await self._all())

    async def exposition(self) -> bytes:
        """Return the metrics of all processes together in Prometheus's text format."""
        registry = CollectorRegistry()
        registry.register(_Together(await self._all()))
        return generate_latest(registry)

    async def _all(self) -> list[Snapshot]:
        answers = await asyncio.gather(*map(snapshot_of, self._peers.values()))
        others = [_read(name, answer) for name, answer in zip(self._peers, answers, strict=True)]
        return [self.snapshot(), *others]


def _read(process: str, answer: bytes | None) -> Snapshot:
    try:
        if answer is not None:
            return _DECODER.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    return Snapshot(process, {"process": "it does not answer; it may be starting"}, {}, 0, ())


class _Together(Collector):
    def __init__(self, snapshots: list[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        return together(self._snapshots)


def together(snapshots: list[Snapshot]) -> list[Metric]:
    """Return the metrics of all processes: sums, except for those kept apart and those whose largest value counts."""
    metrics: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for one in snapshots:
        for family in one.families:
            metrics.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            found = values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                apart = {"process": one.process} if family.name.startswith(_OF_EACH) else {}
                key = (name, tuple(sorted((labels | apart).items())))
                if key not in found:
                    found[key] = value
                elif name.endswith("_created"):
                    found[key] = min(found[key], value)
                elif family.name in _LARGEST:
                    found[key] = max(found[key], value)
                else:
                    found[key] += value
    for family_name, sums in values.items():
        for (sample, of), value in sums.items():
            metrics[family_name].add_sample(sample, dict(of), value)
    return list(metrics.values())
