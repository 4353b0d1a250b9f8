"""Clients that lose their connection and come back to their stream."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError
from line import Line
from peer import RAW, Peer, connected, eventually, until_metric
from sounds import RATE, recording
from speakers import START, Speaker, names, phrases, running_fake

from myna.clients.live import LiveClient, StreamError
from myna.server.app import Server
from myna.server.websocket import client_socket
from myna.wire import messages as wire


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[Server]:
    async with running_fake(resume_s=5.0) as server:
        yield server


async def test_a_client_that_is_disconnected_repeatedly_gets_the_full_transcript(fake: Server) -> None:
    codes = list(range(80))
    async with Speaker(fake) as uncut:
        await uncut.say(phrases(codes))
        await uncut.done()
    line = Line(fake)
    async with line as url, Speaker(url) as cut:
        audio = phrases(codes)
        for number in range(12):
            await cut.say(audio[len(audio) * number // 12 // 2 * 2 : len(audio) * (number + 1) // 12 // 2 * 2])
            known = line.connections
            line.cut()
            await eventually(lambda known=known: line.connections > known)  # type: ignore[misc]
        await cut.done()
    assert cut.words == uncut.words == names(codes)
    assert isinstance(cut.messages[-1], wire.ClosedMessage)


async def test_a_connection_lost_in_the_middle_of_a_word_does_not_change_the_transcript(server: Server) -> None:
    cities = recording("two_cities")[: 14 * RATE].tobytes()
    heard = []
    for at in (None, 2 * 5 * RATE + 2000):
        line = Line(server)
        async with line as url, Speaker(url) as speaker:
            await speaker.say(cities[:at] if at else cities)
            if at:
                line.open = False
                line.cut()
                saying = asyncio.create_task(speaker.say(cities[at:]))
                await asyncio.sleep(0.3)  # the network is interrupted
                line.open = True
                await saying
            await speaker.done()
            heard.append([(final.start, final.end, final.words) for final in speaker.finals])
    assert heard[0] == heard[1]


async def test_audio_and_times_continue_after_a_reconnect(fake: Server) -> None:
    async with connected(fake) as peer:
        await peer.send({**RAW, "resume": True, "interim": False})
        ready = await peer.until("ready")
        assert ready["resume_within_s"] == 5.0
        for part in halves(phrases([1, 2, 3])):
            await peer.socket.send_bytes(part)
        final = await peer.until("final")
        peer.drop()
    async with connected(fake, f"?resume={ready['resume']}&after={final['number']}") as peer:
        again = await peer.until("ready")
        assert again["received"] == 3
        assert (again["stream"], again["resume"]) == (ready["stream"], ready["resume"])
        await peer.socket.send_bytes(phrases([4, 5]))
        await peer.send({"type": "close"})
        rest = await peer.rest()
    finals = [message for message in rest if message["type"] == "final"]
    assert [word["word"] for message in finals for word in message["words"]] == ["w4", "w5"]
    assert finals[0]["start"] == final["end"]
    assert peer.of("closed")[0]["seconds"] == pytest.approx((len(phrases([1, 2, 3])) + len(phrases([4, 5]))) / 32_000)


async def test_only_messages_that_did_not_arrive_are_sent_again(fake: Server) -> None:
    async with connected(fake) as peer:
        await peer.send({**RAW, "resume": True, "interim": False})
        ready = await peer.until("ready")
        await peer.socket.send_bytes(phrases([1, 2, 3, 4, 5, 6, 7, 8]))
        for _ in range(2):
            last = await peer.until("final")
        peer.drop()
    number = next(message["number"] for message in peer.messages if message["type"] == "final")
    assert number < last["number"]
    async with connected(fake, f"?resume={ready['resume']}&after={number}") as peer:
        await peer.send({"type": "close"})
        rest = await peer.rest()
    assert rest[0]["type"] == "ready"
    numbers = [message["number"] for message in rest[1:]]
    assert numbers == sorted(numbers)
    assert number < numbers[0] <= last["number"]
    assert [m["text"] for m in rest if m["type"] == "final" and m["text"]] == ["w5 w6 w7 w8"]


async def test_the_end_is_sent_again_to_a_client_that_lost_its_connection_before_it(fake: Server) -> None:
    line = Line(fake)
    async with line as url, Speaker(url) as speaker:
        await speaker.say(phrases([1, 2]))
        line.open = False
        closing = asyncio.create_task(speaker.client.close())
        line.cut()
        await asyncio.sleep(0.1)
        line.open = True
        await closing
        await speaker.over()
    assert speaker.words == names([1, 2])


async def test_a_client_may_come_back_before_the_server_notices_its_broken_connection(fake: Server) -> None:
    async with connected(fake) as old:
        await old.send({**RAW, "resume": True, "interim": False})
        ready = await old.until("ready")
        await old.socket.send_bytes(phrases([1, 2]))
        await old.until("final")
        async with connected(fake, f"?resume={ready['resume']}&after=0") as new:
            await new.send({"type": "close"})
            await new.rest()
    assert [m["text"] for m in new.of("final") if m["text"]] == ["w1 w2"]


async def test_a_stream_whose_client_does_not_come_back_ends_and_frees_everything() -> None:
    async with running_fake(resume_s=0.1) as server:
        async with connected(server) as peer:
            await peer.send({**RAW, "resume": True})
            ready = await peer.until("ready")
            peer.drop()
        await eventually(lambda: not server.services.streams)
        assert not server.services.resumable
        with pytest.raises(WSServerHandshakeError) as refused:
            async with connected(server, f"?resume={ready['resume']}&after=0"):
                pass
        assert refused.value.status == 404
        assert server.models.pools[0].capacity.streams == 0


@pytest.mark.parametrize(
    ("query", "status"), [("resume=nothing", 404), ("resume=x&after=-1", 400), ("resume=x&after=z", 400)]
)
async def test_an_invalid_resumption_is_refused(fake: Server, query: str, status: int) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        async with connected(fake, f"?{query}"):
            pass
    assert refused.value.status == status


async def test_a_stream_does_not_wait_for_a_client_that_closed_normally(fake: Server) -> None:
    async with connected(fake) as peer:
        await peer.send({**RAW, "resume": True})
        await peer.until("ready")
        await peer.socket.close()
    await eventually(lambda: not fake.services.streams)


async def test_a_client_without_resumption_reports_the_lost_connection(fake: Server) -> None:
    line = Line(fake)
    async with line as url:
        client = LiveClient(START, url, resume=False)
        async with client:
            line.cut()
            with pytest.raises(StreamError) as lost:
                async for _ in client:
                    pass
            assert lost.value.code == "disconnected"


async def test_the_client_reports_a_server_that_stays_unreachable() -> None:
    async with running_fake(resume_s=0.5) as server:
        line = Line(server)
        async with line as url, Speaker(url) as speaker:
            line.open = False
            line.cut()
            with pytest.raises(StreamError, match="lost") as lost:
                await speaker.over()
            assert lost.value.code == "disconnected"


def halves(data: bytes) -> list[bytes]:
    middle = len(data) // 4 * 2
    return [data[:middle], data[middle:]]


async def reset(peer: Peer) -> None:
    peer.drop()


async def ended_without_a_close_frame(peer: Peer) -> None:
    transport(peer).close()


async def reset_with_pings_unanswered(peer: Peer) -> None:
    for _ in range(3):
        await peer.socket.ping()
    peer.drop()


async def ended_with_pings_unanswered(peer: Peer) -> None:
    for _ in range(3):
        await peer.socket.ping()
    transport(peer).close()


async def broken_frame(peer: Peer) -> None:
    transport(peer).write(b"\xff\xff\xff\xff")


async def silent(peer: Peer) -> None:
    """Answer no ping, so that the server drops the connection."""


BREAKS = [
    reset,
    ended_without_a_close_frame,
    reset_with_pings_unanswered,
    ended_with_pings_unanswered,
    broken_frame,
    silent,
]


@pytest.mark.parametrize("over", [False, True], ids=["while it speaks", "while last finals are awaited"])
@pytest.mark.parametrize("broken", BREAKS)
async def test_however_a_connection_breaks_the_stream_waits_for_its_client(
    broken: Callable[[Peer], Awaitable[None]], over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken is silent:
        monkeypatch.setattr(client_socket, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(client_socket, "CLOSE_TIMEOUT_S", 0.2)
    async with running_fake(resume_s=20.0) as server, connected(server, autoping=False) as peer:
        await peer.send({**RAW, "resume": True, "interim": False})
        ready = await peer.until("ready")
        if over:
            for pid in server.models.pools[0].pids:
                os.kill(pid, signal.SIGSTOP)
        await peer.socket.send_bytes(phrases([1, 2]))
        if over:
            await peer.send({"type": "close"})
            await until_metric(server, "myna_lanes_busy", lambda busy: busy > 0)
        await broken(peer)
        await until_metric(server, "myna_streams_away", lambda away: away == 1)
        for pid in server.models.pools[0].pids:
            os.kill(pid, signal.SIGCONT)
        async with connected(server, f"?resume={ready['resume']}&after=0") as again:
            if not over:
                await again.send({"type": "close"})
            await again.rest()
        assert again.text == "w1 w2"
        assert again.messages[-1]["type"] == "closed"


def transport(peer: Peer) -> asyncio.Transport:
    found: Any = peer.socket._response.connection
    return found.transport  # type: ignore[no-any-return]
