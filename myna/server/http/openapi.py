"""The description of every REST route in OpenAPI 3.1, served at `/openapi.json`. A test holds the handlers to it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from myna import __version__
from myna.server.dialects.openai.rest import FORMATS, GRANULARITIES
from myna.server.dialects.reflector import requests as reflector
from myna.server.http.json_answer import json_answer
from myna.server.keys import LONGEST_GRANT_S

PATH = "/openapi.json"
_Schema = dict[str, Any]


def describe() -> _Schema:
    """Return the whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Myna",
            "version": __version__,
            "description": "Speech to text. Live streams are WebSockets: docs/protocol.md, docs/deepgram.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"token": []}],
        "paths": {
            PATH: {"get": _operation("This description.", {"200": _json({"type": "object"})}, open_to_all=True)},
            "/health": {
                "get": _operation(
                    "Whether every part of the server works, and which do not.",
                    {"200": _ref("Health"), "503": _ref("Health")},
                    open_to_all=True,
                )
            },
            "/health/live": {
                "get": _operation(
                    "Whether the event loop turns.", {"200": _json(_object(status=_TEXT))}, open_to_all=True
                )
            },
            "/health/ready": {
                "get": _operation(
                    "Whether new streams may be sent here.",
                    {
                        "200": _json(_object(status=_TEXT)),
                        "503": _json(_object(status=_TEXT, reason=_TEXT, failing=_FAILING)),
                    },
                    open_to_all=True,
                )
            },
            "/metrics": {
                "get": _operation(
                    "Everything measured, for Prometheus.",
                    {"200": {"description": "Samples.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
                    open_to_all=True,
                )
            },
            "/v1/status": {
                "get": _operation("The same as Deepgram's servers say it.", {"200": _ref("Status")}, open_to_all=True)
            },
            "/v1/status/engine": {
                "get": _operation(
                    "Whether engines answer.",
                    {"200": _json(_object(engine_connection_status={"enum": ["Connected", "Disconnected"]}))},
                    open_to_all=True,
                )
            },
            "/v1/models": {
                "get": _operation(
                    "The models: `data` as OpenAI lists them, `stt` as Deepgram does.", {"200": _ref("Models")}
                )
            },
            "/v1/models/{id}": {
                "get": _operation(
                    "One model, by name, alias, uuid, or a vendor's name that stands for the default.",
                    {"200": _ref("Model"), "404": _ref("Error")},
                    parameters=[_path("id")],
                )
            },
            "/v1/auth/grant": {"post": _grant()},
            "/v1/realtime/client_secrets": {"post": _client_secret()},
            "/v1/realtime/transcription_sessions": {"post": _transcription_session()},
            "/v1/listen": {"post": _listen()},
            "/v1/jobs/{id}": {
                "get": _operation(
                    "How far a request with a callback is.",
                    {"200": _ref("Job"), "404": _ref("DeepgramError"), "503": _ref("DeepgramError")},
                    parameters=[_path("id")],
                    error="DeepgramError",
                )
            },
            "/v1/audio/transcriptions": {"post": _transcriptions()},
            "/v1/audio/translations": {
                "post": _operation(
                    "Nothing here translates: always an error.",
                    {"400": _ref("OpenAIError")},
                    error="OpenAIError",
                )
            },
            "/v1/audio/transcriptions-from-url": {"post": _from_url()},
            f"{reflector.PREFIX}/v1/audio/transcriptions": {"post": _transcriptions()},
            f"{reflector.PREFIX}/v1/audio/transcriptions-from-url": {"post": _from_url()},
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Token KEY`, as Deepgram's clients write it.",
                },
            },
            "schemas": _SCHEMAS,
        },
    }


async def handler(_request: web.Request) -> web.Response:
    """Serve the description."""
    return json_answer(describe())


def _operation(
    summary: str,
    responses: _Schema,
    *,
    parameters: list[_Schema] | None = None,
    body: _Schema | None = None,
    error: str = "Error",
    open_to_all: bool = False,
) -> _Schema:
    operation: _Schema = {"summary": summary, "responses": dict(responses)}
    if open_to_all:
        operation["security"] = []
    else:
        operation["responses"] |= {"401": _ref(error), "403": _ref(error)}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    if body and error != "Error":  # a file: for want of room, or of a place in the key's share
        operation["responses"] |= {"429": _ref(error), "503": _ref(error)}
    return operation


def _grant() -> _Schema:
    ttl = {"type": "number", "minimum": 1, "maximum": LONGEST_GRANT_S, "default": 30}
    body = {"required": False, "content": {"application/json": {"schema": _object(required=(), ttl_seconds=ttl)}}}
    made = _object(access_token={"type": "string"}, expires_in={"type": "integer"})
    return _operation("A short-lived token.", {"200": _json(made), "400": _ref("Error")}, body=body)


def _client_secret() -> _Schema:
    seconds = {"type": "integer", "minimum": 10, "maximum": 7200, "default": 600}
    asked = _object(required=(), expires_after=_object(required=(), seconds=seconds), session={"type": "object"})
    made = _object(value={"type": "string"}, expires_at={"type": "integer"}, session={"type": "object"})
    return _operation(
        "A token for one kind of session of OpenAI's Realtime API.",
        {"200": _json(made), "400": _ref("OpenAIError")},
        body={"required": False, "content": {"application/json": {"schema": asked}}},
        error="OpenAIError",
    )


def _transcription_session() -> _Schema:
    made = _object(client_secret=_object(value={"type": "string"}, expires_at={"type": "integer"}))
    return _operation(
        "The same in the first version of that API.",
        {"200": _json(made), "400": _ref("OpenAIError")},
        body={"required": False, "content": {"application/json": {"schema": {"type": "object"}}}},
        error="OpenAIError",
    )


def _listen() -> _Schema:
    flags = [
        "punctuate", "smart_format", "numerals", "dictation", "profanity_filter", "filler_words", "measurements",
        "multichannel", "paragraphs", "utterances", "detect_language",
    ]  # fmt: skip
    lists = ("search", "replace", "redact", "keyterm", "keywords", "tag")
    texts = ("model", "language", "encoding", "sample_rate", "channels", "utt_split", "callback", "callback_method")
    parameters = [
        *(_query(name, {"type": "boolean", "default": False}) for name in flags),
        *(_query(name, {"type": "array", "items": {"type": "string"}}) for name in lists),
        *(_query(name, {"type": "string"}) for name in texts),
    ]
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": _object(url={"type": "string", "format": "uri"})},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    accepted = _object(request_id={"type": "string"})
    answer = _json({"oneOf": [{"$ref": "#/components/schemas/DeepgramTranscript"}, accepted]})
    errors = {str(status): _ref("DeepgramError") for status in (400, 404, 408, 413, 500, 503, 507)}
    return _operation(
        "Transcribe a file or an address, as Deepgram does; with a callback: accept it, to be answered there.",
        {"200": answer, **errors},
        parameters=parameters,
        body=body,
        error="DeepgramError",
    )


def _transcriptions() -> _Schema:
    text = {"type": "string"}
    form = _object(
        required=(),
        file={"type": "string", "format": "binary"},
        files={"type": "array", "items": {"type": "string", "format": "binary"}},
        model=text,
        language=text,
        prompt=text,
        response_format={"enum": list(FORMATS)},
        temperature={"type": "number", "minimum": 0, "maximum": 1},
        stream={"type": "boolean"},
        batch={"type": "boolean"},
        **{
            "timestamp_granularities[]": {"type": "array", "items": {"enum": list(GRANULARITIES)}},
            "include[]": {"type": "array", "items": {"enum": ["logprobs"]}},
            "keywords[]": {"type": "array", "items": text},
        },
    )
    ok = {
        "description": "The transcript, as `response_format` asks; with `files`, `results` of several.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/OpenAITranscript"}},
            "text/plain": {"schema": text},
            "text/event-stream": {"schema": text},
        },
    }
    errors = {str(status): _ref("OpenAIError") for status in (400, 404, 408, 413, 415, 500, 503, 507)}
    return _operation(
        "Transcribe a form's file as OpenAI does, or its files as Reflector does.",
        {"200": ok, **errors},
        body={"required": True, "content": {"multipart/form-data": {"schema": form}}},
        error="OpenAIError",
    )


def _from_url() -> _Schema:
    text = {"type": "string"}
    asked = _object(
        required=("audio_file_url",),
        audio_file_url={"type": "string", "format": "uri"},
        model=text,
        language=text,
        timestamp_offset={"type": "number", "default": 0},
        response_format={"enum": list(FORMATS)},
    )
    ok = {
        "description": "The transcript.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/OpenAITranscript"}},
            "text/plain": {"schema": text},
        },
    }
    errors = {str(status): _ref("OpenAIError") for status in (400, 404, 408, 413, 415, 422, 500, 503, 507)}
    return _operation(
        "Transcribe the file at an address, as Reflector does.",
        {"200": ok, **errors},
        body={"required": True, "content": {"application/json": {"schema": asked}}},
        error="OpenAIError",
    )


def _object(required: tuple[str, ...] | None = None, **properties: _Schema) -> _Schema:
    return {"type": "object", "required": list(properties if required is None else required), "properties": properties}


def _json(schema: _Schema) -> _Schema:
    return {"description": "", "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> _Schema:
    return _json({"$ref": f"#/components/schemas/{name}"})


def _path(name: str) -> _Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query(name: str, schema: _Schema) -> _Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema}


_TEXT: _Schema = {"type": "string"}
_NUMBER: _Schema = {"type": "number"}
_FAILING: _Schema = {
    "type": "object",
    "description": "The parts that do not work, each with the reason.",
    "additionalProperties": _TEXT,
}
_WORD = _object(
    ("word", "start", "end"), word=_TEXT, punctuated_word=_TEXT, start=_NUMBER, end=_NUMBER, confidence=_NUMBER
)
_MODEL = _object(
    ("id", "object", "created", "owned_by"),
    id=_TEXT,
    object={"const": "model"},
    created={"type": "integer"},
    owned_by=_TEXT,
)
_SCHEMAS: _Schema = {
    "Health": _object(
        status={"enum": ["ok", "degraded"]},
        failing=_FAILING,
        version=_TEXT,
        model=_TEXT,
        streams={"type": "integer"},
    ),
    "Status": _object(
        system_health=_TEXT,
        active_batch_requests={"type": "integer"},
        active_stream_requests={"type": "integer"},
        active_listen_v2_stream_requests={"type": "integer"},
    ),
    "Model": _MODEL,
    "Models": _object(
        object={"const": "list"},
        data={"type": "array", "items": _MODEL},
        stt={"type": "array", "items": {"type": "object"}},
        tts={"type": "array"},
        unusable={"type": "object"},
    ),
    "DeepgramError": _object(err_code=_TEXT, err_msg=_TEXT, request_id=_TEXT),
    "OpenAIError": _object(error=_object(message=_TEXT, type=_TEXT, param={}, code={}), detail=_TEXT),
    "Error": _object(
        error=_object(message=_TEXT, type=_TEXT, param={}, code={}), err_code=_TEXT, err_msg=_TEXT, request_id=_TEXT
    ),
    "Job": _object(
        id=_TEXT,
        status={"enum": ["queued", "running", "delivering", "delivered", "undelivered", "failed"]},
        created=_NUMBER,
        finished={"type": ["number", "null"]},
        heard_seconds=_NUMBER,
        deliveries={"type": "integer"},
        error={"type": ["string", "null"]},
        result={"type": ["object", "null"]},
    ),
    "OpenAITranscript": {
        "type": "object",
        "properties": {
            "text": _TEXT,
            "language": _TEXT,
            "duration": _NUMBER,
            "words": {"type": "array", "items": _WORD},
            "segments": {"type": "array", "items": {"type": "object"}},
            "usage": {"type": "object"},
            "results": {"type": "array"},
            "filename": {"type": ["string", "null"]},
        },
    },
    "DeepgramTranscript": _object(
        metadata=_object(request_id=_TEXT, sha256=_TEXT, created=_TEXT, duration=_NUMBER, channels={"type": "integer"}),
        results={
            "type": "object",
            "required": ["channels"],
            "properties": {
                "channels": {
                    "type": "array",
                    "items": _object(
                        ("alternatives",),
                        alternatives={
                            "type": "array",
                            "items": _object(
                                transcript=_TEXT, confidence=_NUMBER, words={"type": "array", "items": _WORD}
                            ),
                        },
                    ),
                },
                "utterances": {"type": "array", "items": {"type": "object"}},
            },
        },
    ),
}
