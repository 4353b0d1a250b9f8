"""Whole conversations with invalid frames: a stream ends for one of three reasons, and names it.

A client's error has a code of its own; none is the server's; and only a stream in which nothing went wrong closes with 1000.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from mutations import DEEPGRAM, FLUX, NATIVE, QUERIES, REALTIME, Mutator
from peer import connected
from speakers import phrases, running_fake

from myna.server.app import Server

COUNT = max(25, int(os.environ.get("MYNA_FUZZ_FRAMES", "6000")) // 240)
SEED = int(os.environ.get("MYNA_FUZZ_SEED", str(time.time_ns() % 2**32)))
SOUND = phrases([1, 2, 3, 4], pause_s=0.3)
RAW = [("encoding", "linear16"), ("sample_rate", "16000")]
END: dict[str, dict[str, Any]] = {
    "/v1/stream": {"type": "close"},
    "/v1/listen": {"type": "CloseStream"},
    "/v2/listen": {"type": "CloseStream"},
    "/v1/realtime": {"type": "input_audio_buffer.commit"},
}
MESSAGES = {"/v1/stream": NATIVE, "/v1/listen": DEEPGRAM, "/v2/listen": FLUX, "/v1/realtime": REALTIME}
FATAL = {"/v1/stream": "error", "/v2/listen": "Error"}
"""The message that ends a stream with an error, where no other error has this type."""


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running_fake(start_timeout_s=5, idle_timeout_s=5, deepgram_idle_timeout_s=5) as started:
        yield started


async def converse(socket: ClientWebSocketResponse, path: str, mutator: Mutator) -> None:
    """Send frames that may be invalid, some audio between them, and the end."""
    if path == "/v1/stream" and mutator.random.random() < 0.8:
        await socket.send_json(NATIVE[0])
    for _ in range(mutator.random.randint(1, 8)):
        if mutator.random.random() < 0.3 and path != "/v1/realtime":
            await socket.send_bytes(SOUND[: mutator.random.choice((1, 640, len(SOUND)))])
            continue
        frame = mutator.json(MESSAGES[path])
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
    await socket.send_json(END[path])
    if path == "/v1/realtime":
        await socket.close()


async def rest(socket: ClientWebSocketResponse) -> list[dict[str, Any]]:
    told = []
    while (message := await socket.receive(timeout=60)).type is WSMsgType.TEXT:
        told.append(json.loads(message.data))
    return told


@pytest.mark.parametrize("path", MESSAGES)
async def test_a_stream_never_ends_with_a_server_error(server: Server, path: str) -> None:
    mutator = Mutator(SEED + list(MESSAGES).index(path))
    for number in range(COUNT):
        about = f"conversation {number} with MYNA_FUZZ_SEED={SEED}"
        pairs = mutator.pairs(QUERIES) if mutator.random.random() < 0.3 else []
        address = "&".join(
            f"{name}={value}" for name, value in [*RAW, *pairs] if value.isprintable() and "&" not in value
        )
        with structlog.testing.capture_logs() as lines:
            try:
                async with connected(server, f"?{address}", path) as peer:
                    with contextlib.suppress(ConnectionError):  # it may be closed amid the conversation
                        await converse(peer.socket, path, mutator)
                    told = await rest(peer.socket)
                    code = peer.socket.close_code
            except WSServerHandshakeError as refused:
                assert 400 <= refused.status < 500, about
                continue
        failures = [line for line in lines if line["log_level"] == "error"]
        assert not failures, (about, failures)
        assert code != 1011, (about, told[-2:])
        if path in FATAL and any(message["type"] == FATAL[path] for message in told):
            assert code not in (1000, 1005), (about, told[-2:])
