"""The OpenAPI description of OpenAI's routes."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from myna.server.dialects.openai.client_secrets import (
    DEFAULT_TTL_S,
    TTL_S,
    ClientSecretAnswer,
    TranscriptionSession,
)
from myna.server.dialects.openai.errors import OpenAIError
from myna.server.dialects.openai.known_speakers import MOST_KNOWN
from myna.server.dialects.openai.rest import FORMATS, GRANULARITIES
from myna.server.dialects.openai.transcriptions import PATH
from myna.server.dialects.speaker_limits import LIMITS, SPEAKER_COUNT
from myna.server.dialects.spoken_formatting import FLAGS
from myna.server.http.openapi import (
    TEXT,
    RouteDescriptions,
    Schema,
    json_body,
    object_of,
    operation,
    reference,
    schema_of,
)
from myna.streaming.text.redaction import Redaction

REDACT: Schema = {"type": "array", "items": {"enum": list(Redaction)}}
_FILE: Schema = {"type": "string", "format": "binary"}
OPENAI_ERROR = reference(OpenAIError)


class OpenAIWord(TypedDict):
    """A word."""

    word: str
    start: float
    end: float
    speaker: NotRequired[int]


class OpenAITranscript(TypedDict, total=False):
    """A transcript. Which fields it has depends on `response_format`."""

    text: str
    language: str
    duration: float
    words: list[OpenAIWord]
    segments: list[dict[str, Any]]
    usage: dict[str, Any]
    results: list[Any]
    filename: str | None


def transcriptions(summary: str = "Transcribe the file, or the files, of a form.") -> Schema:
    """Return the operation that transcribes, or translates, a form's files."""
    known: Schema = {"type": "array", "items": TEXT, "maxItems": MOST_KNOWN}
    form = object_of(
        (),
        file=_FILE,
        files={"type": "array", "items": _FILE},
        model=TEXT,
        language=TEXT,
        prompt=TEXT,
        response_format={"enum": list(FORMATS)},
        temperature={"type": "number", "minimum": 0, "maximum": 1},
        stream={"type": "boolean"},
        batch={"type": "boolean"},
        diarize={"type": "boolean"},
        **dict.fromkeys(LIMITS, SPEAKER_COUNT),
        **{name: {"type": "boolean"} for name in FLAGS},
        redact=REDACT,
        **{
            "timestamp_granularities[]": {"type": "array", "items": {"enum": list(GRANULARITIES)}},
            "include[]": {"type": "array", "items": {"enum": ["logprobs"]}},
            "keywords[]": {"type": "array", "items": TEXT},
            "known_speaker_names[]": known,
            "known_speaker_references[]": known,
            "chunking_strategy": TEXT,
        },
    )
    answer = {
        "description": "The transcript in `response_format`; with `files`, a list in `results`.",
        "content": {
            "application/json": {"schema": schema_of(OpenAITranscript)},
            "text/plain": {"schema": TEXT},
            "text/event-stream": {"schema": TEXT},
        },
    }
    return operation(
        summary,
        {"200": answer, **dict.fromkeys(("400", "404", "408", "413", "415", "500", "503", "507"), OPENAI_ERROR)},
        error=OPENAI_ERROR,
        body={"required": True, "content": {"multipart/form-data": {"schema": form}}},
        takes_files=True,
    )


def _client_secret() -> Schema:
    low, high = TTL_S
    seconds = {"type": "integer", "minimum": low, "maximum": high, "default": DEFAULT_TTL_S}
    asked = object_of((), expires_after=object_of((), seconds=seconds), session={"type": "object"})
    return operation(
        "Make a token for one session of the Realtime API.",
        {"200": reference(ClientSecretAnswer), "400": OPENAI_ERROR},
        error=OPENAI_ERROR,
        body=json_body(asked, required=False),
    )


def _transcription_session() -> Schema:
    return operation(
        "The same in the first version of that API.",
        {"200": reference(TranscriptionSession), "400": OPENAI_ERROR},
        error=OPENAI_ERROR,
        body=json_body({"type": "object"}, required=False),
    )


DESCRIPTION = RouteDescriptions(
    paths={
        "/v1/realtime/client_secrets": {"post": _client_secret()},
        "/v1/realtime/transcription_sessions": {"post": _transcription_session()},
        PATH: {"post": transcriptions()},
        "/v1/audio/translations": {
            "post": transcriptions("Write the speech of a form's file in English, with a model that translates.")
        },
    },
    components=(ClientSecretAnswer, TranscriptionSession, OpenAITranscript, OpenAIError),
)
