"""Clients that mean no good, one function each; what they are answered is not looked at, unless the server's own error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable
from functools import cache
from urllib.parse import urlsplit

import aiohttp
from hostile import zoo
from sounds import RATE, contained, recording

from myna.wire import messages as wire

INTERNAL_ERROR = 1011
_HELD_S = 3.0
"""Sockets that do nothing are held for so long."""


@cache
def _files() -> list[bytes]:
    return list(zoo().values())


@cache
def _containers() -> list[bytes]:
    pcm = recording("beckett")
    return [contained([pcm], name, codec) for name, codec in (("flac", "flac"), ("mp3", "libmp3lame"), ("mp4", "aac"))]


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))


async def _conversation(url: str, address: str, frames: list[str | bytes], *, leave: bool = False) -> None:
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        async with _client() as session, session.ws_connect(url + address, max_msg_size=0) as socket:
            for frame in frames:
                await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
            if leave:
                assert socket._response.connection is not None
                assert socket._response.connection.transport is not None
                socket._response.connection.transport.abort()
                return
            async for _ in socket:
                pass
            assert socket.close_code != INTERNAL_ERROR, (address, frames[0][:100])


async def upload(url: str, chance: random.Random) -> None:
    """A hostile file."""
    form = aiohttp.FormData()
    form.add_field("file", chance.choice(_files()), filename="sound")
    async with _client() as session, session.post(f"{url}/v1/audio/transcriptions", data=form) as response:
        assert response.status != 500, await response.text()


async def stream(url: str, chance: random.Random) -> None:
    """The same as a live stream."""
    await _conversation(url, "/v1/listen", [chance.choice(_files()), '{"type":"CloseStream"}'])


async def leave(url: str, chance: random.Random) -> None:
    """Leave in the middle of a container."""
    data = chance.choice(_containers())
    end = chance.randrange(12, len(data))
    await _conversation(url, "/v1/listen", [data[at : at + 4096] for at in range(0, end, 4096)], leave=True)


async def crumbs(url: str, chance: random.Random) -> None:
    """Audio in frames of a byte."""
    data = chance.randbytes(20_000)
    frames: list[str | bytes] = [bytes([byte]) for byte in data]
    await _conversation(url, f"/v1/listen?encoding=linear16&sample_rate={RATE}", [*frames, '{"type":"CloseStream"}'])


async def control(url: str, chance: random.Random) -> None:
    """A control message of megabytes, and messages without end."""
    giant = json.dumps({"type": "KeepAlive", "more": [{}] * 500_000})
    many: list[str | bytes] = ['{"type":"Finalize"}', '{"type":"KeepAlive"}'] * 2_000
    start: list[str | bytes] = [wire.StartMessage(encoding="linear16", sample_rate=RATE).model_dump_json()]
    await _conversation(
        url, *chance.choice([("/v1/listen", [giant]), (wire.PATH, [*start, giant]), ("/v1/listen", many)]), leave=True
    )


async def terms(url: str, chance: random.Random) -> None:
    """More terms to search for than anybody needs."""
    query = "&".join(f"search=word{number}" for number in range(chance.choice((20, 3_000))))
    pcm = recording("beckett")[: 4 * RATE].tobytes()
    address = f"/v1/listen?encoding=linear16&sample_rate={RATE}&{query}"
    await _conversation(url, address, [pcm, '{"type":"CloseStream"}'])


async def silent(url: str, chance: random.Random) -> None:
    """Sockets that say nothing, or never end what they say."""
    parts = urlsplit(url)
    assert parts.hostname
    writers = []
    with contextlib.suppress(OSError):
        for _ in range(5):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writers.append(writer)
            writer.write(chance.choice((b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000)))
        await asyncio.sleep(_HELD_S)
    for writer in writers:
        writer.transport.abort()


async def callback(url: str, chance: random.Random) -> None:
    """A file whose answer is to go to where nobody listens."""
    port = chance.choice((1, 2, 3))
    nobody = f"http://127.0.0.{chance.randrange(2, 200)}:{port}/"
    address = f"{url}/v1/listen?encoding=linear16&sample_rate={RATE}&callback={nobody}"
    async with _client() as session, session.post(address, data=recording("beckett")[: 2 * RATE].tobytes()) as response:
        assert response.status != 500, await response.text()


WAYS: dict[str, Callable[[str, random.Random], Awaitable[None]]] = {
    "hostile upload": upload, "hostile stream": stream, "leaves a container": leave, "crumbs": crumbs, "control": control,
    "terms": terms, "silent": silent, "dead callback": callback,
}  # fmt: skip
