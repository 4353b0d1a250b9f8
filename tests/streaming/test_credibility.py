"""Sure speech whose decode is not credible is decoded once more before its words are lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from drive import Drive

from myna.inference.engines.fake.engine import FakeEngine, FakeSettings, silence, spoken
from myna.streaming.events import Interim, Repeated, TurnEnded, Word
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


def test_a_segment_is_decoded_at_most_twice_and_is_then_empty() -> None:
    d = drive(Unsure(babble, at=set(range(100)), kind=JobKind.FINAL), Policy())
    d.push(said(1, 2, 3, 4))
    d.end()
    assert d.text == []
    assert len([job for job in d.decoded if job.kind is JobKind.FINAL]) == 2
    assert [event.heard for event in d.events if isinstance(event, Repeated)] == [False]


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
