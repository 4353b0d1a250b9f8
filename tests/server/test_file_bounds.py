"""Limits on files: their number and size, the time they block the event loop, their order, the numbers in answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock
from wave import open as wave_file

import pytest
from aiohttp import ClientSession, FormData, web
from cost import Turns
from peer import eventually
from sounds import contained
from speakers import phrases, running_fake

from myna.batch import fairness, pace
from myna.batch.json_pieces import json_pieces
from myna.batch.transcriber import Transcriber
from myna.batch.transcript import Channel, FileTranscript, Segment
from myna.inference.engines.fake.engine import silence
from myna.server.app import Server
from myna.server.keys import Scope, add_key
from myna.streaming.events import Word

RAW = "/v1/listen?encoding=linear16&sample_rate=16000"
FORM = "/v1/audio/transcriptions"
SHORT = phrases([1, 2])


async def post(server: Server, path: str, data: Any = SHORT, **how: Any) -> tuple[int, Any, dict[str, str]]:
    async with ClientSession() as session:
        body = BytesIO(data) if isinstance(data, bytes) else data
        async with session.post(server.url + path, data=body, **how) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else text, dict(response.headers)


def form(data: bytes = b"", **fields: str) -> FormData:
    made = FormData(fields)
    made.add_field("file", BytesIO(data or contained([silence(1)], "wav", "pcm_s16le")), filename="a.wav")
    return made


async def slow_body(gate: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"\0" * 1000
    await gate.wait()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Keep temporary files in a folder of the test."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path / "tmp")
    yield tmp_path / "tmp"
    tempfile.tempdir = before


# Who goes first


async def test_a_short_file_does_not_wait_for_the_long_ones_of_another_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "SLICE_S", 0.0)
    keys = tmp_path / "keys.toml"
    one, other = ({"Authorization": f"Token {add_key(keys, name, frozenset(Scope))}"} for name in ("one", "other"))
    long = silence(1200).tobytes()
    async with running_fake(data=tmp_path, keys=keys, files_at_once=2) as server:
        begun = [asyncio.create_task(post(server, RAW, long, headers=one)) for _ in range(3)]
        await eventually(lambda: server.transcriber.active == 2)
        status, body, _ = await post(server, RAW, headers=other)
        assert status == 200
        assert body["results"]["channels"][0]["alternatives"][0]["transcript"] == "w1 w2"
        assert not any(task.done() for task in begun)
        for task in begun:  # an interrupted task loses nothing
            status, body, _ = await task
            assert (status, body["metadata"]["duration"]) == (200, 1200.0)


# How many and how large


async def test_the_number_of_files_is_limited_in_all_and_for_each_client(tmp_path: Path, elsewhere: Path) -> None:
    elsewhere.mkdir()
    keys = tmp_path / "keys.toml"
    names = ("one", "two", "three")
    shown = {n: {"Authorization": f"Bearer {add_key(keys, n, frozenset(Scope))}"} for n in names}
    async with running_fake(data=tmp_path, keys=keys, max_files=4) as server:
        gate = asyncio.Event()
        held = [
            asyncio.create_task(post(server, RAW, slow_body(gate), headers=shown[name]))
            for name in ("one", "one", "two", "two")
        ]
        await eventually(lambda: len(list(elsewhere.glob("*/upload-*"))) == 4)
        for name, said in (
            ("one", "A client may have 2 unfinished files"),
            ("three", "The server is at its limit of 4 unfinished files"),
        ):
            status, body, headers = await post(server, RAW, headers=shown[name])
            assert (status, said in body["err_msg"]) == (429, True), body
            assert int(headers["Retry-After"]) > 0
            status, body, headers = await post(server, FORM, form(), headers=shown[name])
            assert (status, body["error"]["type"]) == (429, "rate_limit_error")
            assert int(headers["Retry-After"]) > 0
        gate.set()
        assert [(await task)[0] for task in held] == [200] * 4
        assert (await post(server, RAW, headers=shown["three"]))[0] == 200


async def test_the_number_of_unfinished_jobs_is_limited(tmp_path: Path) -> None:
    listener = await asyncio.start_server(lambda *_: asyncio.sleep(3600), "127.0.0.1", 0)
    callback = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    async with running_fake(data=tmp_path, max_jobs=8, allowed_networks=["127.0.0.0/8"]) as server:
        for _ in range(4):
            assert (await post(server, f"{RAW}&callback={callback}"))[0] == 200
        status, body, headers = await post(server, f"{RAW}&callback={callback}")
        assert (status, body["err_code"]) == (429, "TOO_MANY_REQUESTS")
        assert "A client may have 4 unfinished jobs" in body["err_msg"]
        assert int(headers["Retry-After"]) > 0
    listener.close()


@pytest.mark.parametrize("callback", ["", "&callback=http://127.0.0.1:9/"])
async def test_requests_are_refused_below_the_minimum_of_free_space(tmp_path: Path, callback: str) -> None:
    free_mb = shutil.disk_usage(tempfile.gettempdir()).free >> 20
    changes = {"data": tmp_path, "min_free_mb": 2 * free_mb + 1024, "allowed_networks": ["127.0.0.0/8"]}
    async with running_fake(**changes) as server:
        status, body, headers = await post(server, RAW + callback)
        assert (status, body["err_code"]) == (507, "INSUFFICIENT_STORAGE")
        assert int(headers["Retry-After"]) > 0
        status, body, _ = await post(server, FORM, form())
        assert (status, body["error"]["type"], body["error"]["code"]) == (507, "server_error", "insufficient_storage")
        assert server.jobs.unfinished() == 0


async def test_free_space_is_checked_during_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = mock.Mock(side_effect=[mock.Mock(free=1 << 40)] * 2 + [mock.Mock(free=0)] * 10)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    async with running_fake(data=tmp_path) as server:
        status, body, _ = await post(server, RAW, bytes(40 << 20))
        assert (status, body["err_code"]) == (507, "INSUFFICIENT_STORAGE")


async def test_the_storage_of_files_is_limited_in_all_and_for_each_client(tmp_path: Path) -> None:
    async with running_fake(data=tmp_path, max_stored_mb=8) as server:
        status, body, _ = await post(server, RAW, bytes(6 << 20))
        assert (status, body["err_msg"]) == (507, "This client's files are at their limit of storage.")
        assert (await post(server, RAW, bytes(3 << 20)))[0] == 200
        assert (await post(server, RAW, bytes(3 << 20)))[0] == 200  # the first no longer counts


async def test_a_folder_that_cannot_be_written_gives_an_error_in_each_format(tmp_path: Path, elsewhere: Path) -> None:
    wave = elsewhere.parent / "a.wav"
    with wave_file(str(wave), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(silence(1).tobytes())
    async with running_fake(data=tmp_path) as server:
        status, body, headers = await post(server, RAW)
        assert (status, body["err_code"]) == (503, "SERVICE_UNAVAILABLE")
        assert "cannot write to its disk" in body["err_msg"]
        assert int(headers["Retry-After"]) > 0
        status, body, _ = await post(server, FORM, form(wave.read_bytes()))
        assert (status, body["error"]["code"]) == (503, "storage_failed")
        elsewhere.mkdir()
        assert (await post(server, RAW))[0] == 200
        await eventually(lambda: not list(elsewhere.iterdir()))


async def test_a_body_that_arrives_too_slowly_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.2)

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    async with running_fake(data=tmp_path) as server:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
        writer.write(f"POST {RAW} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n".encode())

        async def send() -> None:
            async for data in drip():
                writer.write(data)

        dripping = asyncio.create_task(send())
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
        dripping.cancel()
        writer.close()


# Long answers

WORDS = 100_000
"""Words of about eleven hours of speech."""


def long_transcript(words: int = WORDS, confidence: float = 0.9) -> FileTranscript:
    said = [Word(f"Word{n}." if n % 12 == 0 else "words", n * 0.4, n * 0.4 + 0.3, confidence) for n in range(words)]
    segments = tuple(Segment(p[0].start, p[-1].end, tuple(p)) for p in (said[i : i + 30] for i in range(0, words, 30)))
    return FileTranscript(words * 0.4, (Channel(segments),))


@pytest.fixture
def hours_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file a transcript of eleven hours."""
    transcript = long_transcript()

    async def transcribe(*_: Any) -> FileTranscript:
        return transcript

    monkeypatch.setattr(Transcriber, "transcribe", transcribe)


ASKED = [
    (f"{RAW}&utterances=true&paragraphs=true&smart_format=true&utt_split=10", None),
    (FORM, {}),
    (FORM, {"response_format": "srt"}),
    (FORM, {"response_format": "verbose_json"}),
    (FORM, {"stream": "true", "include[]": "logprobs"}),
]


@pytest.mark.parametrize(("path", "fields"), ASKED)
async def test_the_answer_for_eleven_hours_does_not_block_the_event_loop(
    tmp_path: Path, hours_heard: None, path: str, fields: dict[str, str] | None
) -> None:
    async with running_fake(data=tmp_path) as server, ClientSession() as session:
        data = BytesIO(SHORT) if fields is None else form(**fields)
        async with Turns() as turns, session.post(server.url + path, data=data) as response:
            size = 0
            while piece := await response.content.readany():  # as bytes: decoding them here would block the loop
                size += len(piece)
        assert (response.status, size > 500_000) == (200, True)
        assert turns.longest_yards < 30


async def test_storing_and_delivering_a_result_of_eleven_hours_does_not_block_the_event_loop(
    tmp_path: Path, hours_heard: None
) -> None:
    sizes: list[int] = []

    async def take(request: web.Request) -> web.Response:
        size = 0
        while piece := await request.content.readany():
            size += len(piece)
        sizes.append(size)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with running_fake(data=tmp_path, allowed_networks=["127.0.0.0/8"]) as server, ClientSession() as session:
        async with Turns() as turns:
            status, body, _ = await post(server, f"{RAW}&utterances=true&callback={runner.addresses[0] and site.name}")
            assert status == 200
            await eventually(lambda: bool(sizes))
            async with session.get(f"{server.url}/v1/jobs/{body['request_id']}") as response:
                told = b"".join([piece async for piece in response.content.iter_any()])
        assert sizes[0] > 10_000_000
        assert turns.longest_yards < 30
        job = json.loads(told)
        assert len(job["result"]["results"]["channels"][0]["alternatives"][0]["words"]) == WORDS
        assert len(json.dumps(job["result"])) == sizes[0]
    await runner.cleanup()


async def test_a_client_that_does_not_read_its_answer_is_disconnected(
    tmp_path: Path, hours_heard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.3)
    async with running_fake(data=tmp_path) as server:
        _, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"), limit=1024)
        request = f"POST {RAW}&utterances=true HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\nabcd"
        for _ in range(20):  # the system buffers some megabytes
            writer.write(request.encode())

        async def broken() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        await asyncio.wait_for(broken(), 30)


def test_json_in_pieces_is_the_same_json() -> None:
    flat = [{"word": "ä\ud800", "start": 0.1, "end": None, "sure": True}] * 300
    values: list[Any] = [
        {}, [], {"a": []}, {"a": {"b": [1, [2, {"c": "d"}], {}]}, "e": flat}, [*flat, [flat], *flat], "x", 1.5, None,
        [[]] * 200,
    ]  # fmt: skip
    for value in values:
        assert b"".join(json_pieces(value)).decode() == json.dumps(value)
        if isinstance(value, list):
            assert b"".join(json_pieces(iter(value))).decode() == json.dumps(value)


# Numbers at their edges


async def test_no_answer_holds_a_number_that_json_cannot_express(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def transcribe(*_: Any) -> FileTranscript:
        return long_transcript(100, math.nan)

    monkeypatch.setattr(Transcriber, "transcribe", transcribe)
    async with running_fake(data=tmp_path) as server:
        for path, fields in ASKED:
            data = SHORT if fields is None else form(**fields)
            async with ClientSession() as session, session.post(server.url + path, data=data) as response:
                text = await response.text()
            assert response.status == 200
            assert "NaN" not in text


BIG = "9" * 400


@pytest.mark.parametrize("offset", [BIG, f"-{BIG}", "1e400", "NaN", "Infinity", "-Infinity", "1e308", "9" * 5000])
async def test_an_invalid_offset_is_refused(tmp_path: Path, offset: str) -> None:
    async with running_fake(data=tmp_path) as server:
        body = f'{{"audio_file_url": "http://127.0.0.1:9/x", "timestamp_offset": {offset}}}'
        headers = {"Content-Type": "application/json"}
        status, told, _ = await post(server, f"{FORM}-from-url", body.encode(), headers=headers)
        assert status in (400, 422)
        assert told.keys() == {"detail"}
