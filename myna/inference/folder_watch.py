"""Watches the models' files: a log line at each arrival, change, removal and failure; newer files are loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from myna.inference.engines.kind import Model
from myna.inference.models import Models

log = structlog.get_logger()

EVERY_S = 2.0
"""Interval between two looks. A failure counts at the second look, since a file that is being copied is incomplete."""


class FolderWatch:
    """Watches the models of one server."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._usable: dict[str, Model] = {}
        self._broken: dict[str, str] = {}
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Look at the models, once without a word and then until cancelled."""
        usable, self._broken = await asyncio.to_thread(self._look)
        self._usable, self._told = usable, dict(self._broken)
        for name, reason in self._broken.items():
            log.error("model cannot be used", model=name, reason=reason)
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Compare the models with those of the last look."""
        usable, broken = await asyncio.to_thread(self._look)
        for name, model in usable.items():
            before = self._usable.get(name)
            if before is None or before.uuid != model.uuid:
                log.info("model arrived" if before is None else "model changed", **_facts(model))
        for name, reason in broken.items():
            if self._broken.get(name) == reason != self._told.get(name):
                self._told[name] = reason
                log.error("model cannot be used", model=name, reason=reason)
        for name in self._usable.keys() - usable.keys() - broken.keys():
            log.info("model removed", model=name)
        self._told = {name: reason for name, reason in self._told.items() if name in broken}
        # A file that cannot be used for a moment is not one that arrives again.
        kept = {name: model for name, model in self._usable.items() if name in broken}
        self._usable, self._broken = kept | usable, broken
        gone = [pool for pool in self._models.pools_by_name if pool not in usable and pool not in broken]
        await self._models.follow(usable, gone)

    def _look(self) -> tuple[dict[str, Model], dict[str, str]]:
        catalogue = self._models.catalogue
        (usable, broken), (voices, mute) = catalogue.models(), catalogue.diarizers()
        return usable | voices, broken | mute


def _facts(model: Model) -> Mapping[str, object]:
    return {
        "model": model.name,
        "called": model.called or model.name,
        "path": model.source or None,
        "engine": model.engine,
        "version": model.version or None,
        "languages": ",".join(model.languages) or "not known",
        "serves": model.serves,
        "formatted": model.formatted,
        "uuid": model.uuid or None,
    }
