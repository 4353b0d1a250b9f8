from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from golden import FOLDER
from peer import connected
from speakers import phrases, running_fake

from myna.inference.engines.fake.engine import FakeEngine
from myna.server.app import Server
from myna.server.dialects.base import Configure, Reply
from myna.server.dialects.deepgram.flux import PATH, FluxDialect, parse
from myna.server.settings import Settings
from myna.streaming import events

DOCUMENT = (Path(__file__).parents[2] / "docs" / "flux.md").read_text()
RAW = "encoding=linear16&sample_rate=16000"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running_fake() as started:
        yield started


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("eot_threshold=0.4", "eot_threshold must be a number from 0.5 to 1, not '0.4'"),
        ("eot_threshold=high", "eot_threshold must be a number from 0.5 to 1, not 'high'"),
        ("eot_threshold=nan", "eot_threshold must be a number from 0.5 to 1, not 'nan'"),
        ("eager_eot_threshold=0.95", "eager_eot_threshold must be a number from 0.3 to 0.9, not '0.95'"),
        ("eager_eot_threshold=0.8", "at most the other, 0.7, not 0.8"),
        ("eot_timeout_ms=100", "eot_timeout_ms must be a whole number from 500 to 60000, not '100'"),
        ("model=flux-general-multi&language_hint=", "language_hint must not be empty"),
        ("model=flux-general-multi&language_hint=tlh", "does not support the language 'tlh'"),
        ("keyterm=" + "x" * 201, "A keyterm must have from 1 to 200 characters, not 201"),
        ("redact=pci", "redact=pci is not supported. Supported values: numbers, aggressive_numbers"),
        ("numerals=perhaps", "numerals must be true or false, not 'perhaps'"),
        ("model=parrot", "parrot"),
    ],
)
async def test_invalid_parameters_are_refused_before_the_upgrade(server: Server, query: str, said: str) -> None:
    async with ClientSession() as session, session.get(f"{server.url}{PATH}?{RAW}&{query}") as response:
        assert response.status == 400
        body = await response.json()
        assert said in body["err_msg"]
        assert set(body) == {"err_code", "err_msg", "request_id"}
        assert response.headers["dg-error"]
        assert response.headers["dg-request-id"] == body["request_id"]


async def test_parameters_of_another_model_are_ignored(server: Server) -> None:
    query = "model=flux-general-en&language_hint=tlh&tag=a&tag=b&mip_opt_out=true&anything=1&eager_eot_threshold="
    async with connected(server, f"?{RAW}&{query}", PATH) as peer:
        assert (await peer.until("Connected"))["sequence_id"] == 0


async def test_the_status_counts_its_streams(server: Server) -> None:
    async with connected(server, f"?{RAW}", PATH) as peer, ClientSession() as session:
        await peer.until("Connected")
        async with session.get(f"{server.url}/v1/status") as response:
            status = await response.json()
    assert status["active_listen_v2_stream_requests"] >= 1


async def test_a_turn_ends_over_a_socket_and_closing_ends_no_turn(server: Server) -> None:
    async with connected(server, f"?{RAW}&model=flux-general-en", PATH) as peer:
        await peer.until("Connected")
        audio = phrases([1, 2, 3, 4], pause_s=2.0)
        for start in range(0, len(audio), 2560):
            await peer.socket.send_bytes(audio[start : start + 2560])
        while (await peer.until("TurnInfo"))["event"] != "EndOfTurn":
            pass
        assert peer.messages[-1]["transcript"] == "w1 w2 w3 w4"
        await peer.socket.send_bytes(phrases([5, 6], pause_s=0.1))
        await peer.send({"type": "CloseStream"})
        rest = await peer.rest()
    assert peer.socket.close_code == 1000
    told = [message["event"] for message in rest if message.get("event") not in (None, "Update")]
    assert told[-2:] == ["EndOfTurn", "StartOfTurn"]
    assert rest[-1]["transcript"] == "w5 w6"


async def test_a_turn_without_a_confident_end_times_out_and_its_updates_stay_small(server: Server) -> None:
    codes = range(1000)
    async with connected(server, f"?{RAW}&eot_threshold=1&eot_timeout_ms=60000", PATH) as peer:
        await peer.until("Connected")
        audio = phrases(codes, length=20, pause_s=0.3)  # 315 s
        rest = asyncio.create_task(peer.rest())  # reads while the audio is sent
        for start in range(0, len(audio), 64_000):
            await peer.socket.send_bytes(audio[start : start + 64_000])
        await peer.send({"type": "CloseStream"})
        told = [message for message in await rest if message["type"] == "TurnInfo"]
    ends = [message for message in told if message["event"] == "EndOfTurn"]
    assert [message["trigger"] for message in ends] == ["timeout"]
    assert 285 <= ends[0]["words"][-1]["end"] < 313
    said = f"{ends[0]['transcript']} {told[-1]['transcript']}"
    assert said.split() == [f"w{code}" for code in codes]


def test_a_second_configure_before_the_first_is_answered_is_refused() -> None:
    dialect = FluxDialect("id", parse([]), Settings(), FakeEngine().info)
    wanted = [json.dumps({"type": "Configure", "thresholds": {"eot_threshold": threshold}}) for threshold in (0.6, 0.8)]
    (configure,) = dialect.receive(wanted[0])
    assert isinstance(configure, Configure)
    (reply,) = dialect.receive(wanted[1])
    assert isinstance(reply, Reply)
    failed = json.loads(reply.frames[0].payload)
    assert failed["code"] == failed["error_code"] == "CONFIGURE_ALREADY_PENDING"
    (done,) = dialect.emit(events.Configured(token=configure.token or ""))
    assert json.loads(done.payload)["thresholds"]["eot_threshold"] == 0.6
    (again,) = dialect.receive(wanted[1])
    assert isinstance(again, Configure)


def test_the_document_names_every_message_and_every_parameter() -> None:
    told = set(re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", DOCUMENT, re.MULTILINE))
    kinds = {kind for kind, _ in told} - {"model"}
    events = {event for kind, event in told if kind == "TurnInfo"}
    conversations = "".join(path.read_text() for path in FOLDER.glob("flux*.txt"))
    sent = re.findall(r'^< \{"type":"(\w+)"(?:.*?"event":"(\w+)")?', conversations, re.MULTILINE)
    assert {kind for kind, _ in sent} <= kinds
    assert {event for _, event in sent if event} == events
    source = (Path(__file__).parents[2] / "myna" / "server" / "dialects" / "deepgram" / "flux_request.py").read_text()
    for name in re.findall(r'given\.\w+\("(\w+)"', source):
        assert f"`{name}`" in DOCUMENT, name


def test_in_a_long_turn_updates_grow_no_faster_than_it_is_spoken() -> None:
    dialect = FluxDialect("id", parse([]), Settings(), FakeEngine().info)
    dialect.emit(events.TurnStarted(at=0))
    sizes = []
    for second in range(1200):
        word = events.Word("word", second, second + 0.5, 0.9)
        span = events.Span(16_000 * second, 16_000 * (second + 1))
        dialect.emit(events.Final(span=span, words=(word, word, word), cause=events.Cause.LENGTH))
        at = [16_000 * (second + 1) + 4000 * part for part in range(4)]
        frames = [dialect.emit(events.Progress(at=sample, confidence=0.1)) for sample in at]
        sizes.append(sum(len(frame.payload) for told in frames for frame in told))
    assert sum(sizes[-200:]) < 2 * sum(sizes[100:300])
    assert sum(sizes[:60]) > 0
