"""Transcripts as Reflector's clients read them, and what is asked of the engine for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from myna.batch.transcript import FileTranscript
from myna.server.dialects.openai import rest
from myna.server.dialects.openai.language_names import NAMES
from myna.server.dialects.reflector.errors import refused
from myna.server.http.file_work import Done, FileWork
from myna.server.language_tags import unknown_language
from myna.streaming.audio.raw import Coded
from myna.streaming.policy import Options
from myna.streaming.session.jobs import EngineInfo


def parsed(model: str, language: str, extensions: Collection[tuple[str, str]] = ()) -> rest.TranscriptionRequest:
    """Return a request in the terms of OpenAI's API, which this one extends. Raises `Refusal`.

    A model that is not here stands for the default one.
    """
    asked = rest.parse([("model", model), ("language", language), *extensions])
    return replace(asked, model=replace(asked.model, or_default=True))


async def transcribed(work: FileWork, path: Path, asked: rest.TranscriptionRequest, share: str) -> Done:
    """Return the transcript of a file. Raises `Refusal`."""
    return await work.transcribe(
        path, asked.model, partial(_options, asked), Coded(), mix=True, share=share,
        speakers=asked.speakers, needs_speakers=True,
    )  # fmt: skip


def answer(
    done: Done, asked: rest.TranscriptionRequest, filename: str | None, offset_s: float = 0.0
) -> dict[str, object]:
    """Return the answer for one file. Each word carries the space behind it."""
    transcript = _written(done, asked)
    return {"text": transcript.text, "words": rest.spaced_words(transcript.words, offset_s), "filename": filename}


def older_answer(done: Done, asked: rest.TranscriptionRequest, offset_s: float) -> dict[str, object]:
    """Return the answer of `/transcribe`."""
    transcript = _written(done, asked)
    return {"text": transcript.text, "words": _older_words(transcript, offset_s)}


def _written(done: Done, asked: rest.TranscriptionRequest) -> FileTranscript:
    return done.transcript.written(lambda words: asked.written(words, done.engine))


def _older_words(transcript: FileTranscript, offset_s: float) -> Iterator[dict[str, object]]:
    for word in rest.spaced_words(transcript.words, offset_s):
        yield {"text": word["word"], "start": word["start"], "end": word["end"]}


def _options(asked: rest.TranscriptionRequest, engine: EngineInfo) -> Options:
    if unknown := unknown_language(engine, (asked.language,)):
        names = ", ".join(NAMES.get(code, code).capitalize() for code in engine.languages)
        raise refused(f"{engine.name} model only supports {names}. Got language={unknown[:100]!r}")
    return asked.options(engine)
