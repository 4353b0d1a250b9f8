"""Sessions with an engine that follows the open utterance and is sent only its new audio."""

from __future__ import annotations

import numpy as np
from drive import Drive, assert_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.inference.engines.fake.engine import FakeEngine, FakeSettings, silence, spoken
from myna.streaming.events import Interim
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import InferenceJob, JobKind
from myna.streaming.session.requests import Cancel, ReleaseUtterance
from myna.streaming.session.session import Session


def following(*, forget_every: int = 0, seed: int | None = None, policy: Policy | None = None) -> Drive:
    engine = FakeEngine(settings=FakeSettings(incremental=True, forget_every=forget_every))
    return Drive(Session("s/0", policy or Policy(), Options(), engine.info), engine, seed=seed)


def phrase(*codes: int) -> np.ndarray:
    return np.concatenate([spoken(code) for code in codes])


def steps(d: Drive) -> list[InferenceJob]:
    return [job for job in d.decoded if job.kind is JobKind.INTERIM]


def interim(d: Drive) -> list[list[str]]:
    return [[word.text for word in event.words] for event in d.events if isinstance(event, Interim)]


def test_each_step_holds_only_audio_that_the_engine_lacks() -> None:
    d = following()
    d.push(phrase(*range(20)))
    heard = 0
    for job in steps(d):
        assert (job.utterance, job.held) == (1, heard)
        heard += len(job.pcm) // 2
    assert heard == steps(d)[-1].length
    assert len(steps(d)) >= 5


def test_every_interim_holds_all_words_of_the_utterance_so_far_with_their_times() -> None:
    d = following()
    d.push(np.concatenate([silence(1), phrase(*range(20))]))
    for words in interim(d):
        assert words == [f"w{code}" for code in range(len(words))]
    last = [event for event in d.events if isinstance(event, Interim)][-1]
    assert [round(word.start, 3) for word in last.words] == [round(1 + 0.3 * i, 3) for i in range(len(last.words))]
    assert last.stable >= len(last.words) - 4


def test_the_next_utterance_has_another_number_and_starts_empty() -> None:
    d = following()
    d.push(np.concatenate([phrase(*range(6)), silence(3), phrase(*range(6, 12)), silence(1)]))
    assert {job.utterance for job in steps(d)} == {1, 2}
    assert next(job for job in steps(d) if job.utterance == 2).held == 0
    assert d.text == [f"w{code}" for code in range(12)]


def test_an_engine_that_lost_the_utterance_is_sent_it_again_at_once() -> None:
    d = following(forget_every=3)
    d.push(phrase(*range(30)))
    lengths = [len(words) for words in interim(d)]
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 27
    assert sum(job.held == 0 for job in steps(d)) > 1


def test_an_abandoned_session_releases_its_utterance() -> None:
    d = following()
    d.push(phrase(*range(10)))
    requests = d.session.abandon()
    assert ReleaseUtterance("s/0") in requests
    assert all(isinstance(request, Cancel | ReleaseUtterance) for request in requests)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.02, 1.5)), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.integers(100, 30_000),
    st.integers(0, 4),
)
def test_finals_do_not_depend_on_following_delays_order_or_lost_utterances(
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

    followed = run(following(forget_every=forget_every, seed=seed))
    plain = FakeEngine()
    alone = run(Drive(Session("s/0", Policy(), Options(), plain.info), plain))
    assert followed.finals == alone.finals
    assert_tiles(followed.finals, len(audio))
