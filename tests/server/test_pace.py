"""Clients that send too fast, too slowly or nothing, and pings, which are always answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import ClientSession, TCPConnector
from peer import RAW, connected, eventually, listening, metric, until_metric
from speakers import Speaker, names, phrases, running_fake
from websockets.asyncio.client import connect

from myna.clients.live import StreamError, stream_url
from myna.inference.engines.fake.engine import silence, spoken
from myna.server.app import Server
from myna.server.websocket import feeder
from myna.streaming.session.jobs import InferenceJob
from myna.wire import messages as wire


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[Server]:
    async with running_fake() as server:
        yield server


class Brake:
    """Holds the engine's jobs back until `let_go`."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = server.models.pools[0]
        self._held: list[tuple[InferenceJob, object]] = []
        self._submit = pool.submit
        monkeypatch.setattr(pool, "submit", lambda job, on_result: self._held.append((job, on_result)))

    def let_go(self) -> None:
        held, self._held = self._held, []
        for job, on_result in held:
            self._submit(job, on_result)  # type: ignore[arg-type]


async def test_audio_sent_faster_than_it_is_decoded_waits_in_the_spool_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeder, "LONGEST_HALT_S", 0.05)
    codes = list(range(200))
    async with running_fake(max_backlog_s=5) as server:
        brake = Brake(server, monkeypatch)
        async with Speaker(server) as speaker:
            saying = asyncio.create_task(speaker.say(phrases(codes)))
            await until_metric(server, "myna_spool_bytes", lambda size: size > 0)
            assert await metric(server, "myna_backlog_seconds") < 20
            ending = asyncio.create_task(speaker.done())
            while not ending.done():
                brake.let_go()
                await asyncio.sleep(0)
            await saying
        assert speaker.words == names(codes)


async def test_a_stream_whose_spool_is_full_ends_after_its_finals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder, "LONGEST_HALT_S", 0.01)
    async with running_fake(max_backlog_s=5, spool_mb=1) as server:
        brake = Brake(server, monkeypatch)
        async with Speaker(server, resume=False) as speaker, Speaker(server) as other:

            async def flood() -> None:
                while True:
                    await speaker.say(phrases(list(range(40))))

            flooding = asyncio.create_task(flood())
            over = asyncio.create_task(speaker.over())
            while not over.done():
                brake.let_go()
                await asyncio.sleep(0.001)
            with pytest.raises(StreamError) as told:
                await over
            await asyncio.wait([flooding])
            assert isinstance(flooding.exception(), StreamError)
            assert told.value.code == "overloaded"
            assert "more slowly" in str(told.value)
            assert speaker.words[:40] == names(list(range(40)))
            saying = asyncio.create_task(other.say(phrases([7])))
            ending = asyncio.create_task(other.done())
            while not ending.done():
                brake.let_go()
                await asyncio.sleep(0)
            await saying
            assert other.words == names([7])


async def test_pings_are_answered_during_the_last_finals_and_while_audio_is_spooled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeder, "LONGEST_HALT_S", 0.05)
    async with running_fake(max_backlog_s=5) as server:
        brake = Brake(server, monkeypatch)
        async with connect(stream_url(server.url, wire.Format.JSON)) as socket:
            await socket.send(
                wire.encode(wire.StartMessage(encoding="linear16", sample_rate=16_000, interim=False), wire.Format.JSON)
            )
            await socket.recv()
            for _ in range(20):
                await socket.send(phrases(list(range(20))))
            async with asyncio.timeout(20):
                await (await socket.ping())
                await socket.send(wire.encode(wire.CloseMessage(), wire.Format.JSON))
                await (await socket.ping())
            reading = asyncio.create_task(anext(message async for message in socket if "closed" in str(message)))
            while not reading.done():
                brake.let_go()
                await asyncio.sleep(0)
            assert '"reason":"close"' in str(reading.result())


async def test_a_connected_client_that_sends_no_audio_gets_its_last_words(
    fake: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("myna.server.websocket.silence.STALL_S", -0.4)
    async with listening(
        fake, "encoding=linear16&sample_rate=16000&utterance_end_ms=1000&interim_results=true"
    ) as peer:
        await peer.socket.send_bytes(np.concatenate([silence(0.3), spoken(1), spoken(2)]).tobytes())
        await peer.send({"type": "KeepAlive"})
        end = await peer.until("UtteranceEnd")
        assert peer.said == "w1 w2"
        assert peer.finals[-1]["speech_final"]
        assert end["last_word_end"] == pytest.approx(0.9, abs=0.05)
        await peer.socket.send_bytes(np.concatenate([spoken(3), silence(1)]).tobytes())
        await peer.send({"type": "CloseStream"})
        await peer.rest()
        assert peer.said == "w1 w2 w3"


async def test_a_silence_produces_one_final(fake: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myna.server.websocket.silence.STALL_S", -0.49)
    async with connected(fake) as peer:
        await peer.send({**RAW, "interim": False})
        await peer.socket.send_bytes(np.concatenate([silence(0.3), spoken(1)]).tobytes())
        await peer.until("utterance_end")
        for _ in range(5):
            await peer.send({"type": "keepalive"})
            await asyncio.sleep(0.02)
        await peer.send({"type": "close"})
        await peer.rest()
        assert len(peer.of("final")) == 1
        assert len(peer.of("utterance_end")) == 1


async def test_hundreds_of_silent_sockets_do_not_delay_other_streams() -> None:
    connector = TCPConnector(limit=0)
    async with running_fake(final_target_ms=0) as server, ClientSession(connector=connector) as session:
        sockets = await asyncio.gather(*(session.ws_connect(server.url + wire.PATH) for _ in range(300)))
        async with Speaker(server) as speaker:
            await speaker.say(phrases(list(range(12))))
            await speaker.done()
        await asyncio.gather(*(socket.close() for socket in sockets))
        await eventually(lambda: not server.services.streams)
    assert speaker.words == names(list(range(12)))
