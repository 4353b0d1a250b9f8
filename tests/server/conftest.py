from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hook import Hook
from peer import served, settings

from myna.server.app import Server, running


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[Server]:
    """The default server with the real engine."""
    async with running(settings()) as started:
        yield started


@pytest.fixture(scope="session")
async def strict_server() -> AsyncIterator[Server]:
    """One that loses patience at once, with the fake engine."""
    changes = {"model": "fake", "start_timeout_s": 0.5, "idle_timeout_s": 0.8, "deepgram_idle_timeout_s": 0.8}
    changes |= {"max_frame_bytes": 65_536}
    async with running(settings(**changes)) as started:
        yield started


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    """A client's own server."""
    made = Hook()
    app = web.Application()
    app.router.add_post("/hook", made.take)
    app.router.add_get("/sound", made.sound)
    app.router.add_get("/flac", made.flac)
    app.router.add_get("/drip", made.drip)
    async with served(app, handler_cancellation=True) as url:
        made.url = f"{url}/hook"
        yield made
