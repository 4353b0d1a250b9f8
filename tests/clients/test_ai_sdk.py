"""The unmodified AI SDK: `transcribe` of its OpenAI and Deepgram providers with their default requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import BECKETT, RATE, bare, contained
from test_deepgram_node import node

from myna.server.app import Server


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory, beckett: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("speech") / "beckett.wav"
    path.write_bytes(contained([beckett], "wav", "pcm_s16le"))
    return path


async def transcribed(
    server: Server, key: str, provider: str, model: str, audio: Path, **options: Any
) -> dict[str, Any]:
    job = {"provider": provider, "model": model, "key": key, "audio": str(audio), "options": options or None}
    (result,) = await node(server, "transcribe.mjs", **job)
    return result


@pytest.mark.parametrize(
    "model", ["whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize"]
)
async def test_openais_provider_by_default(server: Server, key: str, speech: Path, model: str) -> None:
    result = await transcribed(server, key, "openai", model, speech)
    assert bare(result["text"]) == BECKETT


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-transcribe", "whisper-large-v3-turbo"])
async def test_openais_provider_with_options_and_their_results(
    server: Server, key: str, speech: Path, model: str
) -> None:
    result = await transcribed(server, key, "openai", model, speech, language="en")
    assert bare(result["text"]) == BECKETT
    if model != "gpt-4o-transcribe":  # the provider asks for json there, which has neither
        assert result["durationInSeconds"] == pytest.approx(len(speech.read_bytes()) / 2 / RATE, abs=0.1)
        assert bare(" ".join(segment["text"].strip() for segment in result["segments"])) == BECKETT
    words = await transcribed(server, key, "openai", "whisper-1", speech, timestampGranularities=["word"])
    assert bare(" ".join(segment["text"] for segment in words["segments"])) == BECKETT


async def test_deepgrams_provider_which_requests_speakers_by_default(
    server: Server, key: str, speech: Path, beckett: np.ndarray
) -> None:
    result = await transcribed(server, key, "deepgram", "nova-3", speech)
    assert result["text"] == BECKETT
    assert [segment["text"] for segment in result["segments"]] == BECKETT.split()
    assert result["durationInSeconds"] == pytest.approx(len(beckett) / RATE, abs=0.01)
    options = {"smartFormat": True, "utterances": True, "detectLanguage": True, "diarize": False}
    result = await transcribed(server, key, "deepgram", "nova-3", speech, **options)
    assert bare(result["text"]) == BECKETT
    assert result["language"] == "en"


async def test_both_providers_read_refusals(server: Server, key: str, speech: Path) -> None:
    for provider in ("openai", "deepgram"):
        result = await transcribed(server, "wrong", provider, "whisper-1", speech)
        assert result["status"] == 401
    assert (await transcribed(server, key, "openai", "parrot", speech))["status"] == 404
    refused = await transcribed(server, key, "deepgram", "parrot", speech)
    assert refused["status"] == 400
