"""Languages in the dialects: what the engine is asked, and what the client is told."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from myna.batch.transcript import Channel, FileTranscript, Segment
from myna.clients.display import Terminal
from myna.inference.engines.fake.engine import FakeEngine, FakeSettings
from myna.inference.engines.kind import Model
from myna.runtime.errors import Refusal
from myna.server.dialects.deepgram import rest as deepgram
from myna.server.dialects.openai import rest as openai
from myna.streaming.events import SpokenLanguage, Word
from myna.streaming.policy import Options
from myna.wire import messages as wire


def word(text: str, code: str) -> Word:
    return Word(text, 0.0, 0.4, 0.95, SpokenLanguage(code, 0.9))


def test_openai_lists_the_languages_that_were_heard() -> None:
    words = (word("Hello", "en"), word("there", "en"), word("Welt", "de"))
    transcript = FileTranscript(1.0, (Channel((Segment(0.0, 1.0, words),)),))
    engine = FakeEngine(settings=FakeSettings(detects_language=True)).info
    said = openai.answer(transcript, openai.parse([("response_format", "json")]), engine, "a.wav")
    assert said == {"text": "Hello there Welt", "usage": {"type": "duration", "seconds": 1}} | {
        "languages": [{"code": "en"}, {"code": "de"}]
    }
    verbose = openai.answer(transcript, openai.parse([("response_format", "verbose_json")]), engine, "a.wav")
    assert isinstance(verbose, dict)
    assert (verbose["task"], verbose["language"]) == ("transcribe", "english")
    asked = openai.parse([("response_format", "verbose_json")], translate=True)
    translated = openai.answer(transcript, asked, engine, "a.wav")
    assert isinstance(translated, dict)
    assert (translated["task"], translated["language"]) == ("translate", "english")


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ([("language", "german")], Options("de")),
        ([("language", "de-CH")], Options("de")),
        ([("languages[]", "de"), ("languages[]", "french")], Options(None, (), ("de", "fr"))),
        ([("prompt", "x" * 3000)], Options(None, prompt="x" * 2000)),
        ([], Options()),
    ],
)
def test_the_engine_gets_languages_as_codes_and_the_end_of_the_prompt(
    fields: list[tuple[str, str]], options: Options
) -> None:
    engine = replace(FakeEngine().info, languages=("en", "de", "fr"), prompts=True)
    assert openai.parse(fields).options(engine) == options


def test_a_translation_needs_a_model_that_translates() -> None:
    engine = FakeEngine().info
    with pytest.raises(Refusal, match="does not translate"):
        openai.parse([], translate=True).options(engine)
    assert openai.parse([], translate=True).options(replace(engine, translates=True)).translate


def test_deepgram_detects_the_language_of_a_file_among_those_named() -> None:
    engine = replace(FakeEngine().info, languages=("en", "de", "fr"), detects_language=True)
    asked = deepgram.parse([("detect_language", "de"), ("detect_language", "fr"), ("language", "en")])
    assert asked.options(engine) == Options(None, (), ("de", "fr"))
    words = (word("Guten", "de"), word("Tag", "de"))
    transcript = FileTranscript(1.0, (Channel((Segment(0.0, 1.0, words),)), Channel()))
    body = deepgram.answer(transcript, asked, Model("m", "fake"), engine, "id", "")
    first, silent = body["results"]["channels"]
    assert (first["detected_language"], first["language_confidence"]) == ("de", 0.9)
    assert "detected_language" not in silent


def test_deepgram_writes_the_language_of_each_word_of_a_file_whose_language_changes() -> None:
    engine = replace(FakeEngine().info, languages=("en", "de"), detects_language=True)
    asked = deepgram.parse([("language", "multi")])
    words = (word("Hello", "en"), word("Welt", "de"), word("ja", "de"))
    transcript = FileTranscript(1.0, (Channel((Segment(0.0, 1.0, words),)),))
    (channel,) = deepgram.answer(transcript, asked, Model("m", "fake"), engine, "id", "")["results"]["channels"]
    (alternative,) = channel["alternatives"]
    assert alternative["languages"] == ["de", "en"]
    assert [entry["language"] for entry in alternative["words"]] == ["en", "de", "de"]


def test_the_terminal_shows_the_text_as_the_server_joins_it() -> None:
    shown = StringIO()
    entries = tuple(
        wire.WordEntry(word=text, punctuated_word=text, start=0.0, end=0.1, confidence=0.9) for text in ("你好", "世界")
    )
    with Terminal(Console(file=shown, width=80, force_terminal=True, color_system=None)) as terminal:
        terminal.show(wire.PartialMessage(channel=0, start=0.0, end=1.0, text="你好世界", words=entries, stable=1))
    assert "你好世界" in shown.getvalue()
