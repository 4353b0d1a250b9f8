"""The OpenAPI description of Reflector's routes."""

from __future__ import annotations

from typing_extensions import TypedDict

from myna.server.dialects.openai.description import OPENAI_ERROR, REDACT, OpenAITranscript, transcriptions
from myna.server.dialects.openai.rest import FORMATS
from myna.server.dialects.openai.transcriptions import PATH
from myna.server.dialects.reflector.diarize import PATH as DIARIZE
from myna.server.dialects.reflector.from_url import FROM_URL
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


def _from_url() -> Schema:
    asked = object_of(
        ("audio_file_url",),
        audio_file_url={"type": "string", "format": "uri"},
        model=TEXT,
        language=TEXT,
        timestamp_offset={"type": "number", "default": 0},
        response_format={"enum": list(FORMATS)},
        diarize={"type": "boolean", "default": False},
        **dict.fromkeys(LIMITS, SPEAKER_COUNT),
        **{name: {"type": "boolean"} for name in FLAGS},
        redact=REDACT,
    )
    answer = {
        "description": "The transcript.",
        "content": {"application/json": {"schema": schema_of(OpenAITranscript)}, "text/plain": {"schema": TEXT}},
    }
    errors = dict.fromkeys(("400", "404", "408", "413", "415", "422", "500", "503", "507"), OPENAI_ERROR)
    return operation(
        "Transcribe the file at an address, as Reflector does.",
        {"200": answer, **errors},
        error=OPENAI_ERROR,
        body=json_body(asked, required=True),
        takes_files=True,
    )


class ReflectorTurn(TypedDict):
    """A stretch of one speaker, in seconds. Speakers are numbered from 0."""

    start: float
    end: float
    speaker: int


class ReflectorDiarization(TypedDict):
    """Who spoke when in a file."""

    diarization: list[ReflectorTurn]


def _diarize() -> Schema:
    errors = dict.fromkeys(("400", "404", "408", "413", "415", "422", "500", "503", "507"), OPENAI_ERROR)
    return operation(
        "Tell who speaks when in the file at an address, as Reflector does.",
        {"200": reference(ReflectorDiarization), **errors},
        error=OPENAI_ERROR,
        parameters=[
            query_parameter("audio_file_url", {"type": "string", "format": "uri"}, required=True),
            query_parameter("timestamp", {"type": "number", "default": 0}),
            *(query_parameter(name, SPEAKER_COUNT) for name in LIMITS),
        ],
        takes_files=True,
    )


DESCRIPTION = RouteDescriptions(
    paths={
        DIARIZE: {"post": _diarize()},
        f"{PREFIX}{DIARIZE}": {"post": _diarize()},
        FROM_URL: {"post": _from_url()},
        f"{PREFIX}{FROM_URL}": {"post": _from_url()},
        f"{PREFIX}{PATH}": {"post": transcriptions()},
    },
    components=(ReflectorDiarization,),
)
