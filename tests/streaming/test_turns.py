from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drive import Drive, assert_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.inference.engines.fake.engine import SAYS_END, FakeEngine, silence, spoken
from myna.streaming.events import (
    Cause,
    Configured,
    Event,
    Final,
    Flushed,
    Interim,
    Progress,
    SpeechStopped,
    Trigger,
    TurnEager,
    TurnEnded,
    TurnResumed,
    TurnStarted,
    Word,
    samples,
)
from myna.streaming.policy import Options, Policy, TurnPolicy
from myna.streaming.session.session import Session
from myna.streaming.speech.turns import Eager, Over, TurnDetector, confidence

ENGINE = FakeEngine()
TURN_EVENTS = TurnStarted | TurnEager | TurnResumed | TurnEnded


def words(text: str, sure: float = 0.98) -> list[Word]:
    return [Word(word, index / 2, index / 2 + 0.4, sure) for index, word in enumerate(text.split())]


def at(seconds: float, text: str, sure: float = 0.98) -> float:
    return confidence(samples(seconds), words(text, sure))


def test_confidence_grows_with_silence_and_is_a_probability() -> None:
    values = [at(s, "That is all I know.") for s in (0, 0.032, 0.25, 0.5, 1, 2, 60, 3600)]
    assert values[0] == 0
    assert values == sorted(values)
    assert all(0 <= value <= 1 for value in values)


def test_a_complete_confident_sentence_ends_a_turn_sooner_than_any_other_words() -> None:
    whole = at(0.5, "That is all I know.")
    assert whole > 0.7
    for less in (at(0.5, "That is all I know"), at(0.5, "That is all I know,"), at(0.5, "Well."), at(0.5, "I know. And"),
                 at(0.5, "That is all I know.", 0.6)):  # fmt: skip
        assert less < whole


def test_an_end_that_the_engine_heard_ends_a_turn_after_any_words() -> None:
    for text in ("Well.", "That is all I know", "I know. And"):
        assert confidence(samples(0.31), words(text, 0.6), finished=True) > 0.7 > at(0.31, text, 0.6)
    assert confidence(samples(0.2), words("Well."), finished=True) < 0.7
    assert confidence(0, words("Well."), finished=True) == 0


def test_a_pause_from_which_the_speaker_resumed_delays_an_end_that_the_engine_heard() -> None:
    rest = samples(0.6)
    assert confidence(samples(0.6), words("Well."), rest, finished=True) < 0.7
    assert confidence(samples(1.25), words("Well."), rest, finished=True) > 0.7


def test_a_turn_ends_sooner_if_the_engine_hears_the_end_of_the_utterance() -> None:
    def silence_before_the_end(*codes: int) -> float:
        policy = Policy(endpoint_ms=None, turns=TurnPolicy())
        d = Drive(Session("s/0", policy, Options(), ENGINE.info), ENGINE)
        d.push(np.concatenate([*map(spoken, codes), silence(6)]))
        (end,) = (event for event in d.events if isinstance(event, TurnEnded))
        assert end.trigger is Trigger.CONFIDENCE
        return end.at / 16_000 - 0.3 * len(codes)

    assert silence_before_the_end(1, SAYS_END) < 0.4 < silence_before_the_end(1, 2)


def test_a_word_that_cannot_end_a_sentence_delays_the_end_whatever_mark_follows_it() -> None:
    assert at(1.0, "I would like to fly from.") < 0.5
    assert at(2.0, "My name is the") < at(0.6, "My name is Tom.")


def test_without_words_there_is_no_turn() -> None:
    assert confidence(samples(3), []) == 0
    turns = TurnDetector(TurnPolicy())
    assert turns.assess(samples(0.4), []) is None
    assert turns.assess(samples(0.6), []) == Over(None, 0)


def test_eager_is_returned_once_and_again_after_speech_has_resumed() -> None:
    turns = TurnDetector(TurnPolicy(end=0.99, eager=0.5))
    said = words("That is all I know.")
    found = [turns.assess(samples(ms / 1000), said) for ms in range(224, 1000, 32)]
    assert [type(verdict) for verdict in found if verdict] == [Eager]
    assert turns.resume()
    assert not turns.resume()
    assert isinstance(turns.assess(samples(0.5), said), Eager)


def test_words_that_may_end_a_sentence_end_a_turn_after_1_05_s_at_the_latest() -> None:
    def ends_after(text: str, sure: float) -> float:
        turns = TurnDetector(TurnPolicy())
        return next(ms / 1000 for ms in range(32, 6000, 32) if turns.assess(samples(ms / 1000), words(text, sure)))

    for text, sure in (("Steel,", 0.2), ("is a garland?", 0.5), ("Nathan", 0.1)):
        assert ends_after(text, sure) == pytest.approx(1.05, abs=0.032)
    assert ends_after("That is all I know.", 0.98) == pytest.approx(0.49, abs=0.032)


@pytest.mark.parametrize("text", ["I'd like to, um,", "Then I'm.", "We're", "I would like to fly from."])
def test_a_turn_waits_two_seconds_after_a_filler_or_a_word_that_ends_no_sentence(text: str) -> None:
    for sure in (0.2, 0.9, 0.99):
        turns = TurnDetector(TurnPolicy())
        assert turns.assess(samples(2.0), words(text, sure)) is None
        assert isinstance(turns.assess(samples(2.25), words(text, sure)), Over)


def test_a_speaker_who_resumed_after_a_long_pause_gets_twice_its_silence_up_to_a_bound() -> None:
    def ends_after(*pauses: float) -> float:
        turns = TurnDetector(TurnPolicy())
        said: list[Word] = []
        for number, pause in enumerate(pauses):
            said += [Word(w.text, w.start + 10 * number, w.end + 10 * number, 0.98) for w in words("I know the")]
            assert turns.assess(samples(pause), said) is None
            turns.resume()
        said.append(Word("Then.", 100.0, 100.4, 0.98))
        said += [Word(word.text, word.start + 101, word.end + 101, 0.98) for word in words("That is all I know.")]
        return next(ms / 1000 for ms in range(32, 6000, 32) if turns.assess(samples(ms / 1000), said))

    assert ends_after() == ends_after(0.1, 0.4) < 0.52
    assert ends_after(0.45) == pytest.approx(0.9, abs=0.032)
    assert ends_after(0.2, 0.5, 0.45) == pytest.approx(1.0, abs=0.032)
    assert ends_after(0.6) == ends_after(1.0) == ends_after(1.9) == pytest.approx(1.08, abs=0.032)


def test_a_pause_counts_once_words_follow_it_and_only_within_its_turn() -> None:
    turns = TurnDetector(TurnPolicy())
    said = words("I know him.")
    assert turns.assess(samples(0.3), said) is None
    turns.resume()  # a cough
    assert turns.assess(samples(0.2), said) is None
    assert isinstance(turns.assess(samples(0.7), said), Over)
    for _ in range(2):
        assert turns.assess(samples(0.45), words("I know")) is None
        turns.resume()
        said = [*words("I know"), *(Word(w.text, w.start + 3, w.end + 3, 0.98) for w in words("him very well indeed."))]
        assert turns.assess(samples(0.7), said) is None
        assert isinstance(turns.assess(samples(0.92), said), Over)


def test_speech_right_after_a_turn_marks_a_false_end_and_lengthens_the_wait() -> None:
    def ends_after(gap: float, *, ended_by: Trigger = Trigger.CONFIDENCE) -> float:
        turns = TurnDetector(TurnPolicy(timeout_ms=900 if ended_by is Trigger.TIMEOUT else 5000))
        before = words("That is all I know.", sure=0.5 if ended_by is Trigger.TIMEOUT else 0.98)
        over = turns.assess(samples(0.9), before)
        assert isinstance(over, Over)
        assert over.trigger is ended_by
        assert turns.assess(samples(0.1), []) is None  # sound without a word
        assert isinstance(turns.assess(samples(0.6), []), Over)
        later = before[-1].end + gap
        said = [Word(w.text, w.start + later, w.end + later, 0.98) for w in words("Now I have more to say.")]
        return next(ms / 1000 for ms in range(32, 6000, 32) if turns.assess(samples(ms / 1000), said))

    assert ends_after(0.6) == pytest.approx(1.2, abs=0.032)
    assert ends_after(1.4) == pytest.approx(2.0, abs=0.032)
    assert ends_after(1.6) < 0.52
    assert ends_after(1.4, ended_by=Trigger.TIMEOUT) < 0.52  # a time-out is no evidence about the speaker


def test_silence_ends_a_turn_at_the_time_out_even_before_its_words_are_decoded() -> None:
    turns = TurnDetector(TurnPolicy(end=1.0, timeout_ms=1500))
    assert turns.assess(samples(1.4), words("That is all I know.")) is None
    verdict = turns.assess(samples(1.5), words("That is all I know."))
    assert isinstance(verdict, Over)
    assert verdict.trigger is Trigger.TIMEOUT
    assert turns.assess(samples(1.5), None) == Over(Trigger.TIMEOUT, 0)


@pytest.mark.parametrize(
    "wrong", [{"end": 0}, {"end": 1.1}, {"eager": 0.8}, {"eager": 0}, {"timeout_ms": 0}, {"longest_s": 0}]
)
def test_invalid_turn_thresholds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TurnPolicy(**wrong)
    with pytest.raises(ValueError, match="endpoint_ms must be None"):
        Policy(endpoint_ms=500, turns=TurnPolicy())


def turning(policy: TurnPolicy | None = None, seed: int | None = None, **changes: Any) -> Drive:
    whole = Policy(endpoint_ms=None, turns=policy or TurnPolicy(), **changes)
    return Drive(Session("s/0", whole, Options(), ENGINE.info), ENGINE, seed=seed)


def phrase(*codes: int) -> np.ndarray:
    return np.concatenate([spoken(code) for code in codes])


def told(d: Drive) -> list[type[Event]]:
    return [type(event) for event in d.events if isinstance(event, TURN_EVENTS)]


def test_a_turn_starts_with_its_first_words_and_ends_after_its_last_final() -> None:
    d = turning()
    d.push(np.concatenate([silence(1), phrase(1, 2, 3), silence(2)]))
    events = [event for event in d.events if isinstance(event, TURN_EVENTS | Final | Interim | SpeechStopped)]
    kinds = [type(event) for event in events if not isinstance(event, Interim)]
    assert kinds == [TurnStarted, SpeechStopped, Final, TurnEnded]
    assert isinstance(events[0], Interim)
    assert d.text == ["w1", "w2", "w3"]
    ended = events[-1]
    assert isinstance(ended, TurnEnded)
    assert ended.trigger is Trigger.CONFIDENCE
    assert ended.confidence >= 0.7
    assert d.finals[0].cause is Cause.ENDPOINT
    # The longest wait after words that may end a sentence: three words with a confidence of 0.9 and no final mark.
    assert ended.at / 16_000 == pytest.approx(1.9 + 1.05, abs=0.05)


def test_one_turn_spans_short_pauses_and_cuts_by_length() -> None:
    d = turning(soft_s=3.0, hard_s=4.0)
    d.push(np.concatenate([phrase(*range(1, 9)), silence(0.5), phrase(*range(11, 31)), silence(2)]))
    assert told(d) == [TurnStarted, TurnEnded]
    assert len(d.finals) > 2
    assert d.text == [f"w{code}" for code in (*range(1, 9), *range(11, 31))]


@pytest.mark.parametrize("bound", [{"longest_s": 10.0}, {"most_words": 30}])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_an_overlong_turn_ends_at_a_cut_and_no_word_is_lost(bound: dict[str, Any], seed: int | None) -> None:
    d = turning(TurnPolicy(end=1, timeout_ms=60_000, **bound), seed, soft_s=3.0, hard_s=4.0)
    d.push(np.concatenate([phrase(*range(200)), silence(1)]))
    d.end()
    turns: list[int] = [0]
    for event in d.events:
        if isinstance(event, Final):
            turns[-1] += len(event.words)
        elif isinstance(event, TurnEnded):
            assert event.trigger is Trigger.TIMEOUT
            turns.append(0)
    assert d.text == [f"w{code}" for code in range(200)]
    assert len(turns) > 3
    assert max(turns) <= 30 + 2 * 14  # the words of the segments under way at the bound
    assert told(d)[:3] == [TurnStarted, TurnEnded, TurnStarted]


def test_an_eager_end_holds_the_words_of_the_later_final() -> None:
    d = turning(TurnPolicy(end=0.7, eager=0.4))
    d.push(np.concatenate([phrase(1, 2, 3, 4), silence(0.7), phrase(5, 6), silence(2)]))
    assert told(d) == [TurnStarted, TurnEager, TurnResumed, TurnEager, TurnEnded]
    eager = [event for event in d.events if isinstance(event, TurnEager)]
    assert [word.text for word in eager[0].words] == ["w1", "w2", "w3", "w4"]
    assert eager[1].words == d.finals[0].words
    assert all(0.4 <= event.confidence < 0.7 for event in eager)


def test_a_turn_resumes_after_a_pause_in_which_its_segment_was_cut() -> None:
    d = turning(TurnPolicy(end=0.99, eager=0.4), soft_s=1.0, hard_s=8.0)
    d.push(np.concatenate([phrase(1, 2, 3, 4, 5), silence(1.5), phrase(6, 7, 8), silence(8)]))
    assert d.finals[0].cause is Cause.LENGTH
    assert told(d) == [TurnStarted, TurnEager, TurnResumed, TurnEager, TurnEnded]


def test_a_late_decode_delays_the_end_of_a_turn_but_not_its_time_out() -> None:
    whole = Policy(endpoint_ms=None, turns=TurnPolicy(timeout_ms=3000))
    d = Drive(Session("s/0", whole, Options(), ENGINE.info), ENGINE, seed=1)
    d._decode_one = lambda: None  # type: ignore[method-assign]
    d._random.randrange = lambda _: 2  # type: ignore[union-attr, method-assign]
    d.push(np.concatenate([phrase(1, 2, 3), silence(2.5)]))
    assert told(d) == []
    d.push(silence(1))
    assert any(isinstance(event, SpeechStopped) for event in d.events)
    del d._decode_one
    d._random = None
    d.end()
    assert told(d) == [TurnStarted, TurnEnded]
    assert [event.trigger for event in d.events if isinstance(event, TurnEnded)] == [Trigger.TIMEOUT]


def test_a_turn_ended_right_after_a_flush_inside_a_window_ends_at_the_flush() -> None:
    d = turning(seed=1)
    d._decode_one = lambda: None  # type: ignore[method-assign]
    d._random.randrange = lambda _: 2  # type: ignore[union-attr, method-assign]
    d.push(np.concatenate([phrase(1, 2, 3), silence(2), silence(100 / 16_000)]))
    assert d.session.received % 512
    d.flush("now")
    del d._decode_one
    d._random = None
    d.settle()
    assert told(d) == [TurnStarted, TurnEnded]
    d.push(silence(1))
    d.end()
    assert_tiles(d.finals, d.session.received)


def test_noise_without_words_is_no_turn_and_delays_nothing() -> None:
    d = turning()
    d.push(np.concatenate([np.full(32_000, 600, np.int16), silence(1), phrase(1, 2, 3), silence(2)]))
    assert told(d) == [TurnStarted, TurnEnded]
    assert [len(final.words) for final in d.finals] == [0, 3]


def test_the_client_ends_a_turn_in_the_middle_of_speech() -> None:
    d = turning()
    d.push(phrase(1, 2, 3))
    d.session.end_turn()
    d.settle()
    assert told(d) == [TurnStarted, TurnEnded]
    assert next(e for e in d.events if isinstance(e, TurnEnded)).trigger is Trigger.CLIENT
    d.push(np.concatenate([phrase(4, 5, 6), silence(2)]))
    assert told(d) == [TurnStarted, TurnEnded] * 2
    assert d.text == [f"w{code}" for code in range(1, 7)]
    d.session.end_turn()
    d.settle()
    assert told(d) == [TurnStarted, TurnEnded] * 2  # there is no turn to end


def test_the_end_of_the_stream_ends_no_turn() -> None:
    d = turning()
    d.push(phrase(1, 2, 3))
    d.end()
    assert told(d) == [TurnStarted]
    assert d.text == ["w1", "w2", "w3"]


def test_a_stall_ends_a_turn_by_time_out() -> None:
    d = turning()
    d.push(phrase(1, 2, 3))
    d.session.stall()
    d.settle()
    assert [event.trigger for event in d.events if isinstance(event, TurnEnded)] == [Trigger.TIMEOUT]


def test_progress_is_emitted_at_its_interval_with_the_confidence_so_far() -> None:
    d = turning(progress_s=0.25)
    d.push(np.concatenate([silence(1), phrase(1, 2, 3), silence(0.8)]))
    progress = [event for event in d.events if isinstance(event, Progress)]
    assert [event.at for event in progress] == [4096 * n for n in range(1, len(progress) + 1)]
    assert len(progress) == 10
    assert progress[3].confidence == 0
    assert 0 < progress[8].confidence < progress[9].confidence < 0.7


def test_a_new_policy_applies_from_the_point_of_the_request_and_is_acknowledged() -> None:
    d = turning(TurnPolicy(end=1.0, timeout_ms=60_000))
    d.push(np.concatenate([phrase(1, 2, 3), silence(1)]))
    assert told(d) == [TurnStarted]
    d.session.configure(Policy(endpoint_ms=None, turns=TurnPolicy(end=0.6)), Options(), "c")
    d.push(silence(0.1))
    assert told(d) == [TurnStarted, TurnEnded]
    assert Configured(token="c") in d.events
    d.session.configure(Policy(endpoint_ms=300), Options())
    d.push(np.concatenate([phrase(4), silence(0.5)]))
    assert told(d) == [TurnStarted, TurnEnded]
    assert d.text == ["w1", "w2", "w3", "w4"]


def test_discarded_audio_is_not_decoded_and_the_finals_still_tile() -> None:
    d = turning()
    d.push(phrase(1, 2))
    d.session.discard("gone")
    d.settle()
    assert Flushed(token="gone") in d.events
    assert d.finals[-1].cause is Cause.DISCARD
    assert d.finals[-1].words == ()
    d.push(np.concatenate([phrase(3, 4, 5), silence(2)]))
    d.end()
    assert d.text == ["w3", "w4", "w5"]
    assert_tiles(d.finals, d.session.received)


def test_pauses_in_discarded_audio_do_not_delay_later_turns() -> None:
    def wait(discarded: bool) -> float:
        d = turning()
        d.push(np.concatenate([phrase(1), silence(0.7), phrase(2), silence(0.3)]))
        if discarded:
            d.session.discard("gone")
        d.push(np.concatenate([phrase(3, 4, 5, 6), silence(3)]))
        return next(event.at for event in d.events if isinstance(event, TurnEnded)) / 16_000 - 2.8

    assert wait(discarded=False) == pytest.approx(1.12, abs=0.05)
    assert wait(discarded=True) == pytest.approx(1.03, abs=0.033)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0.1, 0.3, 0.6, 1.0, 2.5])), min_size=1, max_size=6),
    st.integers(0, 10_000),
    st.sampled_from([None, 0.4]),
)
def test_turn_starts_and_ends_alternate_for_any_speech_and_any_delay_of_decodes(
    phrases: list[tuple[int, float]], seed: int, eager: float | None
) -> None:
    d = turning(TurnPolicy(eager=eager), seed=seed)
    code = 0
    for length, pause in phrases:
        d.push(np.concatenate([phrase(*range(code, code + length)), silence(pause)]))
        code += length
    d.end()
    assert d.text == [f"w{n}" for n in range(code)]
    assert_tiles(d.finals, d.session.received)
    state = "idle"
    may_follow: dict[type[Event], tuple[set[str], str]] = {
        TurnStarted: ({"idle"}, "turn"),
        TurnEager: ({"turn"}, "waiting"),
        TurnResumed: ({"waiting"}, "turn"),
        TurnEnded: ({"turn", "waiting"}, "idle"),
    }
    for kind in told(d):
        before, after = may_follow[kind]
        assert state in before, told(d)
        state = after
