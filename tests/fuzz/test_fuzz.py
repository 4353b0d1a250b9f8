"""Invalid frames: every parser raises only its documented errors.

`make test` tries some thousands; `make fuzz` a million (MYNA_FUZZ_FRAMES), each run with another seed, which is printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import DEEPGRAM, FIELDS, FLUX, NATIVE, QUERIES, REALTIME, Mutator

from myna.inference.engines.fake.engine import FakeEngine
from myna.inference.engines.kind import Model
from myna.inference.workers.ipc import Batch, Release, Unpacker, encode
from myna.runtime.errors import DialectError, Refusal
from myna.server.dialects.base import Command, Configure, Discard, End, Flush, Reply
from myna.server.dialects.deepgram import flux_request
from myna.server.dialects.deepgram import listen_request as deepgram_request
from myna.server.dialects.deepgram import rest as deepgram_rest
from myna.server.dialects.deepgram.flux import FluxDialect
from myna.server.dialects.deepgram.live import DeepgramDialect
from myna.server.dialects.native.dialect import NativeDialect, NativeEntry
from myna.server.dialects.openai import rest as openai_rest
from myna.server.dialects.openai.realtime import RealtimeDialect
from myna.server.dialects.openai.realtime_entry import RealtimeEntry
from myna.server.dialects.openai.realtime_session import RealtimeSession
from myna.server.keys import credential
from myna.server.settings import Settings
from myna.streaming import events
from myna.streaming.audio.raw import AudioError, Encoding, RawDecoder, RawFormat
from myna.streaming.session.jobs import InferenceJob, JobKind
from myna.wire import messages as wire

FRAMES = int(os.environ.get("MYNA_FUZZ_FRAMES", "6000"))
SEED = int(os.environ.get("MYNA_FUZZ_SEED", str(time.time_ns() % 2**32)))
SETTINGS = Settings()
ENGINE = FakeEngine().info


def sendable(commands: Sequence[Command]) -> Sequence[Command]:
    """Return the commands; every answer among them is JSON and can be encoded."""
    for command in commands:
        for frame in command.frames if isinstance(command, Reply) else ():
            text = frame.payload if isinstance(frame.payload, str) else ""
            text.encode()
            if text.startswith("{"):
                json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    return commands


def native(mutator: Mutator, form: wire.Format) -> Callable[[], None]:
    dialect = NativeDialect(form, SETTINGS, ENGINE)

    def one() -> None:
        nonlocal dialect
        if mutator.random.random() < 0.2:
            dialect = NativeDialect(form, SETTINGS, ENGINE)
            if mutator.random.random() < 0.8:
                dialect.receive(
                    wire.encode(wire.StartMessage(encoding="linear16", sample_rate=16_000, resume=True), form)
                )
                dialect.opened("s")
        frame = mutator.json(NATIVE) if form is wire.Format.JSON else mutator.msgpack(NATIVE)
        try:
            dialect.receive(frame)
        except DialectError as error:
            assert error.message
            dialect.closing(error, 1.0)

    return one


def deepgram(mutator: Mutator) -> Callable[[], None]:
    request = deepgram_request.parse([("encoding", "linear16"), ("sample_rate", "16000")])

    def fresh() -> DeepgramDialect:
        return DeepgramDialect("id", request, SETTINGS, Model("fake", "fake"), ENGINE, "")

    dialect = fresh()

    def one() -> None:
        nonlocal dialect
        if any(isinstance(command, End) for command in sendable(dialect.receive(mutator.json(DEEPGRAM)))):
            dialect.closing(None, 1.0)
            dialect = fresh()

    return one


def flux(mutator: Mutator) -> Callable[[], None]:
    def fresh() -> FluxDialect:
        return FluxDialect("id", flux_request.parse([]), SETTINGS, ENGINE)

    dialect = fresh()

    def one() -> None:
        nonlocal dialect
        try:
            commands = sendable(dialect.receive(mutator.json(FLUX)))
        except DialectError as error:
            assert error.message
            dialect.closing(error, 1.0)
            dialect = fresh()
            return
        if any(isinstance(command, Configure) for command in commands):
            dialect.emit(events.Configured(token="configure"))

    return one


def realtime(mutator: Mutator) -> Callable[[], None]:
    def fresh() -> RealtimeDialect:
        return RealtimeDialect(RealtimeSession(), SETTINGS, ENGINE, frozenset({"fake"}), beta=False)

    dialect, at = fresh(), 0

    def one() -> None:
        nonlocal dialect, at
        if mutator.random.random() < 0.02:
            dialect, at = fresh(), 0
        for command in sendable(dialect.receive(mutator.json(REALTIME))):
            at += 1600
            if isinstance(command, Flush | Discard):
                for event in (
                    events.Final(span=events.Span(at - 1600, at), words=(), cause=events.Cause.FLUSH),
                    events.Flushed(token=command.token),
                ):
                    dialect.emit(event)
        for event in mutator.random.choice(
            [
                [events.SpeechStarted(at=at)],
                [
                    events.SpeechStopped(at=at + 1600),
                    events.Final(span=events.Span(at, at + 1600), words=(), cause=events.Cause.ENDPOINT),
                ],
                [],
            ]
        ):
            dialect.emit(event)

    return one


def query(mutator: Mutator, parse: Callable[[Any], Any], known: list[tuple[str, str]]) -> Callable[[], None]:
    def one() -> None:
        try:
            parse(mutator.pairs(known))
        except Refusal as refusal:
            assert 400 <= refusal.status < 500
            assert refusal.message

    return one


def server_words(mutator: Mutator) -> Callable[[], None]:
    said = [
        json.loads(wire.encode(message, wire.Format.JSON))
        for message in (
            wire.FinalMessage(channel=0, start=0, end=1, text="a", words=(), cause="endpoint"),
            wire.ProgressMessage(),
            wire.ErrorMessage(code="x", message="y"),
        )
    ]

    def one() -> None:
        with contextlib.suppress(wire.WireError):
            wire.decode_server(mutator.json(said), wire.Format.JSON)

    return one


def link(mutator: Mutator) -> Callable[[], None]:
    messages = [
        encode(Batch(0, (InferenceJob("a", "a/0", JobKind.FINAL, b"\x00\x01" * 20, 1.0),))),
        encode(Release("a/0")),
    ]

    def one() -> None:
        data = mutator.bytes(mutator.random.choice(messages))
        length = struct.pack("<I", max(0, len(data) - 4)) if mutator.random.random() < 0.7 else data[:4]
        with contextlib.suppress(ValueError):
            list(Unpacker().feed(length + data[4:]))

    return one


def headers(mutator: Mutator) -> Callable[[], None]:
    known = [
        ("Authorization", "Token abc"),
        ("Sec-WebSocket-Protocol", "token, abc, x"),
        ("Authorization", "Bearer  x"),
    ]

    def one() -> None:
        credential(dict(mutator.pairs(known)))

    return one


def raw_audio(mutator: Mutator) -> Callable[[], None]:
    def one() -> None:
        encoding = mutator.random.choice(list(Encoding))
        decoder = RawDecoder(RawFormat(encoding, mutator.random.choice((8000, 44_100)), mutator.random.randint(1, 4)))
        try:
            for _ in range(3):
                decoder.feed(mutator.random.randbytes(mutator.random.randint(0, 50)))
                decoder.read()
            decoder.finish()
            while decoder.read():
                pass
        except AudioError:
            pass

    return one


TARGETS: dict[str, Callable[[Mutator], Callable[[], None]]] = {
    "native, JSON": lambda m: native(m, wire.Format.JSON),
    "native, msgpack": lambda m: native(m, wire.Format.MSGPACK),
    "native, address": lambda m: query(m, lambda pairs: NativeEntry("n", SETTINGS).read(pairs), QUERIES),
    "native, what a server says": server_words,
    "deepgram, messages": deepgram,
    "deepgram, address": lambda m: query(m, deepgram_request.parse, QUERIES),
    "deepgram, files": lambda m: query(m, deepgram_rest.parse, QUERIES),
    "flux, messages": flux,
    "flux, address": lambda m: query(m, flux_request.parse, QUERIES),
    "realtime, events": realtime,
    "realtime, address": lambda m: query(m, RealtimeEntry("r", SETTINGS, None, beta=False).read, QUERIES),
    "openai, form": lambda m: query(m, openai_rest.parse, FIELDS),
    "engine link": link,
    "credentials": headers,
    "raw audio": raw_audio,
}
SHARES = {"raw audio": 0.2}
"""Share of the frames for a target whose tries cost much more than others."""


@pytest.mark.parametrize("target", TARGETS)
def test_a_parser_raises_only_its_documented_errors(target: str) -> None:
    seed = SEED + list(TARGETS).index(target)
    one = TARGETS[target](Mutator(seed))
    count = int(FRAMES / len(TARGETS) * SHARES.get(target, 1.05))
    for number in range(count):
        try:
            one()
        except Exception as error:
            raise AssertionError(f"try {number} with MYNA_FUZZ_SEED={SEED}") from error


frames = (
    st.binary(max_size=200)
    | st.text(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=20,
    ).map(json.dumps)
)
tries = settings(
    max_examples=max(50, FRAMES // 1000), deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@tries
@given(st.lists(frames, max_size=6))
def test_any_conversation_with_the_native_dialect_ends_with_its_own_messages(conversation: list[str | bytes]) -> None:
    dialect = NativeDialect(wire.Format.JSON, SETTINGS, ENGINE)
    try:
        for frame in conversation:
            dialect.receive(frame)
    except DialectError as error:
        assert [json.loads(frame.payload)["type"] for frame in dialect.closing(error, 0.0).frames] == [
            "error",
            "closed",
        ]


@tries
@given(st.lists(frames, max_size=6))
def test_any_conversation_with_deepgrams_dialect_goes_on(conversation: list[str | bytes]) -> None:
    request = deepgram_request.parse([("encoding", "linear16"), ("sample_rate", "16000")])
    dialect = DeepgramDialect("id", request, SETTINGS, Model("fake", "fake"), ENGINE, "")
    for frame in conversation:
        dialect.receive(frame)
    assert json.loads(dialect.closing(None, 0.0).frames[0].payload)["type"] == "Metadata"


@tries
@given(st.lists(st.tuples(st.sampled_from([name for name, _ in QUERIES]), st.text(max_size=30)), max_size=5))
def test_any_address_is_parsed_or_refused(pairs: list[tuple[str, str]]) -> None:
    for parse in (deepgram_request.parse, deepgram_rest.parse, lambda p: NativeEntry("n", SETTINGS).read(p)):
        try:
            parse(pairs)
        except Refusal as refusal:
            assert refusal.status == 400
