from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drive import Drive, assert_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.inference.engines.fake.engine import FakeEngine, FakeSettings, silence, spoken
from myna.streaming.events import (
    Cause,
    Ended,
    Failed,
    Final,
    Flushed,
    Interim,
    Repeated,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnd,
)
from myna.streaming.policy import Options, Policy
from myna.streaming.session.session import Session

ENGINE = FakeEngine()


def drive(policy: Policy | None = None, *, engine: FakeEngine = ENGINE, seed: int | None = None) -> Drive:
    return Drive(Session("s/0", policy or Policy(), Options(), engine.info), engine, seed=seed)


def phrase(*codes: int) -> np.ndarray:
    return np.concatenate([spoken(code) for code in codes])


def names(*codes: int) -> list[str]:
    return [f"w{code}" for code in codes]


def test_an_utterance_becomes_one_final_followed_by_its_end() -> None:
    d = drive()
    d.push(np.concatenate([silence(1), phrase(1, 2, 3), silence(1)]))
    told = [type(event) for event in d.events if not isinstance(event, Interim)]
    assert told == [SpeechStarted, SpeechStopped, Final, UtteranceEnd]
    assert d.text == names(1, 2, 3)
    (final,) = d.finals
    assert final.cause is Cause.ENDPOINT
    assert final.words[0].start == pytest.approx(1.0, abs=0.05)


def test_a_gap_is_reported_after_the_final_it_refers_to_with_any_endpoint() -> None:
    for endpoint_ms, cause in ((300, Cause.ENDPOINT), (3000, Cause.GAP), (None, Cause.GAP)):
        d = drive(Policy(endpoint_ms=endpoint_ms, gap_ms=1000))
        d.push(np.concatenate([phrase(1, 2, 3), silence(1.5), phrase(4), silence(1.5)]))
        told = [event for event in d.events if isinstance(event, Final | UtteranceEnd)]
        assert [type(event) for event in told] == [Final, UtteranceEnd] * 2
        assert [final.cause for final in d.finals] == [cause] * 2
        ends = [event.last_word_end for event in told if isinstance(event, UtteranceEnd)]
        assert ends == [final.words[-1].end for final in d.finals]


def test_noise_that_the_vad_takes_for_speech_does_not_hide_a_gap() -> None:
    d = drive(Policy(gap_ms=1000))
    noise = np.full(16_000 * 6, 600, np.int16)  # loud enough for the VAD, no word for the engine
    d.push(np.concatenate([phrase(1, 2), noise]))
    told = [type(event) for event in d.events if not isinstance(event, Interim | Repeated)]
    assert told[:3] == [SpeechStarted, Final, UtteranceEnd]
    assert told.count(UtteranceEnd) == 1
    assert d.text == names(1, 2)
    d.push(np.concatenate([phrase(3), silence(1)]))
    d.end()
    assert d.text == names(1, 2, 3)
    assert_tiles(d.finals, d.session.received)


def test_long_silence_yields_empty_finals_and_does_not_change_the_next_words() -> None:
    pcm = np.concatenate([phrase(1), silence(17.3), phrase(2), silence(8), phrase(3)])
    heard = []
    for silence_s in (None, 5.0):
        d = drive(Policy(silence_s=silence_s))
        d.push(pcm)
        d.end()
        assert_tiles(d.finals, d.session.received)
        heard.append([word for final in d.finals for word in final.words])
    assert heard[0] == heard[1]
    empty = [final for final in d.finals if final.cause is Cause.SILENCE]
    assert len(empty) == 4
    assert not any(final.words for final in empty)


def test_the_final_is_decoded_before_the_endpoint_and_not_again() -> None:
    d = drive(Policy(interim_every_s=None))
    d.push(np.concatenate([phrase(1, 2), silence(0.4)]))
    assert len(d.decoded) == 1
    assert not d.finals
    d.push(silence(0.3))
    assert len(d.decoded) == 1
    assert d.text == names(1, 2)


def test_speech_that_resumes_within_the_endpoint_stays_one_utterance() -> None:
    d = drive()
    d.push(np.concatenate([phrase(1, 2), silence(0.4), phrase(3), silence(1)]))
    assert len(d.finals) == 1
    assert d.text == names(1, 2, 3)


def test_interims_are_emitted_at_least_every_1200_ms_of_speech() -> None:
    d = drive()
    d.push(phrase(*range(30)), chunk=320)
    ends = [event.span.end / 16_000 for event in d.events if isinstance(event, Interim)]
    assert ends[0] <= 1.2
    assert all(later - earlier <= 1.2 for earlier, later in pairwise(ends))


def test_a_policy_without_interims_emits_none() -> None:
    d = drive(Policy(interim_every_s=None))
    d.push(np.concatenate([phrase(*range(8)), silence(1)]))
    assert not [event for event in d.events if isinstance(event, Interim)]


def test_interims_of_long_speech_keep_the_words_before_their_decode_window() -> None:
    d = drive(Policy(interim_window_s=3.0))
    d.push(phrase(*range(30)))
    last = [event for event in d.events if isinstance(event, Interim)][-1]
    assert [word.text for word in last.words] == names(*range(len(last.words)))
    assert len(last.words) >= 25
    assert last.stable >= 20


def test_a_minute_of_speech_without_a_pause_loses_and_doubles_no_word() -> None:
    d = drive()
    d.push(np.concatenate([phrase(*range(200)), silence(1)]))
    assert d.text == names(*range(200))
    assert max(len(final.span) for final in d.finals) <= 12.1 * 16_000
    d.end()
    assert_tiles(d.finals, d.session.received)


def test_a_word_repeated_across_cuts_is_emitted_as_often_as_it_was_said() -> None:
    d = drive()
    said = [code for _ in range(40) for code in (7, 8, 7)]
    d.push(np.concatenate([*[np.concatenate([spoken(c)[:-200], silence(200 / 16_000)]) for c in said], silence(1)]))
    assert d.text == names(*said)


def test_a_flush_makes_everything_received_final_and_is_acknowledged_after_it() -> None:
    d = drive()
    d.push(phrase(1, 2))
    d.flush("now")
    assert d.text == names(1, 2)
    assert d.finals[-1].cause is Cause.FLUSH
    assert isinstance(d.events[-1], Flushed)
    d.push(np.concatenate([phrase(3), silence(1)]))
    assert d.text == names(1, 2, 3)


def test_a_flush_of_nothing_is_acknowledged_too() -> None:
    d = drive()
    d.flush("a")
    d.flush("b")
    assert [event.token for event in d.events if isinstance(event, Flushed)] == ["a", "b"]
    assert not d.finals


def test_without_endpoints_only_length_flush_and_end_cut() -> None:
    d = drive(Policy(endpoint_ms=None))
    d.push(np.concatenate([phrase(1), silence(3), phrase(2), silence(3)]))
    assert not d.finals
    d.end()
    assert d.text == names(1, 2)
    assert {final.cause for final in d.finals} <= {Cause.END, Cause.LENGTH}


def test_a_stall_ends_the_utterance_and_later_audio_begins_another() -> None:
    d = drive()
    d.push(np.concatenate([silence(0.5), phrase(1, 2)]))
    d.session.stall()
    d.settle()
    d.session.stall()
    d.settle()
    assert d.text == names(1, 2)
    assert [final.cause for final in d.finals] == [Cause.ENDPOINT]
    assert [type(event) for event in d.events[-2:]] == [Final, UtteranceEnd]
    d.push(np.concatenate([phrase(3), silence(1)]))
    d.end()
    assert d.text == names(1, 2, 3)
    assert sum(isinstance(event, SpeechStarted) for event in d.events) == 2
    assert sum(isinstance(event, UtteranceEnd) for event in d.events) == 2
    assert_tiles(d.finals, d.session.received)


def test_a_failed_decode_is_reported_and_leaves_an_empty_final() -> None:
    engine = FakeEngine(settings=FakeSettings(fail_every=1))
    d = drive(Policy(interim_every_s=None), engine=engine)
    d.push(np.concatenate([phrase(1), silence(1)]))
    assert [type(event) for event in d.events][-2:] == [Failed, Final]
    d.end()
    assert_tiles(d.finals, d.session.received)


def test_memory_stays_bounded_over_an_hour_of_speech_and_of_silence() -> None:
    for audio in (np.concatenate([phrase(*range(10)), silence(0.7)]), silence(3.7)):
        d = drive()
        for _ in range(3600 // 4):
            d.push(audio, chunk=16_000)
            d.events.clear()
            d.decoded.clear()
        assert d.most_audio_held <= 30 * 16_000


def test_an_abandoned_session_cancels_its_requests() -> None:
    session = Session("s/0", Policy(), Options(), ENGINE.info)
    session.push(phrase(1, 2, 3, 4).tobytes(), 0.0)
    session.take()
    session.on_vad(0, [0.99] * 37)
    (submitted,), _ = session.take()
    (cancelled,) = session.abandon()
    assert submitted.job.id == cancelled.job_id  # type: ignore[union-attr]


speech = st.lists(
    st.tuples(st.integers(1, 30), st.floats(0.02, 1.5)), min_size=1, max_size=6
)  # words of a phrase, silence after it


def build(phrases: list[tuple[int, float]]) -> tuple[np.ndarray, list[str]]:
    parts, code = [silence(0.3)], 0
    for count, pause in phrases:
        parts += [phrase(*range(code, code + count)), silence(pause)]
        code += count
    return np.concatenate(parts), names(*range(code))


@settings(max_examples=60, deadline=None)
@given(
    speech,
    st.integers(0, 2**32),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=5),
    st.integers(100, 1500) | st.none(),
    st.sampled_from([None, 300, 1200]),
    st.sampled_from([None, 1.2]),
    st.booleans(),
)
def test_finals_tile_and_hold_every_word_once_for_any_chunks_delays_order_and_policy(
    phrases: list[tuple[int, float]],
    seed: int,
    chunks: list[int],
    endpoint_ms: int | None,
    gap_ms: int | None,
    silence_s: float | None,
    live: bool,
) -> None:
    audio, expected = build(phrases)
    d = drive(Policy(live=live, endpoint_ms=endpoint_ms, gap_ms=gap_ms, silence_s=silence_s), seed=seed)
    position, index = 0, 0
    while position < len(audio):
        size = chunks[index % len(chunks)]
        d.push(audio[position : position + size], chunk=size)
        position, index = position + size, index + 1
    d.end()
    assert d.text == expected
    assert_tiles(d.finals, len(audio))


@settings(max_examples=40, deadline=None)
@given(speech, st.integers(0, 2**32), st.integers(100, 50_000), st.integers(0, 8))
def test_finals_do_not_depend_on_how_audio_is_split_and_results_are_delayed(
    phrases: list[tuple[int, float]], seed: int, chunk: int, flushes: int
) -> None:
    audio, _ = build(phrases)
    points = [len(audio) * (i + 1) // (flushes + 1) for i in range(flushes)]

    def run(seed: int | None, chunk: int) -> list[Final]:
        d = drive(seed=seed)
        begin = 0
        for number, end in enumerate([*points, len(audio)]):
            d.push(audio[begin:end], chunk=chunk)
            if end != len(audio):
                d.flush(str(number))
            begin = end
        d.end()
        assert sum(isinstance(event, Flushed) for event in d.events) == flushes
        assert sum(isinstance(event, Ended) for event in d.events) == 1
        return d.finals

    assert run(None, 1600) == run(seed, chunk)
