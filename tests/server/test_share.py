"""Messages of one client do not block the event loop for others. Measured is processor time between two turns of the loop."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator

import msgpack
import pytest
from aiohttp import ClientSession, WSMsgType
from cost import Turns
from peer import RAW, connected, eventually, listening, settings
from sockets import Raw, frame, raw, upgraded

from myna.runtime.errors import LONGEST_MESSAGE
from myna.server.app import Server, running
from myna.server.dialects.base import LONGEST_CONTROL

PCM = "encoding=linear16&sample_rate=16000"


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[Server]:
    async with running(settings(model="fake")) as started:
        yield started


async def heard(client: Raw) -> float:
    """End a Deepgram stream; return the seconds of audio that the server received."""
    await client.send(frame(1, json.dumps({"type": "CloseStream"}).encode()))
    async with asyncio.timeout(60):
        await client.reader.readuntil(b'"type":"Metadata"')
        await client.reader.readuntil(b'"duration":')
        return float((await client.reader.readuntil(b","))[:-1])


async def test_audio_in_messages_of_one_byte_does_not_block_the_loop(fake: Server) -> None:
    async with raw(fake.url) as client:
        await upgraded(client)
        blast = b"".join(struct.pack("!BBIB", 0x82, 0x81, 0, number % 7) for number in range(16_000))
        async with Turns() as turns:
            await client.send(blast)
            assert await heard(client) == 0.5
        assert turns.longest_yards < 30


@pytest.mark.parametrize("message", ["KeepAlive", "Finalize", "Configure"])
async def test_thousands_of_control_messages_do_not_block_the_loop(fake: Server, message: str) -> None:
    async with raw(fake.url) as client:
        await upgraded(client)
        blast = frame(1, json.dumps({"type": message}).encode()) * 2000
        async with Turns() as turns:
            await client.send(blast)
            assert await heard(client) == 0.0
        assert turns.longest_yards < 30


async def test_thousands_of_pings_do_not_block_the_loop(fake: Server) -> None:
    async with raw(fake.url) as client:
        await upgraded(client)
        async with Turns() as turns:
            await client.send(frame(9, b"there?") * 10_000)
            assert await heard(client) == 0.0
        assert turns.longest_yards < 30


async def test_joined_audio_is_complete_and_in_order(fake: Server) -> None:
    tone = b"".join(struct.pack("<h", 8000 if number // 20 % 2 else -8000) for number in range(32_000))
    told = []
    for piece in (64, 64_000):
        async with connected(fake) as peer:
            await peer.send(RAW)
            for start in range(0, len(tone), piece):
                await peer.socket.send_bytes(tone[start : start + piece])
                if start == 32_000:
                    await peer.send({"type": "finalize", "id": "half"})
            await peer.send({"type": "close"})
            await peer.rest()
            told.append([(final["start"], final["end"], final["text"]) for final in peer.of("final")])
            assert peer.messages[-1]["seconds"] == 2.0
    assert told[0][-1][1] == told[1][-1][1] == 2.0


async def test_a_large_msgpack_message_without_audio_is_refused_unparsed(fake: Server) -> None:
    async with connected(fake, "?format=msgpack") as peer:
        await peer.socket.send_bytes(b"\xdd" + struct.pack("!I", 4_000_000) + b"\x80" * 4_000_000)
        error = msgpack.unpackb((await peer.socket.receive(timeout=60)).data)
        assert error["code"] == "message_too_big"
        assert str(LONGEST_CONTROL) in error["message"]


@pytest.mark.parametrize("order", [("type", "audio"), ("audio", "type")])
async def test_large_audio_in_msgpack_is_accepted(fake: Server, order: tuple[str, str]) -> None:
    async with connected(fake, "?format=msgpack") as peer:
        await peer.socket.send_bytes(msgpack.packb(RAW))
        message = {"type": "audio", "audio": bytes(320_000)}
        await peer.socket.send_bytes(msgpack.packb({name: message[name] for name in order}))
        await peer.socket.send_bytes(msgpack.packb({"type": "close"}))
        said = []
        while (answer := await peer.socket.receive(timeout=60)).type is WSMsgType.BINARY:
            said.append(msgpack.unpackb(answer.data))
        assert said[-1] == {"type": "closed", "reason": "close", "seconds": 10.0}


@pytest.mark.parametrize("path", ["/v1/stream", f"/v1/listen?{PCM}", f"/v2/listen?{PCM}"])
async def test_a_large_text_message_is_refused_unparsed(fake: Server, path: str) -> None:
    async with connected(fake, path=path) as peer:
        await peer.socket.send_str("[" + "1," * 200_000 + "1]")
        while (await peer.socket.receive(timeout=60)).type is WSMsgType.TEXT:
            pass
        assert peer.socket.close_code == 1009


async def realtime_error(server: Server, text: str) -> str:
    async with connected(server, path="/v1/realtime") as peer:
        await peer.until("session.created")
        await peer.socket.send_str(text)
        error = await peer.until("error")
        return f"{error['error']['code']}: {error['error']['message']}"


async def test_a_large_realtime_event_without_audio_is_refused_unparsed(fake: Server) -> None:
    many = "[" + "1," * 200_000 + "1]"
    assert "event_too_large" in await realtime_error(fake, f'{{"type": "session.update", "session": {many}}}')
    append = '{"type": "input_audio_buffer.append", "event_id": %s, "audio": ""}'
    assert "event_too_large" in await realtime_error(fake, append % many)
    text = '{"type": "session.update", "audio": "%s"}' % ("A" * 200_000)
    assert "input_audio_buffer.append" in await realtime_error(fake, text)
    text = '{"type": "input_audio_buffer.append", "audio": "%s"}'
    assert "not valid base64" in await realtime_error(fake, text % ("A" * 140_000 + "=" + "A" * 140_003))


async def test_a_large_append_is_accepted_and_does_not_block_the_loop(fake: Server) -> None:
    audio = base64.b64encode(b"\x01\xff" * 1_500_000).decode().replace("/", "\\/")
    async with connected(fake, path="/v1/realtime") as peer:
        await peer.until("session.created")
        await peer.send(
            {
                "type": "session.update",
                "session": {"type": "transcription", "audio": {"input": {"turn_detection": None}}},
            }
        )
        await peer.until("session.updated")
        await peer.socket.send_str(f'{{"type":"input_audio_buffer.append","audio":"{audio}"}}')
        await peer.send({"type": "input_audio_buffer.commit"})
        completed = await peer.until("conversation.item.input_audio_transcription.completed")
        assert completed["usage"]["seconds"] == 63  # 62.5 s at 24 kHz


async def test_a_session_does_not_grow_with_each_change(fake: Server) -> None:
    async with asyncio.timeout(20), connected(fake, path="/v1/realtime") as peer:
        await peer.until("session.created")
        for number in range(20):
            noise = {f"unknown-{number}-{key}": "x" * 100 for key in range(10)}
            session = {"type": "transcription", "audio": {"input": {"noise_reduction": noise}}}
            await peer.send({"type": "session.update", "session": session})
        error = await peer.until("error")
        assert "at most 16384 characters" in error["error"]["message"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("&".join(f"search=word{number}" for number in range(400)), "search must have at most 50 values, not 400"),
        (f"search={'a+' * 400}", "search must have phrases of at most 25 words, not 400"),
        ("&".join(f"search={'e' * 600}{number}" for number in range(10)), "at most 2500 characters in all, not 6010"),
        ("&".join(f"replace=a{number}:b" for number in range(300)), "replace must have at most 200 values, not 300"),
        ("replace=a:" + "b" * 300, "at most 200 characters on each side, not 300"),
        ("&".join(f"tag=t{number}" for number in range(200)), "tag must have at most 100 values, not 200"),
    ],
)
async def test_lists_of_parameters_are_bounded(fake: Server, query: str, said: str) -> None:
    async with ClientSession() as session:
        async with session.post(f"{fake.url}/v1/listen?{query}", data=b"") as answer:
            assert answer.status == 400
            assert said in (await answer.json())["err_msg"]
        if not query.startswith("tag"):
            async with session.get(f"{fake.url}/v1/listen?{PCM}&{query}") as answer:
                assert said in (await answer.json())["err_msg"]


async def test_the_refusal_of_a_huge_message_is_short_and_arrives(fake: Server) -> None:
    async with connected(fake) as peer:
        await peer.send({"type": "start", "x" * 60_000: 1})
        error = await peer.until("error")
        assert len(error["message"]) <= LONGEST_MESSAGE
        assert (await peer.rest())[-1]["reason"] == "invalid_message"
    async with connected(fake) as peer:
        await peer.send({"type": "start", "x" * 6_000_000: 1})
        assert (await peer.until("error"))["code"] == "message_too_big"
        assert (await peer.rest())[-1]["reason"] == "message_too_big"


async def test_a_search_for_punctuation_finds_nothing(fake: Server) -> None:
    async with listening(fake, f"{PCM}&search=!!!") as peer:
        await peer.socket.send_bytes(b"\x00\x40" * 16_000)
        await peer.send({"type": "CloseStream"})
        await peer.rest()
        assert all(final["channel"]["search"] == [{"query": "!!!", "hits": []}] for final in peer.finals)
        await eventually(lambda: peer.socket.close_code == 1000)
