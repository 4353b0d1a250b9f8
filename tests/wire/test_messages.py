from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myna.wire import messages as wire

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
WORD = wire.WordEntry(word="hé", punctuated_word="Hé,", start=0.5, end=0.75, confidence=0.9)
FROM_SERVER: list[wire.AnyServerMessage] = [
    wire.ReadyMessage(stream="s", model="m", language="en", endpointing_ms=500, max_utterance_s=12.0),
    wire.SpeechStartedMessage(channel=0, time=0.1),
    wire.PartialMessage(channel=0, start=0.0, end=1.0, text="hé", words=(WORD,), stable=0),
    wire.FinalMessage(channel=1, start=0.0, end=1.0, text="", words=(), cause="endpoint"),
    wire.UtteranceEndMessage(channel=0, last_word_end=0.75),
    wire.MarkMessage(channel=0, mark=","),
    wire.FinalizedMessage(id=None),
    wire.SpeakersMessage(
        channel=0,
        since=0.0,
        count=2,
        words=(0, None, 1),
        turns=(wire.TurnEntry(start=0.0, end=1.5, speaker=0, confidence=0.9),),
    ),
    wire.ErrorMessage(code="c", message="m"),
    wire.ClosedMessage(reason="close", seconds=1.0),
]
FROM_CLIENT: list[wire.AnyClientMessage] = [
    wire.StartMessage(encoding="mulaw", sample_rate=8000),
    wire.FinalizeMessage(id="x"),
    wire.KeepAliveMessage(),
    wire.CloseMessage(),
]


@pytest.mark.parametrize("form", list(wire.Format))
def test_encoded_messages_decode_to_themselves(form: wire.Format) -> None:
    for message in FROM_SERVER:
        assert wire.decode_server(wire.encode(message, form), form) == (message, None)
        account = wire.Account(number=7, received=3)
        assert wire.decode_server(wire.encode(message, form, account), form) == (message, account)
    for said in FROM_CLIENT:
        assert wire.decode_client(wire.encode(said, form), form) == said


def test_audio_is_a_binary_frame_in_json_and_a_message_in_msgpack() -> None:
    audio = wire.AudioMessage(audio=b"\x00\x01")
    assert wire.decode_client(b"\x00\x01", wire.Format.JSON) == audio
    assert wire.decode_client(wire.encode(audio, wire.Format.MSGPACK), wire.Format.MSGPACK) == audio


def test_a_client_ignores_what_a_newer_server_adds() -> None:
    got, _ = wire.decode_server('{"type": "speech_started", "channel": 0, "time": 1.0, "new": 1}', wire.Format.JSON)
    assert got == wire.SpeechStartedMessage(channel=0, time=1.0)


@given(st.binary(max_size=200), st.text(max_size=200))
def test_any_client_frame_is_a_message_or_a_wire_error(data: bytes, text: str) -> None:
    for frame, form in ((data, wire.Format.MSGPACK), (text, wire.Format.JSON), (text, wire.Format.MSGPACK)):
        with contextlib.suppress(wire.WireError):
            wire.decode_client(frame, form)


def test_the_protocol_document_names_every_message_with_every_field() -> None:
    text = DOCUMENT.read_text()
    for message in (*get_args(wire.AnyClientMessage), *get_args(wire.AnyServerMessage)):
        kind = message.model_fields["type"].default
        section = re.search(rf"^### `{kind}`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, kind
        for name in message.model_fields:
            assert f"`{name}`" in section[1] or name == "type", (kind, name)


def test_the_protocol_document_names_every_error_code() -> None:
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "myna" / "server").rglob("*.py"))
    codes = set(re.findall(r'DialectError\(\s*"(\w+)"', sources)) | {"decode_failed"}
    assert len(codes) >= 10
    for code in codes:
        assert f"`{code}`" in DOCUMENT.read_text(), code
