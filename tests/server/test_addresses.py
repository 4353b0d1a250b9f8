"""Wrong addresses and unknown model names: errors name the right address; well-known names mean the default model."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession, FormData, WSServerHandshakeError
from peer import connected
from yarl import URL

from myna.server.app import Server
from myna.server.dialects.openai import rest as openai_rest

SOUND = "/v1/audio/transcriptions"
MISSPELT = [
    ("/audio/transcriptions", SOUND, "openai"), ("/v1/v1/audio/transcriptions", SOUND, "openai"),
    ("//v1/audio/transcriptions", SOUND, "openai"), ("/v1//audio/transcriptions", SOUND, "openai"),
    (f"{SOUND}/", SOUND, "openai"), ("/openai/v1/audio/transcriptions", SOUND, "openai"),
    ("/v2/audio/transcriptions", SOUND, "openai"), ("/api/audio/transcriptions", SOUND, "openai"),
    ("/v1/audio/transcription", SOUND, "openai"), ("/openai/deployments/whisper/audio/transcriptions", SOUND, "openai"),
    ("/audio/translations", "/v1/audio/translations", "openai"), ("/realtime", "/v1/realtime", "openai"),
    ("/realtime/client_secrets", "/v1/realtime/client_secrets", "openai"), ("/listen", "/v1/listen", "deepgram"),
    ("/v1/listen/v1/listen", "/v1/listen", "deepgram"), ("/v1/listen/", "/v1/listen", "deepgram"),
    ("/v3/listen", "/v1/listen", "deepgram"), ("/v1/v2/listen", "/v2/listen", "deepgram"),
    ("/auth/grant", "/v1/auth/grant", "deepgram"), ("/models", "/v1/models", "deepgram"),
    ("/v1/v1/models/whisper-1", "/v1/models/whisper-1", "deepgram"), ("/stream", "/v1/stream", "deepgram"),
]  # fmt: skip


async def asked(server: Server, method: str, path: str, **how: Any) -> tuple[int, dict[str, Any], Any]:
    async with (
        ClientSession() as session,
        session.request(method, URL(server.url + path, encoded=True), **how) as response,
    ):
        return response.status, await response.json(), response.headers


@pytest.mark.parametrize(("path", "right", "dialect"), MISSPELT)
async def test_an_error_at_a_wrong_address_names_the_right_one(
    strict_server: Server, path: str, right: str, dialect: str
) -> None:
    for method in ("POST", "GET"):
        status, body, headers = await asked(strict_server, method, path)
        assert status == 404
        assert f"The address is {right}" in body["error"]["message"]
        if dialect == "openai":
            assert body["detail"] == body["error"]["message"]
            assert headers["x-should-retry"] == "false"
        else:
            assert body["err_msg"] == body["error"]["message"]
            assert right in headers["dg-error"]


async def test_an_error_for_a_stream_at_a_wrong_address_names_the_right_one(strict_server: Server) -> None:
    for path, right in (("/listen", "/v1/listen"), ("/v1/v1/listen", "/v1/listen"), ("/v1/v2/listen", "/v2/listen")):
        with pytest.raises(WSServerHandshakeError) as refused:
            async with connected(strict_server, "", path):
                pass
        assert refused.value.status == 404
        assert refused.value.headers is not None
        assert right in refused.value.headers["dg-error"]


async def test_an_error_for_a_file_at_the_address_of_streams_names_the_address_of_files(strict_server: Server) -> None:
    status, body, headers = await asked(strict_server, "POST", "/v2/listen")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert "/v1/listen accepts POST" in body["err_msg"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/chat/completions", "/v1", "/" + "x" * 5000, "/v1/audio/speech", "/%00"]
)
async def test_an_address_unlike_any_other_is_not_found(strict_server: Server, path: str) -> None:
    status, body, _ = await asked(strict_server, "GET", path)
    assert status == 404
    assert "The address is" not in body["error"]["message"]


OTHERS = [
    "whisper-1", "whisper-2", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize", "gpt-4o-transcribe-latest", "gpt-transcribe", "gpt-live-transcribe", "gpt-realtime-whisper",
    "whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en", "whisper-tiny.en",
    "openai/whisper-1", "openai/whisper-large-v3", "openai/whisper-tiny.en", "openai/gpt-4o-transcribe",
    "Systran/faster-whisper-large-v3", "Systran/faster-distil-whisper-large-v3", "systran/faster-whisper-small.en",
    "deepdml/faster-whisper-large-v3-turbo-ct2", "mlx-community/whisper-large-v3-turbo-q4", "faster-whisper-medium",
    "distil-whisper/distil-large-v3.5", "distil-large-v3", "distil-small.en", "distil-medium.en", "turbo", "tiny",
    "base.en", "small", "medium.en", "large", "large-v1", "large-v3", "large-v3-turbo", "Whisper-Large-V3",
    "nvidia/parakeet-tdt-0.6b-v3", "parakeet-tdt-0.6b-v2", "nvidia/canary-1b-flash",
    "mistralai/Voxtral-Mini-3B-2507", "voxtral-mini-latest",
]  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_well_known_speech_models_stand_for_the_default(name: str) -> None:
    assert openai_rest.parse([("model", name)]).model.or_default


@pytest.mark.parametrize(
    "name", ["parrot", "gpt-4o", "gpt-4o-audio-preview", "tts-1", "whisper", "acme/whisper-of-ours", "openai/", "larger",
             "turbocharged", "whisper-1/x", "../whisper-1", "text-embedding-3-small", "distil", "x/y/tiny"],
)  # fmt: skip
def test_other_names_do_not_stand_for_the_default(name: str) -> None:
    assert not openai_rest.parse([("model", name)]).model.or_default


@pytest.mark.parametrize(
    "name", ["whisper-1", "gpt-4o-transcribe-diarize", "openai/whisper-large-v3", "turbo", "nova-3"]
)
async def test_a_name_that_stands_for_the_default_is_described_under_that_name(
    strict_server: Server, name: str
) -> None:
    status, body, _ = await asked(strict_server, "GET", f"/v1/models/{name}")
    assert (status, body["id"], body["object"], body["name"]) == (200, name, "model", "fake")


@pytest.mark.parametrize("name", ["parrot", "acme/whisper-of-ours"])
async def test_an_unknown_name_is_not_found(strict_server: Server, name: str) -> None:
    sound = FormData({"model": name})
    sound.add_field("file", b"RIFF", filename="a.wav")
    for method, path, how in (("GET", f"/v1/models/{name}", {}), ("POST", SOUND, {"data": sound})):
        status, body, _ = await asked(strict_server, method, path, **how)
        error = body["error"]
        assert (status, error["code"], error["type"]) == (404, "model_not_found", "invalid_request_error")
        assert name in error["message"]


async def test_a_format_without_words_refuses_word_times_and_ignores_segments() -> None:
    for form in ("json", "text", "srt"):
        given = [("model", "gpt-4o-transcribe"), ("response_format", form), ("timestamp_granularities[]", "segment")]
        assert openai_rest.parse(given).response_format == form
