from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType
from peer import RAW as NATIVE
from peer import Peer, connected, eventually, listening, settings, transcript
from sounds import BECKETT, RATE, contained, in_noise, recording

from myna.server.app import Server, running

RAW = "encoding=linear16&sample_rate=16000"
WRITTEN = "punctuate=true&filler_words=true"


@pytest.fixture(scope="module")
def beckett() -> np.ndarray:
    return recording("beckett")


async def refusal(server: Server, query: str, status: int = 400, **how: Any) -> str:
    """Send a request that is refused, check the format of the error, and return its message."""
    async with ClientSession() as session, session.get(f"{server.url}/v1/listen?{query}", **how) as response:
        body = await response.json()
        assert (response.status, list(body)) == (status, ["err_code", "err_msg", "request_id"])
        assert response.headers["dg-request-id"] == body["request_id"]
        assert response.headers["dg-error"] == body["err_msg"].encode("ascii", "replace").decode()[:500]
        return str(body["err_msg"])


def words(peer: Peer) -> list[tuple[Any, ...]]:
    return [
        (word["word"], word["punctuated_word"], word["start"], word["end"])
        for final in peer.finals
        for word in final["channel"]["alternatives"][0]["words"]
    ]


def assert_tiles(peer: Peer, seconds: float, channel: int = 0) -> None:
    position = 0.0
    for final in peer.finals:
        if final["channel_index"][0] == channel:
            assert final["start"] == pytest.approx(position, abs=1e-9)
            position = final["start"] + final["duration"]
    assert position == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize("query", ["keyterm=heartily&keyterm=Kowalczyk", "keywords=heartily:2"])
async def test_a_keyterm_brings_out_a_word_live_and_in_a_file(server: Server, query: str) -> None:
    noisy = in_noise(recording("endgame_nagg_nell")[: 8 * RATE], 8).tobytes()

    async def live(asked: str) -> str:
        peer = await transcript(server, asked, noisy)
        return " ".join(final["channel"]["alternatives"][0]["transcript"] for final in peer.finals)

    async def file(asked: str) -> str:
        url = f"{server.url}/v1/listen?{asked}"
        async with ClientSession() as session, session.post(url, data=noisy) as response:
            return str((await response.json())["results"]["channels"][0]["alternatives"][0]["transcript"])

    for heard in (live, file):
        assert "heartily" not in await heard(RAW)
        assert "heartily" in await heard(f"{RAW}&{query}")


@pytest.mark.parametrize("endpointing_ms", [100, 300, 800])
async def test_finals_are_those_of_the_native_protocol(server: Server, endpointing_ms: int) -> None:
    audio = recording("two_cities")[: 30 * RATE]
    async with connected(server) as native:
        await native.send({**NATIVE, "endpointing_ms": endpointing_ms, "interim": False})
        await native.socket.send_bytes(audio.tobytes())
        await native.send({"type": "close"})
        await native.rest()
    expected = [
        (word["word"], word["punctuated_word"], word["start"], word["end"])
        for final in native.of("final")
        for word in final["words"]
    ]
    peer = await transcript(server, f"{RAW}&{WRITTEN}&endpointing={endpointing_ms}", audio.tobytes())
    assert words(peer) == expected
    assert len(expected) > 50
    assert_tiles(peer, 30.0)


async def test_the_end_is_one_metadata_last_and_close_1000(server: Server, beckett: np.ndarray) -> None:
    peer = await transcript(server, f"{RAW}&interim_results=true", beckett.tobytes())
    (metadata,) = peer.of("Metadata")
    assert peer.messages[-1] == metadata
    assert metadata["sha256"] == hashlib.sha256(beckett.tobytes()).hexdigest()
    assert metadata["duration"] == pytest.approx(len(beckett) / RATE, abs=0.001)
    assert metadata["channels"] == 1
    assert peer.socket.close_code == 1000
    assert peer.said == BECKETT
    assert {message["metadata"]["request_id"] for message in peer.of("Results")} == {metadata["request_id"]}
    assert_tiles(peer, len(beckett) / RATE)


async def test_the_request_id_stands_in_the_handshake_and_in_every_message(server: Server) -> None:
    async with listening(server) as peer:
        named = peer.socket._response.headers["dg-request-id"]
        await peer.send({"type": "Finalize"})
        assert (await peer.until("Results"))["metadata"]["request_id"] == named


async def test_results_name_the_model_that_decoded_them(server: Server) -> None:
    for model in (
        "nova-3",
        "nova-2-phonecall",
        "base",
        "whisper-large",
        "moonshine-tiny-en",
        "nova-3-general",
        "enhanced",
    ):
        async with listening(server, f"model={model}&{RAW}") as peer:
            await peer.send({"type": "Finalize"})
            metadata = (await peer.until("Results"))["metadata"]
        assert metadata["model_info"] == {"name": "moonshine-tiny-en", "version": "0.1.0", "arch": "moonshine"}
        address = f"{server.url}/v1/models/{metadata['model_uuid']}"
        async with ClientSession() as session, session.get(address) as response:
            assert (await response.json())["name"] == "moonshine-tiny-en"


async def test_an_alias_takes_precedence_over_a_public_model_name() -> None:
    changes = {"model": "fake", "aliases": {"nova-3": "moonshine-tiny-en"}}
    async with running(settings(**changes)) as started:
        for asked, served in (("nova-3", "moonshine-tiny-en"), ("nova-2", "fake")):
            async with listening(started, f"model={asked}&{RAW}") as peer:
                await peer.send({"type": "Finalize"})
                assert (await peer.until("Results"))["metadata"]["model_info"]["name"] == served


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [("wav", "pcm_s16le", RATE), ("webm", "libopus", 48_000), ("mp3", "libmp3lame", RATE), ("flac", "flac", RATE)],
)
async def test_without_encoding_the_audio_is_a_container(
    server: Server, beckett: np.ndarray, container: str, codec: str, rate: int
) -> None:
    audio = beckett if rate == RATE else np.repeat(beckett, 3)
    data = contained([audio], container, codec, rate=rate)
    # sample_rate and channels are only read with an encoding
    peer = await transcript(server, "model=nova-3&sample_rate=8000&channels=2", data)
    assert peer.said == BECKETT


@pytest.mark.parametrize(("encoding", "container", "codec"), [
    ("flac", "flac", "flac"), ("ogg-opus", "ogg", "libopus"), ("opus", "ogg", "libopus"),
    ("amr-nb", "amr", "libopencore_amrnb"),
])  # fmt: skip
async def test_compressed_encodings_are_decoded(
    server: Server, beckett: np.ndarray, encoding: str, container: str, codec: str
) -> None:
    rate = {"amr": 8000, "ogg": 48_000}.get(container, RATE)
    audio = {8000: beckett[::2], 48_000: np.repeat(beckett, 3)}.get(rate, beckett)
    peer = await transcript(server, f"encoding={encoding}", contained([audio], container, codec, rate=rate))
    assert "again" in peer.said
    assert peer.of("Metadata")[0]["duration"] == pytest.approx(len(beckett) / RATE, abs=0.1)


async def test_linear32_is_floating_point(server: Server, beckett: np.ndarray) -> None:
    audio = (beckett / 32768).astype("<f4").tobytes()
    assert (await transcript(server, "encoding=linear32&sample_rate=16000", audio)).said == BECKETT


async def test_two_channels_are_transcribed_separately_and_each_is_finalized(
    server: Server, beckett: np.ndarray
) -> None:
    silent = np.zeros_like(beckett)
    audio = np.stack([silent, beckett], axis=1).tobytes()
    async with listening(server, f"{RAW}&channels=2&multichannel=true") as peer:
        await peer.socket.send_bytes(audio)
        await peer.send({"type": "Finalize"})
        await peer.send({"type": "CloseStream"})
        await peer.rest()
    assert [m["channel_index"] for m in peer.finals if m["from_finalize"]] in ([[0, 2], [1, 2]], [[1, 2], [0, 2]])
    heard = {m["channel_index"][0] for m in peer.finals if m["channel"]["alternatives"][0]["transcript"]}
    assert heard == {1}
    assert peer.said == BECKETT
    assert peer.of("Metadata")[0]["channels"] == 2
    for channel in (0, 1):
        assert_tiles(peer, len(beckett) / RATE, channel)


async def test_a_pause_with_keepalives_loses_neither_the_stream_nor_a_word(
    strict_server: Server, beckett: np.ndarray
) -> None:
    async with listening(strict_server) as peer:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 2:  # well over its patience of 0.8 s
            await peer.send({"type": "KeepAlive"})
            with pytest.raises(TimeoutError):
                await peer.socket.receive(timeout=0.2)
        await peer.send({"type": "CloseStream"})
        await peer.rest()
        assert peer.socket.close_code == 1000
        assert [message["type"] for message in peer.messages] == ["Metadata"]


async def test_a_silent_client_is_closed_with_net_0001(strict_server: Server) -> None:
    async with listening(strict_server) as peer:
        await peer.socket.send_bytes(bytes(32_000))
        close = None
        while close is None:
            message = await peer.socket.receive(timeout=30)
            if message.type is WSMsgType.CLOSE:
                close = message
            else:
                peer.messages.append(message.json())
    assert (close.data, "net0001" in close.extra) == (1011, True)
    assert peer.messages[-1]["type"] == "Metadata"
    assert peer.messages[-1]["duration"] == 1.0


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("model=parrot-9", "parrot-9"),
        ("language=fi", "language 'fi'"),
        ("language=multi", "one language"),
        (f"{RAW}&keywords=Myna:loud", "Myna:loud"),
        (f"{RAW}&keywords=Myna:-3", "boost must not be negative"),
        ("encoding=linear16", "sample_rate"),
        ("encoding=linear16&sample_rate=fast", "fast"),
        ("encoding=linear16&sample_rate=96000", "96000"),
        ("encoding=speex&sample_rate=16000", "speex"),
        ("encoding=LINEAR16&sample_rate=16000", "linear16"),
        (f"{RAW}&channels=21", "21 channels"),
        (f"{RAW}&channels=-1", "channels"),
        (f"{RAW}&channels=two", "two"),
        ("diarize=perhaps", "diarize must be true or false"),
        ("diarize=true&diarize_model=v1", "cannot be combined"),
        ("diarize_model=v2", "v1 or latest"),
        ("diarize_model=v3", "'v3'"),
        ("detect_entities=true", "detect_entities"),
        ("redact=phi", "phi"),
        ("punctuate=maybe", "punctuate must be true or false"),
        ("interim_results=2", "interim_results"),
        ("endpointing=soon", "endpointing"),
        ("endpointing=-10", "endpointing"),
        ("endpointing=10001", "endpointing"),
        ("utterance_end_ms=1e3", "utterance_end_ms"),
        ("replace=:x", "FIND:REPLACEMENT"),
        ("callback=ftp://example.com", "http"),
        ("callback=http://127.0.0.1:9/", "not a public address"),
        ("callback=http://[::ffff:169.254.169.254]/", "not a public address"),
        ("callback_method=PATCH&callback=http://example.com", "PATCH"),
        ("model=nova-3&model=nova-2", "2 times"),
        ("punctuate=true&punctuate=false", "2 times"),
        ("language=" + "e" * 10_000, "not 10000"),
        ("search=" + "e" * 10_000, "not 10000"),
        ("model=" + "é" * 1000, "unknown model"),
        ("sample_rate=" + "9" * 1000 + "&encoding=linear16", "sample_rate"),
        ("&".join(f"keyterm=t{i}" for i in range(101)), "not 101"),
    ],
)
async def test_invalid_parameters_are_refused_before_the_upgrade(server: Server, query: str, said: str) -> None:
    assert said in await refusal(server, query)


@pytest.mark.parametrize(
    "query",
    [
        "model=nova-3&model=nova-3",
        "tag=a&tag=b&extra=key:value&version=latest&mip_opt_out=true&no_delay=true",
        "never_heard_of=" + "x" * 10_000,
        "diarize=true",
        "diarize_model=latest",
        "diarize=false&detect_entities=False&dictation=0&numerals=1&punctuate=True&channels=1&multichannel=false",
        "endpointing=false",
        "endpointing=0",
        "endpointing=true",
        "endpointing=25",
        "utterance_end_ms=1000&vad_events=true",
        "language=en-US",
        "language=en_GB",
        "redact=false",
        "keyterm=",
        "callback=https://example.com/hook&callback_method=put",
    ],
)
async def test_parameters_that_deepgram_accepts_are_accepted(strict_server: Server, query: str) -> None:
    async with listening(strict_server, f"{RAW}&{query}") as peer:
        await peer.send({"type": "CloseStream"})
        messages = await peer.rest()
        assert peer.socket.close_code == 1000
    assert [message["type"] for message in messages] in (["Metadata"], [])  # to a callback nothing comes back


async def test_a_request_without_an_upgrade_is_refused_in_deepgrams_format(server: Server) -> None:
    assert "WebSocket" in await refusal(server, RAW, 426)


async def test_undecodable_bytes_end_only_their_stream_with_data_0000(strict_server: Server) -> None:
    async with listening(strict_server, "model=nova-3") as bad, listening(strict_server) as good:
        await bad.socket.send_bytes(np.random.default_rng(3).bytes(40_000))
        closed = await asyncio.wait_for(_close_of(bad), 30)
        assert (closed.data, closed.extra) == (1008, "DATA-0000")
        assert [message["type"] for message in bad.messages] == ["Metadata"]
        await good.send({"type": "CloseStream"})
        await good.rest()
        assert good.socket.close_code == 1000


async def _close_of(peer: Peer) -> Any:
    while (message := await peer.socket.receive(timeout=30)).type is WSMsgType.TEXT:
        peer.messages.append(message.json())
    return message


@pytest.mark.parametrize(
    "frames",
    [
        [b"\x00"],
        [b"\x00" * 3, b"\x01" * 5],
        [b'{"type": "KeepAlive"}'],
        [b""],
        [json.dumps({"type": "CloseStream"}), b"\x00" * 1000, json.dumps({"type": "KeepAlive"}), b"\x00"],
        ["[" * 100_000],
        ["x" * 60_000],
        ['{"type": null}', '"KeepAlive"', "7", "null", '{"type": {"type": "KeepAlive"}}'],
    ],
)
async def test_invalid_frames_get_only_the_documented_answer(strict_server: Server, frames: list[str | bytes]) -> None:
    async with listening(strict_server) as peer:
        for frame in frames:
            if isinstance(frame, str):
                await peer.socket.send_str(frame[:65_000])
            else:
                await peer.socket.send_bytes(frame)
        await peer.send({"type": "CloseStream"})
        messages = await peer.rest()
        assert peer.socket.close_code == 1000
    assert {message["type"] for message in messages} <= {"Results", "Metadata", "Error"}
    assert all(message["variant"] == "SchemaError" for message in peer.of("Error"))
    texts = [
        frame for frame in frames if isinstance(frame, str) and "CloseStream" not in frame and "KeepAlive" not in frame
    ]
    assert len(peer.of("Error")) >= len(texts)
    assert messages[-1]["type"] == "Metadata"
    await eventually(lambda: not strict_server.services.streams)


async def test_a_frame_over_the_limit_closes_with_1009(strict_server: Server) -> None:
    async with listening(strict_server) as peer:
        await peer.socket.send_bytes(bytes(32_000))
        await peer.socket.send_bytes(bytes(70_000))
        closed = await _close_of(peer)
        assert closed.data == 1009
        (metadata,) = peer.messages
        assert (metadata["type"], metadata["duration"], metadata["channels"]) == ("Metadata", 1.0, 1)


async def test_twenty_clients_in_a_row_leave_no_stream(strict_server: Server) -> None:
    for number in range(20):
        async with listening(strict_server) as peer:
            await peer.socket.send_bytes(bytes(3200))
            if number % 2:
                await peer.send({"type": "CloseStream"})
                await peer.rest()
    await eventually(lambda: not strict_server.services.streams)


async def test_words_are_formatted_as_requested(server: Server, beckett: np.ndarray) -> None:
    query = f"{RAW}&smart_format=true&replace=tried:attempted&replace=matter&search=fail%20again&endpointing=500"
    peer = await transcript(server, query, beckett.tobytes())
    assert peer.said == "Ever attempted. Ever failed. No Try again. Fail again. Fail better."
    hits = [hit for final in peer.finals for hit in final["channel"]["search"][0]["hits"]]
    assert max(hit["confidence"] for hit in hits) == 1.0
    plain = await transcript(server, f"{RAW}&endpointing=500", beckett.tobytes())
    assert plain.said == BECKETT
    assert not any("punctuated_word" in word for f in plain.finals for word in f["channel"]["alternatives"][0]["words"])
