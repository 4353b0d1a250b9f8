"""Words carry the language in which they were heard, and the engine is told which language to expect."""

from __future__ import annotations

import numpy as np
import pytest
from drive import Drive

from myna.inference.engines.fake.engine import FakeEngine, FakeSettings, silence, spoken
from myna.inference.engines.port import ModelOptions
from myna.streaming.events import SpokenLanguage, Word
from myna.streaming.policy import MULTIPLE, Options, Policy
from myna.streaming.session.session import Session
from myna.streaming.speech.turns import confidence
from myna.streaming.text.formatting import Formatting, formatted, text_of
from myna.streaming.text.joining import joined
from myna.streaming.text.languages import main_language

ENGLISH, GERMAN = 1, 101  # words of the fake engine's first and second language


def heard(*codes: int, options: Options) -> Drive:
    engine = FakeEngine(ModelOptions(languages=("en", "de")), FakeSettings(detects_language=True))
    drive = Drive(Session("s", Policy(), options, engine.info), engine)
    for code in codes:
        drive.push(np.concatenate([spoken(code), spoken(code + 1), silence(1.5)]))
    drive.end()
    return drive


def word(text: str, code: str | None = None, start: float = 0.0) -> Word:
    return Word(text, start, start + 0.4, 0.95, SpokenLanguage(code, 0.9) if code else None)


def test_each_final_word_names_the_language_of_its_decode() -> None:
    drive = heard(ENGLISH, GERMAN, options=Options(MULTIPLE))
    assert [w.language and w.language.code for final in drive.finals for w in final.words] == ["en", "en", "de", "de"]


def test_no_job_names_several_languages() -> None:
    drive = heard(ENGLISH, GERMAN, options=Options(MULTIPLE))
    assert {(job.options.language, job.options.expected) for job in drive.decoded} == {(None, "")}


def test_a_client_that_names_no_language_has_that_of_its_finals_expected() -> None:
    drive = heard(ENGLISH, ENGLISH, options=Options())
    assert drive.decoded[0].options.expected == ""
    assert drive.decoded[-1].options.expected == "en"


def test_a_speaker_who_changes_language_for_good_is_expected_in_the_other_after_three_finals() -> None:
    drive = heard(*[ENGLISH] * 6, *[GERMAN] * 4, options=Options())
    assert drive.decoded[-1].options.expected == "de"


def test_a_client_that_names_its_language_has_it_in_every_job() -> None:
    drive = heard(GERMAN, GERMAN, options=Options("en"))
    assert {(job.options.language, job.options.expected) for job in drive.decoded} == {("en", "")}


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["Hello", "there."], "Hello there."),
        (["你好", "，世", "界", "。"], "你好，世界。"),
        (["これ", "は", "ペン", "です"], "これはペンです"),
        (["ภาษา", "ไทย"], "ภาษาไทย"),
        (["我", "用", "Python", "写"], "我用 Python 写"),
        (["안녕", "하세요"], "안녕 하세요"),
        (["Grüß", "Gott"], "Grüß Gott"),
        (["您好", "Tom,", "再", "见"], "您好 Tom, 再见"),
        ([], ""),
    ],
)
def test_words_are_joined_as_their_script_writes_them(texts: list[str], text: str) -> None:
    assert joined(texts) == text
    assert text_of([word(each) for each in texts], punctuated=True) == text


def test_rules_of_english_apply_to_the_words_heard_in_english_only() -> None:
    words = [word("um", "en"), word("fuck", "en"), word("um", "de"), word("fuck", "de")]
    wanted = Formatting(language="", fillers=False, profanity=False)
    assert [w.text for w in formatted(words, wanted)] == ["****", "um", "fuck"]


def test_numbers_are_written_by_the_rules_of_each_language() -> None:
    words = [word("twenty", "en"), word("one", "en"), word("vierundzwanzig", "de"), word("kaksi", "fi")]
    assert text_of(formatted(words, Formatting(language="", numerals=True)), punctuated=True) == "21 24 kaksi"


def test_the_language_of_most_words_is_the_main_one() -> None:
    assert main_language([word("a", "en"), word("b", "de"), word("c", "de")]) == SpokenLanguage(
        "de", pytest.approx(0.6)
    )
    assert main_language([word("a")]) is None


def test_an_english_word_that_ends_no_sentence_says_nothing_in_another_language() -> None:
    assert (
        confidence(16_000, [word("or", "fr")])
        > confidence(16_000, [word("or", "en")])
        == confidence(16_000, [word("or")])
    )
