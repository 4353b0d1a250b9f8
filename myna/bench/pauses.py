"""Find the pauses of recordings, and the end-of-turn confidence at each moment of them.

The recordings run through sessions in this process, without a network and without a clock: a decode takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from myna.bench.accuracy import AccuracyError
from myna.inference.engines.port import Engine
from myna.streaming.events import Progress, samples, seconds
from myna.streaming.policy import Options, Policy, TurnPolicy
from myna.streaming.session.requests import Detect, Submit
from myna.streaming.session.session import Session
from myna.streaming.speech.segmenter import WINDOW
from myna.streaming.speech.silero import SileroVad, VadMemory

LEAD_S, TAIL_S = 0.3, 4.0
"""Silence before and after each recording. The tail is longer than the longest time-out of the sweep, 3.5 s."""
SHORTEST_S, LONGEST_S = 0.2, 5.0
"""Pauses inside a turn that count, as in eot-bench."""
SPEECH = 0.5
"""The probability from which a window is speech."""
_NEVER = TurnPolicy(end=1.0, timeout_ms=3_600_000)


@dataclass(frozen=True, slots=True)
class Pause:
    """One silence of a recording: a hold, after which the speaker goes on, or the end of the turn."""

    audio: str
    ends: bool
    length_s: float
    confidences: tuple[tuple[float, float], ...]
    """Seconds since the last speech and the end-of-turn confidence then, for each window of the silence."""
    late_s: float = 0.0
    """At the end of a turn: how long after the true end of the last word the silence begins."""


def pauses(audio: str, pcm: np.ndarray, end_s: float, vad: SileroVad, engine: Engine) -> list[Pause]:
    """Return the pauses of one turn, int16 samples at 16 kHz whose last word ends at `end_s`; the last pause is its end.

    Raises `AccuracyError` if there is no speech.
    """
    sound = np.concatenate([np.zeros(samples(LEAD_S), np.int16), pcm, np.zeros(samples(TAIL_S), np.int16)])
    confidences, probabilities = _confidences(sound, vad, engine)
    speech = np.flatnonzero(np.array(probabilities) >= SPEECH)
    if not len(speech):
        raise AccuracyError(f"{audio} contains no speech")
    found = []
    for last, following in zip(speech, [*speech[1:], len(probabilities)], strict=True):
        start, ends = int(last) + 1, bool(following == len(probabilities))
        length_s = seconds((int(following) - start) * WINDOW)
        if ends or SHORTEST_S <= length_s <= LONGEST_S:
            heard = enumerate(confidences[start:following], start=1)
            told = tuple((seconds(windows * WINDOW), confidence) for windows, confidence in heard)
            late_s = seconds(start * WINDOW) - LEAD_S - end_s if ends else 0.0
            found.append(Pause(audio, ends, length_s, told, late_s))
    return found


def _confidences(sound: np.ndarray, vad: SileroVad, engine: Engine) -> tuple[list[float], list[float]]:
    """Return the end-of-turn confidence and the speech probability after each window."""
    policy = Policy(endpoint_ms=None, turns=_NEVER, progress_s=seconds(WINDOW), interim_every_s=None)
    session = Session("turn", policy, Options(), engine.info)
    memory = VadMemory()
    confidences: list[float] = []
    probabilities: list[float] = []
    for start in range(0, len(sound) - WINDOW + 1, WINDOW):
        session.push(sound[start : start + WINDOW].tobytes(), 0.0)
        while (taken := session.take())[0]:
            confidences += [event.confidence for event in taken[1] if isinstance(event, Progress)]
            for request in taken[0]:
                match request:
                    case Detect():
                        (found,) = vad.probabilities([(memory, request.pcm)])
                        probabilities += found
                        session.on_vad(request.start, found)
                    case Submit(job):
                        session.on_result(job.id, engine.transcribe([job])[0])
        confidences += [event.confidence for event in taken[1] if isinstance(event, Progress)]
    return confidences, probabilities
