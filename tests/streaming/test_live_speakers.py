"""Live words get their speakers: labels stay, words never wait for long, and late voices are remembered."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from drive import Drive

from myna.inference.engines.fake.engine import WORD, FakeEngine, silence, spoken
from myna.streaming.events import Ended, Final, Interim, Span, samples
from myna.streaming.policy import Options, Policy
from myna.streaming.session.jobs import InferenceJob, JobError, Outcome
from myna.streaming.session.requests import CancelVoices, Remind, Request, SubmitVoices
from myna.streaming.session.session import Session
from myna.streaming.speakers.history import SpeakersRevised
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, label_all
from myna.streaming.speakers.runs import WINDOW, Run, Track, Voices

POLICY = Policy(speakers=SpeakerLimits())
FIRST, SECOND = 1, 501  # word codes from 500 on are another voice's


def voices(job: InferenceJob) -> Voices:
    """Hear coded audio: a run for each stretch of one voice in the part that counts."""
    assert job.window is not None
    pcm = np.frombuffer(job.pcm, np.int16).astype(int)
    who = np.where(pcm < 900, -1, pcm // 6000)
    edges = [0, *(np.flatnonzero(np.diff(who)) + 1), len(who)]
    runs = []
    for begin, end in pairwise(edges):
        begin, end = max(begin, job.window.wanted.start), min(end, job.window.wanted.end)
        if begin < end and who[begin] >= 0:
            embedding = np.eye(4, dtype=np.float32)[who[begin] % 4]
            span = Span(job.window.start + begin, job.window.start + end)
            runs.append(Run(span, end - begin, Track(job.window.number, 0), embedding.tobytes(), end - begin))
    return Voices(tuple(runs))


class Listening(Drive):
    """Answers requests for voices at once, or keeps them in `waiting`."""

    def __init__(self, policy: Policy = POLICY, *, answering: bool = True) -> None:
        engine = FakeEngine()
        super().__init__(Session("s", policy, Options(), engine.info, distances=Distances(0.5, 0.5)), engine)
        self.answering = answering
        self.waiting: list[InferenceJob] = []
        self.heard: list[InferenceJob] = []
        self.reminders: list[int] = []

    def _note(self, request: Request) -> None:
        match request:
            case SubmitVoices(job):
                self.heard.append(job)
                if self.answering:
                    self.answer(job, voices(job))
                else:
                    self.waiting.append(job)
            case CancelVoices(job_id):
                self.waiting = [job for job in self.waiting if job.id != job_id]
            case Remind(number=number):
                self.reminders.append(number)
            case _:
                super()._note(request)

    def answer(self, job: InferenceJob, outcome: Outcome) -> None:
        self.session.on_result(job.id, outcome)
        self._collect()

    def remind(self) -> None:
        self.session.on_reminder(self.reminders.pop(0))
        self._collect()

    @property
    def speakers(self) -> list[int | None]:
        return [word.speaker for final in self.finals for word in final.words]


def phrase(first: int, words: int = 8) -> np.ndarray:
    return np.concatenate([*[spoken(first + number) for number in range(words)], silence(1.2)])


def test_each_final_word_has_its_speaker() -> None:
    drive = Listening()
    for first in (FIRST, SECOND, FIRST, SECOND):
        drive.push(phrase(first))
    drive.end()
    assert drive.speakers == [0] * 8 + [1] * 8 + [0] * 8 + [1] * 8
    assert drive.reminders == []


def test_words_of_two_speakers_in_one_segment_are_told_apart() -> None:
    drive = Listening()
    drive.push(
        np.concatenate(
            [*[spoken(FIRST + n) for n in range(10)], *[spoken(SECOND + n) for n in range(10)], silence(1.2)]
        )
    )
    drive.end()
    assert drive.speakers == [0] * 10 + [1] * 10


def test_of_speech_without_a_pause_little_is_left_to_hear_at_the_end_of_a_segment() -> None:
    drive = Listening(answering=False)
    drive.push(np.concatenate([*[spoken(FIRST + n) for n in range(44)], silence(1.2)]))
    last = drive.waiting[-1].window
    assert last is not None
    assert len(last.wanted) <= samples(4.5)
    parts = [job.window for job in drive.waiting if job.window]
    ends = [part.start + part.wanted.end for part in parts]
    assert [part.start + part.wanted.start for part in parts[1:]] == ends[:-1]


def test_a_stream_whose_speakers_nobody_asks_for_requests_no_voices() -> None:
    drive = Listening(replace(POLICY, speakers=None))
    drive.push(phrase(FIRST))
    drive.end()
    assert drive.heard == []
    assert drive.speakers == [None] * 8


def test_a_final_waits_for_its_voices_until_it_is_reminded() -> None:
    drive = Listening(answering=False)
    drive.push(phrase(FIRST))
    assert drive.finals == []
    assert len(drive.reminders) == 1
    drive.remind()
    (final,) = drive.finals
    assert [word.text for word in final.words] == [f"w{FIRST + n}" for n in range(8)]
    assert {word.speaker for word in final.words} == {None}


def test_voices_that_come_too_late_for_their_words_are_remembered_for_later_ones() -> None:
    drive = Listening(answering=False)
    drive.push(phrase(FIRST))
    drive.remind()
    late = drive.waiting.pop()
    drive.answer(late, voices(late))
    drive.answering = True
    drive.push(phrase(SECOND))
    drive.push(phrase(FIRST))
    drive.end()
    assert drive.speakers == [None] * 8 + [1] * 8 + [0] * 8


def test_voices_of_later_segments_do_not_overtake_those_of_earlier_ones() -> None:
    drive = Listening(answering=False)
    drive.push(phrase(FIRST))
    drive.push(phrase(SECOND))
    first, second = drive.waiting
    drive.answer(second, voices(second))
    assert drive.finals == []
    drive.answer(first, voices(first))
    assert drive.speakers == [0] * 8 + [1] * 8


def test_a_window_that_cannot_be_heard_leaves_its_words_without_speakers() -> None:
    drive = Listening(answering=False)
    drive.push(phrase(FIRST))
    for job in drive.waiting:
        drive.answer(job, JobError("no memory"))
    assert drive.speakers == [None] * 8


def test_interims_have_the_last_label() -> None:
    drive = Listening()
    drive.push(phrase(SECOND))
    drive.push(np.concatenate([spoken(FIRST + n) for n in range(8)]))
    interims = [event for event in drive.events if isinstance(event, Interim) and event.words]
    assert {word.speaker for word in interims[-1].words} == {0}
    drive.end()


def test_voices_requested_at_a_pause_that_does_not_last_are_not_heard_again() -> None:
    drive = Listening()
    drive.push(np.concatenate([*[spoken(FIRST + n) for n in range(8)], silence(0.35)]))
    drive.push(phrase(FIRST + 8))
    drive.end()
    heard = [job.window for job in drive.heard if job.window]
    asked = [(part.start + part.wanted.start, part.start + part.wanted.end) for part in heard]
    assert len(asked) == 2
    assert asked[0][1] <= asked[1][0]
    assert drive.speakers == [0] * 16


def test_long_speech_is_heard_in_windows_and_its_audio_is_dropped() -> None:
    drive = Listening()
    drive.push(np.concatenate([spoken(FIRST + n % 400) for n in range(samples(90.0) // WORD)]))
    drive.end()
    assert all(job.length <= WINDOW for job in drive.heard)
    assert set(drive.speakers) == {0}
    assert drive.most_audio_held < samples(45.0)


def test_a_client_that_leaves_cancels_the_requests_for_voices() -> None:
    drive = Listening(answering=False)
    drive.push(phrase(FIRST))
    cancelled = [request.job_id for request in drive.session.abandon() if isinstance(request, CancelVoices)]
    assert cancelled == [job.id for job in drive.waiting]


def test_labels_are_the_same_however_audio_and_answers_arrive() -> None:
    def told(chunk: int) -> list[Final]:
        drive = Listening()
        for first in (FIRST, SECOND, SECOND, FIRST):
            drive.push(phrase(first), chunk)
        drive.end()
        return drive.finals

    assert [final.words for final in told(1600)] == [final.words for final in told(777)]


REVISED = replace(POLICY, speakers_revised=True)


def revisions(drive: Listening) -> list[SpeakersRevised]:
    return [event for event in drive.events if isinstance(event, SpeakersRevised)]


def test_at_the_end_all_speakers_are_labelled_as_those_of_a_file_and_every_word_has_one() -> None:
    drive = Listening(REVISED)
    for first in (FIRST, SECOND, FIRST, SECOND):
        drive.push(phrase(first, 8))
        assert revisions(drive) == []
    drive.end()
    (revision,) = revisions(drive)
    assert [type(event) for event in drive.events[-2:]] == [SpeakersRevised, Ended]
    assert revision.words == (0,) * 8 + (1,) * 8 + (0,) * 8 + (1,) * 8
    assert (revision.count, revision.since) == (2, 0)
    runs = [run for job in drive.heard for run in voices(job).runs]
    assert list(revision.turns) == label_all(runs, Distances(0.5, 0.5), SpeakerLimits())


def test_the_end_has_no_labels_where_nobody_asks_for_them() -> None:
    drive = Listening()
    drive.push(phrase(FIRST))
    drive.end()
    assert revisions(drive) == []


def test_a_stream_without_speech_ends_with_no_speaker() -> None:
    drive = Listening(REVISED)
    drive.push(silence(2.0))
    drive.end()
    (revision,) = revisions(drive)
    assert (revision.count, revision.turns, revision.words) == (0, (), ())


def test_words_that_went_without_labels_get_them_at_the_end() -> None:
    drive = Listening(REVISED, answering=False)
    drive.push(phrase(FIRST))
    drive.remind()
    late = drive.waiting.pop()
    drive.answer(late, voices(late))
    drive.end()
    assert drive.speakers == [None] * 8
    assert revisions(drive)[0].words == (0,) * 8


@pytest.mark.parametrize("late", [False, True])
def test_the_end_waits_for_late_voices_no_longer_than_a_final(late: bool) -> None:
    drive = Listening(REVISED, answering=False)
    drive.push(phrase(FIRST))
    drive.remind()
    drive.session.end()
    drive.settle()
    assert not isinstance(drive.events[-1], Ended)
    (job,) = drive.waiting
    if late:
        drive.remind()
        assert revisions(drive)[0].words == (None,) * 8
        drive.answer(job, voices(job))
    else:
        drive.answer(job, voices(job))
        assert revisions(drive)[0].words == (0,) * 8
    assert isinstance(drive.events[-1], Ended)
    assert len(revisions(drive)) == 1
