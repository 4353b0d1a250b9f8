"""The OpenAPI description of Reflector's routes."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from myna.server.dialects.openai.description import REDACT, OpenAITranscript
from myna.server.dialects.openai.rest import FORMATS
from myna.server.dialects.openai.transcriptions import PATH
from myna.server.dialects.reflector.diarize import PATH as DIARIZE
from myna.server.dialects.reflector.errors import ReflectorError
from myna.server.dialects.reflector.forms import TRANSCRIBE
from myna.server.dialects.reflector.from_url import FROM_URL
from myna.server.dialects.reflector.pad import LONGEST_PAD_S
from myna.server.dialects.reflector.pad import PATH as PAD
from myna.server.dialects.reflector.requests import PREFIX
from myna.server.dialects.speaker_limits import LIMITS, SPEAKER_COUNT
from myna.server.dialects.spoken_formatting import FLAGS
from myna.server.http.openapi import (
    TEXT,
    RouteDescriptions,
    Schema,
    json_body,
    object_of,
    operation,
    query_parameter,
    reference,
    schema_of,
)

_ERROR = reference(ReflectorError)
_ERRORS = dict.fromkeys(("400", "404", "408", "413", "415", "422", "500", "503", "507"), _ERROR)
_FILE: Schema = {"type": "string", "format": "binary"}
_ADDRESS: Schema = {"type": "string", "format": "uri"}
_EXTENSIONS: dict[str, Schema] = {
    "diarize": {"type": "boolean", "default": False},
    **dict.fromkeys(LIMITS, SPEAKER_COUNT),
    **{name: {"type": "boolean", "default": False} for name in FLAGS},
    "redact": REDACT,
}


class ReflectorWord(TypedDict):
    """A word with the space behind it, and its times in seconds."""

    word: str
    start: float
    end: float
    speaker: NotRequired[int]


class ReflectorTranscript(TypedDict, total=False):
    """The transcript of a file; of several files, `results` with one for each."""

    text: str
    words: list[ReflectorWord]
    filename: str | None
    results: list[Any]


class OlderWord(TypedDict):
    """A word with the space behind it, and its times in seconds."""

    text: str
    start: float
    end: float


class OlderTranscript(TypedDict):
    """The transcript of a file in the format of Reflector's API before 2025."""

    text: str
    words: list[OlderWord]


class ReflectorTurn(TypedDict):
    """A stretch of one speaker, in seconds. Speakers are numbered from 0."""

    start: float
    end: float
    speaker: int


class ReflectorDiarization(TypedDict):
    """Who spoke when in a file."""

    diarization: list[ReflectorTurn]


class PadAnswer(TypedDict):
    """The bytes of a padded track. `cancelled` is false: a client that has gone gets no answer."""

    size: int
    cancelled: bool


def _form(summary: str, answer: Any, **fields: Schema) -> Schema:
    return operation(
        summary,
        {"200": reference(answer), **_ERRORS},
        error=_ERROR,
        body={"required": True, "content": {"multipart/form-data": {"schema": object_of((), **fields)}}},
        takes_files=True,
    )


def _transcriptions() -> Schema:
    return _form(
        "Transcribe the file, or the files, of a form, as Reflector does.",
        ReflectorTranscript,
        file=_FILE,
        files={"type": "array", "items": _FILE},
        model=TEXT,
        language=TEXT | {"default": "en"},
        batch={"type": "boolean", "default": False},
        **_EXTENSIONS,
    )


def _transcribe() -> Schema:
    return _form(
        "Transcribe the file of a form, as Reflector did before 2025.",
        OlderTranscript,
        file=_FILE,
        language=TEXT,
        source_language=TEXT,
        timestamp={"type": "number", "default": 0},
    )


def _from_url() -> Schema:
    asked = object_of(
        ("audio_file_url",),
        audio_file_url=_ADDRESS,
        model=TEXT,
        language=TEXT | {"default": "en"},
        timestamp_offset={"type": "number", "default": 0},
        response_format={"enum": list(FORMATS)},
        **_EXTENSIONS,
    )
    answer = {
        "description": "The transcript; with `response_format`, as OpenAI's API has it.",
        "content": {
            "application/json": {"schema": {"anyOf": [schema_of(ReflectorTranscript), schema_of(OpenAITranscript)]}},
            "text/plain": {"schema": TEXT},
        },
    }
    return operation(
        "Transcribe the file at an address, as Reflector does.",
        {"200": answer, **_ERRORS},
        error=_ERROR,
        body=json_body(asked, required=True),
        takes_files=True,
    )


def _diarize() -> Schema:
    return operation(
        "Tell who speaks when in the file at an address, as Reflector does.",
        {"200": reference(ReflectorDiarization), **_ERRORS},
        error=_ERROR,
        parameters=[
            query_parameter("audio_file_url", _ADDRESS, required=True),
            query_parameter("timestamp", {"type": "number", "default": 0}),
            *(query_parameter(name, SPEAKER_COUNT) for name in LIMITS),
        ],
        takes_files=True,
    )


def _pad() -> Schema:
    asked = object_of(
        track_url=_ADDRESS,
        output_url=_ADDRESS,
        start_time_seconds={"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_PAD_S},
        track_index={"type": "integer"},
    )
    return operation(
        "Put silence before a track, encode it as WebM with Opus, and store it at an address, as Reflector does.",
        {"200": reference(PadAnswer), **_ERRORS, "502": _ERROR},
        error=_ERROR,
        body=json_body(asked, required=True),
        takes_files=True,
    )


_AT_BOTH: dict[str, Schema] = {FROM_URL: _from_url(), DIARIZE: _diarize(), TRANSCRIBE: _transcribe(), PAD: _pad()}
DESCRIPTION = RouteDescriptions(
    paths={
        f"{PREFIX}{PATH}": {"post": _transcriptions()},
        **{f"{prefix}{path}": {"post": described} for path, described in _AT_BOTH.items() for prefix in ("", PREFIX)},
    },
    components=(
        ReflectorError,
        ReflectorWord,
        ReflectorTranscript,
        OlderWord,
        OlderTranscript,
        ReflectorTurn,
        ReflectorDiarization,
        PadAnswer,
    ),
)
