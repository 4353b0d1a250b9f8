"""Whisper in a running server: beside other engines, with files, and with folders that are broken."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import jiwer
import numpy as np
import pytest
import wordless
from aiohttp import ClientSession, FormData
from peer import connected, eventually, settings
from sounds import BECKETT, RATE, contained, recording
from speakers import START, Speaker, names, phrases, running_fake

from myna.bench.accuracy import normalised
from myna.server.app import Server, running


@pytest.fixture(scope="module")
def models(tiny_en_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models' folder with tiny.en, and one folder whose weights are cut short."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "whisper-tiny.en").symlink_to(tiny_en_folder)
    (folder / "broken").mkdir()
    for file in tiny_en_folder.iterdir():
        (folder / "broken" / file.name).write_bytes(file.read_bytes()[: 1 << 20])
    return folder


@pytest.fixture(scope="module")
async def server(models: Path) -> AsyncIterator[Server]:
    async with running(settings(model="whisper-tiny.en", models=models)) as started:
        yield started


async def transcribed(server: Server, pcm: np.ndarray) -> str:
    form = FormData()
    form.add_field("file", io.BytesIO(contained([pcm], "wav", "pcm_s16le")), filename="sound.wav")
    form.add_field("model", "whisper-tiny.en")
    async with (
        ClientSession() as session,
        session.post(server.url + "/v1/audio/transcriptions", data=form) as response,
    ):
        assert response.status == 200, await response.text()
        return str((await response.json())["text"])


async def test_a_file_is_transcribed(server: Server) -> None:
    assert jiwer.wer(BECKETT, normalised(await transcribed(server, recording("beckett")))) <= 0.1


@pytest.mark.parametrize("sound", [wordless.silence, wordless.noise, wordless.tone, wordless.music])
async def test_a_file_of_five_minutes_without_speech_has_no_word(
    server: Server, sound: Callable[[float], np.ndarray]
) -> None:
    assert await transcribed(server, sound(300.0)) == ""


async def test_a_broken_folder_is_listed_with_its_reason_and_refused_and_others_are_served(server: Server) -> None:
    async with ClientSession() as session, session.get(server.url + "/v1/models") as response:
        answer = await response.json()
    assert "cut short or damaged" in answer["unusable"]["broken"]
    assert "whisper-tiny.en" in [model["id"] for model in answer["data"]]
    async with (
        ClientSession() as session,
        session.get(server.url + "/v1/stream?model=broken") as response,
    ):
        assert response.status == 400
        assert "cut short or damaged" in (await response.json())["error"]["message"]
    async with connected(server) as peer:
        await peer.send({"type": "start", "encoding": "linear16", "sample_rate": RATE})
        assert (await peer.until("ready"))["model"] == "whisper-tiny.en"


async def test_three_engines_serve_streams_at_once_and_one_that_crashes_disturbs_no_other(models: Path) -> None:
    pcm = np.concatenate([recording("beckett"), np.zeros(RATE, np.int16)]).tobytes()
    half = len(pcm) // 4 * 2
    preload = ["moonshine", "whisper-tiny.en"]
    async with running_fake(models=models, preload=preload, lanes=1) as server:
        pools = server.models.pools_by_name
        assert set(pools) == {"fake", "moonshine-tiny-en", "whisper-tiny.en"}
        async with (
            Speaker(server) as fake,
            Speaker(server, START, model="moonshine-tiny-en") as moonshine,
            Speaker(server, START, model="whisper-tiny.en") as whisper,
        ):
            await asyncio.gather(fake.say(phrases([1, 2, 3, 4])), moonshine.say(pcm[:half]), whisper.say(pcm[:half]))
            await eventually(lambda: fake.words == names([1, 2, 3, 4]))
            os.kill(pools["moonshine-tiny-en"].pids[0], signal.SIGKILL)
            await asyncio.gather(fake.say(phrases([5, 6, 7, 8])), moonshine.say(pcm[half:]), whisper.say(pcm[half:]))
            for speaker in (fake, moonshine, whisper):
                await speaker.done()
        assert fake.words == names([1, 2, 3, 4, 5, 6, 7, 8])
        for speaker in (moonshine, whisper):
            assert jiwer.wer(BECKETT, normalised(" ".join(speaker.words))) <= 0.2
        assert {name: pool.restarts for name, pool in pools.items()} == {
            "fake": 0, "moonshine-tiny-en": 1, "whisper-tiny.en": 0,
        }  # fmt: skip
