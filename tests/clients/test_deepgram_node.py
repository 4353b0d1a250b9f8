from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from javascript import FOLDER, NODE
from peer import eventually
from sounds import BECKETT, RATE, contained

from myna.server.app import Server

RAW = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16000}


async def node(server: Server, script: str = "listen.mjs", **job: Any) -> list[dict[str, Any]]:
    """Run the script; return its events."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        str(FOLDER / script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    given = json.dumps({"url": server.url, **job}).encode()
    out, errors = await asyncio.wait_for(process.communicate(given), 120)
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in out.splitlines()]


def messages(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [e["message"] for e in events if e["event"] == "message" and e["message"]["type"] == kind]


def finals(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages(events, "Results") if message["is_final"]]


def said(events: list[dict[str, Any]]) -> str:
    texts = (final["channel"]["alternatives"][0]["transcript"] for final in finals(events))
    return " ".join(text for text in texts if text)


def assert_ended_well(events: list[dict[str, Any]]) -> None:
    """The client opened once, got one Metadata as its last message, and closed once with 1000: it did not reconnect."""
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("open", "close"), events
    assert (kinds.count("open"), kinds.count("close"), kinds.count("error")) == (1, 1, 0)
    assert events[-1]["code"] == 1000
    assert events[-2]["message"]["type"] == "Metadata"
    assert len(messages(events, "Metadata")) == 1


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory, beckett: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("speech") / "beckett.raw"
    path.write_bytes(beckett.tobytes())
    return path


async def test_interims_finals_utterance_ends_and_one_close(
    server: Server, key: str, beckett: np.ndarray, tmp_path: Path
) -> None:
    begin, rest = tmp_path / "begin.raw", tmp_path / "rest.raw"
    begin.write_bytes(beckett[: round(1.3 * RATE)].tobytes())
    rest.write_bytes(beckett[round(1.3 * RATE) :].tobytes())
    options = {**RAW, "interim_results": "true", "utterance_end_ms": 1000, "vad_events": "true", "endpointing": 300}
    events = await node(
        server, credentials={"apiKey": key}, audio=[str(begin), "interim", str(rest), "finalize"], options=options,
        lingerMs=2500,
    )  # fmt: skip
    assert_ended_well(events)
    assert said(events) == BECKETT
    assert messages(events, "SpeechStarted")
    assert messages(events, "UtteranceEnd")
    assert any(not message["is_final"] for message in messages(events, "Results"))
    assert [final["from_finalize"] for final in finals(events)].count(True) == 1


async def test_keepalive_over_a_long_pause(impatient_server: Server, key: str, speech: Path) -> None:
    pause = ["keepalive"] * 6  # 2.4 s; the server waits for one
    events = await node(
        impatient_server, credentials={"apiKey": key}, audio=[str(speech), *pause, str(speech)], options=RAW
    )
    assert_ended_well(events)
    assert said(events).split().count("matter") == 2


async def test_containers_telephone_audio_and_two_channels(
    server: Server, key: str, beckett: np.ndarray, tmp_path: Path
) -> None:
    webm, mulaw, both = tmp_path / "a.webm", tmp_path / "a.mulaw", tmp_path / "a.stereo"
    webm.write_bytes(contained([np.repeat(beckett, 3)], "webm", "libopus", rate=48_000))
    coded = contained([beckett[::2]], "wav", "pcm_mulaw", rate=8_000)
    mulaw.write_bytes(coded[coded.index(b"data") + 8 :])
    both.write_bytes(np.stack([np.zeros_like(beckett), beckett], axis=1).tobytes())
    login = {"apiKey": key}
    events = await node(server, credentials=login, audio=[str(webm)], options={"model": "nova-3"})
    assert_ended_well(events)
    assert said(events) == BECKETT
    telephone = {"model": "nova-2-phonecall", "encoding": "mulaw", "sample_rate": 8000}
    events = await node(server, credentials=login, audio=[str(mulaw)], options=telephone)
    assert_ended_well(events)
    assert "fail" in said(events)
    stereo = {**RAW, "channels": 2, "multichannel": "true"}
    events = await node(server, credentials=login, audio=[str(both)], options=stereo)
    assert_ended_well(events)
    assert said(events) == BECKETT
    assert {tuple(final["channel_index"]) for final in finals(events)} == {(0, 2), (1, 2)}
    assert messages(events, "Metadata")[0]["duration"] == pytest.approx(len(beckett) / RATE, abs=0.01)


@pytest.mark.parametrize(
    ("wrong_key", "options", "status"),
    [(True, {}, 401), (False, {"detect_entities": "true"}, 400), (False, {"model": "parrot"}, 400)],
)
async def test_a_refusal_is_an_error_with_its_status(
    server: Server, key: str, wrong_key: bool, options: dict[str, Any], status: int
) -> None:
    events = await node(
        server, credentials={"apiKey": "wrong" if wrong_key else key}, audio=[], options={**RAW, **options},
        endOnError=True, reconnectAttempts=0,
    )  # fmt: skip
    (error,) = [event for event in events if event["event"] == "error"]
    assert error["error"] == f"Unexpected server response: {status}"


async def test_twenty_connections_in_a_row(server: Server, key: str, tmp_path: Path) -> None:
    silence = tmp_path / "silence.raw"
    silence.write_bytes(bytes(3200))
    events = await node(server, credentials={"apiKey": key}, audio=[str(silence)], options=RAW, rounds=20)
    closes = [event["code"] for event in events if event["event"] == "close"]
    assert closes == [1000] * 20
    await eventually(lambda: not server.services.streams)


async def test_a_browser_sends_its_key_in_the_sub_protocols(server: Server, key: str) -> None:
    for protocol in ("token", "bearer"):
        events = await node(server, protocols=[protocol, key, "x-deepgram-session-id", "7f0e"])
        assert events[0] == {"event": "open", "protocol": protocol}
        assert events[-1] == {"event": "close", "code": 1000}
