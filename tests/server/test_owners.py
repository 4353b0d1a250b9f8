"""An error in any long-lived part: the service goes on, or readiness fails and says why."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientSession
from speakers import running_fake

from myna.server.app import Server


async def health(server: Server, path: str = "/health/ready") -> tuple[int, dict[str, Any]]:
    async with ClientSession() as session, session.get(server.url + path) as response:
        return response.status, await response.json()


async def test_readiness_and_health_name_each_part_that_fails_until_it_works_again() -> None:
    async with running_fake() as server:
        for path in ("/health/ready", "/health"):
            assert (await health(server, path))[0] == 200
        server.supervisor.failed("voice-activity", OSError("no memory"))
        status, body = await health(server)
        assert (status, body["failing"]) == (503, {"voice-activity": "OSError: no memory"})
        assert body["reason"] == "voice-activity: OSError: no memory"
        status, body = await health(server, "/health")
        assert (status, body["status"]) == (503, "degraded")
        server.supervisor.works("voice-activity")
        for path in ("/health/ready", "/health"):
            assert (await health(server, path))[0] == 200
