"""Each request is one log line and one measurement."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession
from peer import RAW, connected, eventually, metric, settings
from sounds import contained, recording
from structlog.testing import capture_logs

from myna.server.app import running


async def test_requests_are_logged_and_counted_with_route_status_and_model() -> None:
    sound = contained([recording("beckett")[:8000]], "flac", "flac")
    with capture_logs() as lines:
        async with running(settings(model="fake", log_level="debug")) as server:
            async with ClientSession() as session:
                for path, how in (("/v1/listen", {"data": sound}), ("/v1/listen?punctuate=7", {"data": sound}),
                                  ("/nowhere?secret=1", {"data": b"x"}), ("/v1/jobs/no-such-job", None)):  # fmt: skip
                    asking = session.post(server.url + path, **how) if how else session.get(server.url + path)
                    async with asking as response:
                        await response.read()
                async with session.get(f"{server.url}/health/live") as response:
                    assert response.status == 200
            async with connected(server) as peer:
                await peer.send(RAW)
                await peer.until("ready")
                await peer.send({"type": "close"})
                await peer.rest()
            requests: list[Any] = [line for line in lines if line["event"] == "request"]
            await eventually(lambda: len([line for line in lines if line["event"] == "request"]) == 6)
            requests = [line for line in lines if line["event"] == "request"]
            counted = {
                (route, kind, status): await metric(
                    server, "myna_requests_total", route=route, kind=kind, status=status
                )
                for route, kind, status in (("/v1/listen", "batch", "2xx"), ("/v1/stream", "stream", "1xx"))
            }
    told = [(line["method"], line["route"], line["status"], line["model"], line["log_level"]) for line in requests]
    assert told == [
        ("POST", "/v1/listen", 200, "fake", "info"),
        ("POST", "/v1/listen", 400, None, "info"),
        ("POST", "none", 404, None, "info"),
        ("GET", "/v1/jobs/{id}", 404, None, "info"),
        ("GET", "/health/live", 200, None, "debug"),
        ("GET", "/v1/stream", 101, "fake", "info"),
    ]
    assert all(line["seconds"] >= 0 and line["request_id"] for line in requests)
    assert "secret" not in str(requests)
    assert set(counted.values()) == {1}


@pytest.mark.parametrize("kind", ["batch", "stream"])
async def test_a_refused_request_counts_by_its_kind(kind: str) -> None:
    async with running(settings(model="fake")) as server, ClientSession() as session:
        url = f"{server.url}/v1/listen?punctuate=7"
        async with session.post(url, data=b"x") if kind == "batch" else session.get(url) as response:
            assert response.status == 400
        assert await metric(server, "myna_requests_total", route="/v1/listen", kind=kind, status="4xx") == 1
