"""Messages of live streams that JSON, UTF-8 or reason do not allow: the answer can be sent, is short, and costs no stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, WSMsgType
from peer import RAW, connected, listening, settings

from myna.runtime.errors import Refusal
from myna.server.app import Server, running
from myna.server.dialects.base import Frame, Reply
from myna.server.dialects.deepgram import flux_request
from myna.server.dialects.deepgram import listen_request as deepgram_request
from myna.server.dialects.deepgram import rest as deepgram_rest
from myna.server.dialects.deepgram.live import DeepgramDialect
from myna.server.dialects.native.dialect import NativeEntry
from myna.server.dialects.openai import rest as openai_rest

REALTIME = "/v1/realtime"
HALVES = ["\\ud800", "\\uDFFF", "a\\ud83d", "\\udc00\\ud800"]


async def said(peer: Any, text: str) -> dict[str, Any]:
    """Send a text as it is; return the next message, which is JSON and nothing but."""
    await peer.socket.send_str(text)
    message = await peer.socket.receive(timeout=30)
    assert message.type is WSMsgType.TEXT, message
    parsed = json.loads(message.data, parse_constant=lambda name: pytest.fail(name))
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize("half", HALVES)
async def test_half_a_surrogate_pair_in_an_event_id_stops_nothing(strict_server: Server, half: str) -> None:
    async with connected(strict_server, "", REALTIME) as peer:
        await peer.until("session.created")
        for number in range(3):
            error = await said(peer, f'{{"type": "no such {half}", "event_id": "{half} {number}"}}')
            assert error["type"] == "error"
            assert error["error"]["event_id"].endswith(f" {number}")
            assert "\ufffd" in error["error"]["event_id"]
        update = f'{{"type": "session.update", "session": {{"type": "transcription", "include": ["{half}"]}}}}'
        updated = await said(peer, update)
        assert updated["type"] == "session.updated"


@pytest.mark.parametrize("half", HALVES)
async def test_half_a_surrogate_pair_is_echoed_as_the_sign_for_it_in_every_dialect(
    strict_server: Server, half: str
) -> None:
    async with listening(strict_server) as peer:
        for text in (f'{{"type": "{half}"}}', f'{{"type": "Finalize", "channel": "{half}"}}', f'{{"{half}": 1}}'):
            assert (await said(peer, text))["type"] == "Error"
        failure = await said(peer, f'{{"type": "Configure", "keyterms": ["{half}"]}}')
        assert failure["type"] == "ConfigureFailure"
    async with connected(strict_server, "?encoding=linear16&sample_rate=16000", "/v2/listen") as peer:
        await peer.until("Connected")
        for what in (f'"thresholds": "{half}"', f'"numerals": "{half}"', f'"keyterms": "{half}"'):
            assert (await said(peer, f'{{"type": "Configure", {what}}}'))["type"] == "ConfigureFailure"
        assert (await said(peer, f'{{"type": "{half}"}}'))["type"] == "Error"
    async with connected(strict_server) as peer:
        await peer.send(RAW)
        await peer.until("ready")
        await peer.socket.send_str(f'{{"type": "finalize", "id": "{half}"}}')
        assert "\ufffd" in (await peer.until("finalized"))["id"]
        await peer.socket.send_str(f'{{"type": "{half}"}}')
        assert [message["type"] for message in await peer.rest()][-2:] == ["error", "closed"]


async def test_whole_pairs_and_what_only_looks_like_a_half_stay_as_they_are(strict_server: Server) -> None:
    async with connected(strict_server) as peer:
        await peer.send(RAW)
        for written, meant in (
            ("\\ud83d\\udc26", "\U0001f426"),
            ("\\\\ud800", "\\ud800"),
            ("\U0001f426", "\U0001f426"),
        ):
            await peer.socket.send_str(f'{{"type": "finalize", "id": "{written}"}}')
            assert (await peer.until("finalized"))["id"] == meant


NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "-1e999", "9" * 400, "9" * 5000]


@pytest.mark.parametrize("number", NO_NUMBERS)
async def test_a_number_that_is_none_is_read_by_no_dialect_and_stands_in_no_answer(
    strict_server: Server, number: str
) -> None:
    async with connected(strict_server, "", REALTIME) as peer:
        await peer.until("session.created")
        for part in ("noise_reduction", "transcription", "turn_detection"):
            given = f'{{"audio": {{"input": {{"{part}": {{"x": {number}}}}}}}}}'
            update = f'{{"type": "session.update", "session": {given}}}'
            assert (await said(peer, update))["error"]["code"] == "invalid_json"
    async with listening(strict_server) as peer:
        for text in (f'{{"type": "Finalize", "channel": {number}}}', f'{{"type": {number}}}'):
            assert (await said(peer, text))["type"] == "Error"
    async with connected(strict_server, "?encoding=linear16&sample_rate=16000", "/v2/listen") as peer:
        await peer.until("Connected")
        error = await said(peer, f'{{"type": "Configure", "thresholds": {{"eot_timeout_ms": {number}}}}}')
        assert error["code"] == "UNPARSABLE_CLIENT_MESSAGE"
    async with connected(strict_server) as peer:
        await peer.socket.send_str(f'{{"type": "start", "encoding": "linear16", "sample_rate": {number}}}')
        messages = await peer.rest()
        assert [message.get("code") for message in messages] == ["invalid_message", None]
        assert len(messages[0]["message"]) < 500


BOUNDS: list[tuple[Any, str, str]] = [
    (deepgram_request.parse, "sample_rate", "16000"), (deepgram_request.parse, "channels", "2"),
    (deepgram_request.parse, "endpointing", "300"), (deepgram_request.parse, "utterance_end_ms", "1000"),
    (deepgram_rest.parse, "sample_rate", "16000"), (deepgram_rest.parse, "utt_split", "0.8"),
    (flux_request.parse, "eot_threshold", "0.8"), (flux_request.parse, "eager_eot_threshold", "0.4"),
    (flux_request.parse, "eot_timeout_ms", "900"), (openai_rest.parse, "temperature", "0.5"),
    (lambda query: NativeEntry("n", settings()).read([*query, ("resume", "t")]), "after", "3"),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "name", "good"), BOUNDS, ids=[f"{b[1]} {n}" for n, b in enumerate(BOUNDS)])
def test_a_numeric_parameter_is_read_as_clients_write_it_and_no_other_way(parse: Any, name: str, good: str) -> None:
    base = [] if name in ("after", "temperature") else [("encoding", "linear16")]
    base += [] if name == "sample_rate" or not base else [("sample_rate", "16000")]
    parse([*base, (name, good)])
    for bad in (
        "0" * 20 + good, "0" + good, f"+{good}", f"-{good}", f" {good}", f"{good} ", f"{good}_0", "1_0", "٣", "²", "1e400",
        "1e99", "nan", "NaN", "inf", "-inf", "Infinity", "0x10", "9" * 400, "9" * 21, "0" * 20 + "9" * 30, "1,5", "１２",
        "\ud800", "1\x00", "--1", ".", "1e", "e5", "true1",
    ):  # fmt: skip
        with pytest.raises(Refusal) as refused:
            parse([*base, (name, bad)])
        assert refused.value.status == 400
        assert len(refused.value.message) < 300
        json.dumps(refused.value.message, ensure_ascii=False).encode("utf-8", "strict")


def test_a_boost_is_a_number_too() -> None:
    def parse(keyword: str) -> tuple[str, ...]:
        return deepgram_request.parse([("keywords", keyword)]).keyterms

    assert parse("myna:2.5") == parse("myna") == ("myna",)
    assert parse("myna:0") == ()
    for bad in ("myna:nan", "myna:inf", "myna:1e400", "myna:1_0", "myna:-1", "myna:" + "0" * 20 + "1", "myna:٣"):
        with pytest.raises(Refusal):
            parse(bad)


HUGE = "h" * 60_000


@pytest.mark.parametrize(
    "message",
    [{**RAW, HUGE: 1}, {**RAW, "language": HUGE}, {**RAW, "encoding": HUGE}, {**RAW, "keyterms": [HUGE]}, {"type": HUGE},
     {HUGE: 1}, {**RAW, "sample_rate": HUGE}, {**RAW, "channels": [HUGE]}, {"type": "finalize", "id": HUGE}],
)  # fmt: skip
async def test_a_refusal_quotes_little_of_a_huge_value(strict_server: Server, message: dict[str, Any]) -> None:
    async with connected(strict_server) as peer:
        with structlog.testing.capture_logs() as lines:
            await peer.send(message)
            messages = await peer.rest()
    assert [said["type"] for said in messages] == ["error", "closed"]
    assert len(messages[0]["message"]) < 700
    assert all(len(str(line)) < 2000 for line in lines)


@pytest.mark.parametrize(
    "message",
    [{"type": HUGE}, {"type": "session.update", "session": HUGE}, {"type": "session.update", "session": {"type": HUGE}},
     {"type": "session.update", "session": {"audio": {"input": {"transcription": {"language": HUGE}}}}},
     {"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": HUGE}}}}},
     {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"threshold": HUGE}}}}},
     {"type": "no such", "event_id": HUGE}],
)  # fmt: skip
async def test_an_error_of_the_realtime_api_quotes_little_of_a_huge_value(
    strict_server: Server, message: dict[str, Any]
) -> None:
    async with connected(strict_server, "", REALTIME) as peer:
        await peer.until("session.created")
        error = await said(peer, json.dumps(message))
        assert error["type"] == "error"
        assert len(json.dumps(error)) < 1000


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/listen", "/v2/listen", REALTIME])
async def test_a_refused_request_quotes_little_of_a_huge_parameter(strict_server: Server, path: str) -> None:
    async with ClientSession() as session:
        for name in (
            "model",
            "language",
            "format",
            "encoding",
            "redact",
            "replace",
            "callback",
            "endpointing",
            "after",
        ):
            parameters = {name: "h" * 20_000, "resume": "t"}
            async with session.get(strict_server.url + path, params=parameters) as response:
                assert response.status in (400, 404, 426)
                assert len(await response.read()) < 1500


async def test_a_stream_whose_dialect_fails_ends_with_its_internal_error(
    strict_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("not meant to be")

    monkeypatch.setattr(DeepgramDialect, "receive", fails)
    with structlog.testing.capture_logs() as lines:
        async with listening(strict_server) as peer:
            await peer.send({"type": "KeepAlive"})
            await peer.rest()
            assert peer.socket.close_code == 1011
    assert any("KeyError" in repr(line.get("exc_info")) for line in lines)


async def test_a_stream_whose_frames_cannot_be_written_ends_instead_of_going_on_in_silence(
    strict_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritable(*_: Any) -> Any:
        return [Reply((Frame("\ud800"),))]

    monkeypatch.setattr(DeepgramDialect, "receive", unwritable)
    async with listening(strict_server) as peer:
        await peer.send({"type": "KeepAlive"})
        await peer.rest()
        assert peer.socket.close_code == 1011


async def test_the_reason_of_a_close_is_cut_between_characters(strict_server: Server) -> None:
    async with connected(strict_server, "?encoding=linear16&sample_rate=16000", "/v2/listen") as peer:
        await peer.socket.send_str(json.dumps({"type": "xx" + "é" * 90}, ensure_ascii=False))
        message = await peer.socket.receive(timeout=30)
        while message.type is WSMsgType.TEXT:
            message = await peer.socket.receive(timeout=30)
        assert message.type is WSMsgType.CLOSE, message
        assert "é" in message.extra


async def test_tokens_for_a_session_with_odd_texts_can_be_made_and_used() -> None:
    async with running(settings(model="fake")) as server:
        async with ClientSession() as session:
            body = '{"session": {"type": "transcription", "include": ["\\ud800"]}}'
            async with session.post(f"{server.url}/v1/realtime/client_secrets", data=body) as response:
                assert response.status == 200
                secret = (await response.json())["value"]
        async with connected(server, "", REALTIME, headers={"Authorization": f"Bearer {secret}"}) as peer:
            assert (await peer.until("session.created"))["session"]["include"] == ["\ufffd"]
