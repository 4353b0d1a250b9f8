from __future__ import annotations

import asyncio
import os
import signal

import jiwer
import msgpack
import numpy as np
import pytest
from peer import RAW, assert_tiles, connected, eventually, settings
from sounds import BECKETT, RATE, contained, recording

from myna.bench.accuracy import normalised
from myna.clients.blocking import SyncLiveClient
from myna.clients.live import LiveClient, StreamError
from myna.server.app import Server, running
from myna.wire import messages as wire


async def transcribed(
    server: Server, start: wire.StartMessage, data: bytes, chunk: int = 3200, form: wire.Format = wire.Format.JSON
):
    async with LiveClient(start, server.url, form=form) as client:

        async def send() -> None:
            for begin in range(0, len(data), chunk):
                await client.send(data[begin : begin + chunk])
            await client.close()

        sending = asyncio.create_task(send())
        messages = [message async for message in client]
        await sending
    return messages


def finals(messages: list, channel: int = 0) -> list[wire.FinalMessage]:
    return [m for m in messages if isinstance(m, wire.FinalMessage) and m.channel == channel]


def said(messages: list, channel: int = 0) -> str:
    return normalised(" ".join(final.text for final in finals(messages, channel)))


def wrong(messages: list, reference: str, channel: int = 0) -> float:
    return jiwer.wer(normalised(reference), said(messages, channel))


START = wire.StartMessage(encoding="linear16", sample_rate=RATE)


@pytest.fixture(scope="session")
def beckett() -> np.ndarray:
    return recording("beckett")


@pytest.mark.parametrize("form", list(wire.Format))
async def test_real_speech_becomes_words_with_times_and_confidence(
    server: Server, beckett: np.ndarray, form: wire.Format
) -> None:
    messages = await transcribed(server, START, beckett.tobytes(), form=form)
    assert said(messages) == BECKETT
    words = [word for final in finals(messages) for word in final.words]
    assert 0.1 < words[0].start < 0.5
    assert all(0 < word.confidence <= 1 for word in words)
    assert_tiles([final.model_dump() for final in finals(messages)], len(beckett) / RATE)
    kinds = [message.type for message in messages]
    assert kinds[0] == "speech_started"
    assert "utterance_end" in kinds
    assert isinstance(messages[-1], wire.ClosedMessage)
    assert messages[-1].reason == "close"
    assert messages[-1].seconds == pytest.approx(len(beckett) / RATE, abs=0.001)


async def test_the_finals_do_not_depend_on_how_the_audio_is_cut_into_frames(
    server: Server, beckett: np.ndarray
) -> None:
    once = finals(await transcribed(server, START, beckett.tobytes(), chunk=1_000_000))
    assert once == finals(await transcribed(server, START, beckett.tobytes(), chunk=997))


async def test_interim_words_arrive_while_speech_continues(server: Server, beckett: np.ndarray) -> None:
    async with connected(server) as peer:
        await peer.send(RAW)
        await peer.socket.send_bytes(beckett[: round(1.2 * RATE)].tobytes())
        partial = await peer.until("partial")
        assert "ever" in partial["text"].lower()
        assert not peer.of("final")


async def test_without_interims_no_partial_is_sent(server: Server, beckett: np.ndarray) -> None:
    start = wire.StartMessage(encoding="linear16", sample_rate=RATE, interim=False)
    messages = await transcribed(server, start, beckett.tobytes())
    assert not [m for m in messages if isinstance(m, wire.PartialMessage)]
    assert said(messages) == BECKETT


async def test_telephone_audio_is_transcribed(server: Server, beckett: np.ndarray) -> None:
    import av

    narrow = av.AudioResampler(format="s16", layout="mono", rate=8_000)
    frame = av.AudioFrame.from_ndarray(beckett.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = RATE
    low = np.concatenate([f.to_ndarray()[0] for f in [*narrow.resample(frame), *narrow.resample(None)]])
    coded = contained([low], "wav", "pcm_mulaw", rate=8_000)
    mulaw = coded[coded.index(b"data") + 8 :]
    messages = await transcribed(server, wire.StartMessage(encoding="mulaw", sample_rate=8_000), mulaw)
    assert wrong(messages, BECKETT) <= 0.2


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("flac", "flac", RATE),
        ("ogg", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("mp3", "libmp3lame", RATE),
    ],
)
async def test_containers_describe_themselves(
    server: Server, beckett: np.ndarray, container: str, codec: str, rate: int
) -> None:
    data = contained([np.repeat(beckett, rate // RATE)], container, codec, rate=rate)
    assert wrong(await transcribed(server, wire.StartMessage(), data, chunk=1000), BECKETT) <= 0.2


async def test_two_channels_are_transcribed_separately(server: Server, beckett: np.ndarray) -> None:
    cities = recording("two_cities")[: 8 * RATE]
    left = np.concatenate([beckett, np.zeros(RATE, np.int16)])[: 8 * RATE]
    both = np.stack([left, cities], axis=1).tobytes()
    start = wire.StartMessage(encoding="linear16", sample_rate=RATE, channels=2, multichannel=True)
    messages = await transcribed(server, start, both)
    assert BECKETT.startswith(said(messages, 0)[:40])
    assert "it was the best of times" in said(messages, 1)
    for channel in (0, 1):
        assert_tiles([final.model_dump() for final in finals(messages, channel)], 8.0)


async def test_finalize_is_acknowledged_after_its_finals_and_when_there_are_none(
    server: Server, beckett: np.ndarray
) -> None:
    async with connected(server) as peer:
        await peer.send(RAW)
        await peer.send({"type": "finalize", "id": "early"})
        assert (await peer.until("finalized"))["id"] == "early"
        assert not peer.of("final")
        await peer.socket.send_bytes(beckett[:RATE].tobytes())
        await peer.send({"type": "finalize"})
        assert (await peer.until("finalized"))["id"] is None
        (final,) = peer.of("final")
        assert (final["cause"], final["end"]) == ("finalize", 1.0)
        assert "ever" in final["text"].lower()
        await peer.socket.send_bytes(beckett[RATE:].tobytes())
        await peer.send({"type": "close"})
        messages = await peer.rest()
        assert messages[-1]["type"] == "closed"
        assert peer.socket.close_code == 1000
        assert_tiles(peer.of("final"), len(beckett) / RATE)


async def test_ready_states_the_terms_the_stream_runs_on(server: Server) -> None:
    async with connected(server) as peer:
        await peer.send({**RAW, "endpointing_ms": 10, "max_utterance_s": 60, "language": "en-US"})
        ready = await peer.until("ready")
        assert ready["endpointing_ms"] == 100  # the engine's smallest
        assert ready["max_utterance_s"] == pytest.approx(13.7)  # its longest segment, less the audio around a cut
        assert (ready["model"], ready["language"]) == ("moonshine-tiny-en", "en")


async def test_msgpack_frames_carry_maps(server: Server, beckett: np.ndarray) -> None:
    async with connected(server, "?format=msgpack") as peer:
        await peer.socket.send_bytes(msgpack.packb(RAW))
        ready = msgpack.unpackb((await peer.socket.receive(timeout=30)).data)
        assert ready["type"] == "ready"
        await peer.socket.send_bytes(msgpack.packb({"type": "audio", "audio": beckett[:100].tobytes()}))
        await peer.socket.send_bytes(msgpack.packb({"type": "close"}))
        assert msgpack.unpackb((await peer.socket.receive(timeout=30)).data)["type"] == "final"
        assert msgpack.unpackb((await peer.socket.receive(timeout=30)).data)["type"] == "closed"


async def test_the_blocking_client_gives_the_same_result(server: Server, beckett: np.ndarray) -> None:
    def run() -> tuple[str, float]:
        with SyncLiveClient(START, server.url) as client:
            client.send(beckett.tobytes())
            client.keep_alive()
            client.finalize("x")
            client.close()
            heard = list(client)
            assert client.ready is not None
            assert client.closed is not None
            return said(heard), client.closed.seconds

    text, seconds = await asyncio.to_thread(run)
    assert text == BECKETT
    assert seconds == pytest.approx(len(beckett) / RATE, abs=0.001)


async def test_concurrent_streams_do_not_mix(server: Server, beckett: np.ndarray) -> None:
    cities = recording("two_cities")[: 10 * RATE]
    results = await asyncio.gather(
        *[transcribed(server, START, (beckett if i % 2 else cities).tobytes()) for i in range(6)]
    )
    assert {said(r) for r in results[1::2]} == {BECKETT}
    assert len({said(r) for r in results[0::2]}) == 1


async def test_health_names_version_model_and_streams(server: Server) -> None:
    from aiohttp import ClientSession

    async with ClientSession() as session, connected(server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        async with session.get(server.url + "/health") as response:
            body = await response.json()
        assert response.status == 200
        assert (body["status"], body["model"], body["streams"]) == ("ok", "moonshine-tiny-en", 1)


async def test_a_vanished_client_frees_everything_it_held(server: Server, beckett: np.ndarray) -> None:
    async with connected(server) as peer:
        await peer.send(RAW)
        await peer.socket.send_bytes(beckett[: round(1.2 * RATE)].tobytes())
        await peer.until("partial")
        assert len(server.services.streams) == 1
        transport = peer.socket.get_extra_info("socket")
        assert transport is not None
        peer.drop()
        await eventually(lambda: not server.services.streams)
    assert not server.models.pools[0].open_jobs


async def test_a_killed_worker_loses_no_word() -> None:
    cities = recording("two_cities")[: 20 * RATE]
    async with running(settings()) as server:
        uncut = finals(await transcribed(server, START, cities.tobytes()))
        async with LiveClient(START, server.url) as client:
            half = 2 * RATE
            await client.send(cities[:half].tobytes())
            async for message in client:
                if isinstance(message, wire.PartialMessage):
                    break
            pool = server.models.pools[0]
            for pid in pool.pids:
                os.kill(pid, signal.SIGKILL)
            await client.send(cities[half:].tobytes())
            await client.close()
            heard = [message async for message in client]
        assert pool.restarts == 2
        # The loop above has read the finals before the kill: compare the rest.
        assert finals(heard)[-2:] == uncut[-2:]


async def test_an_unreachable_server_is_named(unused_tcp_port: int) -> None:
    with pytest.raises(StreamError, match=str(unused_tcp_port)):
        async with LiveClient(START, f"http://127.0.0.1:{unused_tcp_port}"):
            pass
