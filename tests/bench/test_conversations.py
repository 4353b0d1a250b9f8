"""Conversations that are composed from recordings of single speakers."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from myna.bench.accuracy import AccuracyError, Recording
from myna.bench.conversations import composed, read_rttm, recorded

PITCHES = {"anna": 400, "ben": 900, "cleo": 1400}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Return 60 s of each speaker in recordings of 12 s; a word lasts 0.4 s and is a tone of the speaker's own pitch."""
    folder = tmp_path_factory.mktemp("recordings")
    found = []
    for name, pitch in PITCHES.items():
        tone = (np.sin(2 * np.pi * pitch * np.arange(6400) / 16_000) * 8000).astype(np.int16)
        for number in range(5):
            path = folder / f"{name}-{number}.wav"
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 16_000, 0, "NONE", ""))
                file.writeframes(np.concatenate([tone, np.zeros(1600, np.int16)] * 24).tobytes())
            words = tuple((f"{name}{number}-{word}", word * 0.5, word * 0.5 + 0.4) for word in range(24))
            found.append(Recording(path, "", "all", words))
    return found


def test_a_conversation_has_its_speakers_and_uses_no_word_twice(recordings: list[Recording], tmp_path: Path) -> None:
    for conversation in composed(recordings, ["two", "three"], ["clean"], 2, 1, tmp_path):
        assert conversation.speakers == (2 if conversation.name.startswith("two") else 3)
        said = [word.word for word in conversation.words]
        assert len(said) == len(set(said)) > 60
        assert all(word.word.startswith(word.speaker or "?") for word in conversation.words)


def test_each_word_is_heard_where_the_reference_says(recordings: list[Recording], tmp_path: Path) -> None:
    (conversation,) = composed(recordings, ["two"], ["clean"], 1, 3, tmp_path)
    with wave.open(str(conversation.audio)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32)
    for word in conversation.words:
        middle = sound[round((word.start + 0.1) * 16_000) : round((word.end - 0.1) * 16_000)]
        power = np.abs(np.fft.rfft(middle))
        own = PITCHES[word.speaker or ""] * len(middle) // 16_000
        assert power[own - 2 : own + 3].max() > 0.2 * power.max()


def test_the_same_seed_composes_the_same_conversation_and_another_seed_another(
    recordings: list[Recording], tmp_path: Path
) -> None:
    heard = []
    for run, seed in enumerate((1, 1, 2)):
        (tmp_path / str(run)).mkdir()
        (found,) = composed(recordings, ["two"], ["phone"], 1, seed, tmp_path / str(run))
        heard.append(found.audio.read_bytes())
    assert heard[0] == heard[1] != heard[2]


def test_a_kept_conversation_is_read_again_with_its_turns_and_words(
    recordings: list[Recording], tmp_path: Path
) -> None:
    (made,) = composed(recordings, ["three"], ["room"], 1, 1, tmp_path)
    (read,) = recorded(tmp_path)
    assert read.words == made.words
    assert [turn.speaker for turn in read.turns] == [turn.speaker for turn in made.turns]
    assert [turn.start for turn in read.turns] == pytest.approx([turn.start for turn in made.turns], abs=0.001)


def test_what_cannot_be_composed_or_read_is_named(recordings: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(AccuracyError, match=r"four needs 4 speakers .* anna, ben, cleo"):
        composed(recordings, ["four"], ["clean"], 1, 1, tmp_path)
    with pytest.raises(AccuracyError, match="no audio file with an RTTM file"):
        recorded(tmp_path)
    (tmp_path / "x.rttm").write_text("SPEAKER x 1 zero 1 <NA> <NA> a <NA> <NA>\n")
    with pytest.raises(AccuracyError, match=r"x\.rttm is not an RTTM file"):
        read_rttm(tmp_path / "x.rttm")
