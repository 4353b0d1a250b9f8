"""Speakers told apart by the models that `myna models add diarization` fetches; the fetch takes 81 MB, once on a machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from aiohttp import ClientSession
from fetched import fetched
from peer import listening, settings
from sounds import contained, recording

from myna.inference.engines.diarizer.engine import DiarizerEngine
from myna.inference.engines.diarizer.offer import checked
from myna.inference.engines.port import ModelOptions
from myna.server.app import Server, running
from myna.streaming.session.jobs import InferenceJob, JobError, JobKind
from myna.streaming.speakers.runs import Voices

DIALOGUE = recording("endgame_nagg_nell")
"""28 s of two speakers in turns."""


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetched("diarization")


@pytest.fixture(scope="module")
def engine(folder: Path) -> DiarizerEngine:
    return DiarizerEngine(ModelOptions(source=str(folder), name="diarization"))


@pytest.fixture(scope="module")
async def server(folder: Path) -> AsyncIterator[Server]:
    async with running(settings(models=folder.parent, speakers_within_ms=60_000)) as started:
        yield started


def voices(engine: DiarizerEngine, sound: np.ndarray) -> Voices:
    (found,) = engine.transcribe([InferenceJob("a", "a", JobKind.FILE, sound.astype(np.int16).tobytes(), 0.0)])
    assert isinstance(found, Voices)
    return found


def test_the_licences_lie_beside_the_weights(folder: Path) -> None:
    notices = (folder / "THIRD_PARTY_LICENSES").read_text()
    assert "CAM++ Speaker Verification Model" in notices
    assert "Copyright (c) 2020 CNRS" in notices
    assert checked(folder)


@pytest.mark.parametrize("length_s", [0.006, 0.5, 1.0, 3.0])
def test_a_window_of_any_length_has_its_voices(engine: DiarizerEngine, length_s: float) -> None:
    found = voices(engine, DIALOGUE[8000 : 8000 + int(16_000 * length_s)]).runs
    assert len({run.track.voice for run in found}) <= 1
    assert all(run.span.end <= 16_000 * length_s for run in found)
    assert all(len(run.embedding or b"") in (0, 4 * 192) for run in found)


@pytest.mark.parametrize("loudness", [0, 300])
def test_silence_and_noise_have_no_voice(engine: DiarizerEngine, loudness: int) -> None:
    assert voices(engine, np.random.default_rng(0).normal(0, loudness, 100_000)).runs == ()


def test_more_than_a_window_is_refused(engine: DiarizerEngine) -> None:
    (found,) = engine.transcribe([InferenceJob("a", "a", JobKind.FILE, bytes(2 * 160_002), 0.0)])
    assert found == JobError("10.0 s of audio exceed the 10 s of a window")


async def test_the_words_of_a_file_have_the_speakers_of_the_fetched_model(server: Server, folder: Path) -> None:
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?diarize=true", data=contained([DIALOGUE], "flac", "flac")) as response,
    ):
        body = await response.json()
    speakers = [word["speaker"] for word in body["results"]["channels"][0]["alternatives"][0]["words"]]
    assert set(speakers) == {0, 1}
    assert sum(before != after for before, after in pairwise(speakers)) >= 6
    assert body["metadata"]["diarize_info"]["model_uuid"] == checked(folder)


async def test_live_words_have_the_speakers_of_the_fetched_model(server: Server) -> None:
    async with listening(server, "encoding=linear16&sample_rate=16000&diarize=true") as peer:
        await peer.socket.send_bytes(DIALOGUE.tobytes())
        await peer.send({"type": "CloseStream"})
        await peer.rest()
    words = [word for final in peer.finals for word in final["channel"]["alternatives"][0]["words"]]
    told = [word["speaker"] for word in words if "speaker" in word]
    assert len(told) > 0.9 * len(words)
    assert 2 <= len(set(told)) <= 3
