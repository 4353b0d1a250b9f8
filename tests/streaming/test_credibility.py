"""Sure speech whose decode is not credible is decoded in other windows before its words are lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from drive import Drive, assert_tiles

from myna.inference.engines.fake.engine import FakeEngine, FakeSettings, silence, spoken
from myna.streaming.events import SAMPLE_RATE, Interim, Repeated, TurnEnded, Word
from myna.streaming.policy import Options, Policy, TurnPolicy
from myna.streaming.session.jobs import InferenceJob, JobKind, Outcome, Transcript
from myna.streaming.session.session import Session

FILE = Policy(live=False, endpoint_ms=None, interim_every_s=None, lead_s=1.0)
Fault = Callable[[Transcript], Transcript]


class Unsure(FakeEngine):
    """An engine that answers some jobs, counted from 0 per kind, with a fault."""

    def __init__(self, fault: Fault, *, at: set[int], kind: JobKind, incremental: bool = False) -> None:
        super().__init__(settings=FakeSettings(incremental=incremental))
        self._fault, self._at, self._kind = fault, at, kind
        self._seen = 0

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        outcomes = super().transcribe(jobs)
        for index, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
            if job.kind is not self._kind or not isinstance(outcome, Transcript):
                continue
            if self._seen in self._at:
                outcomes[index] = self._fault(outcome)
            self._seen += 1
        return outcomes


def babble(heard: Transcript) -> Transcript:
    """Return a transcript whose mean log-probability fails the gate."""
    return replace(heard, log_probability=-1.15)


def nothing(heard: Transcript) -> Transcript:
    return replace(heard, words=())


def loop(heard: Transcript) -> Transcript:
    """Return a transcript that repeats one phrase with high confidence."""
    return Transcript(tuple(replace(word, text=f"x{index % 2}") for index, word in enumerate(heard.words)), -0.05)


def one_word(heard: Transcript) -> Transcript:
    first = heard.words[0]
    return replace(heard, words=(Word("You", first.start, heard.words[-1].end, 0.9),))


FAULTS = pytest.mark.parametrize("fault", [babble, nothing, loop, one_word])


def drive(engine: FakeEngine, policy: Policy, seed: int | None = None) -> Drive:
    return Drive(Session("s/0", policy, Options(), engine.info), engine, seed=seed)


def said(*codes: int, pause_s: float = 1.0) -> np.ndarray:
    return np.concatenate([silence(0.5), *map(spoken, codes), silence(pause_s)])


def names(*codes: int) -> list[str]:
    return [f"w{code}" for code in codes]


@FAULTS
@pytest.mark.parametrize("policy", [Policy(), FILE])
def test_sure_speech_whose_decode_is_not_credible_is_decoded_again_in_another_window(
    policy: Policy, fault: Fault
) -> None:
    kind = JobKind.FINAL if policy.live else JobKind.FILE
    d = drive(Unsure(fault, at={0}, kind=kind), policy)
    codes = range(1, 21)
    d.push(said(*codes))
    d.end()
    assert d.text == names(*codes)
    first, second = [job for job in d.decoded if job.kind is kind][:2]
    assert first.pcm != second.pcm
    assert [event.heard for event in d.events if isinstance(event, Repeated)] == [True]


@FAULTS
def test_a_repeated_decode_of_a_segment_with_context_loses_and_doubles_no_word(fault: Fault) -> None:
    for number in range(1, 4):
        d = drive(Unsure(fault, at={number}, kind=JobKind.FINAL), Policy(), seed=number)
        codes = range(1, 161)  # 48 s without a pause
        d.push(said(*codes))
        d.end()
        assert d.text == names(*codes)


def finals_of(d: Drive) -> list[InferenceJob]:
    return [job for job in d.decoded if job.kind is not JobKind.INTERIM]


def repeats(d: Drive) -> list[Repeated]:
    return [event for event in d.events if isinstance(event, Repeated)]


class Deaf(FakeEngine):
    """An engine that hears no word in final decodes of more than `longest_s` of sound."""

    def __init__(self, longest_s: float) -> None:
        super().__init__()
        self._longest = longest_s * SAMPLE_RATE

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        outcomes = super().transcribe(jobs)
        for index, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
            sound = np.count_nonzero(np.frombuffer(job.pcm, np.int16))
            if job.kind is not JobKind.INTERIM and isinstance(outcome, Transcript) and sound > self._longest:
                outcomes[index] = nothing(outcome)
        return outcomes


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("policy", [Policy(), FILE, Policy(endpoint_ms=None, turns=TurnPolicy())])
def test_speech_without_words_in_every_window_is_decoded_in_two_parts(policy: Policy, seed: int | None) -> None:
    codes = range(1, 21)
    d = drive(Deaf(5.0), policy, seed)
    d.push(said(*codes, pause_s=3.0))
    d.end()
    assert d.text == names(*codes)
    assert_tiles(d.finals, d.session.received)
    assert [(event.heard, event.unheard_s) for event in repeats(d)] == [(True, 0.0)]


@pytest.mark.parametrize("policy", [Policy(), FILE])
def test_a_second_of_speech_without_a_word_is_decoded_again(policy: Policy) -> None:
    def gap(heard: Transcript) -> Transcript:
        return replace(heard, words=(*heard.words[:3], *heard.words[7:]))

    kind = JobKind.FINAL if policy.live else JobKind.FILE
    d = drive(Unsure(gap, at={0}, kind=kind), policy)
    d.push(said(*range(1, 13)))
    d.end()
    assert d.text == names(*range(1, 13))


def test_words_around_speech_that_no_decode_makes_out_are_told_and_the_rest_is_counted() -> None:
    def gap(heard: Transcript) -> Transcript:
        return replace(heard, words=tuple(word for word in heard.words if word.text not in names(4, 5, 6, 7)))

    d = drive(Unsure(gap, at=set(range(100)), kind=JobKind.FINAL), Policy())
    d.push(said(*range(1, 13)))
    d.end()
    assert d.text == names(1, 2, 3, 8, 9, 10, 11, 12)
    assert [(event.heard, event.unheard_s) for event in repeats(d)] == [(True, pytest.approx(1.2, abs=0.05))]


def test_speech_that_no_decode_makes_out_is_decoded_five_times_and_counted() -> None:
    d = drive(Unsure(babble, at=set(range(100)), kind=JobKind.FINAL), Policy())
    d.push(said(*range(1, 11)))
    d.end()
    assert d.text == []
    assert len(finals_of(d)) == 5
    assert len({job.pcm for job in finals_of(d)}) == 5
    assert [(event.heard, event.unheard_s) for event in repeats(d)] == [(False, pytest.approx(3.0, abs=0.05))]


def test_after_three_segments_in_vain_a_segment_is_decoded_twice_until_one_has_words() -> None:
    engine = Unsure(babble, at=set(range(5 + 5 + 5 + 2 + 2 + 1)), kind=JobKind.FINAL)
    d = drive(engine, Policy())
    d.push(silence(1.0))
    decodes = []
    for _ in range(7):
        before = len(finals_of(d))
        d.push(np.concatenate([*map(spoken, range(1, 11)), silence(2.5)]))
        decodes.append(len(finals_of(d)) - before)
    assert decodes == [5, 5, 5, 2, 2, 2, 1]
    assert d.text == names(*range(1, 11)) * 2


def test_speech_that_resumes_while_its_decode_is_repeated_loses_no_word() -> None:
    for seed in range(6):
        d = drive(Unsure(nothing, at=set(range(0, 40, 3)), kind=JobKind.FINAL), Policy(endpoint_ms=900), seed)
        phrases = [range(1, 5), range(5, 12), range(12, 15), range(15, 22)]
        d.push(np.concatenate([part for codes in phrases for part in (*map(spoken, codes), silence(0.4))]), chunk=800)
        d.push(silence(1.5))
        d.end()
        assert d.text == names(*range(1, 22))


def test_sound_that_is_barely_speech_is_not_decoded_again() -> None:
    engine = Unsure(babble, at=set(range(100)), kind=JobKind.FINAL)

    def doubtful(channel: int, pcm: bytes) -> list[float]:
        del channel
        return [0.6 if np.frombuffer(pcm, np.int16)[i : i + 512].any() else 0.01 for i in range(0, len(pcm) // 2, 512)]

    d = Drive(Session("s/0", Policy(), Options(), engine.info), engine, doubtful)
    d.push(said(1, 2, 3, 4))
    d.end()
    assert len([job for job in d.decoded if job.kind is JobKind.FINAL]) == 1


def test_the_words_of_a_turn_wait_for_the_second_decode() -> None:
    policy = Policy(endpoint_ms=None, turns=TurnPolicy())
    d = drive(Unsure(babble, at={0}, kind=JobKind.FINAL), policy)
    d.push(said(1, 2, 3, 4, pause_s=3.0))
    assert d.text == names(1, 2, 3, 4)
    assert any(isinstance(event, TurnEnded) for event in d.events)


@pytest.mark.parametrize("incremental", [False, True])
def test_an_interim_decode_that_fails_its_gate_is_decoded_again_at_once(incremental: bool) -> None:
    d = drive(Unsure(babble, at={0}, kind=JobKind.INTERIM, incremental=incremental), Policy())
    d.push(np.concatenate([silence(0.5), *map(spoken, (1, 2, 3))]))
    (first, second) = [job for job in d.decoded if job.kind is JobKind.INTERIM][:2]
    assert second.due == first.due
    shown = [event for event in d.events if isinstance(event, Interim)]
    assert [word.text for word in shown[0].words] == names(1, 2)


@pytest.mark.parametrize("tail_s", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("policy", [Policy(endpoint_ms=None), FILE])
def test_silence_after_a_short_phrase_does_not_lower_its_voice(policy: Policy, tail_s: float) -> None:
    engine = Unsure(lambda heard: replace(heard, log_probability=-0.3), at=set(range(100)), kind=JobKind.FINAL)
    if not policy.live:
        engine = Unsure(lambda heard: replace(heard, log_probability=-0.3), at=set(range(100)), kind=JobKind.FILE)
    d = drive(engine, policy)
    d.push(said(1, 2, pause_s=tail_s))
    d.end()
    assert d.text == names(1, 2)


def test_long_pauses_between_words_do_not_lower_the_voice() -> None:
    engine = Unsure(lambda heard: replace(heard, log_probability=-0.3), at=set(range(100)), kind=JobKind.FILE)
    d = drive(engine, FILE)
    d.push(np.concatenate([silence(0.3), *[part for code in (1, 2, 3, 4) for part in (spoken(code), silence(0.9))]]))
    d.end()
    assert d.text == names(1, 2, 3, 4)
