"""A transducer's tokens as words: parts of an utterance, and the pieces that mark the end of one."""

from __future__ import annotations

import pytest

from myna.inference.engines.transducer.words import Tokens, Vocabulary

PIECES = ["▁see", "▁you", "r", ".", "▁", "<EOU>", "<EOB>", "▁<EOU>"]
SEE, YOU, R, DOT, SPACE, EOU, EOB, EOU_ALONE = range(len(PIECES))
FRAME_S = 0.08


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(PIECES, lambda ids: "".join(PIECES[number] for number in ids).replace("▁", " "))


def tokens(*ids: int) -> Tokens:
    """Return these tokens, one in every fifth frame, each less certain than the one before."""
    return Tokens(list(ids), [5 * n for n in range(len(ids))], [2] * len(ids), [0.9 - 0.1 * n for n in range(len(ids))])


@pytest.mark.parametrize("mark", [(EOU,), (EOB,), (SPACE, EOU), (EOU_ALONE,)])
def test_the_mark_of_an_end_is_reported_and_not_written(vocabulary: Vocabulary, mark: tuple[int, ...]) -> None:
    marked = vocabulary.transcript(tokens(SEE, YOU, *mark), FRAME_S)
    plain = vocabulary.transcript(tokens(SEE, YOU), FRAME_S)
    assert [word.text for word in marked.words] == ["see", "you"]
    assert marked.words == plain.words
    assert marked.end_of_utterance_s == pytest.approx(FRAME_S * 5 * (1 + len(mark)))
    assert plain.end_of_utterance_s is None


def test_a_mark_before_the_last_word_is_not_the_end(vocabulary: Vocabulary) -> None:
    transcript = vocabulary.transcript(tokens(SEE, YOU, EOU, SEE), FRAME_S)
    assert [word.text for word in transcript.words] == ["see", "you", "see"]
    assert transcript.end_of_utterance_s is None


def test_the_mark_does_not_count_in_the_probability(vocabulary: Vocabulary) -> None:
    assert vocabulary.transcript(tokens(SEE, YOU, EOU), FRAME_S).log_probability == pytest.approx(
        vocabulary.transcript(tokens(SEE, YOU), FRAME_S).log_probability
    )


def test_times_count_from_what_the_transcript_covers(vocabulary: Vocabulary) -> None:
    transcript = vocabulary.transcript(tokens(SEE, YOU, EOU), FRAME_S, since_s=0.3)
    assert [word.start for word in transcript.words] == pytest.approx([-0.3, 0.1])
    assert transcript.end_of_utterance_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 99, "see your. see"), (1, 99, "your. see"), (0, 6, "see your."), (6, 99, "see"), (6, 19, ""), (99, 99, "")],
)
def test_a_part_of_an_utterance_holds_whole_words(vocabulary: Vocabulary, start: int, end: int, expected: str) -> None:
    part = vocabulary.between(tokens(SEE, YOU, R, DOT, SEE), start, end)
    assert " ".join(word.text for word in vocabulary.words(part, FRAME_S)) == expected
