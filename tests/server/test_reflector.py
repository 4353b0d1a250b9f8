"""Reflector's API: its own addresses, its answers and errors, and routes open to a network without a key."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from aiohttp import ClientSession, FormData, web
from peer import served, settings
from sounds import contained, recording

from myna.server.app import Server, running
from myna.server.keys import Scope, add_key

SOUND = "/v1/audio/transcriptions"
OURS = f"/reflector{SOUND}"
LIVE = (  # byte for byte what Reflector's live client has OpenAI's SDK send
    ("model", "whisper-1"), ("language", "en"), ("response_format", "verbose_json"), ("timestamp_granularities[]", "word"),
)  # fmt: skip


@pytest.fixture(scope="module")
def flac() -> bytes:
    return contained([recording("beckett")], "flac", "flac")


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    """Yield a server that may fetch from this machine, and that Reflector calls `transcription`."""
    async with running(settings(allowed_networks=["127.0.0.0/8"], allowed_hosts=["transcription"])) as started:
        yield started


@pytest.fixture
async def store(flac: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """Yield a server of files, which knows the file but refuses to say so before it is fetched, and what it was asked for."""
    asked: list[str] = []

    async def get(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=403)
        asked.append(request.raw_path)
        return web.Response(body=flac)

    app = web.Application()
    app.router.add_route("*", "/speech.flac", get)
    async with served(app) as url:
        yield url, asked


async def post(server: Server, path: str, **how: Any) -> tuple[int, Any]:
    async with ClientSession() as session, session.post(server.url + path, **how) as response:
        return response.status, await response.json()


def form(files: list[tuple[str, bytes]], *fields: tuple[str, str]) -> FormData:
    made = FormData(default_to_multipart=True)
    for key, value in fields:
        made.add_field(key, value)
    for number, (name, data) in enumerate(files):
        made.add_field(name, BytesIO(data), filename=f"speech{number}.flac")
    return made


@pytest.mark.parametrize(
    ("path", "headers"),
    [(SOUND, {"Host": "transcription:8000"}), (SOUND, {"Host": "TRANSCRIPTION"}), (OURS, {})],
)
@pytest.mark.parametrize(
    "fields", [LIVE, (("model", "nvidia/parakeet-tdt-0.6b-v2"),), (("model", "never heard of"),), ()]
)
async def test_words_join_to_the_text_without_a_separator(
    server: Server, flac: bytes, path: str, headers: dict[str, str], fields: tuple[tuple[str, str], ...]
) -> None:
    status, body = await post(server, path, data=form([("file", flac)], *fields), headers=headers)
    assert (status, set(body), body["filename"]) == (200, {"text", "words", "filename"}, "speech0.flac")
    assert "".join(word["word"] for word in body["words"]).strip() == body["text"]
    assert all(
        word == {**word, "start": round(word["start"], 2), "end": round(word["end"], 2)} for word in body["words"]
    )
    ends, starts = [word["end"] for word in body["words"]], [word["start"] for word in body["words"]]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1"])
async def test_other_clients_with_the_same_request_get_words_without_spaces(
    server: Server, flac: bytes, host: str
) -> None:
    _, body = await post(server, SOUND, data=form([("file", flac)], *LIVE), headers={"Host": host})
    assert " ".join(word["word"] for word in body["words"]) == body["text"]


@pytest.mark.parametrize(("names", "spaced"), [(["*"], True), (["speech"], False)])
async def test_the_host_names_of_reflectors_requests_can_be_configured(
    flac: bytes, names: list[str], spaced: bool
) -> None:
    async with running(settings(reflector_hosts=names)) as server:
        _, body = await post(server, SOUND, data=form([("file", flac)], *LIVE))
        assert all(word["word"].endswith(" ") is spaced for word in body["words"])


@pytest.mark.parametrize("batch", ["true", "false", "yes", "on", "0"])
async def test_several_files_have_a_list_of_results_whatever_batch_is(server: Server, flac: bytes, batch: str) -> None:
    status, body = await post(server, OURS, data=form([("files", flac), ("files", flac)], ("batch", batch)))
    assert status == 200
    assert [each["filename"] for each in body["results"]] == ["speech0.flac", "speech1.flac"]
    assert len({each["text"] for each in body["results"]}) == 1


@pytest.mark.parametrize("names", [("files",), ("file", "files"), ("files", "file", "files")])
async def test_one_file_has_a_bare_answer_and_file_counts_more_than_files(
    server: Server, flac: bytes, names: tuple[str, ...]
) -> None:
    files = [(name, flac if name == "file" or names == ("files",) else b"not to be read") for name in names]
    status, body = await post(server, OURS, data=form(files, ("batch", "true")))
    assert (status, set(body)) == (200, {"text", "words", "filename"})


async def test_silence_has_an_empty_list_of_words(server: Server) -> None:
    silence = contained([recording("beckett")[:16_000] * 0], "flac", "flac")
    _, body = await post(server, OURS, data=form([("file", silence)]))
    assert (body["text"], body["words"]) == ("", [])


@pytest.mark.parametrize(
    ("names", "fields", "status", "detail"),
    [
        (["file"], [("language", "fr")], 400, "only supports English. Got language='fr'"),
        ([], [], 400, "Either 'file' or 'files' parameter is required"),
        (["other"], [], 400, "Either 'file' or 'files' parameter is required"),
        (["file"], [("batch", "true")], 400, "Batch transcription requires 'files'"),
    ],
)
@pytest.mark.parametrize(("path", "headers"), [(OURS, {}), (SOUND, {"Host": "transcription"})])
async def test_a_refusal_is_a_detail_alone(
    server: Server, flac: bytes, names: list[str], fields: list[tuple[str, str]], status: int, detail: str,
    path: str, headers: dict[str, str],
) -> None:  # fmt: skip
    answer = await post(server, path, data=form([(name, flac) for name in names], *fields), headers=headers)
    assert (answer[0], set(answer[1])) == (status, {"detail"})
    assert detail in answer[1]["detail"]


async def test_a_form_encoded_like_a_query_has_no_files(server: Server) -> None:
    status, body = await post(server, OURS, data={"language": "en"})
    assert (status, body) == (400, {"detail": "Either 'file' or 'files' parameter is required"})


async def test_a_value_of_the_wrong_type_is_described_as_fastapi_does(server: Server, flac: bytes) -> None:
    status, body = await post(server, OURS, data=form([("file", flac)], ("batch", "perhaps")))
    assert status == 422
    (wrong,) = body["detail"]
    assert wrong == {
        "type": "bool_parsing",
        "loc": ["body", "batch"],
        "msg": "Input should be a valid boolean, unable to interpret input",
        "input": "perhaps",
    }


@pytest.mark.parametrize("path", [f"{SOUND}-from-url", f"{OURS}-from-url"])
@pytest.mark.parametrize("offset", [10, "10", 10.0])
async def test_the_file_at_an_address_is_transcribed_and_its_times_shifted(
    server: Server, flac: bytes, store: tuple[str, list[str]], path: str, offset: object
) -> None:
    _, plain = await post(server, OURS, data=form([("file", flac)]))
    asked = {"audio_file_url": f"{store[0]}/speech.flac", "timestamp_offset": offset, "batch": True, "unknown": [1]}
    status, body = await post(server, path, json=asked)
    assert (status, set(body), body["filename"], body["text"]) == (
        200,
        {"text", "words", "filename"},
        None,
        plain["text"],
    )
    for name in ("start", "end"):
        assert [word[name] for word in body["words"]] == pytest.approx(
            [w[name] + 10 for w in plain["words"]], abs=0.011
        )


@pytest.mark.parametrize(
    "query", ["a=%2Fb%2Cc&X-Amz-Signature=%7e", "q=a+b%20c", "x=[1]&y=/", "name=caf%C3%A9"],
)  # fmt: skip
async def test_an_address_is_fetched_as_it_was_written(
    server: Server, store: tuple[str, list[str]], query: str
) -> None:
    status, _ = await post(server, f"{OURS}-from-url", json={"audio_file_url": f"{store[0]}/speech.flac?{query}"})
    assert (status, store[1]) == (200, [f"/speech.flac?{query}"])


async def test_characters_that_an_address_cannot_have_are_encoded(server: Server, store: tuple[str, list[str]]) -> None:
    await post(server, f"{OURS}-from-url", json={"audio_file_url": f"{store[0]}/speech.flac?name=café au lait"})
    assert store[1] == ["/speech.flac?name=caf%C3%A9+au+lait"]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 422, [{"type": "missing", "loc": ["body", "audio_file_url"], "msg": "Field required", "input": None}]),
        ({"audio_file_url": 7}, 422, [{"type": "string_type", "loc": ["body", "audio_file_url"], "input": 7,
                                       "msg": "Input should be a valid string"}]),
        ({"audio_file_url": "http://127.0.0.1:1/x", "language": "fr"}, 400, "cannot be fetched"),
        ({"audio_file_url": "file:///etc/passwd"}, 400, "no http or https address"),
        ({"audio_file_url": "http://10.1.2.3/x"}, 400, "not a public address"),
        ({"audio_file_url": "STORE/nowhere"}, 404, "cannot be fetched"),
    ],
)  # fmt: skip
async def test_a_wrong_request_for_an_address_is_refused(
    server: Server, store: tuple[str, list[str]], body: dict[str, Any], status: int, detail: Any
) -> None:
    body = {k: v.replace("STORE", store[0]) if isinstance(v, str) else v for k, v in body.items()}
    answer = await post(server, f"{OURS}-from-url", json=body)
    assert answer[0] == status
    assert answer[1] == {"detail": detail} if isinstance(detail, list) else detail in answer[1]["detail"]


@pytest.mark.parametrize("offset", ["ten", None, "nan", float("1e300")])
async def test_an_offset_that_is_no_number_of_seconds_is_refused(server: Server, offset: object) -> None:
    asked = {"audio_file_url": "http://127.0.0.1:1/x", "timestamp_offset": offset}
    status, body = await post(server, f"{OURS}-from-url", json=asked)
    assert (status, body["detail"][0]["loc"]) == (422, ["body", "timestamp_offset"])


@pytest.mark.parametrize("path", ["/transcribe", "/reflector/transcribe"])
async def test_the_older_route_has_a_text_and_words_with_texts(server: Server, flac: bytes, path: str) -> None:
    fields = (("source_language", "en"), ("timestamp", "5"))
    status, body = await post(server, path, data=form([("file", flac)], *fields))
    assert (status, set(body)) == (200, {"text", "words"})
    assert "".join(word["text"] for word in body["words"]).strip() == body["text"]
    assert set(body["words"][0]) == {"text", "start", "end"}
    assert body["words"][0]["start"] >= 5
    status, body = await post(server, path, data=form([("file", flac)], ("language", "fr")))
    assert (status, set(body)) == (400, {"detail"})


Stored = list[tuple[str, bytes]]


@pytest.fixture
async def tracks(flac: bytes) -> AsyncIterator[tuple[str, Stored]]:
    """Yield an object store with a track, and what was stored there."""
    stored: Stored = []

    async def put(request: web.Request) -> web.Response:
        stored.append((request.headers["Content-Type"], await request.read()))
        return web.Response(status=403 if request.path == "/locked" else 200)

    async def get(_request: web.Request) -> web.Response:
        return web.Response(body=flac)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/track", get)
    app.router.add_put("/{name}", put)
    async with served(app) as url:
        yield url, stored


def loud_from(data: bytes) -> tuple[float, float]:
    """Return when a file's sound begins, and the file's length by its header, in seconds."""
    with av.open(BytesIO(data)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.layout.name) == ("opus", 48_000, "stereo")
        assert container.duration is not None
        length = container.duration / av.time_base
        sound = np.concatenate([np.abs(frame.to_ndarray()).max(axis=0) for frame in container.decode(audio=0)])
    return float(np.argmax(sound > 0.02)) / 48_000, length


@pytest.mark.parametrize("path", ["/pad", "/reflector/pad"])
@pytest.mark.parametrize("silence_s", [2.5, 0.0335, 61])
async def test_a_track_is_stored_after_its_silence(
    server: Server, tracks: tuple[str, Stored], path: str, silence_s: float
) -> None:
    asked = {"track_url": f"{tracks[0]}/track", "output_url": f"{tracks[0]}/padded?X-Signature=%2F", "track_index": 0}
    status, body = await post(server, path, json=asked | {"start_time_seconds": silence_s})
    ((kind, data),) = tracks[1]
    assert (status, body, kind) == (200, {"size": len(data), "cancelled": False}, "audio/webm")
    speech = recording("beckett")
    begins, length = loud_from(data)
    assert begins == pytest.approx(float(np.argmax(np.abs(speech) > 0.02 * 32768)) / 16_000 + silence_s, abs=0.01)
    assert length == pytest.approx(len(speech) / 16_000 + silence_s, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "status", "detail"),
    [
        ({"track_url": ""}, 400, "track_url cannot be empty"),
        ({"output_url": " "}, 400, "output_url cannot be empty"),
        ({"start_time_seconds": 0}, 400, "start_time_seconds must be positive, got 0.0"),
        ({"start_time_seconds": 18_001}, 400, "start_time_seconds exceeds maximum 18000s (5 hours)"),
        ({"track_url": "STORE/no/where"}, 404, "cannot be fetched"),
        ({"output_url": "STORE/locked"}, 502, "cannot be stored at this address: its server answered with HTTP 403"),
        ({"output_url": "http://10.1.2.3/x"}, 502, "not a public address"),
        ({"output_url": "ftp://127.0.0.1/x"}, 502, "no http or https address"),
        ({"track_index": "first"}, 422, ""),
        ({"start_time_seconds": None}, 422, ""),
    ],
)
async def test_a_track_that_cannot_be_padded_is_refused(
    server: Server, tracks: tuple[str, Stored], changes: dict[str, Any], status: int, detail: str
) -> None:
    asked = {
        "track_url": "STORE/track",
        "output_url": "STORE/padded",
        "start_time_seconds": 1,
        "track_index": 0,
    } | changes
    asked = {k: v.replace("STORE", tracks[0]) if isinstance(v, str) else v for k, v in asked.items()}
    answer = await post(server, "/pad", json=asked)
    assert (answer[0], set(answer[1])) == (status, {"detail"})
    assert detail in str(answer[1]["detail"])


@pytest.mark.parametrize("path", ["/docs", "/reflector/docs"])
async def test_the_page_of_routes_loads_nothing_from_elsewhere(server: Server, path: str) -> None:
    async with ClientSession() as session, session.get(server.url + path) as response:
        page = await response.text()
    assert (response.status, response.content_type) == (200, "text/html")
    assert "POST /reflector/diarize" in page
    assert not re.search(r"(src|href)=[\"']?(http|//)", page)


@pytest.mark.parametrize(("path", "status"), [("/reflector/nowhere", 404), ("/reflector/diarize", 405)])
async def test_errors_of_the_server_itself_are_details_at_reflectors_addresses(
    server: Server, path: str, status: int
) -> None:
    async with ClientSession() as session, session.get(server.url + path) as response:
        assert (response.status, set(await response.json())) == (status, {"detail"})


async def test_a_path_is_open_to_a_network_without_a_key(tmp_path: Path, flac: bytes) -> None:
    secret = add_key(tmp_path / "keys.toml", "one", frozenset(Scope))
    opened = {"keyless_paths": ["/reflector/v1"], "keyless_networks": ["127.0.0.0/8"]}
    async with running(settings(model="fake", keys=tmp_path / "keys.toml", **opened)) as server:

        async def status(path: str, **headers: str) -> int:
            return (await post(server, path, data=form([("file", flac)]), headers=headers))[0]

        assert await status(OURS) == 200
        assert await status(OURS, Authorization=f"Bearer {secret}") == 200
        assert await status(OURS, Authorization="Bearer wrong") == 401  # a key that is shown is checked
        assert await status("/reflector/transcribe") == await status(SOUND) == await status("/v1/listen") == 401
        # A page of another site cannot use what is open.
        assert await status(OURS, Origin="https://example.com") == 403
        assert await status(OURS, Host="rebound.example.com") == 403


async def test_an_open_path_is_closed_to_other_networks(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.toml", "one", frozenset(Scope))
    opened = {"keyless_paths": ["/reflector"], "keyless_networks": ["10.0.0.0/8", "::/64"]}
    async with (
        running(settings(model="fake", keys=tmp_path / "keys.toml", **opened)) as server,
        ClientSession() as session,
        session.post(server.url + OURS, data=form([("file", b"")])) as response,
    ):
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert await response.json() == {"detail": "Invalid API key"}
