from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myna.batch.subtitles import LINE, LONGEST_S, cues, named_text, srt, vtt
from myna.batch.transcript import paragraphs, sentences, utterances
from myna.streaming.events import Word


def said(text: str, start: float = 0.0, pause: float = 0.1) -> list[Word]:
    words, at = [], start
    for part in text.split():
        words.append(Word(part, at, at + 0.3, 0.9))
        at += 0.3 + pause
    return words


def texts(parts: object) -> list[str]:
    return [" ".join(word.text for word in part) for part in parts]  # type: ignore[attr-defined]


def test_utterances_are_separated_by_silence() -> None:
    words = said("one two") + said("three", start=2.0) + said("four", start=2.5)
    assert texts(utterances(words)) == ["one two", "three four"]
    assert texts(utterances(words, 0.2)) == ["one two", "three", "four"]
    assert list(utterances([])) == []


def test_sentences_end_at_a_punctuation_mark_or_a_long_silence_but_not_at_an_abbreviation() -> None:
    words = said('Mr. Smith came. He said: "Go!" Did J. Doe go? Yes')
    assert texts(sentences(words)) == ["Mr. Smith came.", 'He said: "Go!"', "Did J. Doe go?", "Yes"]
    assert texts(sentences([*said("and then"), *said("nothing", start=9.0)])) == ["and then", "nothing"]


def test_a_paragraph_starts_after_a_long_silence_or_a_long_paragraph() -> None:
    words = said("One. Two.") + said("Three.", start=9.0)
    assert [texts(p) for p in paragraphs(words)] == [["One.", "Two."], ["Three."]]
    many = said("This is a sentence. " * 60)
    assert len(list(paragraphs(many))) == 3


def test_srt_and_vtt_have_the_format_that_players_read() -> None:
    words = said("Hello there.") + said("5 < 6 & so on", start=3661.5)
    assert srt(words) == (
        "1\n00:00:00,000 --> 00:00:01,000\nHello there.\n\n2\n01:01:01,500 --> 01:01:03,800\n5 < 6 & so on\n"
    )
    assert vtt(words) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nHello there.\n\n01:01:01.500 --> 01:01:03.800\n5 &lt; 6 &amp; so on\n"
    )
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "word", "extraordinarily", "end.", "what?"]), st.floats(0, 2), st.floats(0.05, 1)
        ),
        max_size=60,
    )
)
def test_cues_are_readable_in_order_and_contain_every_word_once(spoken: list[tuple[str, float, float]]) -> None:
    words, at = [], 0.0
    for text, pause, length in spoken:
        words.append(Word(text, at + pause, at + pause + length, 0.9))
        at = words[-1].end
    found = cues(words)
    assert [text for cue in found for line in cue.lines for text in line.split()] == [word.text for word in words]
    position = 0.0
    for cue in found:
        assert position <= cue.start <= cue.end
        assert cue.end - cue.start <= LONGEST_S + 1
        assert 1 <= len(cue.lines) <= 2
        assert all(len(line) <= LINE + 16 for line in cue.lines)
        position = cue.end
    assert len(re.findall("-->", srt(words))) == len(found)


@pytest.mark.parametrize("count", [1, 7, 30])
def test_a_long_cue_is_split_near_its_middle(count: int) -> None:
    for cue in cues(said("subtitle " * count)):
        if len(cue.lines) == 2:
            assert abs(len(cue.lines[0]) - len(cue.lines[1])) <= len("subtitle ")


def of(speaker: int | None, text: str, start: float = 0.0) -> list[Word]:
    return [replace(word, speaker=speaker) for word in said(text, start)]


TALK = [*of(0, "How are you?"), *of(1, "Fine.", 2.0), *of(None, "And", 2.5), *of(2, "a <b> too.", 3.0)]


def test_each_speaker_begins_a_line_of_text_with_a_name() -> None:
    assert named_text(TALK) == "Speaker 1: How are you?\nSpeaker 2: Fine. And\nSpeaker 3: a <b> too.\n"
    assert named_text(said("Nobody asked.")) == "Nobody asked.\n"
    assert named_text([*of(None, "Well,"), *of(0, "yes.", 1.0)]) == "Speaker 1: Well, yes.\n"


def test_subtitles_name_a_speaker_at_each_change_in_srt_and_in_every_cue_of_vtt() -> None:
    long = [*of(0, "Who begins here? " * 3), *of(1, "He does.", 9.0)]
    assert [line for line in srt(long).splitlines() if line[:1].isalpha()] == [
        "Speaker 1: Who begins here?", "Who begins here? Who begins here?", "Speaker 2: He does.",
    ]  # fmt: skip
    assert [line for line in vtt(long).splitlines()[1:] if line[:1] == "<"] == [
        "<v Speaker 1>Who begins here? Who begins here?", "<v Speaker 1>Who begins here?", "<v Speaker 2>He does.",
    ]  # fmt: skip
    assert "<v Speaker 3>a &lt;b&gt; too.\n" in vtt(TALK)


def test_words_without_a_speaker_do_not_join_two_speakers() -> None:
    words = [*of(0, "one"), *of(None, "and", 0.4), *of(1, "two", 0.8)]
    for parts in (sentences(words), utterances(words), (words for p in paragraphs(words) for words in p)):
        assert texts(parts) == ["one and", "two"]
    assert len(list(paragraphs([*of(0, "One."), *of(None, "And.", 0.4), *of(1, "Two.", 0.8)]))) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "word", "end."]), st.floats(0, 1), st.sampled_from([None, 0, 1, 2])),
        max_size=60,
    ),
    st.booleans(),
)
def test_a_cue_never_mixes_two_speakers(spoken: list[tuple[str, float, int | None]], prefixed: bool) -> None:
    words, at = [], 0.0
    for word, pause, speaker in spoken:
        words.append(Word(word, at + pause, at + pause + 0.3, 0.9, speaker=speaker))
        at = words[-1].end
    found, position = cues(words, prefixed=prefixed), 0
    before = None
    for cue in found:
        shown = " ".join(cue.lines)
        name = f"Speaker {cue.speaker + 1}: " if cue.speaker is not None else ""
        assert (shown.startswith(name) and name != "") == (prefixed and cue.speaker not in (None, before))
        before = cue.speaker
        texts_of_cue = shown.removeprefix(name).split()
        part = words[position : position + len(texts_of_cue)]
        assert texts_of_cue == [word.text for word in part]
        assert {word.speaker for word in part} <= {cue.speaker, None}
        position += len(part)
    assert position == len(words)
