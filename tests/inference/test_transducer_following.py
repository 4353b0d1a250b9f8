"""Utterances followed by several lanes of a process, with a model of NumPy arrays: one token for each loud frame."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from myna.inference.engines.transducer import followed
from myna.inference.engines.transducer.windows import LEFT, RIGHT, WHOLE, WindowFollower
from myna.inference.engines.transducer.words import Tokens, Vocabulary
from myna.streaming.session.jobs import InferenceJob, JobKind, Missing, Outcome, Transcript

FRAME = 1280


@dataclass
class Frames:
    rows: list[np.ndarray]

    def counts(self) -> list[int]:
        return [len(row) for row in self.rows]


class Weights:
    """What the lanes' models share. Tests stop a lane inside its step with `gate`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()


class LevelModel:
    """Decodes the level of each frame: 100 × n is the word "wn", 0 is silence."""

    frame, frame_s = FRAME, FRAME / 16_000

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or Weights()
        pieces = [f"▁w{n}" for n in range(300)]
        self.vocabulary = Vocabulary(pieces, lambda ids: "".join(pieces[n] for n in ids).replace("▁", " "))

    def encode(self, audio: Sequence[np.ndarray]) -> Frames:
        self.weights.inside.set()
        assert self.weights.gate.wait(30)
        return Frames([pcm[: len(pcm) // FRAME * FRAME].reshape(-1, FRAME).mean(axis=1) for pcm in audio])

    def cut(self, encoded: Frames, starts: Sequence[int], counts: Sequence[int]) -> Frames:
        return Frames([row[at : at + n] for row, at, n in zip(encoded.rows, starts, counts, strict=True)])

    def decode(
        self,
        encoded: Frames,
        states: Sequence[Any] | None = None,
        keyterms: Sequence[tuple[str, ...]] = (),
        *,
        goes_on: bool = False,
    ) -> tuple[list[Tokens], list[Any]]:
        del keyterms
        before = [state or 0 for state in states or [0] * len(encoded.rows)]
        found = []
        for row, done in zip(encoded.rows, before, strict=True):
            loud = [(int(level) // 100, done + at) for at, level in enumerate(row) if level]
            ids, frames = [one[0] for one in loud], [one[1] for one in loud]
            found.append(Tokens(ids, frames, [1] * len(loud), [0.9] * len(loud)))
        after = [done + len(row) for row, done in zip(encoded.rows, before, strict=True)]
        return found, after if goes_on else before


def spoken(*codes: int) -> np.ndarray:
    return np.repeat(np.array(codes, np.int16) * 100, FRAME)


def step(source: str, pcm: np.ndarray, held: int, end: int, utterance: int = 1) -> InferenceJob:
    part = pcm[held:end].tobytes()
    return InferenceJob(f"{source} {end}", source, JobKind.INTERIM, part, 0.0, utterance=utterance, held=held)


def words(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, Transcript), outcome
    return [word.text for word in outcome.words]


def test_any_lane_decodes_the_next_step_of_an_utterance() -> None:
    weights, pcm = Weights(), spoken(*range(1, 9))
    lanes = [WindowFollower(LevelModel(weights)) for _ in range(2)]
    for number in range(1, 9):
        job = step("s", pcm, (number - 1) * FRAME, number * FRAME)
        (outcome,) = lanes[number % 2].step([job])
        assert words(outcome) == [f"w{n}" for n in range(1, number + 1)]
    lanes[0].release("s")
    assert lanes[1].step([step("s", pcm, FRAME, 2 * FRAME)]) == [Missing(0)]


def test_models_with_other_weights_follow_other_utterances() -> None:
    pcm = spoken(1, 2)
    one, other = WindowFollower(LevelModel()), WindowFollower(LevelModel())
    one.step([step("s", pcm, 0, FRAME)])
    assert other.step([step("s", pcm, FRAME, 2 * FRAME)]) == [Missing(0)]


def test_a_lane_waits_for_the_utterance_that_another_lane_decodes() -> None:
    weights, pcm = Weights(), spoken(1, 2, 3)
    first, second = (WindowFollower(LevelModel(weights)) for _ in range(2))
    weights.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(first.step, [step("s", pcm, 0, FRAME), step("t", pcm, 0, FRAME)])
        assert weights.inside.wait(30)
        two = threads.submit(second.step, [step("t", pcm, FRAME, 2 * FRAME), step("s", pcm, FRAME, 3 * FRAME)])
        weights.gate.set()
        assert [words(outcome) for outcome in one.result()] == [["w1"], ["w1"]]
        assert [words(outcome) for outcome in two.result()] == [["w1", "w2"], ["w1", "w2", "w3"]]


def test_an_utterance_released_during_a_step_is_dropped_after_it() -> None:
    weights, pcm = Weights(), spoken(1, 2)
    first, second = (WindowFollower(LevelModel(weights)) for _ in range(2))
    weights.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        one = threads.submit(first.step, [step("s", pcm, 0, FRAME)])
        assert weights.inside.wait(30)
        second.release("s")
        weights.gate.set()
        assert words(one.result()[0]) == ["w1"]
    assert len(first) == 0
    assert second.step([step("s", pcm, FRAME, 2 * FRAME)]) == [Missing(0)]


class FailingModel(LevelModel):
    def encode(self, audio: Sequence[np.ndarray]) -> Frames:
        if any(pcm.any() for pcm in audio):
            raise MemoryError
        return super().encode(audio)


def test_a_step_that_failed_can_be_repeated() -> None:
    weights, pcm = Weights(), np.concatenate([np.zeros(FRAME, np.int16), spoken(1, 2)])
    sound, failing = WindowFollower(LevelModel(weights)), WindowFollower(FailingModel(weights))
    sound.step([step("s", pcm, 0, FRAME)])
    job = step("s", pcm, FRAME, 3 * FRAME)
    with pytest.raises(MemoryError):
        failing.step([job])
    assert words(sound.step([job])[0]) == ["w1", "w2"]


def test_the_least_recently_used_utterance_is_dropped_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "MOST_FOLLOWED", 2)
    follower, pcm = WindowFollower(LevelModel()), spoken(1, 2)
    for source in ("a", "b", "c"):
        follower.step([step(source, pcm, 0, FRAME)])
    assert follower.step([step("a", pcm, FRAME, 2 * FRAME)]) == [Missing(0)]
    assert words(follower.step([step("c", pcm, FRAME, 2 * FRAME)])[0]) == ["w1", "w2"]


def test_a_long_utterance_keeps_its_words_and_drops_its_audio() -> None:
    codes = [n % 2 * (n // 2 + 1) for n in range(500)]  # 40 s
    follower, pcm = WindowFollower(LevelModel()), spoken(*codes)
    for held in range(0, len(pcm), 16_000):
        (outcome,) = follower.step([step("s", pcm, held, held + 16_000)])
    assert words(outcome) == [f"w{code}" for code in codes if code]
    assert follower.audio_held <= WHOLE + LEFT + RIGHT
