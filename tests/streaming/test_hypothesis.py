from __future__ import annotations

from myna.streaming.events import Word
from myna.streaming.session.hypothesis import agreed, in_order, seam_index


def words(text: str, start: float = 0.0, each: float = 0.3) -> list[Word]:
    return [
        Word(word, start + index * each, start + (index + 1) * each, 0.9) for index, word in enumerate(text.split())
    ]


def test_words_already_emitted_are_dropped_by_their_text() -> None:
    assert seam_index(words("the cat sat"), words("the cat sat on the mat"), 0.9) == 3


def test_text_outweighs_slightly_wrong_times() -> None:
    assert seam_index(words("the cat sat"), words("the cat sat on the mat", start=0.15), 0.9) == 3


def test_a_settled_word_recognised_differently_is_dropped_too() -> None:
    assert seam_index(words("the cat sad"), words("The cat sat, on the mat."), 0.9) == 3


def test_a_settled_word_missing_from_the_decode_does_not_cost_a_new_word() -> None:
    assert seam_index(words("the cat sat"), words("cat sat on", start=0.3), 0.9) == 2


def test_a_settled_word_cut_by_the_start_of_the_audio_does_not_cost_a_new_word() -> None:
    settled = [Word("w44", 14.68, 14.88, 0.9)]
    heard = [Word("w45", 16.38, 16.58, 0.9), Word("w46", 16.68, 16.88, 0.9)]
    assert seam_index(settled, heard, 16.38, 14.864) == 0


def test_without_settled_words_the_seam_decides_by_time() -> None:
    assert seam_index([], words("a b c d"), 0.6) == 2
    assert seam_index([], words("a b c d"), 0.0) == 0


def test_without_settled_words_a_first_word_that_takes_in_the_silence_before_it_is_kept() -> None:
    heard = [Word("Ever", 9.31, 10.52, 0.9), Word("tried,", 10.52, 11.89, 0.9)]
    assert seam_index([], heard, 9.92) == 0


def test_a_repeated_word_is_kept_every_time_it_was_said() -> None:
    assert seam_index(words("no no"), words("no no no no"), 0.6) == 2


def test_a_word_decoded_on_both_sides_of_the_seam_is_kept_once() -> None:
    settled = words("big house")
    heard = [Word("house", 0.35, 0.62, 0.9), Word("there", 0.7, 0.9, 0.9)]
    assert seam_index(settled, heard, 0.4) == 1


def test_a_decode_without_words_has_no_new_words() -> None:
    assert seam_index(words("a b"), [], 1.0) == 0


def test_agreement_ignores_case_and_punctuation() -> None:
    assert agreed(words("Hello, world and"), words("hello world. end")) == 2


def test_ordering_clips_times_and_keeps_all_words() -> None:
    ordered = in_order([Word("a", 0.2, 0.5, 1), Word("b", 0.1, 0.15, 1), Word("c", 3.0, 4.0, 1)], 0.3, 2.0)
    assert [(w.start, w.end) for w in ordered] == [(0.3, 0.5), (0.3, 0.3), (2.0, 2.0)]
