from __future__ import annotations

import json

import pytest
from golden import FOLDER, played

CONVERSATIONS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", CONVERSATIONS, ids=lambda path: path.stem)
def test_a_conversation_goes_byte_for_byte_as_it_is_written(path: object) -> None:
    script = path.read_text()  # type: ignore[attr-defined]
    assert played(script) == script


def test_every_message_there_is_is_in_a_conversation() -> None:
    said = [line[2:] for path in CONVERSATIONS for line in path.read_text().splitlines() if line.startswith("< {")]
    kinds = {json.loads(line)["type"] for line in said}
    assert kinds == {
        "Results", "Metadata", "SpeechStarted", "UtteranceEnd", "Error", "ConfigureSuccess", "ConfigureFailure"
    }  # fmt: skip


@pytest.mark.parametrize("path", CONVERSATIONS, ids=lambda path: path.stem)
def test_finals_of_each_channel_follow_each_other_without_gap_or_overlap(path: object) -> None:
    position: dict[int, float] = {}
    for line in path.read_text().splitlines():  # type: ignore[attr-defined]
        message = json.loads(line[2:]) if line.startswith("< {") else {}
        if message.get("is_final"):
            channel = message["channel_index"][0]
            assert message["start"] == pytest.approx(position.get(channel, 0.0), abs=1e-9)
            position[channel] = message["start"] + message["duration"]
