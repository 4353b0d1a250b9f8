"""Requests for speakers, whom nothing here tells apart: Deepgram's own answer, or a refusal where the operator wants one."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession
from peer import listening
from speakers import phrases, running_fake

from myna.server.app import Server

RAW = "encoding=linear16&sample_rate=16000"
ASKING = ["diarize=true", "diarize_model=latest", "diarize_model=v1", "diarize=true&punctuate=true"]


async def posted(server: Server, query: str) -> tuple[int, dict[str, Any]]:
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?{RAW}&{query}", data=phrases([1, 2])) as response,
    ):
        return response.status, await response.json()


@pytest.mark.parametrize("query", [*ASKING, "diarize_model=v2"])
async def test_a_file_whose_speakers_are_asked_for_is_answered_without_them(query: str) -> None:
    async with running_fake() as server:
        status, body = await posted(server, query)
    assert status == 200
    (channel,) = body["results"]["channels"]
    words = channel["alternatives"][0]["words"]
    assert [word["word"] for word in words] == ["w1", "w2"]
    assert not any("speaker" in word for word in words)
    assert "diarize_info" not in body["metadata"]


@pytest.mark.parametrize("query", ASKING)
async def test_a_stream_whose_speakers_are_asked_for_is_answered_without_them(query: str) -> None:
    async with running_fake() as server, listening(server, f"{RAW}&{query}") as peer:
        await peer.socket.send_bytes(phrases([1, 2]))
        await peer.send({"type": "CloseStream"})
        await peer.rest()
        assert peer.said == "w1 w2"
        assert peer.socket.close_code == 1000
        assert not any(
            "speaker" in word for final in peer.finals for word in final["channel"]["alternatives"][0]["words"]
        )


@pytest.mark.parametrize("query", ASKING)
async def test_an_operator_can_have_requests_for_speakers_refused(query: str) -> None:
    async with running_fake(without_diarizer="refuse") as server:
        status, body = await posted(server, query)
        assert (status, body["err_code"]) == (400, "Bad Request")
        assert "speaker diarization" in body["err_msg"]
        async with ClientSession() as session, session.get(f"{server.url}/v1/listen?{RAW}&{query}") as response:
            assert response.status == 400
            assert "speaker diarization" in response.headers["dg-error"]
        status, _ = await posted(server, "diarize=false")
        assert status == 200
