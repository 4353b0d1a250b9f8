"""How every dialect writes finals: case and marks at seams, and the parameters of formatting."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from golden import dialect as dialect_at

from myna.batch.transcript import Channel, FileTranscript, Segment
from myna.inference.engines.fake.engine import FakeEngine
from myna.runtime.errors import DialectError, Refusal
from myna.server.dialects.base import Dialect, Open
from myna.server.dialects.native.dialect import NativeDialect
from myna.server.dialects.openai import rest
from myna.server.dialects.openai.realtime import RealtimeDialect
from myna.server.dialects.openai.realtime_session import RealtimeSession
from myna.server.dialects.reflector.requests import extensions
from myna.server.dialects.reflector.words import parsed
from myna.server.dialects.spoken_formatting import AS_HEARD
from myna.server.settings import Settings
from myna.streaming import events
from myna.streaming.events import Cause, Final, Interim, Span, Trigger, Word, samples
from myna.streaming.text.redaction import Redaction
from myna.wire import messages as wire

ENGINE = FakeEngine().info
RAW = "encoding=linear16&sample_rate=16000"
LATER_S = 2.0


def words(text: str, start: float) -> tuple[Word, ...]:
    return tuple(Word(each, start + 0.3 * i, start + 0.3 * i + 0.2, 0.95) for i, each in enumerate(text.split()))


def final(text: str, start: float = 0.0, *, before: str | None = None, cause: Cause = Cause.ENDPOINT) -> Final:
    told = words(text, start)
    end = (told[-1].end if told else start) + 0.5
    return Final(span=Span(samples(start), samples(end)), words=told, cause=cause, before=before)


def interim(text: str, start: float, before: str | None) -> Interim:
    return Interim(span=Span(samples(start), samples(start + 1)), words=words(text, start), stable=1, before=before)


def native(**start: Any) -> NativeDialect:
    dialect = NativeDialect(wire.Format.JSON, Settings(), ENGINE)
    (opened,) = dialect.receive(json.dumps({"type": "start", "encoding": "linear16", "sample_rate": 16_000, **start}))
    assert isinstance(opened, Open)
    return dialect


def realtime(**transcription: Any) -> RealtimeDialect:
    session = RealtimeSession().patched(
        {"audio": {"input": {"transcription": {"model": "fake", **transcription}}}}, beta=False
    )
    return RealtimeDialect(session, Settings(), ENGINE, frozenset({"fake"}), beta=False)


def sent(dialect: Dialect, *happened: events.Event) -> list[dict[str, Any]]:
    return [json.loads(frame.payload) for event in happened for frame in dialect.emit(event)]


SPLIT = final("This is the iron they say."), final("in all our blood.", LATER_S, before=",")
"""A speaker pauses inside a sentence."""


def test_deepgrams_finals_begin_in_upper_case_after_a_told_full_stop() -> None:
    told = sent(dialect_at(f"?{RAW}&punctuate=true", FakeEngine()), *SPLIT)
    texts = [message["channel"]["alternatives"][0]["transcript"] for message in told]
    assert texts == ["This is the iron they say.", "In all our blood."]


def test_deepgrams_finals_end_without_a_full_stop_where_the_sentence_may_go_on() -> None:
    told = sent(
        dialect_at(f"?{RAW}&punctuate=true", FakeEngine()), final("But their."), final("he feels", 1.1, before="")
    )
    texts = [message["channel"]["alternatives"][0]["transcript"] for message in told]
    assert texts == ["But their", "he feels"]


def test_deepgrams_interims_begin_as_the_final_will() -> None:
    dialect = dialect_at(f"?{RAW}&punctuate=true&interim_results=true", FakeEngine())
    told = sent(dialect, SPLIT[0], interim("in all", LATER_S, ","), SPLIT[1])
    texts = [message["channel"]["alternatives"][0]["transcript"] for message in told]
    assert texts[1:] == ["In all", "In all our blood."]


def test_a_flux_turn_has_the_marks_that_are_known_at_its_end() -> None:
    flux = dialect_at(f"/v2/listen?{RAW}", FakeEngine())
    ended = events.TurnEnded(at=samples(4), trigger=Trigger.CONFIDENCE, confidence=0.9)
    told = sent(flux, SPLIT[0], events.TurnStarted(at=0), SPLIT[1], ended)
    assert told[0]["transcript"] == "This is the iron they say."
    assert told[-1]["transcript"] == "This is the iron they say, in all our blood."


def test_an_eager_turn_has_the_transcript_of_its_end() -> None:
    flux = dialect_at(f"/v2/listen?{RAW}", FakeEngine())
    eager = events.TurnEager(at=samples(3.2), words=SPLIT[1].words, confidence=0.5, before=",")
    ended = events.TurnEnded(at=samples(4), trigger=Trigger.CONFIDENCE, confidence=0.9)
    told = sent(flux, SPLIT[0], events.TurnStarted(at=0), eager, SPLIT[1], ended)
    assert [message["event"] for message in told] == ["StartOfTurn", "EagerEndOfTurn", "EndOfTurn"]
    assert told[1]["transcript"] == told[2]["transcript"] == "This is the iron they say, in all our blood."


def test_an_openai_transcript_is_its_deltas_and_follows_the_one_before() -> None:
    dialect = realtime()
    happened: list[events.Event] = []
    for each in SPLIT:
        at = each.span.end
        happened += [events.SpeechStarted(at=each.span.start), events.SpeechStopped(at=at), each]
    told = sent(dialect, *happened)
    completed = [message["transcript"] for message in told if message["type"].endswith("completed")]
    assert completed == ["This is the iron they say.", "In all our blood."]
    deltas = [message["delta"] for message in told if message["type"].endswith("delta")]
    assert deltas == completed


def test_native_finals_read_as_one_text() -> None:
    told = sent(native(), SPLIT[0], interim("in all", LATER_S, ","), SPLIT[1])
    assert [message["text"] for message in told] == ["This is the iron they say.", "In all", "In all our blood."]


def test_a_held_mark_comes_before_the_next_final() -> None:
    told = sent(native(marks="held"), SPLIT[0], interim("in all", LATER_S, ","), SPLIT[1])
    assert [message["type"] for message in told] == ["final", "partial", "mark", "final"]
    assert [message["text"] for message in told if "text" in message] == [
        "This is the iron they say", "in all", "in all our blood",
    ]  # fmt: skip
    assert (told[2]["mark"], told[2]["channel"]) == (",", 0)


def test_a_held_mark_comes_after_a_rest_unless_somebody_speaks() -> None:
    dialect = native(marks="held")
    end_s = SPLIT[0].words[-1].end
    early = events.Progress(at=samples(end_s + 1.1), confidence=0.0)
    late = events.Progress(at=samples(end_s + 1.3), confidence=0.0)
    sent(dialect, events.SpeechStarted(at=0), SPLIT[0], events.SpeechStopped(at=SPLIT[0].span.end))
    assert sent(dialect, early) == []
    assert [message["type"] for message in sent(dialect, events.SpeechStarted(at=samples(2.5)), late)] == [
        "speech_started"
    ]
    assert sent(dialect, events.SpeechStopped(at=samples(3)), late) == []  # what was said is not decoded yet
    nothing = Final(span=Span(SPLIT[0].span.end, samples(3)), words=(), cause=Cause.ENDPOINT)
    told = sent(dialect, nothing, late)[-1]
    assert (told["type"], told["mark"]) == ("mark", ".")
    assert sent(dialect, late) == []


def test_a_held_mark_comes_before_what_acknowledges_its_final() -> None:
    dialect = native(marks="held")
    dialect.receive(json.dumps({"type": "finalize", "id": "here"}))
    told = sent(dialect, replace(SPLIT[0], cause=Cause.FLUSH), events.Flushed(token="1"))
    assert [message["type"] for message in told] == ["final", "mark", "finalized"]
    assert [message["type"] for message in sent(dialect, SPLIT[1], events.Ended(received=0))] == ["final", "mark"]


def test_each_channel_has_its_own_marks() -> None:
    dialect = native(marks="held", channels=2, multichannel=True)
    told = sent(dialect, SPLIT[0], replace(SPLIT[1], channel=1), events.Ended(received=0))
    assert [(m["channel"], m["mark"]) for m in told if m["type"] == "mark"] == [(0, "."), (1, ".")]


NUMBERS = final("That is twenty one dollars and fifty cents bullshit.")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, "That is twenty one dollars and fifty cents bullshit."),
        ({"smart_format": True}, "That is $21.50 bullshit."),
        ({"numerals": True}, "That is 21 dollars and 50 cents bullshit."),
        ({"profanity_filter": True}, "That is twenty one dollars and fifty cents ****."),
        ({"redact": ["aggressive_numbers"]}, "That is [REDACTED] dollars and [REDACTED] cents bullshit."),
    ],
)
def test_the_native_protocol_and_openais_apis_write_numbers_as_asked(asked: dict[str, Any], text: str) -> None:
    (told,) = sent(native(language="en", **asked), NUMBERS)
    assert told["text"] == text
    live = sent(realtime(language="en", **asked), events.SpeechStarted(at=0), events.SpeechStopped(at=16_000), NUMBERS)
    assert live[-1]["transcript"] == text
    form = [(name, value) for name, value in asked.items() if not isinstance(value, list)]
    fields = [(name, str(value).lower()) for name, value in form] + [
        ("redact[]", kind) for kind in asked.get("redact", ())
    ]
    request = rest.parse([("language", "en"), *fields])
    transcript = FileTranscript(4.0, (Channel((Segment(0.0, 4.0, NUMBERS.words),)),))
    answer = rest.answer(transcript, request, ENGINE, "a.wav")
    assert isinstance(answer, dict)
    assert answer["text"] == text


def test_reflectors_requests_take_the_parameters_of_formatting() -> None:
    for redact in (["pci"], "pci"):
        asked = parsed("", "en", extensions({"audio_file_url": "http://a/b.wav", "numerals": True, "redact": redact}))
        assert asked.formatting == replace(AS_HEARD, numerals=True, redactions=frozenset({Redaction.PCI}))
    with pytest.raises(Refusal, match="redact must be one of"):
        parsed("", "en", extensions({"redact": ["names"]}))


def test_a_partial_counts_its_stable_words_as_they_are_written() -> None:
    dialect = native(language="en", numerals=True)
    event = Interim(span=Span(0, 32_000), words=words("That is twenty one dollars", 0.0), stable=3)
    (told,) = sent(dialect, event)
    assert (told["text"], told["stable"]) == ("That is 21 dollars", 2)


def test_redaction_is_refused_where_spoken_numbers_are_not_recognised() -> None:
    polish = replace(ENGINE, languages=("en", "pl"))
    dialect = NativeDialect(wire.Format.JSON, Settings(), polish)
    start = {"type": "start", "encoding": "linear16", "sample_rate": 16_000, "language": "pl", "redact": ["pci"]}
    with pytest.raises(DialectError, match="redact is not supported in 'pl'") as error:
        dialect.receive(json.dumps(start))
    assert error.value.code == "unsupported_redact"
    with pytest.raises(Refusal, match="redact is not supported in 'pl'"):
        rest.parse([("language", "pl"), ("redact", "pci")]).options(polish)
    with pytest.raises(Refusal, match="redact must be one of numbers, aggressive_numbers, pci, ssn, not 'names'"):
        rest.parse([("redact", "names")])
