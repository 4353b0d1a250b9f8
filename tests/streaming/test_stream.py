from __future__ import annotations

import numpy as np
import pytest
from drive import amplitude_voice

from myna.inference.engines.fake.engine import FakeEngine, silence, spoken
from myna.streaming.events import Ended, Event, Final, Flushed, Opened
from myna.streaming.policy import Options, Policy
from myna.streaming.session.requests import Detect, Submit
from myna.streaming.session.stream import Stream

ENGINE = FakeEngine()


def stream() -> Stream:
    return Stream("s", Policy(interim_every_s=None), Options(), ENGINE.info)


def settle(s: Stream, *, only: int | None = None) -> list[Event]:
    """Carry out requests, of channel `only` if given, until there are none; return the events."""
    told: list[Event] = []
    while True:
        requests, events = s.take()
        told += events
        if not requests:
            return told
        for request in requests:
            if isinstance(request, Detect) and only in (None, request.channel):
                s.on_vad(request.channel, request.start, amplitude_voice(request.channel, request.pcm))
            elif isinstance(request, Submit):
                (outcome,) = ENGINE.transcribe([request.job])
                s.on_result(request.job.id, outcome)


def push(s: Stream, *channels: np.ndarray, arrived: float = 0.0) -> None:
    s.push([channel.tobytes() for channel in channels], arrived)


def test_channels_are_transcribed_separately_and_events_are_numbered_across_them() -> None:
    s = stream()
    push(s, np.concatenate([spoken(1), silence(1)]), np.concatenate([spoken(2), silence(1)]))
    events = settle(s)
    assert {(e.channel, w.text) for e in events if isinstance(e, Final) for w in e.words} == {(0, "w1"), (1, "w2")}
    s.end()
    events += settle(s)
    assert [event.seq for event in events] == list(range(len(events)))


def test_the_first_audio_opens_the_stream_with_its_number_of_channels() -> None:
    s = stream()
    push(s, spoken(1), spoken(2))
    push(s, spoken(1), spoken(2))
    assert [event for event in settle(s) if isinstance(event, Opened)] == [Opened(channels=2, seq=0)]


def test_a_flush_is_acknowledged_for_each_channel_and_the_last_one_is_marked() -> None:
    s = stream()
    push(s, spoken(1), spoken(2))
    s.flush("t")
    requests, _ = s.take()
    for request in requests:
        if isinstance(request, Detect) and request.channel == 0:
            s.on_vad(0, request.start, amplitude_voice(0, request.pcm))
    assert [(e.channel, e.everywhere) for e in settle(s) if isinstance(e, Flushed)] == [(0, False)]
    for request in requests:
        if isinstance(request, Detect) and request.channel == 1:
            s.on_vad(1, request.start, amplitude_voice(1, request.pcm))
    events = settle(s)
    assert [(e.channel, e.everywhere, e.token) for e in events if isinstance(e, Flushed)] == [(1, True, "t")]
    assert isinstance(events[-1], Flushed)


def test_a_flush_of_one_channel_leaves_the_others_open() -> None:
    s = stream()
    push(s, spoken(1), spoken(2))
    s.flush("t", 1)
    events = settle(s)
    assert [(e.channel, e.everywhere) for e in events if isinstance(e, Flushed)] == [(1, True)]
    assert [(e.channel, w.text) for e in events if isinstance(e, Final) for w in e.words] == [(1, "w2")]


def test_options_changed_midway_apply_to_every_later_job_of_every_channel() -> None:
    s = stream()
    push(s, spoken(1), spoken(2))
    s.flush("first")
    settle(s)
    s.configure(Options(keyterms=("aardvark",)))
    push(s, spoken(1), spoken(2))
    s.flush("second")
    requests, _ = s.take()
    jobs = []
    for request in requests:
        if isinstance(request, Detect):
            s.on_vad(request.channel, request.start, amplitude_voice(request.channel, request.pcm))
            jobs += [r.job for r in s.take()[0] if isinstance(r, Submit)]
    assert [job.options.keyterms for job in jobs] == [("aardvark",)] * 2


def test_a_flush_before_any_audio_is_acknowledged() -> None:
    s = stream()
    s.flush("t")
    assert [type(event) for event in settle(s)] == [Flushed]


def test_the_end_is_emitted_once_and_last_even_without_audio() -> None:
    s = stream()
    s.end()
    assert settle(s) == [Ended(received=0, seq=0)]
    s = stream()
    push(s, *[spoken(1)] * 8)
    s.end()
    events = settle(s)
    assert [type(event) for event in events].count(Ended) == 1
    assert isinstance(events[-1], Ended)
    assert len([event for event in events if isinstance(event, Final)]) == 8


def test_audio_sent_faster_than_real_time_falls_due_later_than_live_audio() -> None:
    fast, live = stream(), stream()
    dues: dict[Stream, list[float]] = {fast: [], live: []}
    for _ in range(20):
        push(fast, np.concatenate([spoken(1), silence(1)]), arrived=0.0)
    push(live, np.concatenate([spoken(1), silence(1)]), arrived=1.0)
    for s in (fast, live):
        requests, _ = s.take()
        for request in requests:
            assert isinstance(request, Detect)
            s.on_vad(0, request.start, amplitude_voice(0, request.pcm))
            dues[s] += [r.job.due for r in s.take()[0] if isinstance(r, Submit)]
    assert dues[live][0] == pytest.approx(1.276)  # the pause becomes an endpoint 0.276 s later
    assert max(dues[fast]) > 10
