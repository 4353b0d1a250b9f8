"""An error in any long-lived part: the service goes on, or readiness fails and says why."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientSession
from peer import eventually
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


async def test_a_job_store_that_fails_is_named_and_the_runner_goes_on_when_it_works_again() -> None:
    async with running_fake() as server:
        store, server.jobs._store = server.jobs._store, _Broken()  # type: ignore[assignment]
        server.jobs._news.set()
        await eventually(lambda: "jobs 0" in server.supervisor.failing)
        status, body = await health(server)
        assert status == 503
        assert body["failing"]["jobs 0"] == "OperationalError: disk I/O error"
        server.jobs._store = store
        await eventually(lambda: not server.supervisor.failing)


class _Broken:
    def __getattr__(self, name: str) -> Any:
        from sqlite3 import OperationalError

        raise OperationalError("disk I/O error")
