"""The OpenAPI description of Deepgram's routes."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from myna.server.dialects.deepgram.errors import DeepgramError
from myna.server.dialects.deepgram.grant import DEFAULT_GRANT_S, GrantAnswer
from myna.server.dialects.deepgram.jobs import JobAnswer
from myna.server.dialects.deepgram.listen_request import DIARIZERS
from myna.server.dialects.deepgram.status import EngineStatusAnswer, StatusAnswer
from myna.server.dialects.speaker_limits import LIMITS, SPEAKER_COUNT
from myna.server.http.openapi import (
    TEXT,
    RouteDescriptions,
    Schema,
    json_body,
    json_response,
    object_of,
    operation,
    path_parameter,
    query_parameter,
    reference,
    schema_of,
)
from myna.server.keys import LONGEST_GRANT_S

_FLAGS = (
    "punctuate", "smart_format", "numerals", "dictation", "profanity_filter", "filler_words", "measurements",
    "multichannel", "paragraphs", "utterances", "detect_language", "diarize",
)  # fmt: skip
_LISTS = ("search", "replace", "redact", "keyterm", "keywords", "tag")
_TEXTS = (
    "model", "language", "encoding", "sample_rate", "channels", "utt_split", "callback", "callback_method", "diarize_version",
)  # fmt: skip


class DeepgramWord(TypedDict):
    """A word."""

    word: str
    start: float
    end: float
    confidence: float
    punctuated_word: NotRequired[str]
    speaker: NotRequired[int]
    speaker_confidence: NotRequired[float]


class DeepgramAlternative(TypedDict):
    """What was said on one channel."""

    transcript: str
    confidence: float
    words: list[DeepgramWord]


class DeepgramChannel(TypedDict):
    """One channel of the audio; there is always one alternative."""

    alternatives: list[DeepgramAlternative]


class DeepgramMetadata(TypedDict):
    """What was transcribed."""

    request_id: str
    sha256: str
    created: str
    duration: float
    channels: int


class DeepgramChannels(TypedDict):
    """The transcript of each channel, and the utterances of all if they were asked for."""

    channels: list[DeepgramChannel]
    utterances: NotRequired[list[dict[str, Any]]]


class DeepgramTranscript(TypedDict):
    """The answer to a request for a transcript."""

    metadata: DeepgramMetadata
    results: DeepgramChannels


_ERROR = reference(DeepgramError)


def _listen() -> Schema:
    parameters = [
        *(query_parameter(name, {"type": "boolean", "default": False}) for name in _FLAGS),
        *(query_parameter(name, {"type": "array", "items": TEXT}) for name in _LISTS),
        *(query_parameter(name, TEXT) for name in _TEXTS),
        query_parameter("diarize_model", {"enum": list(DIARIZERS)}),
        *(query_parameter(name, SPEAKER_COUNT) for name in LIMITS),
    ]
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": object_of(url={"type": "string", "format": "uri"})},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    answer = json_response({"oneOf": [schema_of(DeepgramTranscript), object_of(request_id=TEXT)]})
    return operation(
        "Transcribe a file, or the file at an address. With a callback: accept the request; the callback gets the answer.",
        {"200": answer, **dict.fromkeys(("400", "404", "408", "413", "500", "503", "507"), _ERROR)},
        error=_ERROR,
        parameters=parameters,
        body=body,
        takes_files=True,
    )


def _grant() -> Schema:
    ttl = {"type": "number", "minimum": 1, "maximum": LONGEST_GRANT_S, "default": DEFAULT_GRANT_S}
    return operation(
        "Make a short-lived token.",
        {"200": reference(GrantAnswer), "400": _ERROR},
        error=_ERROR,
        body=json_body(object_of((), ttl_seconds=ttl), required=False),
    )


DESCRIPTION = RouteDescriptions(
    paths={
        "/v1/status": {
            "get": operation(
                "The server's state, as Deepgram's own servers report it.", {"200": reference(StatusAnswer)}, error=None
            )
        },
        "/v1/status/engine": {
            "get": operation("Whether engines serve requests.", {"200": reference(EngineStatusAnswer)}, error=None)
        },
        "/v1/auth/grant": {"post": _grant()},
        "/v1/listen": {"post": _listen()},
        "/v1/jobs/{id}": {
            "get": operation(
                "How far a request with a callback is.",
                {"200": reference(JobAnswer), "404": _ERROR, "503": _ERROR},
                error=_ERROR,
                parameters=[path_parameter("id")],
            )
        },
    },
    components=(StatusAnswer, EngineStatusAnswer, GrantAnswer, DeepgramTranscript, JobAnswer, DeepgramError),
)
