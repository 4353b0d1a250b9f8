"""Sessions with an engine whose finals are steps of the utterance that it follows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from drive import Drive, amplitude_voice, assert_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.inference.engines.fake.engine import CHUNK, FakeEngine, FakeSettings, silence, spoken
from myna.streaming.events import Cause, Final, Flushed, Repeated
from myna.streaming.policy import Options, Policy, TurnPolicy
from myna.streaming.session.jobs import InferenceJob, JobKind, Outcome, Transcript
from myna.streaming.session.requests import Detect, Submit
from myna.streaming.session.session import Session
from myna.streaming.session.stream import Stream

FLUSHING = FakeSettings(flushed_finals=True, longest_segment_s=40)


def flushing(
    engine: FakeEngine | None = None, *, forget_every: int = 0, seed: int | None = None, policy: Policy | None = None
) -> Drive:
    engine = engine or FakeEngine(settings=FakeSettings(flushed_finals=True, forget_every=forget_every))
    return Drive(Session("s/0", policy or Policy(), Options(), engine.info), engine, seed=seed)


def phrase(*codes: int) -> np.ndarray:
    return np.concatenate([spoken(code) for code in codes])


def said(*codes: int) -> list[str]:
    return [f"w{code}" for code in codes]


def finals(d: Drive) -> list[InferenceJob]:
    return [job for job in d.decoded if job.kind is JobKind.FINAL]


def utterances(d: Drive) -> list[int]:
    return sorted({job.utterance for job in d.decoded})


def test_a_final_carries_only_the_audio_that_the_engine_lacks() -> None:
    d = flushing()
    d.push(np.concatenate([silence(1), phrase(*range(10)), silence(1)]))
    (job,) = finals(d)
    assert job.utterance == 1
    assert job.held > 0
    assert len(job.pcm) // 2 < 1.1 * 16_000
    assert d.text == said(*range(10))


def test_a_final_has_the_words_of_the_incomplete_chunk_at_its_end() -> None:
    d = flushing(policy=Policy(endpoint_ms=200))
    d.push(np.concatenate([phrase(*range(5)), silence(0.5)]))
    (job,) = finals(d)
    assert job.length % CHUNK
    assert d.text == said(*range(5))


def test_speech_that_resumes_goes_on_in_the_same_utterance() -> None:
    d = flushing()
    d.push(np.concatenate([phrase(*range(6)), silence(0.3), phrase(*range(6, 12)), silence(1)]))
    assert len(finals(d)) == 2  # that of the first pause is not a Final
    assert utterances(d) == [1]
    (final,) = [final for final in d.finals if final.words]
    assert [word.text for word in final.words] == said(*range(12))


def test_an_utterance_goes_on_over_an_endpoint_after_which_speech_follows_soon() -> None:
    d = flushing()
    d.push(
        np.concatenate([phrase(*range(6)), silence(1), phrase(*range(6, 12)), silence(3), phrase(12, 13), silence(1)])
    )
    assert d.text == said(*range(14))
    assert utterances(d) == [1, 2]
    assert [job.utterance for job in finals(d)] == [1, 1, 2]


def test_an_utterance_goes_on_over_a_cut_inside_speech() -> None:
    d = flushing(policy=Policy(soft_s=3, hard_s=4))
    d.push(phrase(*range(40)))
    d.end()
    assert sum(final.cause is Cause.LENGTH for final in d.finals) >= 2
    assert utterances(d) == [1]
    assert d.text == said(*range(40))


@pytest.mark.parametrize(("interim_every_s", "saving"), [(0.8, 0.3), (None, 0.6)])
def test_each_second_of_speech_is_encoded_about_once(interim_every_s: float | None, saving: float) -> None:
    audio = np.concatenate(
        [part for n in range(12) for part in (phrase(*range(12 * n, 12 * n + 12)), silence(0.6))]
    )  # 50 s in twelve utterances
    counts = []
    for engine in (FakeEngine(settings=FLUSHING), FakeEngine(settings=FakeSettings(incremental=True))):
        d = flushing(engine, policy=Policy(interim_every_s=interim_every_s))
        d.push(audio)
        d.end()
        assert d.text == said(*range(144))
        counts.append(engine.encoded / len(audio))
    assert counts[0] < 1.15
    assert counts[0] < saving * counts[1]


def test_a_long_utterance_is_followed_by_another_one_with_context() -> None:
    d = flushing()
    longest = d.engine.info.longest_segment_s
    d.push(np.concatenate([part for n in range(40) for part in (phrase(2 * n, 2 * n + 1), silence(0.6))]))
    d.end()
    assert d.text == said(*range(80))
    ends = [max(job.length for job in group) for _, group in itertools.groupby(d.decoded, lambda job: job.utterance)]
    assert len(ends) >= 3
    assert max(ends) <= (longest + Policy().hard_s) * 16_000
    assert d.most_audio_held <= (longest + 2 * Policy().hard_s) * 16_000


def test_audio_is_dropped_once_an_utterance_cannot_go_on() -> None:
    d = flushing()
    d.push(np.concatenate([phrase(*range(30)), silence(20)]))
    assert d.session.audio_held < 16 * 16_000


class Forgetful(FakeEngine):
    """Loses its state before each final."""

    def transcribe(self, jobs):  # type: ignore[no-untyped-def]
        if any(job.kind is JobKind.FINAL and job.held for job in jobs):
            self._followed.clear()
        return super().transcribe(jobs)


def test_a_final_whose_state_is_lost_is_sent_again_from_the_start_of_its_utterance() -> None:
    d = flushing(Forgetful(settings=FLUSHING))
    audio = np.concatenate([part for n in range(6) for part in (phrase(*range(6 * n, 6 * n + 6)), silence(0.7))])
    d.push(audio)
    d.end()
    assert d.text == said(*range(36))
    assert utterances(d) == [1]
    again = [job for job in finals(d) if not job.held]
    assert len(again) >= 5


def test_a_flush_inside_speech_makes_the_words_so_far_final_and_the_utterance_goes_on() -> None:
    d = flushing()
    audio = phrase(*range(20))
    d.push(audio[:40_000])
    d.flush("now")
    assert [event.token for event in d.events if isinstance(event, Flushed)] == ["now"]
    assert d.text == said(*range(8))
    d.push(audio[40_000:])
    d.end()
    assert utterances(d) == [1]
    assert_tiles(d.finals, len(audio))
    assert [word for word in d.text if word != "w8"] == [word for word in said(*range(20)) if word != "w8"]


def test_discarded_audio_is_in_no_later_utterance() -> None:
    d = flushing()
    d.push(phrase(*range(10)))
    d.session.discard("away")
    d.push(np.concatenate([phrase(*range(10, 16)), silence(1)]))
    assert d.text == said(*range(10, 16))
    assert utterances(d) == [1, 2]


def test_other_options_begin_another_utterance_that_covers_the_open_speech() -> None:
    d = flushing()
    d.push(phrase(*range(8)))
    d.session.configure(Policy(), Options(keyterms=("myna",)))
    d.push(np.concatenate([phrase(*range(8, 12)), silence(1)]))
    assert d.text == said(*range(12))
    assert {job.utterance: job.options.keyterms for job in d.decoded} == {1: (), 2: ("myna",)}


def test_turns_end_with_the_words_of_flushed_finals() -> None:
    d = flushing(policy=Policy(endpoint_ms=None, turns=TurnPolicy(timeout_ms=1000)))
    d.push(np.concatenate([phrase(*range(6)), silence(1.5), phrase(*range(6, 12)), silence(1.5)]))
    d.end()
    assert d.text == said(*range(12))


def test_a_file_is_decoded_without_following() -> None:
    d = flushing(policy=Policy(live=False, endpoint_ms=None, interim_every_s=None))
    d.push(np.concatenate([phrase(*range(30)), silence(1)]))
    d.end()
    assert d.text == said(*range(30))
    assert {(job.kind, job.utterance) for job in d.decoded} == {(JobKind.FILE, 0)}


class Mute(FakeEngine):
    """Recognises nothing in the steps of an utterance."""

    def _transcribe(self, job: InferenceJob) -> Outcome:
        outcome = super()._transcribe(job)
        return Transcript((), -0.1) if job.utterance == 1 and isinstance(outcome, Transcript) else outcome


def test_a_final_without_credible_words_is_decoded_alone_and_its_utterance_ends() -> None:
    d = flushing(Mute(settings=FLUSHING))
    d.push(np.concatenate([phrase(*range(6)), silence(1), phrase(*range(6, 12)), silence(1)]))
    d.end()
    assert d.text == said(*range(12))
    assert [event.heard for event in d.events if isinstance(event, Repeated)] == [True]
    assert [job.utterance for job in finals(d)] == [1, 0, 2]


def test_channels_are_followed_apart() -> None:
    engine = FakeEngine(settings=FLUSHING)
    stream = Stream("s", Policy(), Options(), engine.info)
    left, right = (np.concatenate([phrase(*codes), silence(1)]) for codes in (range(10), range(20, 30)))
    words: dict[int, list[str]] = {0: [], 1: []}
    for start in range(0, len(left), 1600):
        stream.push([left[start : start + 1600].tobytes(), right[start : start + 1600].tobytes()], 0.0)
        carry_out(stream, engine, words)
    assert words == {0: said(*range(10)), 1: said(*range(20, 30))}


def carry_out(stream: Stream, engine: FakeEngine, words: dict[int, list[str]]) -> None:
    while True:
        requests, events = stream.take()
        for event in events:
            if isinstance(event, Final):
                words[event.channel] += [word.text for word in event.words]
        if not requests:
            return
        for request in requests:
            match request:
                case Detect(channel, start, pcm):
                    stream.on_vad(channel, start, amplitude_voice(channel, pcm))
                case Submit(job):
                    stream.on_result(job.id, engine.transcribe([job])[0])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.02, 2.5)), min_size=1, max_size=5),
    st.integers(0, 2**32),
    st.integers(100, 30_000),
    st.integers(0, 4),
)
def test_finals_do_not_depend_on_delays_order_or_lost_utterances(
    phrases: list[tuple[int, float]], seed: int, chunk: int, forget_every: int
) -> None:
    parts, code = [silence(0.3)], 0
    for count, pause in phrases:
        parts += [phrase(*range(code, code + count)), silence(pause)]
        code += count
    audio = np.concatenate(parts)

    def run(d: Drive) -> Drive:
        d.push(audio, chunk=chunk)
        d.end()
        return d

    delayed = run(flushing(forget_every=forget_every, seed=seed))
    prompt = run(flushing())
    assert delayed.finals == prompt.finals
    assert_tiles(delayed.finals, len(audio))
    plain = FakeEngine()
    alone = run(Drive(Session("s/0", Policy(), Options(), plain.info), plain))
    assert delayed.text == alone.text
    assert [(f.span, f.cause) for f in delayed.finals] == [(f.span, f.cause) for f in alone.finals]
