from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, WSMsgType
from peer import Peer, connected
from speakers import running_fake

from myna.inference.engines.fake.engine import FakeEngine, silence, spoken
from myna.server.app import Server
from myna.server.dialects.base import Flush
from myna.server.dialects.openai.realtime import RealtimeDialect
from myna.server.dialects.openai.realtime_session import RealtimeSession
from myna.server.keys import Scope, add_key
from myna.server.settings import Settings
from myna.streaming import events

PATH = "/v1/realtime"
T = "conversation.item.input_audio_transcription."
B = "input_audio_buffer."


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running_fake() as started:
        yield started


def said(*parts: int | float) -> bytes:
    """Return the audio of words (whole numbers) and silences (seconds) at 16 kHz."""
    sounds = [spoken(part) if isinstance(part, int) else silence(part) for part in parts]
    return np.concatenate(sounds).astype("<i2").tobytes()


class Talker(Peer):
    """A client of the Realtime API."""

    async def session(self, **parts: Any) -> dict[str, Any]:
        """Set parts of session.audio.input. At 16 kHz audio is not resampled, which the fake engine needs."""
        whole = {"format": {"type": "audio/pcm", "rate": 16_000}, **parts}
        include = whole.pop("include", None)
        session = {"type": "transcription", "audio": {"input": whole}} | ({"include": include} if include else {})
        await self.send({"type": "session.update", "session": session})
        return await self.until("session.updated")

    async def append(self, audio: bytes, chunk: int = 6400) -> None:
        for start in range(0, len(audio), chunk):
            piece = base64.b64encode(audio[start : start + chunk]).decode()
            await self.send({"type": f"{B}append", "audio": piece})

    async def commit(self) -> None:
        await self.send({"type": f"{B}commit"})

    @property
    def kinds(self) -> list[str]:
        return [message["type"].removeprefix("conversation.item.") for message in self.messages]

    @property
    def items(self) -> list[list[dict[str, Any]]]:
        """Return the events of each item, in the order of their first events."""
        found: dict[str, list[dict[str, Any]]] = {}
        for message in self.messages:
            item_id = message.get("item_id") or message.get("item", {}).get("id")
            if item_id:
                found.setdefault(item_id, []).append(message)
        return list(found.values())

    @property
    def item_kinds(self) -> list[list[str]]:
        return [[message["type"].removeprefix("conversation.item.") for message in item] for item in self.items]

    def deltas(self, item_id: str) -> str:
        return "".join(message["delta"] for message in self.of(f"{T}delta") if message["item_id"] == item_id)


@contextlib.asynccontextmanager
async def talking(server: Server, query: str = "?intent=transcription", **how: Any) -> AsyncIterator[Talker]:
    async with connected(server, query, PATH, **how) as peer:
        yield Talker(peer.socket)


MANUAL: dict[str, Any] = {"turn_detection": None}
TURN = [
    f"{B}speech_started", f"{B}speech_stopped", f"{B}committed", "added", "done", "input_audio_transcription.delta",
    "input_audio_transcription.completed",
]  # fmt: skip


async def test_the_session_comes_first_and_each_turn_in_the_documented_order(server: Server) -> None:
    async with talking(server) as talker:
        created = await talker.until("session.created")
        assert created["session"]["type"] == "transcription"
        assert created["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        assert created["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
        await talker.session()
        await talker.append(said(0.5, 1, 2, 3, 1.0, 4, 5, 1.0))
        await talker.until(f"{T}completed")
        await talker.until(f"{T}completed")
    assert talker.kinds[:2] == ["session.created", "session.updated"]
    turns = talker.items
    assert talker.item_kinds == [TURN, TURN]
    previous = None
    for turn, text in zip(turns, ("w1 w2 w3", "w4 w5"), strict=True):
        item = turn[0]["item_id"]
        assert [message["previous_item_id"] for message in turn[2:5]] == [previous] * 3
        assert turn[3]["item"]["content"] == [{"type": "input_audio", "transcript": None}]
        assert turn[6]["transcript"] == text == talker.deltas(item)
        assert turn[6]["usage"]["type"] == "duration"
        previous = item
    assert turns[0][0]["audio_start_ms"] == pytest.approx(500 - 300, abs=40)
    assert turns[0][1]["audio_end_ms"] == pytest.approx(1400 + 500, abs=60)
    ids = [message["event_id"] for message in talker.messages]
    assert len(set(ids)) == len(ids)


async def test_everything_sent_at_once_gives_the_same_turns(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session()
        await talker.append(said(0.5, 1, 2, 1.0, 3, 1.0, 4, 5, 6, 1.0), chunk=1 << 20)
        for _ in range(3):
            await talker.until(f"{T}completed")
    assert [m["transcript"] for m in talker.of(f"{T}completed")] == ["w1 w2", "w3", "w4 w5 w6"]
    assert talker.item_kinds == [TURN] * 3


async def test_a_minute_of_audio_in_one_commit_is_one_item_with_one_completion(server: Server) -> None:
    codes = [n for n in range(1, 200) if n % 20]
    parts = [part for code in codes for part in ((code, 0.5) if code % 20 == 19 else (code,))]
    async with talking(server) as talker:
        await talker.session(**MANUAL)
        audio = said(*parts)
        assert len(audio) / 32_000 > 55
        await talker.append(audio)
        await talker.commit()
        done = await talker.until(f"{T}completed")
        (committed,) = talker.of(f"{B}committed")
        await talker.append(said(7, 8, 0.2))
        await talker.commit()
        after = await talker.until(f"{T}completed")
    assert done["item_id"] == committed["item_id"]
    assert done["transcript"] == " ".join(f"w{code}" for code in codes) == talker.deltas(done["item_id"])
    assert done["usage"]["seconds"] == -(-len(audio) // 32_000)
    assert after["transcript"] == "w7 w8"
    assert f"{B}speech_started" not in talker.kinds
    order = talker.kinds[2:]
    assert order[:3] == [f"{B}committed", "added", "done"]


async def test_a_commit_is_answered_before_anything_is_decoded_and_two_may_be_open(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session(**MANUAL)
        await talker.append(said(1, 2))
        await talker.commit()
        await talker.append(said(3, 4))
        await talker.commit()
        first, second = await talker.until(f"{T}completed"), await talker.until(f"{T}completed")
    items = [message["item_id"] for message in talker.of(f"{B}committed")]
    assert [first["item_id"], second["item_id"]] == items
    assert [first["transcript"], second["transcript"]] == ["w1 w2", "w3 w4"]
    assert talker.kinds.index(f"{B}committed") < talker.kinds.index("input_audio_transcription.delta")


async def test_a_commit_ends_the_turn_that_voice_activity_detection_began(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session()
        await talker.append(said(0.3, 1, 2, 3))
        started = await talker.until(f"{B}speech_started")
        await talker.commit()
        done = await talker.until(f"{T}completed")
        assert done["item_id"] == started["item_id"]
        assert done["transcript"] == "w1 w2 w3"
        await talker.append(said(0.3, 4, 5, 1.0))
        after = await talker.until(f"{T}completed")
        assert after["transcript"] == "w4 w5"
        assert after["item_id"] != done["item_id"]
    assert talker.kinds.count(f"{B}committed") == 2


async def test_an_empty_commit_is_an_error_and_the_session_goes_on(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session(**MANUAL)
        await talker.send({"type": f"{B}commit", "event_id": "mine"})
        error = (await talker.until("error"))["error"]
        assert error["code"] == "input_audio_buffer_commit_empty"
        assert error["event_id"] == "mine"
        assert error["message"].startswith(
            "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but buffer only has 0."
        )
        await talker.append(said(1, 2))
        await talker.commit()
        assert (await talker.until(f"{T}completed"))["transcript"] == "w1 w2"


async def test_cleared_audio_produces_no_events(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session(**MANUAL)
        await talker.append(said(1, 2, 3))
        await talker.send({"type": f"{B}clear"})
        await talker.until(f"{B}cleared")
        await talker.commit()
        assert (await talker.until("error"))["error"]["code"] == "input_audio_buffer_commit_empty"
        await talker.append(said(4, 5))
        await talker.commit()
        assert (await talker.until(f"{T}completed"))["transcript"] == "w4 w5"
        await talker.session(turn_detection={"type": "server_vad"})
        await talker.append(said(0.3, 6, 7))
        await talker.until(f"{B}speech_started")
        await talker.send({"type": f"{B}clear"})
        await talker.append(said(0.3, 8, 9, 1.0))
        assert (await talker.until(f"{T}completed"))["transcript"] == "w8 w9"


@pytest.mark.parametrize("eagerness", ["low", "auto", "high"])
async def test_semantic_detection_gives_the_same_turns(server: Server, eagerness: str) -> None:
    async with talking(server) as talker:
        await talker.session(turn_detection={"type": "semantic_vad", "eagerness": eagerness})
        await talker.append(said(1, 2, 3, 4, 8.0))
        assert (await talker.until(f"{T}completed"))["transcript"] == "w1 w2 w3 w4"
        assert talker.item_kinds == [TURN]


def test_semantic_detection_waits_longer_with_lower_eagerness() -> None:
    sessions = [
        RealtimeSession(turn_detection={"type": "semantic_vad", "eagerness": name}) for name in ("high", "auto", "low")
    ]
    turns = [session.policy(Settings(), FakeEngine().info).turns for session in sessions]
    assert [turn.timeout_ms for turn in turns if turn] == [2000, 4000, 8000]
    ends = [turn.end for turn in turns if turn]
    assert ends == sorted(set(ends))


async def test_an_update_keeps_absent_fields_and_null_turns_a_part_off(server: Server) -> None:
    async with talking(server) as talker:
        vad = {"type": "server_vad", "threshold": 0.6, "silence_duration_ms": 300}
        first = await talker.session(
            turn_detection=vad,
            noise_reduction={"type": "near_field"},
            include=["item.input_audio_transcription.logprobs"],
        )
        audio = first["session"]["audio"]["input"]
        assert audio["turn_detection"] == {**vad, "prefix_padding_ms": 300}
        assert audio["noise_reduction"] == {"type": "near_field"}
        assert audio["transcription"]["model"] == "fake"
        await talker.send({"type": "session.update", "session": {"type": "transcription", "anything": 1}})
        assert (await talker.until("session.updated"))["session"]["audio"]["input"] == audio
        audio = (await talker.session(noise_reduction=None, turn_detection={"threshold": 0.7}))["session"]["audio"][
            "input"
        ]
        assert audio["noise_reduction"] is None
        assert audio["turn_detection"] == {**vad, "threshold": 0.7, "prefix_padding_ms": 300}
        await talker.append(said(1, 2, 1.0))
        done = await talker.until(f"{T}completed")
        assert [token["token"] for token in done["logprobs"]] == ["w1", " w2"]
        assert talker.of(f"{T}delta")[0]["logprobs"] == done["logprobs"]
        await talker.session(transcription=None)
        await talker.append(said(3, 4, 1.0))
        await talker.until("conversation.item.done")
        await talker.session(transcription={"model": "whisper-1", "language": "en"})
        await talker.append(said(5, 6, 1.0))
        assert (await talker.until(f"{T}completed"))["transcript"] == "w5 w6"


async def test_switching_voice_activity_detection_on_and_off_loses_no_audio(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session(**MANUAL)
        await talker.append(said(1, 2))
        await talker.session(turn_detection={"type": "server_vad"})
        await talker.append(said(3, 1.0))
        assert (await talker.until(f"{T}completed"))["transcript"] == "w1 w2 w3"
        await talker.session(**MANUAL)
        await talker.append(said(4, 1.0, 5))
        await talker.commit()
        assert (await talker.until(f"{T}completed"))["transcript"] == "w4 w5"


async def test_g711_is_decoded_and_the_format_can_change(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session(**MANUAL)
        await talker.append(said(1, 2))
        await talker.commit()
        await talker.until(f"{T}completed")
        update = {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}
        await talker.send({"type": "session.update", "session": update})
        assert (await talker.until("session.updated"))["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}
        await talker.append(b"\x80" * 800)
        await talker.commit()
        assert (await talker.until(f"{T}completed"))["usage"]["seconds"] == 1


async def test_the_first_version_of_the_api_has_its_own_events(server: Server) -> None:
    async with talking(server, headers={"OpenAI-Beta": "realtime=v1"}) as talker:
        created = await talker.until("transcription_session.created")
        assert created["session"]["input_audio_format"] == "pcm16"
        session = {
            "input_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "gpt-4o-transcribe"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
            "input_audio_noise_reduction": {"type": "far_field"},
        }
        await talker.send({"type": "transcription_session.update", "session": session})
        updated = (await talker.until("transcription_session.updated"))["session"]
        assert {name: updated[name] for name in ("input_audio_format", "input_audio_noise_reduction")} == {
            "input_audio_format": "g711_ulaw",
            "input_audio_noise_reduction": {"type": "far_field"},
        }
        await talker.send(
            {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16", "turn_detection": None}}
        )
        await talker.until("transcription_session.updated")
        await talker.append(bytes(9600))
        await talker.commit()
        item = (await talker.until("conversation.item.created"))["item"]
        assert (await talker.until(f"{T}completed"))["item_id"] == item["id"]


BAD = [
    ("no JSON", "{", "invalid_json", None),
    ("no object", "[]", "invalid_value", "type"),
    ("unknown type", {"type": "response.create"}, "invalid_value", "type"),
    ("no base64", {"type": f"{B}append", "audio": "§§§"}, "invalid_value", "audio"),
    ("no text", {"type": f"{B}append", "audio": 5}, "invalid_value", "audio"),
    ("no audio", {"type": f"{B}append"}, "invalid_value", "audio"),
    ("threshold", {"turn_detection": {"type": "server_vad", "threshold": 2}}, "invalid_value",
     "session.audio.input.turn_detection.threshold"),
    ("silence", {"turn_detection": {"type": "server_vad", "silence_duration_ms": "long"}}, "invalid_value",
     "session.audio.input.turn_detection.silence_duration_ms"),
    ("detection", {"turn_detection": {"type": "psychic_vad"}}, "invalid_value", "session.audio.input.turn_detection.type"),
    ("eagerness", {"turn_detection": {"type": "semantic_vad", "eagerness": "very"}}, "invalid_value",
     "session.audio.input.turn_detection.eagerness"),
    ("format", {"format": {"type": "audio/ogg"}}, "invalid_value", "session.audio.input.format.type"),
    ("rate", {"format": {"type": "audio/pcm", "rate": 7}}, "invalid_value", "session.audio.input.format.rate"),
    ("language", {"transcription": {"language": "tlh"}}, "invalid_value",
     "session.audio.input.transcription.language"),
    ("model", {"transcription": {"model": "parrot"}}, "model_not_found", "session.audio.input.transcription.model"),
    ("languages", {"transcription": {"languages": "en"}}, "invalid_value",
     "session.audio.input.transcription.languages"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "code", "param"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
async def test_an_invalid_event_is_answered_with_an_error_and_changes_nothing(
    server: Server, message: Any, code: str, param: str | None
) -> None:
    async with talking(server) as talker:
        before = await talker.session(**MANUAL)
        if isinstance(message, dict) and "type" not in message:
            message = {"type": "session.update", "session": {"type": "transcription", "audio": {"input": message}}}
        if isinstance(message, dict):
            message["event_id"] = "mine"
        await talker.socket.send_str(message if isinstance(message, str) else json.dumps(message))
        error = (await talker.until("error"))["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
        assert error["event_id"] == ("mine" if isinstance(message, dict) else None)
        assert error["message"]
        after = await talker.session()
        assert after["session"] == before["session"]
        await talker.append(said(1, 2))
        await talker.commit()
        assert (await talker.until(f"{T}completed"))["transcript"] == "w1 w2"


async def test_an_append_of_fifteen_megabytes_is_accepted_and_one_byte_more_is_refused(server: Server) -> None:
    async with talking(server) as talker:
        await talker.session(**MANUAL)
        most = 15 << 20
        for size in (most + 3, most):
            await talker.send({"type": f"{B}append", "audio": base64.b64encode(bytes(size)).decode()})
        error = (await talker.until("error"))["error"]
        assert str(most) in error["message"]
        await talker.commit()
        done = await talker.until(f"{T}completed")
        assert done["transcript"] == ""
        assert done["usage"]["seconds"] == -(-most // 32_000)


def test_an_item_that_cannot_be_decoded_fails_and_the_next_does_not() -> None:
    dialect = RealtimeDialect(
        RealtimeSession(transcription={}, turn_detection=None), Settings(), FakeEngine().info, frozenset(), beta=False
    )
    told: list[dict[str, Any]] = []
    for number in (1, 2):
        dialect.receive(json.dumps({"type": f"{B}append", "audio": base64.b64encode(bytes(48_000)).decode()}))
        (_, flush) = dialect.receive(json.dumps({"type": f"{B}commit"}))
        assert isinstance(flush, Flush)
        span = events.Span(16_000 * (number - 1), 16_000 * number)
        words = () if number == 1 else (events.Word("hello", 1.1, 1.5, 0.9),)
        happened: list[events.Event] = [events.Failed(span=span, reason="no luck")] if number == 1 else []
        happened += [events.Final(span=span, words=words, cause=events.Cause.FLUSH), events.Flushed(token=flush.token)]
        told += [json.loads(frame.payload) for event in happened for frame in dialect.emit(event)]
    assert [message["type"].removeprefix(T) for message in told] == ["failed", "delta", "completed"]
    assert told[0]["error"]["message"] == "no luck"
    assert told[2]["transcript"] == "hello"


async def test_an_intent_to_converse_is_refused_before_the_upgrade(server: Server) -> None:
    async with ClientSession() as session, session.get(f"{server.url}{PATH}?intent=conversation") as response:
        assert response.status == 400
        assert "transcription" in (await response.json())["error"]["message"]


CONVERSING = ["", "?model=gpt-realtime", "?model=gpt-4o-realtime-preview", "?model=gpt-realtime-mini-2025-10-06"]
ASKED = {"model": "gpt-4o-transcribe", "language": "en"}


@pytest.mark.parametrize("query", CONVERSING)
async def test_a_session_of_type_realtime_that_asks_for_input_transcription_gets_it(server: Server, query: str) -> None:
    async with talking(server, query) as talker:
        await talker.until("session.created")
        session = {
            "type": "realtime", "model": "gpt-realtime", "instructions": "Be kind.", "output_modalities": ["text"],
            "audio": {"input": {"transcription": ASKED, "turn_detection": None}, "output": {"voice": "marin"}},
        }  # fmt: skip
        await talker.send({"type": "session.update", "session": session})
        updated = (await talker.until("session.updated"))["session"]
        assert (updated["type"], updated["object"]) == ("realtime", "realtime.session")
        assert updated["audio"]["input"]["transcription"]["model"] == "gpt-4o-transcribe"
        again = {"type": "realtime", "audio": {"input": {"noise_reduction": {"type": "near_field"}}}}
        await talker.send({"type": "session.update", "session": again})
        assert (await talker.until("session.updated"))["session"]["type"] == "realtime"
        await talker.append(said(1, 2))
        await talker.commit()
        assert (await talker.until(f"{T}completed"))["transcript"] == "w1 w2"


@pytest.mark.parametrize("detection", [{"type": "server_vad", "silence_duration_ms": 300}, {"type": "semantic_vad"}])
async def test_a_committed_item_is_transcribed_completely_even_if_later_audio_is_cleared(
    server: Server, detection: dict[str, Any]
) -> None:
    async with talking(server) as talker:
        await talker.session(turn_detection=detection)
        await talker.append(said(0.3, 1, 2, 0.8, 3, 4, 0.8, 5, 6), chunk=1 << 20)
        await talker.commit()
        await talker.send({"type": f"{B}clear"})
        await talker.until(f"{B}cleared")
        committed = {message["item_id"] for message in talker.of(f"{B}committed")}
        while {message["item_id"] for message in talker.of(f"{T}completed")} != committed:
            await talker.until(f"{T}completed")
        assert " ".join(message["transcript"] for message in talker.of(f"{T}completed")) == "w1 w2 w3 w4 w5 w6"
        await talker.append(said(0.5, 7, 8, 3.0))
        await talker.until(f"{T}completed")
        assert talker.of(f"{T}completed")[-1]["transcript"] == "w7 w8"


@pytest.mark.parametrize("prefix_ms", [0, 3_000, 15_000, 60_000])
async def test_a_prefix_longer_than_a_decode_window_leaves_room_for_the_speech(server: Server, prefix_ms: int) -> None:
    async with talking(server) as talker:
        detection = {"type": "server_vad", "prefix_padding_ms": prefix_ms, "silence_duration_ms": 500}
        updated = await talker.session(turn_detection=detection)
        assert updated["session"]["audio"]["input"]["turn_detection"]["prefix_padding_ms"] == prefix_ms
        await talker.append(said(0.5, 1, 2, 1.0, 3, 1.0))
        await talker.until(f"{T}completed")
        await talker.until(f"{T}completed")
    assert [message["transcript"] for message in talker.of(f"{T}completed")] == ["w1 w2", "w3"]


async def test_a_conversation_of_the_first_version_that_asks_for_input_transcription_gets_it(server: Server) -> None:
    async with talking(server, "?model=gpt-4o-realtime-preview", headers={"OpenAI-Beta": "realtime=v1"}) as talker:
        asked = {"input_audio_transcription": {"model": "whisper-1"}, "turn_detection": None, "modalities": ["text"]}
        await talker.send({"type": "session.update", "session": asked})
        updated = (await talker.until("session.updated"))["session"]
        assert updated["input_audio_transcription"]["model"] == "whisper-1"
        assert updated["turn_detection"] is None
        await talker.append(said(1, 2))
        await talker.commit()
        assert (await talker.until(f"{T}completed"))["transcript"] == "w1 w2"


async def test_a_session_that_only_speaks_is_refused(server: Server) -> None:
    async with talking(server, "?model=gpt-realtime") as talker:
        await talker.send({"type": "session.update", "session": {"type": "realtime", "instructions": "Be kind."}})
        error = (await talker.until("error"))["error"]
        assert error["param"] == "session.audio.input.transcription"
        await talker.send({"type": "response.create"})
        assert "response.create" in (await talker.until("error"))["error"]["message"]


async def test_a_browsers_key_is_read_from_its_subprotocols(tmp_path: Any) -> None:
    key = add_key(tmp_path / "keys.toml", "page", frozenset(Scope))
    async with running_fake(keys=tmp_path / "keys.toml") as server:
        offered = ["realtime", f"openai-insecure-api-key.{key}", "openai-beta.realtime-v1"]
        async with talking(server, protocols=offered) as talker:
            assert talker.socket.protocol == "realtime"
            await talker.until("transcription_session.created")
        async with ClientSession() as session:
            with pytest.raises(Exception, match="401"):
                await session.ws_connect(server.url + PATH, protocols=["realtime", "openai-insecure-api-key.wrong"])


async def test_a_client_secret_contains_its_session_and_no_key(tmp_path: Any) -> None:
    key = add_key(tmp_path / "keys.toml", "backend", frozenset(Scope))
    async with running_fake(keys=tmp_path / "keys.toml") as server, ClientSession() as http:
        bearer = {"Authorization": f"Bearer {key}"}
        body = {
            "expires_after": {"anchor": "created_at", "seconds": 60},
            "session": {"type": "transcription", "audio": {"input": {"turn_detection": None}}},
        }
        async with http.post(f"{server.url}/v1/realtime/client_secrets", json=body, headers=bearer) as response:
            made = await response.json()
        assert made["value"].startswith("ek_")
        assert made["session"]["audio"]["input"]["turn_detection"] is None
        async with talking(server, "", headers={"Authorization": f"Bearer {made['value']}"}) as talker:
            created = await talker.until("session.created")
            assert created["session"]["audio"]["input"]["turn_detection"] is None
            assert created["session"]["audio"]["input"]["transcription"] == {"model": "fake"}
        async with http.post(
            f"{server.url}/v1/realtime/transcription_sessions", json={"turn_detection": None}, headers=bearer
        ) as response:
            beta = await response.json()
        assert beta["client_secret"]["value"].startswith("ek_")
        assert beta["input_audio_format"] == "pcm16"
        for wrong in ({"expires_after": {"seconds": 5}}, {"session": {"type": "realtime"}}, {"session": 5}):
            async with http.post(f"{server.url}/v1/realtime/client_secrets", json=wrong, headers=bearer) as response:
                assert response.status == 400
                assert (await response.json())["error"]["message"]
        async with http.post(f"{server.url}/v1/realtime/client_secrets", json={}) as response:
            assert response.status == 401


async def test_two_sessions_at_once_do_not_mix(server: Server) -> None:
    async with talking(server) as one, talking(server) as other:
        await one.session(**MANUAL)
        await other.session()
        await one.append(said(1, 2))
        await other.append(said(3, 4, 1.0))
        await one.commit()
        assert (await one.until(f"{T}completed"))["transcript"] == "w1 w2"
        assert (await other.until(f"{T}completed"))["transcript"] == "w3 w4"


async def test_a_too_large_message_ends_the_session_with_a_reason() -> None:
    async with running_fake(max_frame_bytes=4096) as server, talking(server) as talker:
        await talker.send({"type": f"{B}append", "audio": "A" * 8000})
        await talker.until("error")
        assert (await talker.socket.receive()).type is WSMsgType.CLOSE
        assert talker.socket.close_code == 1009
