from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import FOLDER, played

CONVERSATIONS = sorted(FOLDER.glob("*.txt"))
FLUX = [path for path in CONVERSATIONS if path.stem.startswith("flux")]
LISTEN = [path for path in CONVERSATIONS if path not in FLUX]


@pytest.mark.parametrize("path", CONVERSATIONS, ids=lambda path: path.stem)
def test_a_conversation_is_answered_byte_for_byte_as_written(path: object) -> None:
    script = path.read_text()  # type: ignore[attr-defined]
    assert played(script) == script


def said(paths: list[Path]) -> list[dict[str, Any]]:
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return [json.loads(line[2:]) for line in lines if line.startswith("< {")]


def test_every_message_occurs_in_a_conversation() -> None:
    assert {message["type"] for message in said(LISTEN)} == {
        "Results", "Metadata", "SpeechStarted", "UtteranceEnd", "Error", "ConfigureSuccess", "ConfigureFailure"
    }  # fmt: skip
    assert {message["type"] for message in said(FLUX)} == {
        "Connected", "TurnInfo", "Error", "ConfigureSuccess", "ConfigureFailure"
    }  # fmt: skip
    assert {message["event"] for message in said(FLUX) if message["type"] == "TurnInfo"} == {
        "StartOfTurn", "Update", "EagerEndOfTurn", "TurnResumed", "EndOfTurn"
    }  # fmt: skip
    assert {message["trigger"] for message in said(FLUX) if "trigger" in message} == {"model", "manual", "timeout"}


@pytest.mark.parametrize("path", FLUX, ids=lambda path: path.stem)
def test_the_messages_of_flux_are_counted_and_its_turns_alternate(path: Path) -> None:
    messages = said([path])
    assert [message["sequence_id"] for message in messages] == list(range(len(messages)))
    assert all(("request_id" in message) == (message["type"] != "Error") for message in messages)
    state, turn, eager = "idle", 0, ""
    before = {"StartOfTurn": "idle", "EagerEndOfTurn": "turn", "TurnResumed": "waiting"}
    for message in messages:
        event = message.get("event")
        if event is None or event == "Update":
            continue
        assert message["turn_index"] == turn
        assert state == before.get(event, state)
        assert not (event == "EndOfTurn" and state == "idle")
        assert ("trigger" in message) == (event == "EndOfTurn")
        if event == "EndOfTurn":
            if state == "waiting" and message["trigger"] != "manual":
                assert message["transcript"] == eager
            turn += 1
        eager = message["transcript"]
        state = {"StartOfTurn": "turn", "EagerEndOfTurn": "waiting", "TurnResumed": "turn", "EndOfTurn": "idle"}[event]


@pytest.mark.parametrize("path", LISTEN, ids=lambda path: path.stem)
def test_finals_of_each_channel_follow_each_other_without_gap_or_overlap(path: object) -> None:
    position: dict[int, float] = {}
    for line in path.read_text().splitlines():  # type: ignore[attr-defined]
        message = json.loads(line[2:]) if line.startswith("< {") else {}
        if message.get("is_final"):
            channel = message["channel_index"][0]
            assert message["start"] == pytest.approx(position.get(channel, 0.0), abs=1e-9)
            position[channel] = message["start"] + message["duration"]
