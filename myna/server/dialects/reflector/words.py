"""Transcripts as Reflector's clients read them, and what is asked of the engine for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from myna.batch.transcript import FileTranscript
from myna.server.dialects.openai.language_names import NAMES
from myna.server.dialects.openai.models import PUBLIC_MODELS
from myna.server.dialects.openai.rest import spaced_words
from myna.server.dialects.reflector.errors import refused
from myna.server.http.file_work import Done, FileWork
from myna.server.language_tags import spoken_language, unknown_language
from myna.server.serving import ModelWanted
from myna.streaming.audio.raw import Coded
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo
from myna.streaming.speakers.labelling import SpeakerLimits


async def transcribed(
    work: FileWork,
    path: Path,
    *,
    model: str,
    language: str,
    share: str,
    speakers: SpeakerLimits | None = None,
) -> Done:
    """Return the transcript of a file. A model that is not here stands for the default one. Raises `Refusal`."""
    wanted = replace(ModelWanted.of(model or None, PUBLIC_MODELS, language or None), or_default=True)
    return await work.transcribe(
        path, wanted, partial(_options, language), Coded(), mix=True, share=share,
        speakers=speakers, needs_speakers=True,
    )  # fmt: skip


def answer(transcript: FileTranscript, filename: str | None, offset_s: float = 0.0) -> dict[str, object]:
    """Return the answer for one file. Each word carries the space behind it."""
    return {"text": transcript.text, "words": spaced_words(transcript.words, offset_s), "filename": filename}


def older_answer(transcript: FileTranscript, offset_s: float) -> dict[str, object]:
    """Return the answer of `/transcribe`."""
    return {"text": transcript.text, "words": _older_words(transcript, offset_s)}


def _older_words(transcript: FileTranscript, offset_s: float) -> Iterator[dict[str, object]]:
    for word in spaced_words(transcript.words, offset_s):
        yield {"text": word["word"], "start": word["start"], "end": word["end"]}


def _options(language: str, engine: EngineInfo) -> Options:
    if unknown := unknown_language(engine, (language or None,)):
        names = ", ".join(NAMES.get(code, code).capitalize() for code in engine.languages)
        raise refused(f"{engine.name} model only supports {names}. Got language={unknown[:100]!r}")
    return Options(spoken_language(language or None))
