"""Several fronts and their engine process, in this process: each front has a port of its own, so that tests choose it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

from peer import settings
from speakers import AmplitudeVad

from myna.server.app import Server, running
from myna.server.engine_process import engine_running
from myna.server.fronts.role import ENGINE, FILES, Role

SECRET, TOKEN = b"s" * 32, "token"


class Fronts:
    """Two fronts, the front for files and the engine process. `front` returns a front, by number."""

    def __init__(self, folder: str, changes: dict[str, Any]) -> None:
        self._folder = folder
        self._settings = settings(**{"model": "fake", "fronts": 2, **changes}).model_dump(mode="json")
        self._running: dict[int, contextlib.AsyncExitStack] = {}
        self.servers: dict[int, Server] = {}

    def role(self, number: int) -> Role:
        return Role(number, 2, self._folder, SECRET, TOKEN, self._settings)

    def front(self, number: int) -> Server:
        return self.servers[number]

    async def start(self, number: int) -> None:
        stack = self._running[number] = contextlib.AsyncExitStack()
        role = self.role(number)
        if number == ENGINE:
            await stack.enter_async_context(engine_running(role))
        else:
            self.servers[number] = await stack.enter_async_context(running(role.read_settings(), role))

    async def stop(self, number: int) -> None:
        await self._running.pop(number).aclose()

    async def stop_all(self) -> None:
        for number in sorted(self._running, reverse=True):
            await self.stop(number)


@contextlib.asynccontextmanager
async def running_fronts(**changes: Any) -> AsyncIterator[Fronts]:
    with tempfile.TemporaryDirectory(prefix="myna-") as folder, mock.patch("myna.server.app.SileroVad", AmplitudeVad):
        fronts = Fronts(folder, changes)
        try:
            for number in (ENGINE, FILES, 1, 2):
                await fronts.start(number)
            yield fronts
        finally:
            await fronts.stop_all()
