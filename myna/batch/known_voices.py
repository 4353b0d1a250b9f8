"""Hears the voices of short clips, by which the speakers of a file are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from myna.batch.diarization import heard
from myna.batch.transcriber import SoundFile, TooLongError
from myna.inference.port import ModelPool
from myna.media.pool import DecoderPool
from myna.streaming.audio.raw import AudioError, Coded

SHORTEST_CLIP_S, LONGEST_CLIP_S = 2.0, 10.0
"""The length of a clip, as OpenAI's API has it."""
_PADDING_S = 0.1
"""What encoders add to the ends of a clip, at most: 0.05 s in MP3 and AAC."""


class ClipError(Exception):
    """A clip has no usable voice. `number` counts clips from 0."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


async def voices_of(decoders: DecoderPool, diarizer: ModelPool, clips: Sequence[Path]) -> tuple[np.ndarray, ...]:
    """Return the voice, float32 [D], of the main speaker of each clip. Raises `ClipError`."""
    return tuple([await _voice(decoders, diarizer, number, clip) for number, clip in enumerate(clips)])


async def _voice(decoders: DecoderPool, diarizer: ModelPool, number: int, clip: Path) -> np.ndarray:
    sound = SoundFile(clip, Coded(), mix=True, longest_s=LONGEST_CLIP_S + _PADDING_S)
    try:
        async with heard(decoders, sound, diarizer, _no_pause) as (speakers, duration_s):
            if duration_s < SHORTEST_CLIP_S - _PADDING_S:
                raise ClipError(number, f"it is {duration_s:.1f} s long; {_LENGTHS}")
            voice = await speakers.main_voice()
    except TooLongError as error:
        raise ClipError(number, f"it is longer than {LONGEST_CLIP_S:g} s; {_LENGTHS}") from error
    except AudioError as error:
        raise ClipError(number, f"its audio cannot be used: {error}") from error
    if voice is None:
        raise ClipError(number, "it contains less than a second of speech")
    return voice


async def _no_pause() -> None:
    pass


_LENGTHS = f"a clip must be from {SHORTEST_CLIP_S:g} to {LONGEST_CLIP_S:g} s long"
