from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from aiohttp import ClientSession, FormData, web
from peer import eventually, settings
from sounds import BECKETT, RATE, contained, recording

from myna.batch import pace
from myna.server.app import Server, running

SOUND = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def beckett() -> np.ndarray:
    return recording("beckett")


@pytest.fixture(scope="module")
def flac(beckett: np.ndarray) -> bytes:
    return contained([beckett], "flac", "flac")


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the temporary files of these tests in a folder of their own."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("tmp"))
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="module")
async def files(own_folder: None) -> AsyncIterator[Server]:
    """Yield a server with the real engine that may fetch from this machine."""
    changes = {"allowed_networks": ["127.0.0.0/8"], "max_upload_mb": 64, "max_file_hours": 0.2}
    async with running(settings(**changes)) as started:
        yield started


@pytest.fixture(autouse=True)
async def tidy(files: Server) -> AsyncIterator[None]:
    """Assert after every request that no file, stream or job is left."""
    before = folders()
    yield
    await eventually(lambda: folders() <= before)
    await eventually(lambda: not files.transcriber.active)
    assert not files.models.pools[0].open_jobs


def folders() -> set[Path]:
    """Return the files on the disk of unfinished requests."""
    return set(Path(tempfile.gettempdir()).glob("myna-*"))


def bare(text: str) -> str:
    return " ".join("".join(c for c in text.lower() if c.isalnum() or c == " ").split())


async def post(server: Server, path: str, **how: Any) -> tuple[int, Any, dict[str, str]]:
    if isinstance(how.get("data"), bytes):
        how["data"] = BytesIO(how["data"])
    async with ClientSession() as session, session.post(server.url + path, **how) as response:
        text = await response.text()
        kind = response.content_type
        return response.status, json.loads(text) if kind == "application/json" else text, dict(response.headers)


def form(data: bytes | list[bytes], *fields: tuple[str, str], name: str = "file") -> FormData:
    made = FormData()
    for key, value in fields:
        made.add_field(key, value)
    for number, each in enumerate(data if isinstance(data, list) else [data]):
        made.add_field(name, BytesIO(each), filename=f"speech{number}.wav", content_type="audio/x-wav")
    return made


KINDS = {
    "mp3": ("mp3", "libmp3lame", RATE), "m4a": ("mp4", "aac", 44_100), "ogg": ("ogg", "libopus", 48_000),
    "webm": ("webm", "libopus", 48_000), "flac": ("flac", "flac", 22_050), "wav 8": ("wav", "pcm_u8", RATE),
    "wav 16": ("wav", "pcm_s16le", 8_000), "wav 24": ("wav", "pcm_s24le", 48_000), "wav 32": ("wav", "pcm_s32le", RATE),
    "wav float": ("wav", "pcm_f32le", 32_000), "wav mulaw": ("wav", "pcm_mulaw", 8_000), "aiff": ("aiff", "pcm_s16be", RATE),
    "au": ("au", "pcm_s16be", RATE), "caf": ("caf", "pcm_s16le", RATE), "w64": ("w64", "pcm_s16le", RATE),
    "aac": ("adts", "aac", RATE), "mpegts": ("mpegts", "aac", 48_000), "avi": ("avi", "pcm_s16le", RATE),
 "amr": ("amr", "libopencore_amrnb", 8_000),
}  # fmt: skip


def at_rate(pcm: np.ndarray, rate: int) -> np.ndarray:
    import soxr

    return soxr.resample(pcm, RATE, rate)


@pytest.mark.parametrize(("kind", "channels"), [(k, c) for k in KINDS for c in (1, 2) if k != "amr" or c == 1])
async def test_every_kind_of_file_is_transcribed_whatever_its_name(
    files: Server, beckett: np.ndarray, kind: str, channels: int
) -> None:
    container, codec, rate = KINDS[kind]
    data = contained([at_rate(beckett, rate)] * channels, container, codec, rate=rate)
    status, body, _ = await post(files, SOUND, data=form(data))  # all called .wav
    assert status == 200
    error = jiwer.wer(BECKETT, bare(body["text"]))
    assert error <= (0.4 if rate == 8_000 else 0.1), body["text"]


async def test_the_sound_of_a_video_is_transcribed(files: Server, beckett: np.ndarray) -> None:
    import av

    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        picture = file.add_stream("mpeg4", rate=5, width=64, height=48)
        picture.pix_fmt = "yuv420p"
        sound = file.add_stream("aac", rate=RATE, layout="mono")
        for _ in range(50):
            for packet in picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")):
                file.mux(packet)
        fifo = av.AudioFifo()
        frame = av.AudioFrame.from_ndarray((beckett[None] / 32768).astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        fifo.write(frame)
        while (part := fifo.read(1024, partial=True)) is not None:
            for packet in sound.encode(part):
                file.mux(packet)
        for stream in (picture, sound):
            for packet in stream.encode(None):
                file.mux(packet)
    status, body, _ = await post(files, "/v1/listen", data=buffer.getvalue())
    assert status == 200
    assert body["results"]["channels"][0]["alternatives"][0]["transcript"] == BECKETT


async def test_a_file_is_answered_in_each_of_openais_formats(files: Server, flac: bytes) -> None:
    text = "Ever tried, ever failed, no matter, try again, fail again, fail better."
    _, body, _ = await post(files, SOUND, data=form(flac, ("model", "whisper-1"), ("response_format", "json")))
    assert body == {"text": text, "usage": {"type": "duration", "seconds": 10}}
    _, body, headers = await post(files, SOUND, data=form(flac, ("response_format", "text")))
    assert (body, headers["Content-Type"]) == (text + "\n", "text/plain; charset=utf-8")
    _, body, _ = await post(files, SOUND, data=form(flac, ("response_format", "srt")))
    assert body.startswith("1\n00:00:00,0")
    assert "fail better." in body
    _, body, _ = await post(files, SOUND, data=form(flac, ("response_format", "vtt")))
    assert body.startswith("WEBVTT\n\n00:00:00.0")
    _, body, _ = await post(files, SOUND, data=form(flac, ("response_format", "verbose_json")))
    assert list(body) == ["task", "language", "duration", "text", "segments", "usage"]
    assert (body["language"], body["duration"]) == ("english", pytest.approx(9.963, abs=0.01))
    both = form(flac, ("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment"))
    _, body, _ = await post(files, SOUND, data=both)
    assert [bare(word["word"]) for word in body["words"]] == BECKETT.split()
    assert body["segments"][0]["text"] == f" {text}"
    assert body["words"][0]["start"] == pytest.approx(0.25, abs=0.3)
    tried, ever = body["words"][1:3]
    assert tried["end"] < ever["start"] - 0.3  # the pause belongs to neither


async def test_the_deltas_of_openais_stream_concatenate_to_the_same_text(files: Server) -> None:
    long = contained([recording("two_cities")], "flac", "flac")
    _, whole, _ = await post(files, SOUND, data=form(long, ("response_format", "json")))
    _, body, headers = await post(files, SOUND, data=form(long, ("stream", "true"), ("include[]", "logprobs")))
    assert headers["Content-Type"] == "text/event-stream"
    events = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line]
    deltas = [event["delta"] for event in events if event["type"] == "transcript.text.delta"]
    assert len(deltas) >= 3
    assert "".join(deltas) == whole["text"] == events[-1]["text"]
    assert events[-1]["type"] == "transcript.text.done"
    assert "".join(token["token"] for token in events[-1]["logprobs"]) == whole["text"]


async def test_deepgrams_answer_has_the_parts_that_were_requested(files: Server) -> None:
    data = contained([recording("two_cities")[: 40 * RATE]], "flac", "flac")
    query = "smart_format=true&utterances=true&utt_split=0.5&paragraphs=true&search=season&detect_language=true&tag=a"
    status, body, _ = await post(files, f"/v1/listen?{query}", data=data, headers={"Content-Type": "audio/wav"})
    assert status == 200
    metadata, results = body["metadata"], body["results"]
    assert metadata["sha256"] == hashlib.sha256(data).hexdigest()
    assert (metadata["channels"], metadata["tags"]) == (1, ["a"])
    assert metadata["model_info"][metadata["models"][0]]["name"] == "moonshine-tiny-en"
    (channel,) = results["channels"]
    best = channel["alternatives"][0]
    assert channel["detected_language"] == "en"
    assert max(hit["confidence"] for hit in channel["search"][0]["hits"]) == 1.0
    assert [word["punctuated_word"] for word in best["words"]] == best["transcript"].split()
    told = [s["text"] for p in best["paragraphs"]["paragraphs"] for s in p["sentences"]]
    assert " ".join(told) == best["transcript"]
    assert len(results["utterances"]) > 3
    assert " ".join(utterance["transcript"] for utterance in results["utterances"]) == best["transcript"]
    starts = [word["start"] for word in best["words"]]
    assert starts == sorted(starts)


async def test_two_channels_are_transcribed_separately_on_request(files: Server, beckett: np.ndarray) -> None:
    other = recording("two_cities")[: len(beckett)]
    data = contained([beckett, other], "flac", "flac")
    _, body, _ = await post(files, "/v1/listen?multichannel=true&utterances=true", data=data)
    first, second = (c["alternatives"][0]["transcript"] for c in body["results"]["channels"])
    assert first == BECKETT
    assert "best of times" in second
    assert {utterance["channel"] for utterance in body["results"]["utterances"]} == {0, 1}


async def test_raw_audio_is_transcribed_if_its_encoding_is_announced(files: Server, beckett: np.ndarray) -> None:
    query = "encoding=linear16&sample_rate=16000"
    _, body, _ = await post(files, f"/v1/listen?{query}", data=beckett.tobytes())
    assert body["results"]["channels"][0]["alternatives"][0]["transcript"] == BECKETT


@pytest.fixture(scope="module")
async def web_files(flac: bytes) -> AsyncIterator[str]:
    """Yield a web server with a file and with addresses that misbehave."""
    app = web.Application()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 20))

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def speech(_request: web.Request) -> web.Response:
        return web.Response(body=flac)

    app.router.add_get("/speech.flac", speech)
    app.router.add_get("/endless", endless)
    app.router.add_get("/redirect", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    await runner.cleanup()


async def test_a_redirect_to_a_file_is_followed(files: Server, flac: bytes, web_files: str) -> None:
    for url in (f"{web_files}/speech.flac", f"{web_files}/redirect?to=/speech.flac"):
        status, body, _ = await post(files, "/v1/listen", json={"url": url})
        assert status == 200
        assert body["results"]["channels"][0]["alternatives"][0]["transcript"] == BECKETT
        assert body["metadata"]["sha256"] == hashlib.sha256(flac).hexdigest()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere", "HTTP 404"),
        ("/endless", "exceeds the limit"),
        ("/redirect?to=http://169.254.169.254/latest/meta-data", "not a public address"),
        ("/redirect?to=file:///etc/passwd", "no http or https address"),
        ("/redirect?to=/redirect?to=/x", "redirects|HTTP 404"),
    ],
)
async def test_an_address_without_a_usable_file_is_refused(files: Server, web_files: str, path: str, said: str) -> None:
    status, body, _ = await post(files, "/v1/listen", json={"url": web_files + path})
    assert status in (400, 404)
    assert body["err_code"] == "REMOTE_CONTENT_ERROR"
    assert re.search(said, body["err_msg"]), body


def zipped() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("speech.txt", "speech" * 1000)
    return buffer.getvalue()


def wav_header(samples: int) -> bytes:
    size = min(2 * samples, 0xFFFFFFFF)
    return b"RIFF" + size.to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data" + size.to_bytes(4, "little")  # fmt: skip  # noqa: E501


BAD = {
    "empty": (b"", "empty"),
    "one byte": (b"R", "corrupt or unsupported"),
    "random": (np.random.default_rng(7).bytes(50_000), "corrupt or unsupported"),
    "zip": (zipped(), "corrupt or unsupported"),
    "text": (b"#EXTM3U\nhttp://127.0.0.1/x\n", "corrupt or unsupported"),
    "no samples": (wav_header(0), "0 seconds|no audio"),
    "claim of 2^31 samples, none there": (wav_header(1 << 31), "0 seconds|no audio"),
    "broken flac": (b"fLaC" + np.random.default_rng(1).bytes(5000), "corrupt or unsupported"),
    "broken mp4": (b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).bytes(5000), "corrupt or unsupported"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_file_is_refused_with_a_reason_in_each_error_format(files: Server, name: str) -> None:
    data, said = BAD[name]
    status, body, headers = await post(files, "/v1/listen", data=data)
    assert (status, body["err_code"]) == (400, "Bad Request")
    assert re.search(said, body["err_msg"]), body
    assert headers["dg-error"]
    for fields in ([], [("stream", "true")]):
        status, body, _ = await post(files, SOUND, data=form(data, *fields))
        assert (status, body["error"]["type"], body["error"]["param"]) == (400, "invalid_request_error", "file")
        assert re.search(said, body["error"]["message"]), body


async def test_a_truncated_file_is_transcribed_up_to_its_end(files: Server, flac: bytes) -> None:
    status, body, _ = await post(files, SOUND, data=form(flac[: len(flac) // 2]))
    assert status == 200
    assert bare(body["text"]).startswith("ever tried ever failed")


async def test_a_small_file_with_too_much_audio_is_refused(files: Server) -> None:
    quarter = contained([np.zeros(900 * RATE, np.int16)], "flac", "flac")
    assert len(quarter) < 500_000
    status, body, _ = await post(files, "/v1/listen", data=quarter)
    assert status == 400
    assert "longer than 0.2 h" in body["err_msg"]


async def test_a_too_large_body_is_refused_when_announced_or_when_the_limit_is_reached(files: Server) -> None:
    reader, writer = await asyncio.open_connection(*files.url.removeprefix("http://").split(":"))
    writer.write(b"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n")
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(1 << 20)

    try:
        status, _, _ = await post(files, "/v1/listen", data=endless())
        assert status == 413
    except OSError:
        pass  # it was still sending when the answer came


async def test_a_client_that_disconnects_during_its_upload_leaves_no_file(files: Server, flac: bytes) -> None:
    for path, head in (("/v1/listen", b""), (SOUND, b"Content-Type: multipart/form-data; boundary=x\r\n")):
        _, writer = await asyncio.open_connection(*files.url.removeprefix("http://").split(":"))
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(flac)}\r\n".encode() + head + b"\r\n"
        )
        writer.write(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + flac[:50_000])
        await writer.drain()
        await eventually(lambda: bool(list(Path(tempfile.gettempdir()).glob("myna-*/upload-*"))))
        writer.transport.abort()
        await eventually(lambda: not list(Path(tempfile.gettempdir()).glob("myna-*/upload-*")))


async def test_a_client_that_disconnects_while_it_waits_cancels_the_work(
    files: Server, caplog: pytest.LogCaptureFixture
) -> None:
    long = np.tile(recording("two_cities"), 8)
    data = contained([long], "flac", "flac")
    _, writer = await asyncio.open_connection(*files.url.removeprefix("http://").split(":"), limit=1 << 20)
    writer.write(f"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    await eventually(lambda: bool(files.transcriber.active))
    writer.transport.abort()
    await eventually(lambda: not files.transcriber.active)
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]  # not an error


async def test_an_upload_that_stalls_is_ended(files: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.3)
    reader, writer = await asyncio.open_connection(*files.url.removeprefix("http://").split(":"))
    writer.write(b"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nfLaC")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("response_format", "yaml")], "response_format"),
        ([("language", "fr")], "language"),
        ([("keywords[]", "m" * 500)], "keywords"),
        ([("temperature", "hot")], "temperature"),
        ([("temperature", "7")], "temperature"),
        ([("stream", "perhaps")], "stream"),
        ([("timestamp_granularities[]", "letter")], "timestamp_granularities"),
        ([("timestamp_granularities[]", "word"), ("response_format", "srt")], "timestamp_granularities"),
        ([("model", "whisper-1"), ("model", "whisper-2")], "model"),
        ([("batch", "true")], "files"),
        ([("model", "m" * 10_000)], "model"),
    ],
)
async def test_an_error_names_the_wrong_field(
    files: Server, flac: bytes, fields: list[tuple[str, str]], param: str
) -> None:
    status, body, headers = await post(files, SOUND, data=form(flac, *fields))
    assert (status, body["error"]["param"]) == (400, param)
    assert body["detail"] == body["error"]["message"]
    assert headers["x-should-retry"] == "false"


async def test_an_unknown_model_is_not_found(files: Server, flac: bytes) -> None:
    status, body, headers = await post(files, SOUND, data=form(flac, ("model", "parrot")))
    assert (status, body["error"]["code"], body["error"]["type"]) == (404, "model_not_found", "invalid_request_error")
    assert "'parrot'" in body["error"]["message"]
    assert headers["x-should-retry"] == "false"


async def test_malformed_forms_are_refused(files: Server, flac: bytes) -> None:
    status, body, _ = await post(files, SOUND, data=flac)
    assert (status, body["error"]["code"]) == (415, "unsupported_media_type")
    status, body, _ = await post(files, SOUND, data=FormData({"model": "whisper-1"}, default_to_multipart=True))
    assert (status, body["error"]["param"]) == (400, "file")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    for data in (
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"--x\r\nContent-Disposition: nonsense\r\n\r\nabc\r\n--x--",
        b"\0" * 1000,
    ):
        status, body, _ = await post(files, SOUND, data=data, headers=broken)
        assert status == 400, data
        assert body["error"]["message"]
    status, body, _ = await post(files, SOUND, data=form([b"x"] * 2000, name="files"))
    assert (status, body["error"]["code"]) == (400, "too_many_files")


async def test_one_bad_file_of_several_is_reported_and_cancels_the_others(files: Server, flac: bytes) -> None:
    status, body, _ = await post(files, SOUND, data=form([flac, b"no sound", flac], name="files"))
    assert (status, body["error"]["param"]) == (400, "file")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"{}", b'{"url": 7}', b'{"url": ""}', b"[" * 100_000])
async def test_json_without_an_address_is_refused(files: Server, data: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    status, body, _ = await post(files, "/v1/listen", data=data, headers=headers)
    assert (status, body["err_code"]) == (400, "Bad Request")
    status, body, _ = await post(files, f"{SOUND}-from-url", data=data, headers=headers)
    assert status in (400, 422)
    assert body["detail"]


async def test_a_request_for_a_translation_is_refused(files: Server, flac: bytes) -> None:
    status, body, _ = await post(files, "/v1/audio/translations", data=form(flac))
    assert (status, body["error"]["code"]) == (400, "unsupported_model")


@pytest.mark.parametrize(
    "query",
    ["summarize=v2", "topics=true", "intents=true", "sentiment=true", "diarize_model=v3", "detect_entities=true",
     "redact=phi", "utt_split=never", "callback=http://10.0.0.1/", "callback=https://example.com&callback_method=GET",
     "language=fi", "keyterm=" + "x" * 201, "model=parrot", "encoding=linear16"],
)  # fmt: skip
async def test_invalid_parameters_of_deepgram_are_refused(files: Server, flac: bytes, query: str) -> None:
    status, body, _ = await post(files, f"/v1/listen?{query}", data=flac)
    assert (status, body["err_code"]) == (400, "Bad Request")
