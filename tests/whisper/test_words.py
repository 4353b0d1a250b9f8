"""How tokens become words, in languages with and without spaces."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from faster_whisper.tokenizer import Tokenizer

from myna.inference.engines.whisper.words import token_starts, word_groups


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", " It's well-known: 'tis $5, (dogs' tails) 3.5% of 1,000... \"Quote,\" he said.",
         ["It's", "well-known:", "'tis", "$5,", "(dogs'", "tails)", "3.5%", "of", "1,000...", '"Quote,"', "he", "said."]),
        ("fr", " Comment ? L'avoir d'accord ! dit-il : aujourd'hui.",
         ["Comment?", "L'avoir", "d'accord!", "dit-il:", "aujourd'hui."]),
        ("es", " ¿Qué tal? ¡Hola!", ["¿Qué", "tal?", "¡Hola!"]),
        ("de", " Er sagte: „Guten Tag!“ und ging.", ["Er", "sagte:", "„Guten", "Tag!“", "und", "ging."]),
        ("zh", "你好，世界。我用 Python 写。", ["你好，", "世界。", "我", "用", "Python", "写。"]),
        ("ja", "OpenAIのGPTです。", ["OpenAI", "の", "GPT", "です。"]),
        ("hi", " नमस्ते दुनिया।", ["नमस्ते", "दुनिया।"]),
        ("en", "...", []),
        ("en", "", []),
    ],
)  # fmt: skip
def test_tokens_are_grouped_into_words(base_folder: Path, language: str, text: str, words: list[str]) -> None:
    pieces = tokenizers.Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    tokenizer = Tokenizer(pieces, multilingual=True, task="transcribe", language=language)
    tokens = tokenizer.encode(text)
    groups = word_groups(tokenizer, tokens)
    assert [group.text for group in groups] == words
    edges = [edge for group in groups for edge in (group.first, group.last)]
    assert edges == sorted(edges)
    assert not edges or edges[-1] < len(tokens)


def test_a_token_starts_where_the_alignment_reaches_it() -> None:
    path = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 3), (3, 9)]
    assert token_starts(path, 3) == [0, 2, 3, 9]


def test_tokens_beyond_the_alignment_start_at_its_end() -> None:
    assert token_starts([(0, 0), (0, 4)], 2) == [0, 4, 4]
    assert token_starts([], 1) == [0, 0]
