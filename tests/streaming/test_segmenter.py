from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myna.streaming.events import Cause, Span
from myna.streaming.policy import Policy
from myna.streaming.speech.segmenter import WINDOW, ClosedSegment, Decision, Gap, Onset, Pause, Resumed, Segmenter


def feed(segmenter: Segmenter, probabilities: list[float]) -> list[Decision]:
    return [decision for probability in probabilities for decision in segmenter.feed(probability)]


def seconds(count: float) -> int:
    return round(count * 16_000 / WINDOW)


SPEECH, QUIET = [0.95], [0.02]


def test_one_loud_window_is_not_speech() -> None:
    assert feed(Segmenter(Policy()), QUIET * 5 + SPEECH + QUIET * 50) == []


def test_speech_starts_at_its_first_window() -> None:
    assert feed(Segmenter(Policy()), QUIET * 5 + SPEECH * 2) == [Onset(5 * WINDOW)]


def test_a_dip_above_the_offset_threshold_is_not_a_pause() -> None:
    decisions = feed(Segmenter(Policy()), SPEECH * 10 + [0.4] * 60)
    assert decisions == [Onset(0)]


def test_a_pause_is_announced_and_speech_may_resume_after_it() -> None:
    decisions = feed(Segmenter(Policy()), SPEECH * 10 + QUIET * 10 + SPEECH * 2)
    assert decisions == [Onset(0), Pause(Span(0, 10 * WINDOW)), Resumed()]


def test_the_endpoint_follows_the_silence_of_the_policy() -> None:
    for endpoint_ms in (100, 300, 500, 1000):
        segmenter = Segmenter(Policy(endpoint_ms=endpoint_ms))
        (*_, closed, _) = feed(segmenter, SPEECH * 30 + QUIET * 60)
        assert isinstance(closed, ClosedSegment)
        assert closed.cause is Cause.ENDPOINT
        silence_ms = (closed.span.end - 30 * WINDOW) / 16
        assert endpoint_ms <= silence_ms < endpoint_ms + 32


def test_a_pause_is_announced_before_a_short_endpoint() -> None:
    decisions = feed(Segmenter(Policy(endpoint_ms=100)), SPEECH * 10 + QUIET * 10)
    assert [type(decision) for decision in decisions] == [Onset, Pause, ClosedSegment, Gap]


def test_a_gap_shorter_than_the_endpoint_closes_the_segment_and_leaves_the_utterance_open() -> None:
    segmenter = Segmenter(Policy(endpoint_ms=2000, gap_ms=1000))
    decisions = feed(segmenter, SPEECH * 10 + QUIET * 35)
    assert [type(decision) for decision in decisions] == [Onset, Pause, ClosedSegment, Gap]
    assert segmenter.in_utterance
    (endpoint,) = feed(segmenter, QUIET * 35)
    assert isinstance(endpoint, ClosedSegment)
    assert (endpoint.cause, endpoint.speech) == (Cause.ENDPOINT, None)


def test_a_gap_longer_than_the_endpoint_is_reported_once_when_it_is_reached() -> None:
    segmenter = Segmenter(Policy(endpoint_ms=300, gap_ms=1000))
    decisions = feed(segmenter, SPEECH * 10 + QUIET * 20)
    assert isinstance(decisions[-1], ClosedSegment)
    assert feed(segmenter, QUIET * 100) == [Gap()]


def test_without_endpoints_each_gap_ends_an_utterance() -> None:
    segmenter = Segmenter(Policy(endpoint_ms=None, gap_ms=1000))
    decisions = feed(segmenter, (SPEECH * 10 + QUIET * 40) * 2)
    assert [type(decision) for decision in decisions] == [Onset, Pause, ClosedSegment, Gap] * 2


def test_long_silence_is_cut_into_empty_segments_that_end_well_before_the_next_speech() -> None:
    segmenter = Segmenter(Policy(silence_s=5))
    decisions = feed(segmenter, QUIET * seconds(11.5))
    assert all(isinstance(decision, ClosedSegment) and decision.cause is Cause.SILENCE for decision in decisions)
    ends = [decision.span.end / 16_000 for decision in decisions if isinstance(decision, ClosedSegment)]
    assert ends == pytest.approx([4, 8], abs=0.1)
    (onset,) = feed(segmenter, SPEECH * 2)
    assert isinstance(onset, Onset)


def test_long_speech_is_cut_at_a_shorter_pause_than_the_endpoint() -> None:
    segmenter = Segmenter(Policy(soft_s=8, hard_s=12))
    decisions = feed(segmenter, SPEECH * seconds(10) + QUIET * 12 + SPEECH * 5)
    (closed,) = [decision for decision in decisions if isinstance(decision, ClosedSegment)]
    assert closed.cause is Cause.LENGTH
    assert segmenter.in_utterance


def test_speech_without_any_pause_is_cut_where_it_is_least_probable() -> None:
    segmenter = Segmenter(Policy(soft_s=8, hard_s=12))
    dip = seconds(7)
    decisions = feed(segmenter, SPEECH * dip + [0.6] * 3 + SPEECH * seconds(12))
    closed = next(decision for decision in decisions if isinstance(decision, ClosedSegment))
    assert abs(closed.span.end - (dip + 1) * WINDOW) <= 2 * WINDOW
    assert closed.speech == Span(0, closed.span.end)


FILE = Policy(live=False, endpoint_ms=None, soft_s=8, hard_s=10)


def cuts(decisions: list[Decision]) -> list[ClosedSegment]:
    return [decision for decision in decisions if isinstance(decision, ClosedSegment)]


def test_a_file_is_cut_in_the_longest_pause_before_the_hard_length() -> None:
    before, after = seconds(4), seconds(5)
    decisions = feed(Segmenter(FILE), SPEECH * before + QUIET * 20 + SPEECH * after + QUIET * 9 + SPEECH * seconds(2))
    (closed,) = cuts(decisions)
    assert closed.speech == Span(0, before * WINDOW)
    assert closed.span == Span(0, (before + 10) * WINDOW)
    assert closed.cause is Cause.LENGTH


def test_after_a_cut_in_a_past_pause_the_next_segment_has_all_speech_after_it() -> None:
    segmenter = Segmenter(FILE)
    before = seconds(4)
    feed(segmenter, SPEECH * before + QUIET * 20 + SPEECH * seconds(6.5))
    assert segmenter.open_start == (before + 10) * WINDOW
    assert segmenter.speech_start == (before + 20) * WINDOW
    ended = segmenter.close(segmenter.position, Cause.END)
    assert ended.speech == Span((before + 20) * WINDOW, segmenter.position)


def test_a_file_is_not_cut_in_a_pause_soon_after_the_last_cut() -> None:
    decisions = feed(
        Segmenter(FILE), SPEECH * seconds(2) + QUIET * 20 + SPEECH * seconds(4) + QUIET * 9 + SPEECH * seconds(5)
    )
    (closed,) = cuts(decisions)
    assert closed.speech is not None
    assert closed.speech.end == (seconds(2) + 20 + seconds(4)) * WINDOW


def test_a_file_is_cut_before_the_hard_length_only_after_a_second_of_silence() -> None:
    for silence, expected in ((seconds(0.9), 0), (seconds(1.1), 1)):
        assert len(cuts(feed(Segmenter(FILE), SPEECH * seconds(8.5) + QUIET * silence))) == expected


def test_the_silence_at_the_end_of_a_file_is_no_speech() -> None:
    segmenter = Segmenter(FILE)
    feed(segmenter, SPEECH * seconds(3) + QUIET * seconds(2))
    ended = segmenter.close(segmenter.position, Cause.END)
    assert ended.speech == Span(0, seconds(3) * WINDOW)
    assert ended.span.end == segmenter.position


def test_a_file_without_pauses_is_cut_where_speech_is_least_probable() -> None:
    dip = seconds(7)
    (closed,) = cuts(feed(Segmenter(FILE), SPEECH * dip + [0.6] * 3 + SPEECH * seconds(5)))
    assert abs(closed.span.end - (dip + 1) * WINDOW) <= 2 * WINDOW


def test_the_endpoint_follows_a_cut_by_length_too() -> None:
    segmenter = Segmenter(Policy(soft_s=8, hard_s=12))
    decisions = feed(segmenter, SPEECH * seconds(11.9) + QUIET * 40)
    closed = [decision for decision in decisions if isinstance(decision, ClosedSegment)]
    assert [c.cause for c in closed] == [Cause.LENGTH, Cause.ENDPOINT]
    assert closed[1].speech is None


def test_voice_separates_speech_from_sound_that_is_barely_speech() -> None:
    for probabilities, sure in (([0.98, 0.97, 0.4, 0.9] * 5, True), ([0.55, 0.6, 0.52], False)):
        *_, closed, _ = feed(Segmenter(Policy()), probabilities + QUIET * 30)
        assert isinstance(closed, ClosedSegment)
        assert (closed.voice > 0.85) is sure


@given(st.lists(st.floats(0, 1), max_size=3000), st.sampled_from([None, 100, 500]), st.booleans())
def test_segments_tile_the_timeline(probabilities: list[float], endpoint_ms: int | None, live: bool) -> None:
    segmenter = Segmenter(Policy(live=live, endpoint_ms=endpoint_ms, soft_s=2, hard_s=3))
    closed = [d for d in feed(segmenter, probabilities) if isinstance(d, ClosedSegment)]
    closed.append(segmenter.close(segmenter.position, Cause.END))
    position = 0
    for segment in closed:
        assert segment.span.start == position
        position = segment.span.end
        if segment.speech:
            assert segment.span.start <= segment.speech.start <= segment.speech.end <= segment.span.end
            assert len(segment.speech) <= 3.1 * 16_000
    assert position == segmenter.position


def test_a_policy_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="soft_s=20"):
        Policy(soft_s=20, hard_s=10)


def test_a_segment_that_reaches_equal_soft_and_hard_lengths_in_silence_is_cut_there() -> None:
    segmenter = Segmenter(Policy(endpoint_ms=None, soft_s=8.0, hard_s=8.0))
    spoken = seconds(7.4)
    decisions = feed(segmenter, SPEECH * spoken + QUIET * 40 + SPEECH * 10)
    assert [type(decision) for decision in decisions] == [Onset, Pause, ClosedSegment, Resumed]
    closed = decisions[2]
    assert isinstance(closed, ClosedSegment)
    assert closed.cause is Cause.LENGTH
    assert closed.speech == Span(0, spoken * WINDOW)
