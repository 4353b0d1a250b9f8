"""The written-form figures that `myna bench accuracy` reports for live finals."""

from __future__ import annotations

import pytest

from myna.bench.accuracy import HeardRecording, summary
from myna.bench.written_form import WrittenForm, written_form


@pytest.mark.parametrize(
    ("finals", "whole", "errors", "unlike"),
    [
        (["We left the house,", "and it rained."], "We left the house, and it rained.", 0, 0),
        (["We left the house.", "and it rained."], "We left the house, and it rained.", 1, 1),
        (["We left the house.", "And it rained."], "We left the house, and it rained.", 2, 2),
        (["We left a house", "and it rained."], "We left the house, and it rained.", 2, 1),
        (["We left", "it rained"], "We left the house, and it rained.", 4, 1),
        ([], "We left.", 2, 0),
    ],
    ids=["as the file", "a mark", "a mark and a capital", "a word and a mark", "words left out", "nothing told"],
)
def test_case_and_marks_count_as_errors(finals: list[str], whole: str, errors: int, unlike: int) -> None:
    found = written_form(finals, whole)
    assert (found.errors, found.unlike) == (errors, unlike)


def test_finals_in_lower_case_count_only_after_a_sentence_mark() -> None:
    finals = ["One.", "two", "three.", "", "four?", "Five!", "“six”", "7.", "’tis"]
    found = written_form(finals, None)
    assert (found.joints, found.lower) == (7, 4)


def test_a_recording_without_a_whole_file_text_is_not_compared() -> None:
    assert written_form(["One.", "two."], None).figures() == {"lower_after_mark_percent": 100.0}
    assert WrittenForm().figures() == {}


def test_a_final_of_marks_only_is_one_word_of_the_comparison() -> None:
    found = written_form(["One", "–", "two."], "One – two.")
    assert (found.words, found.errors, found.shared) == (3, 0, 3)


def test_the_summary_adds_the_counts_of_its_recordings() -> None:
    heard = [
        HeardRecording("a", "one two", "One. two.", written=written_form(["One.", "two."], "One, two.")),
        HeardRecording("a", "three", "Three.", written=written_form(["Three."], "Three.")),
    ]
    figures = summary(heard)["a"]
    assert figures["written_error_percent"] == pytest.approx(33.33)
    assert figures["written_unlike_percent"] == pytest.approx(33.33)
    assert figures["lower_after_mark_percent"] == 100.0
