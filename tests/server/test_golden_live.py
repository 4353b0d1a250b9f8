"""Plays the written conversations over sockets: a server gives the same answers as `golden.py` without one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType
from golden import FINALS_FIRST, FOLDER, REQUEST_ID, audio
from peer import Peer, connected, metric, until_metric
from sounds import RATE
from speakers import running_fake

from myna.runtime.errors import DialectError
from myna.server.app import Server

TIMED = ("flux_manual", "flux_open_turn", "flux_timeout", "flux_turns", "gap_in_noise")
"""Conversations whose answers depend on the time of an interim decode."""
SCRIPTS = [path for path in sorted(FOLDER.glob("*.txt")) if "\n!" not in path.read_text() and path.stem not in TIMED]
"""Conversations that need no abilities of the engine beyond its defaults."""


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running_fake(lanes=1) as started:  # with two, the results of two channels come in any order
        yield started


def steps(script: str) -> list[tuple[str, list[str]]]:
    """Return the steps of a script: what the client sends, and the answers."""
    found: list[tuple[str, list[str]]] = []
    for line in script.splitlines():
        if line.startswith(">"):
            found.append((line[1:].strip(), []))
        elif line.startswith("<") and found:
            found[-1][1].append(line[1:].strip())
    return found


async def send(server: Server, peer: Peer, what: str, heard_s: float) -> None:
    """Send one step. An error code ends the stream once `heard_s` seconds of audio have been heard."""
    if what.startswith("bytes"):
        await peer.socket.send_bytes(bytes.fromhex(what.removeprefix("bytes")))
    elif what[0] in "0123456789_x":
        data, piece = audio(what), 3200 * (what.count("|") + 1)
        for start in range(0, len(data), piece):
            await peer.socket.send_bytes(data[start : start + piece])
    elif what.startswith(("{", "[")) or not what.replace("_", "").isalpha():
        await peer.socket.send_str(what)
    else:
        (stream,) = server.services.streams.values()
        await until_metric(server, "myna_audio_seconds_total", lambda received_s: received_s >= heard_s - 0.001)
        stream.shut_down(DialectError(what, "as told", finals_first=what in FINALS_FIRST))


def comparable(message: dict[str, Any]) -> dict[str, Any] | None:
    """Return a message without the fields that differ between connections; None: its time depends on the machine."""
    if message.get("is_final") is False or message.get("event") == "Update":
        return None
    told = {name: value for name, value in message.items() if name not in ("request_id", "created", "sequence_id")}
    if "metadata" in told:
        told["metadata"] = {**told["metadata"], "request_id": REQUEST_ID}
    return told


async def next_told(peer: Peer) -> dict[str, Any] | None:
    """Return the next comparable message; None: the server has closed."""
    while (message := await peer.socket.receive(timeout=30)).type is WSMsgType.TEXT:
        if (told := comparable(json.loads(message.data))) is not None:
            return told
    return None


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
async def test_a_server_answers_as_the_golden_file_says(server: Server, path: Path) -> None:
    script = path.read_text()
    address = next(line[1:].strip() for line in script.splitlines() if line.startswith("?"))
    where, _, query = address.rpartition("?")
    async with connected(server, f"?{query}", where or "/v1/listen") as peer:
        heard_s = await metric(server, "myna_audio_seconds_total")
        for what, answers in steps(script):
            await send(server, peer, what, heard_s)
            if what[0] in "0123456789_x":
                heard_s += len(audio(what)) / 2 / RATE
            for answer in answers:
                if answer.startswith("close "):
                    assert await next_told(peer) is None
                    assert peer.socket.close_code == int(answer.split()[1])
                elif (expected := comparable(json.loads(answer))) is not None:
                    assert await next_told(peer) == expected, what
