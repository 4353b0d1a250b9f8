from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from aiohttp import ClientSession
from peer import eventually, listening
from speakers import phrases, running_fake

from myna.server.app import Server


async def get(server: Server, path: str) -> tuple[int, dict[str, Any]]:
    async with ClientSession() as session, session.get(server.url + path) as response:
        assert len(response.headers["dg-request-id"]) == 36
        return response.status, await response.json()


async def test_models_are_listed_in_openais_and_in_deepgrams_fields(server: Server) -> None:
    code, body = await get(server, "/v1/models")
    assert code == 200
    assert body["object"] == "list"
    mine = {model["id"]: model for model in body["data"]}["moonshine-tiny-en"]
    assert {"object": "model", "owned_by": "myna"}.items() <= mine.items()
    assert isinstance(mine["created"], int)
    theirs = {model["name"]: model for model in body["stt"]}["moonshine-tiny-en"]
    assert theirs == {
        "name": "moonshine-tiny-en",
        "canonical_name": "moonshine-tiny-en",
        "architecture": "moonshine",
        "languages": ["en"],
        "version": "0.1.0",
        "uuid": mine["uuid"],
        "batch": True,
        "streaming": True,
        "formatted_output": True,
    }
    assert body["tts"] == []


async def test_a_model_is_found_by_name_and_by_uuid(server: Server) -> None:
    code, by_name = await get(server, "/v1/models/moonshine-tiny-en")
    assert code == 200
    assert {
        "id": "moonshine-tiny-en",
        "object": "model",
        "canonical_name": "moonshine-tiny-en",
    }.items() <= by_name.items()
    assert (await get(server, f"/v1/models/{by_name['uuid']}")) == (200, by_name)


@pytest.mark.parametrize("name", ["parrot", "owner/parrot", "%00", "x" * 5000])
async def test_an_unknown_model_is_an_error_in_both_formats(server: Server, name: str) -> None:
    code, body = await get(server, f"/v1/models/{name}")
    assert code == 404
    assert body["error"]["code"] == "model_not_found"
    assert body["error"]["message"] == body["err_msg"]


async def test_status_counts_the_streams(strict_server: Server) -> None:
    async with listening(strict_server) as peer:
        await peer.send({"type": "Finalize"})
        await peer.until("Results")
        assert await get(strict_server, "/v1/status") == (
            200,
            {
                "system_health": "Healthy",
                "active_batch_requests": 0,
                "active_stream_requests": 1,
                "active_listen_v2_stream_requests": 0,
            },
        )


def greps(text: str) -> bool:
    """Return whether the readiness probe of Deepgram's chart and guide accepts the answer: grep reads it line by line."""
    probe = re.compile(r'^{"engine_connection_status":"Connected".*}$')
    return any(probe.search(line) for line in text.splitlines())


async def text_of(server: Server, path: str) -> str:
    async with ClientSession() as session, session.get(server.url + path) as response:
        assert response.status == 200
        return await response.text()


async def test_deepgrams_readiness_probe_accepts_an_idle_and_a_busy_server() -> None:
    async with running_fake() as server:
        assert greps(await text_of(server, "/v1/status/engine"))
        async with listening(server) as peer:
            await peer.socket.send_bytes(phrases([1, 2, 3, 4, 5, 6]))
            assert greps(await text_of(server, "/v1/status/engine"))
            await peer.until("Results")
            assert greps(await text_of(server, "/v1/status/engine"))
            assert (await text_of(server, "/v1/status")).startswith('{"system_health":"Healthy",')


async def test_a_draining_server_is_neither_connected_nor_healthy() -> None:
    async with running_fake(drain_s=30) as server, listening(server) as peer:
        await peer.socket.send_bytes(phrases([1]))
        draining = asyncio.create_task(server.drain())
        await eventually(lambda: server.admission.draining)
        assert json.loads(await text_of(server, "/v1/status/engine")) == {"engine_connection_status": "Disconnected"}
        status = json.loads(await text_of(server, "/v1/status"))
        assert (status["system_health"], status["active_stream_requests"]) == ("Critical", 1)
        await peer.send({"type": "CloseStream"})
        await peer.rest()
        await draining
