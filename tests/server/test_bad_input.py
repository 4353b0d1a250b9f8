from __future__ import annotations

import asyncio
import contextlib
import json

import msgpack
import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType
from peer import RAW, assert_tiles, connected, eventually, metric, settings
from sounds import RATE, recording

from myna.runtime.errors import DialectError
from myna.server.app import Server, running
from myna.wire import messages as wire

pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.fixture
async def unharmed(strict_server: Server):
    """Check after each test that the server serves the next client and has freed the last stream."""
    yield
    async with connected(strict_server) as peer:
        await peer.send(RAW)
        await peer.send({"type": "close"})
        assert (await peer.rest())[-1] == {"type": "closed", "reason": "close", "seconds": 0.0}
    await eventually(lambda: not strict_server.services.streams)


async def refusal(server: Server, *frames: str | bytes | dict, query: str = "") -> tuple[dict, int | None]:
    """Send frames; return the one error and the close code."""
    async with connected(server, query) as peer:
        for frame in frames:
            if isinstance(frame, dict):
                await peer.send(frame)
            elif isinstance(frame, str):
                await peer.socket.send_str(frame)
            else:
                await peer.socket.send_bytes(frame)
        messages = await peer.rest()
        (error,) = peer.of("error")
        assert messages[-2] == error
        assert messages[-1]["type"] == "closed"
        assert messages[-1]["reason"] == error["code"]
        return error, peer.socket.close_code


@pytest.mark.parametrize(
    ("frames", "code", "said", "close_code"),
    [
        ([{**RAW, "encoding": "opus9"}], "invalid_message", "opus9", 1007),
        ([{**RAW, "sample_rate": 4000}], "unsupported_audio", "4000", 1008),
        ([{**RAW, "sample_rate": "fast"}], "invalid_message", "sample_rate", 1007),
        ([{"type": "start", "encoding": "linear16"}], "unsupported_audio", "sample_rate", 1008),
        ([{"type": "start", "sample_rate": 8000}], "unsupported_audio", "encoding", 1008),
        ([{**RAW, "channels": 21}], "unsupported_audio", "21 channels", 1008),
        ([{**RAW, "keyterms": ["Myna"]}], "unsupported_keyterms", "fake does not support keyterms", 1008),
        ([{**RAW, "language": "fr"}], "unsupported_language", "It supports: en", 1008),
        ([{**RAW, "endpointing_ms": -1}], "invalid_message", "endpointing_ms", 1007),
        ([{**RAW, "max_utterance_s": 1}], "invalid_message", "max_utterance_s", 1007),
        ([{**RAW, "sampel_rate": 1}], "invalid_message", "sampel_rate", 1007),
        ([{"type": "begin"}], "invalid_message", "begin", 1007),
        ([{"kind": "start"}], "invalid_message", "type", 1007),
        (["{not json"], "invalid_message", "not JSON", 1007),
        (["[" * 100_000], "message_too_big", "65536", 1009),
        (["[" * 60_000], "invalid_message", "not JSON", 1007),
        (["[]"], "invalid_message", "object", 1007),
        (["null"], "invalid_message", "object", 1007),
        ([RAW, RAW], "already_started", "start", 1008),
        ([RAW, {"type": "audio", "audio": "abc"}], "invalid_message", "audio", 1007),
        ([RAW, "some words"], "invalid_message", "not JSON", 1007),
        ([RAW, {"type": "pause"}], "invalid_message", "pause", 1007),
        ([RAW, {"type": "finalize", "id": "x" * 300}], "invalid_message", "id", 1007),
        ([b"\x00" * 3200], "not_started", "start", 1008),
        ([{"type": "finalize"}], "not_started", "start", 1008),
        ([RAW, b"\x00" * 70_000], "message_too_big", "65536", 1009),
        ([{"type": "start"}, b"this is no container at all"], "undecodable_audio", "no container", 1003),
        ([{"type": "start"}, b"RIFF", {"type": "close"}], "undecodable_audio", "4 bytes", 1003),
        ([{"type": "start"}, b"fLaC" + b"\x01" * 60_000, {"type": "close"}], "undecodable_audio", "flac", 1003),
    ],
)  # fmt: skip
async def test_each_invalid_message_gets_one_error_that_names_the_cause(
    strict_server: Server, frames: list, code: str, said: str, close_code: int
) -> None:
    error, closed = await refusal(strict_server, *frames)
    assert error["code"] == code
    assert said in error["message"]
    assert closed == close_code


@pytest.mark.parametrize(
    ("frame", "said"),
    [(b"\xc1\xc1", "not msgpack"), (msgpack.packb([1, 2]), "object"), ("{}", "binary"), (b"", "not msgpack"),
     (msgpack.packb({"type": "audio", "audio": b"12"}), "start"), (b"\xdd\xff\xff\xff\xff", "not msgpack")],
)  # fmt: skip
async def test_invalid_msgpack_is_named_too(strict_server: Server, frame: str | bytes, said: str) -> None:
    async with connected(strict_server, "?format=msgpack") as peer:
        await (peer.socket.send_str(frame) if isinstance(frame, str) else peer.socket.send_bytes(frame))
        error = msgpack.unpackb((await peer.socket.receive(timeout=30)).data)
        assert error["type"] == "error"
        assert said in error["message"]
        assert msgpack.unpackb((await peer.socket.receive(timeout=30)).data)["type"] == "closed"


async def test_an_unknown_format_is_refused_before_the_upgrade(strict_server: Server) -> None:
    async with ClientSession() as session, session.get(strict_server.url + wire.PATH + "?format=xml") as response:
        assert response.status == 400
        assert "json, msgpack" in (await response.json())["error"]["message"]


async def test_without_a_start_message_the_stream_ends_after_the_time_limit(strict_server: Server) -> None:
    error, close_code = await refusal(strict_server)
    assert (error["code"], close_code) == ("no_start", 1008)
    assert "0.5 s" in error["message"]


async def test_keepalives_before_the_start_do_not_extend_the_time_limit(strict_server: Server) -> None:
    error, _ = await refusal(strict_server, {"type": "keepalive"})
    assert error["code"] == "no_start"


async def test_an_idle_stream_ends_after_its_finals(strict_server: Server) -> None:
    async with connected(strict_server) as peer:
        await peer.send(RAW)
        await peer.socket.send_bytes(bytes(32_000))
        messages = await peer.rest()
        assert [m["type"] for m in messages] == ["ready", "final", "error", "closed"]
        assert messages[2]["code"] == "idle"
        assert messages[3]["seconds"] == 1.0
        assert peer.socket.close_code == 1008


async def test_keepalives_keep_a_stream_without_audio_open(strict_server: Server) -> None:
    async with connected(strict_server) as peer:
        await peer.send(RAW)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 1.6:  # well past the idle limit of 0.8 s
            await peer.send({"type": "keepalive"})
            await asyncio.sleep(0.05)
        await peer.send({"type": "close"})
        assert (await peer.rest())[-1]["reason"] == "close"


async def test_an_empty_audio_frame_is_valid(strict_server: Server) -> None:
    async with connected(strict_server) as peer:
        await peer.send(RAW)
        await peer.socket.send_bytes(b"")
        await peer.socket.send_bytes(b"\x00")  # half a sample
        await peer.send({"type": "close"})
        assert (await peer.rest())[-1] == {"type": "closed", "reason": "close", "seconds": 0.0}


async def test_random_frames_cause_no_unhandled_error(strict_server: Server) -> None:
    import random

    chance = random.Random(1)
    for _ in range(20):
        async with connected(strict_server, chance.choice(["", "?format=msgpack"])) as peer:
            if chance.random() < 0.5:
                await peer.send(RAW)
            for _ in range(chance.randrange(1, 5)):
                data = chance.randbytes(chance.randrange(200))
                if chance.random() < 0.5:
                    await peer.socket.send_bytes(data)
                else:
                    await peer.socket.send_str(json.dumps({"type": chance.choice(["start", "finalize", "close", "x"])}))
            while (await peer.socket.receive(timeout=30)).type in (WSMsgType.TEXT, WSMsgType.BINARY):
                pass


async def test_a_stream_whose_client_does_not_read_ends(strict_server: Server) -> None:
    async with connected(strict_server) as peer:
        await peer.send(RAW)
        question = json.dumps({"type": "finalize", "id": "x" * 200})
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                while True:  # the answers are never read
                    await peer.socket.send_str(question)
    await eventually(lambda: not strict_server.services.streams)


async def test_a_stopping_server_tells_its_clients() -> None:
    async with running(settings(model="fake")) as server, connected(server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        for live in server.services.streams.values():
            live.abort(DialectError("shutting_down", "the server is stopping"))
        messages = await peer.rest()
        assert [m["type"] for m in messages] == ["ready", "error", "closed"]
        assert peer.socket.close_code == 1001


async def test_audio_sent_faster_than_it_is_decoded_takes_bounded_memory() -> None:
    """With minutes of speech sent at once, the audio in memory stays near the configured backlog, and none is lost."""
    speech = recording("two_cities")
    audio = np.concatenate([speech] * (1 + 150 * RATE // len(speech)))
    async with running(settings(max_backlog_s=10.0)) as server, connected(server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        most_held_s = 0.0

        async def watch() -> None:
            nonlocal most_held_s
            while server.services.streams:
                most_held_s = max(most_held_s, await metric(server, "myna_audio_held_seconds"))
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        data = audio.tobytes()

        async def send() -> None:
            for begin in range(0, len(data), 320_000):
                await peer.socket.send_bytes(data[begin : begin + 320_000])
            await peer.send({"type": "close"})

        sending = asyncio.create_task(send())
        messages = await peer.rest()
        await sending
        await watching
        assert_tiles(peer.of("final"), len(audio) / RATE)
        assert messages[-1]["seconds"] == pytest.approx(len(audio) / RATE, abs=0.001)
        assert 10 < most_held_s < 50
