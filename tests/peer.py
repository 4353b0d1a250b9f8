"""A bare WebSocket client and what server tests share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web
from prometheus_client.parser import text_string_to_metric_families

from myna.clients.local_server import LocalServer
from myna.server.app import Server
from myna.server.settings import Settings
from myna.wire import messages as wire

DATA = tempfile.TemporaryDirectory(prefix="myna-tests-")
RAW = {"type": "start", "encoding": "linear16", "sample_rate": 16_000}


def settings(**changes: Any) -> Settings:
    # Nobody is refused for want of room, unless a test asks for it: what else the machine is doing must not matter.
    usual = {"port": 0, "lanes": 2, "log_level": "error", "data": Path(DATA.name), "final_target_ms": 0}
    return Settings(**{**usual, **changes})


class Peer:
    """A bare WebSocket client: whatever frames a test wants."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send_json(message)

    async def until(self, kind: str) -> dict[str, Any]:
        """Read up to the next message of a type."""
        while True:
            message = await self.socket.receive(timeout=60)
            assert message.type is WSMsgType.TEXT, (message, self.messages[-3:])
            self.messages.append(message.json())
            if self.messages[-1]["type"] == kind:
                return self.messages[-1]

    async def rest(self) -> list[dict[str, Any]]:
        """Read until the server closes."""
        while (message := await self.socket.receive(timeout=60)).type is WSMsgType.TEXT:
            self.messages.append(message.json())
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED), message
        return self.messages

    def drop(self) -> None:
        """Lose the connection: no close frame, no goodbye."""
        connection: Any = self.socket._response.connection
        connection.transport.abort()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def finals(self) -> list[dict[str, Any]]:
        """Deepgram's final results."""
        return [message for message in self.of("Results") if message["is_final"]]

    @property
    def said(self) -> str:
        """The text of Deepgram's final results."""
        texts = [message["channel"]["alternatives"][0]["transcript"] for message in self.finals]
        return " ".join(text for text in texts if text)

    @property
    def text(self) -> str:
        return " ".join(message["text"] for message in self.of("final") if message["text"])


@contextlib.asynccontextmanager
async def connected(
    server: Server | LocalServer, query: str = "", path: str = wire.PATH, **how: Any
) -> AsyncIterator[Peer]:
    async with (
        ClientSession() as session,
        session.ws_connect(server.url + path + query, max_msg_size=0, compress=0, **how) as socket,
    ):
        yield Peer(socket)


@contextlib.asynccontextmanager
async def listening(
    server: Server, query: str = "encoding=linear16&sample_rate=16000", **how: Any
) -> AsyncIterator[Peer]:
    """A client of Deepgram's dialect."""
    async with connected(server, f"?{query}", "/v1/listen", **how) as peer:
        yield peer


async def transcript(server: Server, query: str, audio: bytes, chunk: int = 6400, **how: Any) -> Peer:
    """Send audio and CloseStream; return everything that was answered, the socket being closed."""
    async with listening(server, query, **how) as peer:
        for start in range(0, len(audio), chunk):
            await peer.socket.send_bytes(audio[start : start + chunk])
        await peer.send({"type": "CloseStream"})
        await peer.rest()
        return peer


@contextlib.asynccontextmanager
async def served(app: web.Application, **how: Any) -> AsyncIterator[str]:
    """Serve a client's own application on this machine; yields its address."""
    runner = web.AppRunner(app, **how)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await runner.cleanup()


PATIENCE_S, TURNS = 30.0, 1000
"""How long a test waits for a condition: until the time is over and the loop has had this many turns. A machine that stands
still for half a minute uses up the time, not the turns."""


async def eventually(condition: Callable[[], bool]) -> None:
    """Give other tasks their turns until the condition holds."""
    until, turns = time.monotonic() + PATIENCE_S, 0
    while not condition():
        if time.monotonic() > until and turns >= TURNS:
            raise TimeoutError(f"the condition does not hold after {PATIENCE_S:g} s")
        turns += 1
        await asyncio.sleep(0.005)


async def metric(server: Server, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    async with ClientSession() as session, session.get(server.url + "/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


async def until_metric(server: Server, name: str, holds: Callable[[float], bool]) -> None:
    """Wait until a metric's value is as it should be."""
    async with asyncio.timeout(30):
        while not holds(await metric(server, name)):
            await asyncio.sleep(0.005)


def assert_tiles(finals: list[dict[str, Any]], seconds: float) -> None:
    position, last_start = 0.0, 0.0
    for final in finals:
        assert final["start"] == pytest.approx(position, abs=1e-9)
        position = final["end"]
        for word in final["words"]:
            assert last_start <= word["start"] <= word["end"] <= final["end"] + 1e-3
            last_start = word["start"]
    assert position == pytest.approx(seconds, abs=0.001)
