"""Case and marks where one final follows another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from myna.streaming.events import Cause, Final, Span, SpokenLanguage, Word, samples
from myna.streaming.text.seams import REST_S, HeldMarks, MarksAtOnce, mark_before


def words(text: str, start: float = 0.0, *, confidence: float = 0.95, language: str = "") -> tuple[Word, ...]:
    spoken = SpokenLanguage(language, 1.0) if language else None
    return tuple(
        Word(each, start + 0.5 * i, start + 0.5 * i + 0.4, confidence, spoken) for i, each in enumerate(text.split())
    )


def final(
    text: str,
    start: float = 0.0,
    *,
    before: str | None = None,
    cause: Cause = Cause.ENDPOINT,
    silence_s: float = 0.5,
    confidence: float = 0.95,
    language: str = "",
) -> Final:
    told = words(text, start, confidence=confidence, language=language)
    end = told[-1].end if told else start
    return Final(span=Span(samples(start), samples(end + silence_s)), words=told, cause=cause, before=before)


def text(told: tuple[Word, ...]) -> str:
    return " ".join(word.text for word in told)


def held(*finals: Final, language: str = "") -> list[str]:
    """Return the texts of the finals, each completed by the mark that is told after it."""
    marks, told = HeldMarks(language), list[str]()
    for each in finals:
        mark, now = marks.take(each)
        if told:
            told[-1] += mark
        else:
            assert mark == ""
        told.append(text(now))
    told[-1] += marks.release()
    return told


def at_once(*finals: Final, language: str = "") -> list[str]:
    marks = MarksAtOnce(language)
    return [text(marks.take(each)) for each in finals]


def test_the_mark_before_words_is_that_of_the_decode_with_the_word_before() -> None:
    heard = words("all our blood, and a grain")
    assert mark_before(heard, heard[3:]) == ","
    assert mark_before(heard, heard[1:3]) == ""
    assert mark_before(heard, heard) is None
    assert mark_before(heard, words("another grain")) is None
    assert mark_before(heard, ()) is None
    again = words("no. no no")
    assert mark_before(again, again[2:]) == ""


def test_the_full_stop_of_a_title_or_an_initial_belongs_to_the_word() -> None:
    heard = words("said Mr. Hale and J. Smith")
    assert mark_before(heard, heard[2:]) == ""
    assert mark_before(heard, heard[5:]) == ""
    told = held(final("as I told Mr."), final("Hale.", 3.0, before=""))
    assert told == ["as I told Mr.", "Hale."]


def test_a_held_mark_is_that_of_the_decode_with_the_words_on_both_sides() -> None:
    told = held(
        final("There's iron, they say."),
        final("in all our blood.", 2.5, before=","),
        final("And more.", 5.5, before="."),
    )
    assert told == ["There's iron, they say,", "in all our blood.", "And more."]


def test_a_held_mark_goes_where_the_speaker_goes_on() -> None:
    assert held(final("account of himself."), final("better than that.", 2.0, before="")) == [
        "account of himself", "better than that.",
    ]  # fmt: skip


def test_after_a_rest_a_held_mark_is_that_of_the_words_before_it() -> None:
    assert held(final("He was tired."), final("and slept.", 1.5 + REST_S, before=",")) == [
        "He was tired.",
        "And slept.",
    ]
    assert held(final("He was tired."), final("and slept.", 1.3 + REST_S, before=",")) == [
        "He was tired,",
        "and slept.",
    ]


def test_the_words_of_another_speaker_do_not_continue_the_sentence() -> None:
    first, second = final("He was tired."), final("Were you?", 2.0, before=",")
    spoken = [
        replace(each, words=tuple(replace(word, speaker=number) for word in each.words))
        for number, each in enumerate((first, second))
    ]
    assert held(first, second) == ["He was tired,", "Were you?"]
    assert held(*spoken) == ["He was tired.", "Were you?"]
    assert at_once(final("But his"), replace(spoken[1], before=None))[1] == "were you?"
    assert at_once(replace(spoken[0], words=spoken[0].words[:2]), replace(spoken[1], before=None))[1] == "Were you?"


def test_a_released_mark_is_not_told_again() -> None:
    marks = HeldMarks()
    assert marks.take(final("He was tired.")) == ("", words("He was") + words("tired", 1.0))
    assert marks.held == "."
    assert marks.rests_at == samples(1.4 + REST_S)
    assert marks.release() == "."
    assert (marks.held, marks.rests_at, marks.release()) == ("", None, "")
    mark, told = marks.take(final("and slept.", 2.0, before=","))
    assert (mark, text(told)) == ("", "And slept")


def test_finals_without_words_change_nothing() -> None:
    marks = HeldMarks()
    assert marks.take(final("")) == ("", ())
    marks.take(final("One."))
    assert marks.take(final("", 2.0)) == ("", ())
    assert marks.release() == "."
    assert at_once(final("One two three four."), final("", 3.0), final("five", 4.0)) == [
        "One two three four.",
        "",
        "Five",
    ]


def test_a_sentence_mark_is_told_at_once_after_a_sure_word_or_a_long_silence() -> None:
    assert at_once(final("This is the whole story.", silence_s=0.1)) == ["This is the whole story."]
    assert at_once(final("This is the whole story.", silence_s=0.1, confidence=0.5)) == ["This is the whole story"]
    assert at_once(final("This is the whole story.", silence_s=0.5, confidence=0.5)) == ["This is the whole story."]
    assert at_once(final("It was made of.", silence_s=0.5)) == ["It was made of"]
    assert at_once(final("It was made of.", silence_s=3.0)) == ["It was made of."]


@pytest.mark.parametrize("cause", [Cause.FLUSH, Cause.END, Cause.LENGTH])
def test_a_mark_stays_where_the_client_ends_the_segment_or_the_decode_covers_what_follows(cause: Cause) -> None:
    assert at_once(final("But his.", cause=cause, silence_s=0.0)) == ["But his."]


def test_a_comma_is_told_as_the_engine_writes_it() -> None:
    assert at_once(final("But he,")) == ["But he,"]


def test_words_told_before_count_as_words_of_the_sentence() -> None:
    assert at_once(final("a grain or two"), final("perhaps.", 2.5, before="")) == ["a grain or two", "perhaps."]


def test_a_final_begins_in_upper_case_after_a_told_sentence_mark() -> None:
    assert (
        at_once(final("This is the whole story."), final("in all our blood", 3.0, before=","))[1] == "In all our blood"
    )
    assert at_once(final("This is the whole story."), final("“in blood", 3.0))[1] == "“In blood"
    assert at_once(final("This is the whole story."), final("iPhone users", 3.0))[1] == "iPhone users"
    assert at_once(final("This is the whole story."), final("这是", 3.0))[1] == "这是"


def test_a_final_that_its_decode_began_with_loses_its_capital_inside_a_sentence() -> None:
    assert at_once(final("But his"), final("A made thing", 1.5)) == ["But his", "a made thing"]
    for kept in ("I think", "I'm sure", "NASA says", "McDonald says"):
        assert at_once(final("But his"), final(kept, 1.5))[1] == kept


def test_a_final_keeps_its_capital_where_the_decode_knows_the_words_before() -> None:
    assert at_once(final("But his"), final("Margaret said", 1.5, before=""))[1] == "Margaret said"


def test_a_final_keeps_its_capital_after_a_rest() -> None:
    assert at_once(final("But his"), final("Then he", 1.0 + REST_S))[1] == "Then he"


def test_a_name_that_the_engine_wrote_inside_a_sentence_keeps_its_capital() -> None:
    told = at_once(final("when Margaret said"), final("Margaret left", 2.0), final("And so", 3.5))
    assert told == ["when Margaret said", "Margaret left", "and so"]


def test_the_names_that_were_written_longest_ago_are_forgotten() -> None:
    marks = MarksAtOnce()
    marks.take(final("so Anna and Berta"))
    marks.take(final(" ".join(["then", *(f"N{number}x" for number in range(999))]), 3.0, before=""))
    (last,) = marks.take(final("so", 503.5, before=""))
    assert text(marks.peek(words("Berta", last.end + 0.1))) == "Berta"
    assert text(marks.peek(words("Anna", last.end + 0.1))) == "anna"


@pytest.mark.parametrize(("language", "reported"), [("de", ""), ("", "de")])
def test_german_words_keep_their_capital(language: str, reported: str) -> None:
    told = at_once(
        final("er sah das", language=reported), final("Haus am See", 2.0, language=reported), language=language
    )
    assert told == ["er sah das", "Haus am See"]


def test_an_interim_follows_the_told_words_without_being_noted() -> None:
    marks = MarksAtOnce()
    assert text(marks.peek(words("in all"))) == "in all"
    marks.take(final("This is the whole story."))
    assert text(marks.peek(words("in all", 3.0))) == "In all"
    assert text(marks.peek(words("in all our", 3.0))) == "In all our"
    assert marks.peek(()) == ()


def test_an_engine_without_case_and_marks_is_told_as_it_writes() -> None:
    texts = ["this is the whole story", "in all our blood", "and so on"]
    finals = [final(each, 3.0 * i, before="" if i else None) for i, each in enumerate(texts)]
    assert at_once(*finals) == texts
    assert held(*finals) == texts
