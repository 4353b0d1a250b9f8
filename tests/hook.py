"""A client's own server, which jobs call back and fetch audio from."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from aiohttp import web
from sounds import contained
from speakers import phrases

SOUND = phrases([1, 2])
FLAC = contained([np.frombuffer(SOUND, np.int16)], "flac", "flac")


class Hook:
    """It takes results, and has files to fetch, some of which never end."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.fail = 0
        self.asked = 0
        self.dripping = 0
        self.fetched = 0
        self.held = asyncio.Event()
        self.held.set()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.held.wait()
        if self.fail:
            self.fail -= 1
            return web.Response(status=500)
        self.taken.append(await request.json())
        return web.Response()

    async def sound(self, _request: web.Request) -> web.Response:
        return web.Response(body=SOUND)

    async def flac(self, _request: web.Request) -> web.Response:
        self.fetched += 1
        return web.Response(body=FLAC)

    async def drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.dripping += 1
        try:
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.01)
        finally:
            self.dripping -= 1
