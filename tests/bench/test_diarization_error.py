"""The errors of speaker labels that `myna bench speakers` reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myna.bench.diarization_error import SpokenTurn, SpokenWord, diarization_error, word_errors

A_THEN_B = (SpokenTurn(0.0, 4.0, "a"), SpokenTurn(4.0, 10.0, "b"))


def same(one: str, other: str) -> bool:
    return one == other


def words(*told: tuple[str, float, str | None]) -> list[SpokenWord]:
    return [SpokenWord(word, start, start + 0.5, speaker) for word, start, speaker in told]


@pytest.mark.parametrize(
    ("hypothesis", "missed", "false", "confused"),
    [
        ([SpokenTurn(0.0, 4.0, "1"), SpokenTurn(4.0, 10.0, "0")], 0.0, 0.0, 0.0),
        ([SpokenTurn(0.0, 5.0, "0"), SpokenTurn(5.0, 10.0, "1")], 0.0, 0.0, 1.0),
        ([SpokenTurn(0.0, 10.0, "0")], 0.0, 0.0, 4.0),
        ([SpokenTurn(1.0, 4.0, "0"), SpokenTurn(4.0, 12.0, "1")], 1.0, 2.0, 0.0),
        ([SpokenTurn(0.0, 4.0, "0"), SpokenTurn(3.0, 10.0, "1")], 0.0, 1.0, 0.0),
        ([], 10.0, 0.0, 0.0),
    ],
    ids=["labels have other names", "late change", "one speaker", "late start and end", "overlap", "nothing"],
)
def test_the_error_rate_counts_missed_false_and_confused_speech(
    hypothesis: list[SpokenTurn], missed: float, false: float, confused: float
) -> None:
    error = diarization_error(A_THEN_B, hypothesis)
    assert (error.missed_s, error.false_s, error.confused_s) == pytest.approx((missed, false, confused))
    assert error.rate == pytest.approx((missed + false + confused) / 10)


def test_a_collar_leaves_out_both_sides_of_each_boundary() -> None:
    error = diarization_error(A_THEN_B, [SpokenTurn(0.2, 4.2, "0"), SpokenTurn(4.2, 10.2, "1")], collar_s=0.25)
    assert error.speech_s == pytest.approx(10 - 4 * 0.25)
    assert error.rate == pytest.approx(0.0)


def test_overlapping_speech_counts_once_for_each_speaker() -> None:
    error = diarization_error([SpokenTurn(0, 2, "a"), SpokenTurn(1, 3, "b")], [SpokenTurn(0, 3, "0")])
    assert (error.speech_s, error.missed_s, error.confused_s) == pytest.approx((4.0, 1.0, 1.0))


def test_a_recording_without_speech_has_no_error_rate_above_zero() -> None:
    assert diarization_error((), ()).rate == 0.0
    assert diarization_error((), (SpokenTurn(0, 1, "0"),)).false_s == 1.0


turn = st.builds(
    lambda start, length, speaker: SpokenTurn(start, start + length, speaker),
    st.integers(0, 50), st.integers(1, 20), st.sampled_from("abc"),
)  # fmt: skip


@given(st.lists(turn, max_size=8))
def test_a_labelling_compared_with_itself_has_no_error(turns: list[SpokenTurn]) -> None:
    error = diarization_error(turns, turns)
    assert error.missed_s + error.false_s + error.confused_s == pytest.approx(0.0)


@given(st.lists(turn, max_size=8), st.lists(turn, max_size=8))
def test_names_of_labels_do_not_matter(reference: list[SpokenTurn], hypothesis: list[SpokenTurn]) -> None:
    other = {"a": "z", "b": "x", "c": "y"}
    renamed = [SpokenTurn(each.start, each.end, other[each.speaker]) for each in hypothesis]
    assert diarization_error(reference, hypothesis).rate == pytest.approx(diarization_error(reference, renamed).rate)


def test_a_word_with_another_speaker_or_none_is_wrong() -> None:
    spoken = words(("one", 0, "a"), ("two", 1, "a"), ("three", 2, "b"), ("four", 3, "b"))
    heard = words(("one", 0, "7"), ("two", 1, None), ("three", 2, "7"), ("for", 3, "2"))
    errors = word_errors(spoken, heard, same)
    assert (errors.compared, errors.wrong) == (4, 2)


def test_where_two_speak_a_word_is_compared_with_the_one_who_said_it() -> None:
    spoken = words(("yes", 1.1, "b"), ("house", 1.0, "a"), ("tree", 3.0, "b"))
    errors = word_errors(spoken, words(("house", 1.1, "0"), ("tree", 3.0, "1")), same)
    assert (errors.compared, errors.wrong) == (2, 0)


def test_a_word_that_nobody_spoke_is_not_compared() -> None:
    assert word_errors(words(("one", 0, "a")), words(("two", 5, "0")), same).compared == 0
