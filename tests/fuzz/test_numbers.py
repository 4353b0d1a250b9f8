"""Every numeric parameter at its limits, with each engine's limits: it is refused, or a stream runs with it to its end."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drive import Drive, assert_tiles
from sounds import RATE

from myna.batch.transcriber import batch_policy
from myna.inference.engines.fake.engine import FakeEngine
from myna.inference.engines.moonshine import engine as moonshine
from myna.runtime.errors import DialectError, Refusal
from myna.server.dialects.base import Command, Configure, Open
from myna.server.dialects.deepgram import flux_request
from myna.server.dialects.deepgram import listen_request as deepgram_request
from myna.server.dialects.deepgram import rest as deepgram_rest
from myna.server.dialects.deepgram.flux import FluxDialect
from myna.server.dialects.defaults import default_policy
from myna.server.dialects.native.dialect import NativeDialect
from myna.server.dialects.openai import rest as openai_rest
from myna.server.dialects.openai.realtime import RealtimeDialect
from myna.server.dialects.openai.realtime_session import RealtimeSession
from myna.server.settings import Settings
from myna.streaming.events import samples
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.session.session import Session
from myna.wire import messages as wire

SETTINGS = Settings()
ENGINES = {
    "moonshine": moonshine.INFO,
    "parakeet on a GPU": EngineInfo(
        "p", ("en",), 240.0, 100, 64, 0.5, 24.0, 10.0, interim_window_s=30.0, incremental=True, keyterms=True
    ),
    "parakeet with little memory": EngineInfo("p", ("en",), 8.0, 100, 4, 0.5, 4.0, 10.0, incremental=True),
}
EDGES = (
    *(
        "",
        "-1",
        "0",
        "-0",
        "0.0",
        "0.001",
        "0.1",
        "0.3",
        "0.4",
        "0.5",
        "0.7",
        "0.9",
        "0.99",
        "1",
        "1.0",
        "1.1",
        "2",
        "9",
    ),
    *("10", "99", "100", "101", "499", "500", "501", "999", "1000", "1001", "4999", "5000", "9999", "10000", "10001"),
    *(
        "15000",
        "30000",
        "59999",
        "60000",
        "60001",
        "7999",
        "8000",
        "48000",
        "48001",
        "2147483648",
        "1e3",
        "1e308",
        "1e999",
    ),
    *("nan", "inf", "-inf", "9" * 400, "0" * 20 + "9", "\u00b2", "1_000", "0x10", " 5"),
)
SOUND = np.concatenate(
    [np.full(length * RATE // 10, level) for length, level in ((3, 0), (12, 1010), (2, 0), (8, 1020), (30, 0))]
).astype(np.int16)  # words of the fake engine, a short and a long pause


@functools.cache  # most values are refused, or mean the same
def heard(policy: Policy, options: Options, engine: EngineInfo, then: Policy | None = None) -> None:
    """Run a stream with this policy, and with another from its middle on."""
    session = Session("s/0", policy, options, engine)
    drive = Drive(session, FakeEngine())
    half = len(SOUND) // 2
    drive.push(SOUND[:half])
    if then is not None:
        session.configure(then, options, "t")
    drive.push(SOUND[half:])
    drive.end()
    assert_tiles(drive.finals, len(SOUND))
    longest = samples(engine.longest_segment_s)
    assert all(0 < job.length <= longest for job in drive.decoded)


def numbers(name: str) -> list[tuple[str, str]]:
    raw = [("encoding", "linear16"), ("sample_rate", "16000")]
    return [pair for pair in raw if pair[0] != name]


def refused_or(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (Refusal, DialectError) as error:
        assert error.message
        return None


def as_json(value: str) -> Iterator[Any]:
    """Return the text, and the number that JSON reads from it."""
    yield value
    try:
        yield json.loads(value, parse_constant=lambda constant: {"NaN": float("nan")}.get(constant))
    except ValueError:
        return


def policies(commands: Iterator[Command] | list[Command]) -> Iterator[tuple[Policy, Options]]:
    for command in commands:
        match command:
            case Open(policy=policy, options=options):
                yield policy, options
            case Configure(options=options, policy=Policy() as policy):
                yield policy, options


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize(
    "name",
    ["endpointing", "utterance_end_ms", "sample_rate", "channels", "utt_split"],
)
def test_a_number_in_deepgrams_address_is_refused_or_works(name: str, engine: EngineInfo) -> None:
    for value in EDGES:
        pairs = [*numbers(name), (name, value)]
        request = refused_or(lambda pairs=pairs: deepgram_request.parse(pairs))
        if request is not None:
            heard(request.policy(SETTINGS, engine), request.options(engine), engine)
        refused_or(lambda pairs=pairs: deepgram_rest.parse(pairs))


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("name", ["eot_threshold", "eager_eot_threshold", "eot_timeout_ms", "sample_rate"])
def test_a_number_of_flux_is_refused_or_works(name: str, engine: EngineInfo) -> None:
    for value in EDGES:
        pairs = [*numbers(name), (name, value)]
        request = refused_or(lambda pairs=pairs: flux_request.parse(pairs))
        dialect = FluxDialect("id", request or flux_request.parse([]), SETTINGS, engine)
        (policy, options), *_ = policies(list(dialect.begin()))
        heard(policy, options, engine)
        for given in as_json(value):
            message = json.dumps({"type": "Configure", "thresholds": {name: given}})
            for then, _ in policies(
                refused_or(lambda message=message, dialect=dialect: dialect.receive(message)) or []
            ):
                heard(policy, options, engine, then)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("name", ["sample_rate", "channels", "endpointing_ms", "max_utterance_s"])
def test_a_number_of_a_native_start_is_refused_or_works(name: str, engine: EngineInfo) -> None:
    for value in EDGES:
        for given in as_json(value):
            start = {"type": "start", "encoding": "linear16", "sample_rate": 16_000, name: given}
            dialect = NativeDialect(wire.Format.JSON, SETTINGS, engine)
            commands = refused_or(lambda start=start, dialect=dialect: dialect.receive(json.dumps(start)))
            for policy, options in policies(commands or []):
                heard(policy, options, engine)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("name", ["threshold", "prefix_padding_ms", "silence_duration_ms", "rate"])
def test_a_number_of_a_realtime_session_is_refused_or_works(name: str, engine: EngineInfo) -> None:
    for value in EDGES:
        for given in as_json(value):
            part = (
                {"format": {"type": "audio/pcm", "rate": given}}
                if name == "rate"
                else {"turn_detection": {name: given}}
            )
            dialect = RealtimeDialect(RealtimeSession(), SETTINGS, engine, frozenset({"fake"}), beta=False)
            (first, options), *_ = policies(list(dialect.begin()))
            update = {"type": "session.update", "session": {"type": "transcription", "audio": {"input": part}}}
            for policy, _ in policies(list(dialect.receive(json.dumps(update)))):
                heard(first, options, engine, policy)
                heard(policy, options, engine)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("name", ["endpointing_ms", "max_utterance_s", "context_s", "interim_every_s"])
def test_a_number_of_the_configuration_is_refused_or_works(name: str, engine: EngineInfo) -> None:
    for value in EDGES:
        try:
            settings = Settings(**{name: value})
        except ValueError:
            continue
        heard(deepgram_request.parse([]).policy(settings, engine), Options(), engine)
        heard(replace(batch_policy(default_policy(settings, engine), engine), live=True), Options(), engine)


def test_a_number_in_openais_form_is_refused_or_works() -> None:
    for name in ("temperature", "chunking_strategy[prefix_padding_ms]", "chunking_strategy[silence_duration_ms]"):
        for value in EDGES:
            refused_or(lambda name=name, value=value: openai_rest.parse([("model", "whisper-1"), (name, value)]))
