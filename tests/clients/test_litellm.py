"""Unmodified LiteLLM with its OpenAI and Deepgram providers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from sounds import BECKETT, bare, contained

from myna.server.app import Server

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it fetches a list of prices otherwise
import litellm


@pytest.fixture(scope="session")
def speech(beckett: np.ndarray) -> bytes:
    return contained([beckett], "wav", "pcm_s16le")


async def transcribed(server: Server, key: str, model: str, data: bytes, **how: Any) -> Any:
    return await litellm.atranscription(
        model=model, file=("speech.wav", data), api_base=f"{server.url}/v1", api_key=key, max_retries=0, **how
    )


@pytest.mark.parametrize("model", ["openai/whisper-1", "openai/gpt-4o-transcribe", "openai/whisper-large-v3-turbo"])
async def test_openais_provider(server: Server, key: str, speech: bytes, model: str) -> None:
    assert bare((await transcribed(server, key, model, speech)).text) == BECKETT


async def test_openais_provider_with_word_times(server: Server, key: str, speech: bytes) -> None:
    how = {"response_format": "verbose_json", "timestamp_granularities": ["word"], "language": "en"}
    answer = await transcribed(server, key, "openai/whisper-1", speech, **how)
    assert bare(answer.text) == BECKETT
    words = [word["word"] if isinstance(word, dict) else word.word for word in answer["words"]]
    assert bare(" ".join(words)) == BECKETT


async def test_deepgrams_provider(server: Server, key: str, speech: bytes) -> None:
    answer = await transcribed(server, key, "deepgram/nova-3", speech)
    assert bare(answer.text) == BECKETT
    answer = await transcribed(server, key, "deepgram/nova-3", speech, diarize=True, punctuate=True)
    assert bare(answer.text) == f"speaker 0 {BECKETT}"  # LiteLLM writes the speakers into the text


async def test_litellm_raises_the_class_of_each_error(server: Server, key: str, speech: bytes) -> None:
    with pytest.raises(litellm.AuthenticationError):
        await transcribed(server, "wrong", "openai/whisper-1", speech)
    with pytest.raises(litellm.NotFoundError, match="parrot"):
        await transcribed(server, key, "openai/parrot", speech)
    with pytest.raises(litellm.BadRequestError, match="does not support the language"):
        await transcribed(server, key, "openai/whisper-1", speech, language="fi")
