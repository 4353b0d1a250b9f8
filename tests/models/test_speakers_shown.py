"""Speakers as readers see them: names in texts and subtitles, told apart by the real models in a recorded dialogue."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, FormData, web
from peer import metric, served, settings, until_metric
from sounds import RATE, contained, recording

from myna.clients.blocking import SyncLiveClient
from myna.clients.session import transcribe
from myna.clients.speakers import SpeakersWanted, relabelled
from myna.server.app import Server, running
from myna.wire import messages as wire

DIALOGUE = contained([recording("endgame_nagg_nell")], "flac", "flac")
"""28 s of two speakers in turns."""
FORM = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running(settings(speakers_within_ms=60_000, allowed_networks=["127.0.0.0/8"])) as started:
        yield started


async def transcribed(server: Server, **fields: str) -> Any:
    form = FormData({"diarize": "true", **fields})
    form.add_field("file", BytesIO(DIALOGUE), filename="dialogue.flac")
    async with ClientSession() as session, session.post(server.url + FORM, data=form) as response:
        assert response.status == 200
        return await (response.json() if response.content_type == "application/json" else response.text())


def assert_in_turns(names: list[Any], one: Any, other: Any) -> None:
    """The two speak in turns, and the first named is the first speaker."""
    assert set(names) == {one, other}
    assert names[0] == one
    changes = sum(before != after for before, after in pairwise(names))
    assert changes >= 6


async def test_each_line_of_a_text_has_one_speaker_who_is_named(server: Server) -> None:
    lines = (await transcribed(server, response_format="text")).splitlines()
    names = [line.partition(": ")[0] for line in lines]
    assert_in_turns(names, "Speaker 1", "Speaker 2")
    assert all(before != after for before, after in pairwise(names))


async def test_subtitles_name_who_speaks(server: Server) -> None:
    srt = await transcribed(server, response_format="srt")
    assert_in_turns(re.findall(r"^(Speaker \d): ", srt, re.MULTILINE), "Speaker 1", "Speaker 2")
    vtt = await transcribed(server, response_format="vtt")
    assert_in_turns(re.findall(r"^<v (.+?)>\w", vtt, re.MULTILINE), "Speaker 1", "Speaker 2")
    assert vtt.count("<v ") == vtt.count("-->")


async def test_json_counts_speakers_from_zero(server: Server) -> None:
    how = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    words = (await transcribed(server, **how))["words"]
    assert_in_turns([word["speaker"] for word in words], 0, 1)
    segments = (await transcribed(server, response_format="verbose_json"))["segments"]
    assert_in_turns([segment["speaker"] for segment in segments], 0, 1)


async def test_without_the_request_no_format_names_speakers(server: Server) -> None:
    for form in ("text", "srt", "vtt", "verbose_json"):
        assert "peaker" not in str(await transcribed(server, response_format=form, diarize="false"))


async def test_the_file_at_an_address_has_speakers_too(server: Server) -> None:
    async def sound(_request: web.Request) -> web.Response:
        return web.Response(body=DIALOGUE)

    app = web.Application()
    app.router.add_get("/dialogue.flac", sound)
    async with served(app) as url, ClientSession() as session:
        asked = {"audio_file_url": f"{url}/dialogue.flac", "diarize": True}
        async with session.post(f"{server.url}{FORM}-from-url", json={**asked, "response_format": "text"}) as response:
            assert (await response.text()).startswith("Speaker 1: ")
        async with session.post(f"{server.url}{FORM}-from-url", json=asked) as response:
            assert_in_turns([word["speaker"] for word in (await response.json())["words"]], 0, 1)
        async with session.post(f"{server.url}{FORM}-from-url", json={**asked, "diarize": "maybe"}) as response:
            assert response.status == 400
            assert "diarize" in await response.text()
        asked["response_format"] = "diarized_json"
        async with session.post(f"{server.url}{FORM}-from-url", json=asked) as response:
            assert_in_turns([segment["speaker"] for segment in (await response.json())["segments"]], "A", "B")


async def test_a_job_is_not_heard_further_than_its_speakers(server: Server) -> None:
    """Stop the process that hears speakers while the words are decoded."""
    await transcribed(server)
    taken = asyncio.Event()

    async def take(_request: web.Request) -> web.Response:
        taken.set()
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    hearing = server.models.pools_by_name["speakers"].pids
    decoded = await metric(server, "myna_decoded_seconds_total")
    async with served(app) as url, ClientSession() as session:

        async def heard_s() -> float:
            async with session.get(f"{server.url}/v1/jobs/{job}") as response:
                return float((await response.json())["heard_seconds"])

        for process in hearing:
            os.kill(process, signal.SIGSTOP)
        try:
            address = f"{server.url}/v1/listen?diarize=true&callback={url}/hook"
            async with session.post(address, data=DIALOGUE) as response:
                job = (await response.json())["request_id"]
            await until_metric(server, "myna_decoded_seconds_total", lambda now: now > decoded + 10)
            assert await heard_s() == 0
        finally:
            for process in hearing:
                os.kill(process, signal.SIGCONT)
        found = [0.0]
        while not taken.is_set():
            found.append(await heard_s())
        found.append(await heard_s())
    assert found == sorted(found)
    assert found[-1] == pytest.approx(28, abs=1)


async def run(*arguments: str, status: int = 0) -> str:
    """Run the command line; return what it prints."""
    command = [str(Path(sysconfig.get_path("scripts")) / "myna"), *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + (done.stderr if status else "")


async def test_the_command_line_names_the_speakers_of_a_file(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "dialogue.flac"
    path.write_bytes(DIALOGUE)
    here = (str(path), "--url", server.url, "--speakers")
    lines = (await run("transcribe", *here)).splitlines()
    assert_in_turns([line.partition(": ")[0] for line in lines], "Speaker 1", "Speaker 2")
    await run("transcribe", *here, "--format", "vtt", "--output", str(tmp_path / "out.vtt"))
    assert "<v Speaker 2>" in (tmp_path / "out.vtt").read_text()
    words = json.loads(await run("transcribe", *here, "--format", "json"))["words"]
    assert_in_turns([word["speaker"] for word in words], 0, 1)


async def test_the_command_line_limits_the_number_of_speakers(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "dialogue.flac"
    path.write_bytes(DIALOGUE)
    here = (str(path), "--url", server.url)
    assert "Speaker 2" not in await run("transcribe", *here, "--num-speakers", "1")
    assert "Speaker 2" not in await run("stream", *here, "--speed", "0", "--max-speakers", "1")
    wrong = ("--min-speakers", "3", "--max-speakers", "2")
    assert "min_speakers must be at most" in await run("transcribe", *here, *wrong, status=1)
    assert "min_speakers must be at most" in await run("stream", *here, *wrong, status=2)
    assert "--num-speakers" in await run("transcribe", *here, "--num-speakers", "0", status=2)


async def test_the_command_line_names_speakers_while_they_speak(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "dialogue.flac"
    path.write_bytes(DIALOGUE)
    here = ("stream", str(path), "--url", server.url, "--speed", "0", "--speakers")
    shown = await run(*here)
    assert shown.startswith("Speaker 1: ")
    assert "\nSpeaker 2: " in shown
    assert "\x1b" not in shown  # no colours where it is not a terminal
    messages = [json.loads(line) for line in (await run(*here, "--json")).splitlines()]
    assert [message["type"] for message in messages[-2:]] == ["speakers", "closed"]
    said = [word for message in messages if message["type"] == "final" for word in message["words"]]
    assert len(said) == len(messages[-2]["words"])
    assert_in_turns([speaker for speaker in messages[-2]["words"] if speaker is not None], 0, 1)


async def test_the_blocking_client_gets_the_labels_of_the_whole_stream(server: Server) -> None:
    def heard() -> tuple[list[wire.FinalMessage], list[wire.FinalMessage]]:
        start = wire.StartMessage(encoding="linear16", sample_rate=RATE, interim=False)
        finals: list[wire.FinalMessage] = []
        with SyncLiveClient(start, server.url, speakers=SpeakersWanted()) as client:
            client.send(recording("endgame_nagg_nell").tobytes())
            client.close()
            for message in client:
                if isinstance(message, wire.FinalMessage):
                    finals.append(message)
                if isinstance(message, wire.SpeakersMessage):
                    return finals, relabelled(finals, message)
        raise AssertionError("there was no speakers message")

    live, whole = await asyncio.to_thread(heard)
    assert {word.speaker for final in live for word in final.words} >= {0, 1}
    known = [word.speaker for final in whole for word in final.words if word.speaker is not None]
    assert_in_turns(known, 0, 1)
    assert [word.word for final in whole for word in final.words] == [
        word.word for final in live for word in final.words
    ]


async def test_a_finished_session_returns_finals_with_the_labels_of_the_whole_stream(server: Server) -> None:
    async def audio() -> AsyncIterator[bytes]:
        yield recording("endgame_nagg_nell").tobytes()

    start = wire.StartMessage(encoding="linear16", sample_rate=RATE, interim=False)
    finals = await transcribe(audio(), start, server.url, speakers=SpeakersWanted())
    known = [word.speaker for final in finals for word in final.words if word.speaker is not None]
    assert_in_turns(known, 0, 1)


async def test_the_program_of_the_document_runs(server: Server) -> None:
    document = (Path(__file__).parents[2] / "docs" / "speakers.md").read_text()
    (program,) = re.findall(r"```python\n(.+?)```", document, re.DOTALL)
    found: dict[str, Any] = {}
    exec(program.replace("LiveClient(start, ", f"LiveClient(start, {server.url!r}, "), found)
    start = wire.StartMessage(encoding="linear16", sample_rate=RATE, interim=False)
    finals = await found["labelled"](start, recording("endgame_nagg_nell").tobytes())
    known = [word.speaker for final in finals for word in final.words if word.speaker is not None]
    assert_in_turns(known, 0, 1)
